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

  `results` has `title`, `claim`, `command`, `setting`, `seeds`, `seconds` (one a seed), `machine`,
  `paper` (command and table as rows), `differences` (sentences), and what was measured: `figure`
  (what is compared), `arms` (name -> one value a seed), `comparisons` (pairs of arms). It may have
  `columns` (title -> arm -> text: what else the table tells of an arm), `decisive` (how many
  comparisons, from the first, the claim needs; 1 if not given) and `tried` (sentences).

  Of several figures, `tables` is a list of what holds `figure`, `arms`, `comparisons`, and maybe
  `columns` and `decisive`, for each; the claim needs the decisive comparisons of all.
  """
  tables = _tables(results)
  lines = [f"# {results['title']}", "", f"**Claim.** {results['claim']}", ""]
  lines += [f"**Measured here.** {results['setting']}", "", "```", results["command"], "```", ""]
  for table in tables:
    lines += [*_arms(table, results["seeds"]), ""]
  lines += ["![Every seed of every arm](results.png)", ""]
  for table in tables:
    lines += [*_comparisons(table, marked=len(tables) > 1), ""]
  lines += [_verdict(tables), ""]
  seconds = results["seconds"]
  where = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
  lines += [f"Wall time: {min(seconds):.0f} to {max(seconds):.0f} s a seed, on {where}."]
  if results.get("tried"):
    lines += ["", "## What was tried", "", *(f"- {text}" for text in results["tried"])]
  paper = results["paper"]
  lines += ["", "## In the paper", "", "```", paper["command"], "```", "", *_table(paper["table"])]
  lines += ["", "## What differs", "", *(f"- {text}" for text in results["differences"]), ""]
  return "\n".join(lines)


def _tables(results: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
  """Returns what was measured, figure by figure."""
  return results.get("tables") or [results]


def _table(rows: Sequence[Sequence[Any]]) -> list[str]:
  """Returns the lines of a Markdown table; the first row is the header."""
  lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
  return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _arms(table: Mapping[str, Any], seeds: Sequence[int]) -> list[str]:
  columns = table.get("columns", {})
  rows = [["arm", *columns, f"{table['figure']}, mean ± s.e.", *(f"seed {s}" for s in seeds)]]
  for name, values in table["arms"].items():
    cells = (cells.get(name, "") for cells in columns.values())
    rows.append([name, *cells, comparison.shown(values), *(f"{value:.2%}" for value in values)])
  return _table(rows)


def _comparisons(table: Mapping[str, Any], *, marked: bool) -> list[str]:
  """Returns the comparisons of a table; marked: with its figure, and those that decide in bold."""
  head = f"{table['figure']}, seed by seed" if marked else "comparison, seed by seed"
  rows = [[head, "mean difference ± s.e.", "in standard errors"]]
  for better, worse in table["comparisons"]:
    mean, error = _difference(table, better, worse)
    times = f"{mean / error:+.1f}" if error else "all equal"
    name = f"{better} over {worse}"
    if marked and [better, worse] in list(map(list, _decisive(table))):
      name = f"**{name}**"
    rows.append([name, f"{mean:+.2%} ± {error:.2%}", times])
  return _table(rows)


def _decisive(table: Mapping[str, Any]) -> Sequence[Sequence[str]]:
  return table["comparisons"][: table.get("decisive", 1)]


def _difference(table: Mapping[str, Any], better: str, worse: str) -> tuple[float, float]:
  """Returns mean and standard error of the differences, seed by seed."""
  arms = table["arms"]
  return comparison.mean_and_error(np.subtract(arms[better], arms[worse]))


def _verdict(tables: Sequence[Mapping[str, Any]]) -> str:
  differences = [_difference(table, *pair) for table in tables for pair in _decisive(table)]
  held = [mean > 2 * error for mean, error in differences]
  if all(held):
    verdict = "reproduced"
  elif any(held):
    verdict = f"reproduced in part, {sum(held)} of {len(held)}"
  else:
    verdict = "not reproduced"
  which = "comparison" if len(held) == 1 else f"{len(held)} comparisons"
  which = f"the {which} in bold" if len(tables) > 1 else f"first {which}"
  return f"The claim is **{verdict}** at this scale ({which}, more than two s.e.)."


def chart(results: Mapping[str, Any], path: pathlib.Path) -> None:
  """Draws every seed of every arm, and the arms' means with standard errors, as a PNG."""
  comparison.panels({table["figure"]: table["arms"] for table in _tables(results)}, path)


def write(paper: str) -> pathlib.Path:
  """Writes the card of `paper`, and its chart `results.png`, and returns the card's path.

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
    chart(content, results.with_suffix(".png"))
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
