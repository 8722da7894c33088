"""Reproduction cards: `python -m effnets.card [PAPER ...]`.

Writes `experiments/<paper>/README.md` from the `results.json` beside it, which the folder's own
`measure.py` makes. Every figure on a card is computed here from the values of single seeds.
"""

import json
import math
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from effnets import errors

EXPERIMENTS = pathlib.Path("experiments")


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
  """Returns the mean and its standard error, s / sqrt(n) with s over n - 1; nan for one value.

  >>> mean_and_error([1.0, 2.0, 3.0])
  (2.0, 0.5773502691896258)
  """
  values = np.asarray(values, np.float64)
  if len(values) < 2:
    return float(values.mean()), math.nan
  return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


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

  `results` has `title`, `claim`, `command`, `setting`, `seeds`, `figure` (what is compared),
  `arms` (name -> one value a seed), `comparisons` (pairs of arms), `seconds` (one a seed),
  `machine`, `paper` (command and table as rows) and `differences` (sentences).
  """
  arms, seeds = results["arms"], results["seeds"]
  lines = [f"# {results['title']}", "", f"**Claim.** {results['claim']}", ""]
  lines += [f"**Measured here.** {results['setting']}", "", "```", results["command"], "```", ""]
  lines += [f"| arm | {results['figure']}, mean ± s.e. | " + " | ".join(f"seed {s}" for s in seeds)]
  lines[-1] += " |"
  lines += ["|---|---|" + "---|" * len(seeds)]
  for name, values in arms.items():
    mean, error = mean_and_error(values)
    lines.append(f"| {name} | {mean:.2%} ± {error:.2%} | " + " | ".join(f"{v:.2%}" for v in values))
    lines[-1] += " |"
  lines += ["", "![Every seed of every arm](results.png)", ""]
  lines += ["| comparison, seed by seed | mean difference ± s.e. | in standard errors |"]
  lines += ["|---|---|---|"]
  for better, worse in results["comparisons"]:
    gains = np.subtract(arms[better], arms[worse])
    mean, error = mean_and_error(gains)
    times = f"{mean / error:+.1f}" if error else "all equal"
    lines.append(f"| {better} over {worse} | {mean:+.2%} ± {error:.2%} | {times} |")
  mean, error = mean_and_error(np.subtract(*(arms[a] for a in results["comparisons"][0])))
  verdict = "reproduced" if mean > 2 * error else "not reproduced"
  lines += ["", f"The claim is **{verdict}** at this scale (first comparison, more than two s.e.)."]
  seconds = results["seconds"]
  lines += ["", f"Wall time: {min(seconds):.0f} to {max(seconds):.0f} s a seed, on "]
  lines[-1] += ", ".join(f"{key} {value}" for key, value in results["machine"].items()) + "."
  paper = results["paper"]
  lines += ["", "## In the paper", "", "```", paper["command"], "```", ""]
  header, *rows = paper["table"]
  lines += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
  lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
  lines += ["", "## What differs", "", *(f"- {text}" for text in results["differences"]), ""]
  return "\n".join(lines)


def chart(results: Mapping[str, Any], path: pathlib.Path) -> None:
  """Draws every seed of every arm, and the arms' means with standard errors, as a PNG."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  arms = results["arms"]
  figure, axes = pyplot.subplots(figsize=(7, 0.8 + 0.5 * len(arms)), layout="constrained")
  for row, values in enumerate(arms.values()):
    percent = 100 * np.asarray(values)
    mean, error = mean_and_error(percent)
    axes.plot(percent, np.full(len(percent), row), "o", color="0.7", markersize=5, zorder=1)
    colour = f"C{row}"
    axes.errorbar(mean, row, xerr=error, fmt="D", color=colour, markersize=7, capsize=4, zorder=2)
    axes.annotate(
      f"{mean:.1f}", (mean, row), xytext=(0, 8), textcoords="offset points", ha="center"
    )
  axes.set_yticks(range(len(arms)), list(arms))
  axes.set_ylim(len(arms) - 0.5, -0.6)
  axes.set_xlabel(f"{results['figure']} [%]; grey: single seeds, coloured: mean ± s.e.")
  axes.grid(axis="x", alpha=0.3)
  axes.spines[["top", "right", "left"]].set_visible(False)
  axes.tick_params(left=False)
  figure.savefig(path, dpi=150)
  pyplot.close(figure)


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
