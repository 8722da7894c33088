"""Reproduction cards: `python -m effnets.card [PAPER ...]`.

Writes `experiments/<paper>/README.md` from the `results.json` beside it, which the folder's own
`measure.py` makes. Every figure on a card is computed here from the values of single seeds.
"""

import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from effnets import errors
from effnets.evaluation import comparison

EXPERIMENTS = pathlib.Path("experiments")


def run_seeds(
  config: str, seeds: Sequence[int], folder: pathlib.Path, flags: Sequence[str] = ()
) -> list[dict[str, Any]]:
  """Returns the `result.json` of a config at each seed, running those that are not there yet.

  Args:
    config: path of the config file. folder: a workdir for each seed is made in it.
    flags: further flags of `effnets.main`.
  """
  results = []
  for seed in seeds:
    workdir = folder / f"seed_{seed}"
    if not (workdir / "result.json").exists():
      subprocess.run(
        [sys.executable, "-m", "effnets.main", f"--config={config}:seed={seed}"]
        + [f"--workdir={workdir}", *flags],
        check=True,
      )
    results.append(json.loads((workdir / "result.json").read_text()))
  return results


def run_sweep(config: str | pathlib.Path, workdir: pathlib.Path) -> dict[str, Any]:
  """Returns the `result.json` of a config whose pipeline is a sweep, running what is missing."""
  subprocess.run(
    [sys.executable, "-m", "effnets.main", f"--config={config}", f"--workdir={workdir}"],
    check=True,
  )
  return json.loads((workdir / "result.json").read_text())


def from_sweep(
  result: Mapping[str, Any], names: Mapping[str, str], *, figure: str = "test_top1"
) -> dict[str, Any]:
  """Returns what a card takes from a sweep: `seeds`, `arms`, `columns` and `seconds`.

  Args: names: what the card calls each run, in the order of its rows. figure: of the arms.
  """
  rows = {words: result["runs"][name] for name, words in names.items()}
  return {
    "seeds": result["seeds"],
    "arms": {words: row[figure] for words, row in rows.items()},
    "columns": {
      "weights": {words: f"{row['params']:,}" for words, row in rows.items()},
      "MAdds": {words: f"{row['madds'] / 1e6:.3f}M" for words, row in rows.items()},
    },
    "seconds": [
      sum(seconds) for seconds in zip(*(r["seconds"] for r in rows.values()), strict=True)
    ],
  }


def machine() -> dict[str, Any]:
  """Returns what the figures were measured on."""
  import jax

  return {
    "python": platform.python_version(),
    "jax": jax.__version__,
    "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
  }


def render(results: Mapping[str, Any]) -> str:
  """Returns the card as Markdown.

  `results` has `title`, `claim`, `command`, `setting`, `seconds` (one a seed), `machine`, `paper`
  (command and table as rows), `differences` (sentences) and what a comparison has:

    seeds, figure (what is compared), comparisons (pairs of arms), arms (name -> one value a seed)
    decisive   how many comparisons, from the first, the claim needs; 1 if not given
    columns    title -> arm -> text: what else the table tells of an arm; may be left out
    map        instead of `arms`: `axes` (names of rows and columns), `values` (of the columns,
               numbers) and `cells` (row -> column -> one value a seed). Then an arm is a row, and
               its value at a seed that of the best column: what the comparisons compare

  It may have `tried` (sentences) and `more`: further comparisons, each with a `title`, a `claim`
  and a `setting` of its own.
  """
  lines = [f"# {results['title']}", "", f"**Claim.** {results['claim']}", ""]
  lines += [f"**Measured here.** {results['setting']}", "", "```", results["command"], "```", ""]
  lines += _compared(results, _picture(0))
  for number, more in enumerate(results.get("more", ()), 1):
    lines += [f"## {more['title']}", "", f"**Claim.** {more['claim']}", ""]
    lines += [f"**Measured here.** {more['setting']}", "", *_compared(more, _picture(number))]
  seconds = results["seconds"]
  where = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
  lines += [f"Wall time: {min(seconds):.0f} to {max(seconds):.0f} s a seed, on {where}."]
  if results.get("tried"):
    lines += ["", "## What was tried", "", *(f"- {text}" for text in results["tried"])]
  paper = results["paper"]
  lines += ["", "## In the paper", "", "```", paper["command"], "```", "", *_table(paper["table"])]
  lines += ["", "## What differs", "", *(f"- {text}" for text in results["differences"]), ""]
  return "\n".join(lines)


def _picture(number: int) -> str:
  """Returns the file name of the picture of a card's comparison."""
  return f"results_{number}.png" if number else "results.png"


def _compared(results: Mapping[str, Any], picture: str) -> list[str]:
  """Returns the lines of one comparison: tables, picture, differences and verdict."""
  if "map" in results:
    lines = [*_map(results), "", f"![Every cell]({picture})", "", *_arms(results), ""]
  else:
    lines = [*_arms(results), "", f"![Every seed of every arm]({picture})", ""]
  return [*lines, *_comparisons(results), "", _verdict(results), ""]


def _table(rows: Sequence[Sequence[Any]]) -> list[str]:
  """Returns the lines of a Markdown table; the first row is the header."""
  lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
  return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _map(results: Mapping[str, Any]) -> list[str]:
  """Returns the table of a map's cells, the best of each row in bold."""
  cells, axes = results["map"]["cells"], results["map"]["axes"]
  rows = [[f"{results['figure']}: {axes[0]} by {axes[1]}", *next(iter(cells.values()))]]
  for name, columns in cells.items():
    best = max(columns, key=lambda column: np.mean(columns[column]))
    texts = {column: comparison.shown(values) for column, values in columns.items()}
    rows.append([name, *(f"**{t}**" if c == best else t for c, t in texts.items())])
  return _table(rows)


def arms_of(results: Mapping[str, Any]) -> dict[str, list[float]]:
  """Returns what is compared, one value a seed: of a map, the value of each row's best column.

  Of columns that are equally good it is the mean.
  """
  if "map" not in results:
    return results["arms"]
  values, found = np.asarray(results["map"]["values"], np.float64), {}
  for name, columns in results["map"]["cells"].items():
    by_seed = np.transpose(list(columns.values()))
    found[name] = [float(values[seed == seed.max()].mean()) for seed in by_seed]
  return found


def _form(results: Mapping[str, Any]) -> str:
  return ".1f" if "map" in results else ".2%"


def _arms(results: Mapping[str, Any]) -> list[str]:
  columns, form = results.get("columns", {}), _form(results)
  figure = f"best {results['map']['axes'][1]}" if "map" in results else results["figure"]
  seeds = (f"seed {seed}" for seed in results["seeds"])
  rows = [["arm", *columns, f"{figure}, mean ± s.e.", *seeds]]
  for name, values in arms_of(results).items():
    cells = (cells.get(name, "") for cells in columns.values())
    each = (f"{value:{form}}" for value in values)
    rows.append([name, *cells, comparison.shown(values, form), *each])
  return _table(rows)


def _comparisons(results: Mapping[str, Any]) -> list[str]:
  form = _form(results)
  rows = [["comparison, seed by seed", "mean difference ± s.e.", "in standard errors"]]
  for better, worse in results["comparisons"]:
    mean, error = _difference(results, better, worse)
    times = f"{mean / error:+.1f}" if error else "all equal"
    rows.append([f"{better} over {worse}", f"{mean:+{form}} ± {error:{form}}", times])
  return _table(rows)


def _difference(results: Mapping[str, Any], better: str, worse: str) -> tuple[float, float]:
  """Returns mean and standard error of the differences, seed by seed."""
  arms = arms_of(results)
  return comparison.mean_and_error(np.subtract(arms[better], arms[worse]))


def _verdict(results: Mapping[str, Any]) -> str:
  decisive = results["comparisons"][: results.get("decisive", 1)]
  held = [mean > 2 * error for mean, error in (_difference(results, *pair) for pair in decisive)]
  if all(held):
    verdict = "reproduced"
  elif any(held):
    verdict = f"reproduced in part, {sum(held)} of {len(held)}"
  else:
    verdict = "not reproduced"
  which = "first comparison" if len(held) == 1 else f"first {len(held)} comparisons"
  return f"The claim is **{verdict}** at this scale ({which}, more than two s.e.)."


def chart(results: Mapping[str, Any], path: pathlib.Path) -> None:
  """Draws a comparison as a PNG: seeds and means of every arm, or a map."""
  if "map" not in results:
    comparison.dots(results["arms"], path, label=results["figure"])
    return
  rows, columns = results["map"]["axes"]
  cells = {
    (row, column): values
    for row, of_row in results["map"]["cells"].items()
    for column, values in of_row.items()
  }
  comparison.heat_map(cells, path, label=results["figure"], axes=(rows, columns))


def write(paper: str) -> pathlib.Path:
  """Writes the card of `paper`, and its charts `results*.png`, and returns the card's path.

  Raises: UserError if there is no such paper, or no results of it.
  """
  measured = _measured()
  if paper not in measured:
    what = "one with experiments/PAPER/results.json below the current folder"
    raise errors.unknown("the paper", paper, what, measured)
  results = EXPERIMENTS / paper / "results.json"
  try:
    content = json.loads(results.read_text(encoding="utf-8"))
    text = render(content)
    for number, part in enumerate((content, *content.get("more", ()))):
      chart(part, results.with_name(_picture(number)))
  except (ValueError, KeyError, TypeError) as error:
    raise errors.UserError(
      f"{results} cannot be shown ({type(error).__name__}: {error}); "
      f"`python experiments/{paper}/measure.py` makes it."
    ) from error
  path = results.with_name("README.md")
  path.write_text(text, encoding="utf-8")
  return path


def _measured() -> list[str]:
  return sorted(path.parent.name for path in EXPERIMENTS.glob("*/results.json"))


def main(papers: Sequence[str]) -> int:
  """Writes the cards of `papers`, or of all that were measured; returns the exit status."""
  try:
    if not papers and not _measured():
      raise errors.UserError(
        "there is no experiments/PAPER/results.json below the current folder; "
        "`python experiments/PAPER/measure.py` makes one."
      )
    for paper in papers or _measured():
      sys.stdout.write(f"{write(paper)}\n")
  except errors.UserError as error:
    sys.stderr.write(f"Error: {error}\n")
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
