"""Reproduction cards: `python -m effnets.card [PAPER ...]`.

Writes `experiments/<paper>/README.md` from the `results.json` beside it, which the folder's own
`measure.py` makes, and from `plan.json`, if `experiments/plans.py` has made one. Every figure on a
card is computed here from the values of single seeds.
"""

import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from effnets import errors
from effnets.evaluation import cards

EXPERIMENTS = pathlib.Path("experiments")


def run_seeds(
  config: str,
  seeds: Sequence[int],
  folder: pathlib.Path,
  flags: Sequence[str] = (),
  complete: Callable[[dict[str, Any]], bool] = lambda result: True,
) -> list[dict[str, Any]]:
  """Returns the `result.json` of a config at each seed, running those that are not there yet.

  Args:
    config: path of the config file. folder: a workdir for each seed is made in it.
    flags: further flags of `effnets.main`. complete: whether a result has all that is asked for;
      otherwise the seed is run again, which does what is missing.
  """
  results = []
  for seed in seeds:
    workdir = folder / f"seed_{seed}"
    call = ([f"--config={config}:seed={seed}", *flags], workdir, "result.json")
    result = _ran(*call)
    if not complete(result):
      (workdir / "result.json").unlink()
      result = _ran(*call)
    results.append(result)
  return results


def run_robustness(workdir: pathlib.Path, flags: Sequence[str] = ()) -> dict[str, Any]:
  """Returns the `robustness.json` of a run, or of one stage's folder, measuring it if need be.

  Args: flags: of `effnets.main`, such as `--config.robustness.suites=corruptions`.
  """
  return _ran(["--mode=robustness", *flags], workdir, "robustness.json")


def _ran(flags: Sequence[str], workdir: pathlib.Path, made: str) -> dict[str, Any]:
  """Returns the JSON file `made` that `effnets.main` leaves in a workdir, calling it if need be."""
  if not (workdir / made).exists():
    subprocess.run(
      [sys.executable, "-m", "effnets.main", *flags, f"--workdir={workdir}"], check=True
    )
  return json.loads((workdir / made).read_text())


def run(config: str | pathlib.Path, workdir: pathlib.Path) -> dict[str, Any]:
  """Returns the `result.json` of a config, often that of a sweep, running what is missing."""
  subprocess.run(
    [sys.executable, "-m", "effnets.main", f"--config={config}", f"--workdir={workdir}"],
    check=True,
  )
  return json.loads((workdir / "result.json").read_text())


def search(
  config: str | pathlib.Path, workdir: pathlib.Path, flags: Sequence[str] = ()
) -> list[Any]:
  """Returns the trials of a config's search that have a reward, running what is missing of it.

  They are `effnets.search.study.Record`s in their order. Args: flags: further ones of
  `effnets.main`.
  """
  from effnets import configuration
  from effnets.search import settings

  call = [f"--config={config}", "--mode=search", f"--workdir={workdir}", *flags]
  subprocess.run([sys.executable, "-m", "effnets.main", *call], check=True)
  records = settings.finished(configuration.load(str(config)).search, workdir)
  return [record for record in records if record.reward is not None]


def share(config: str | pathlib.Path, workdir: pathlib.Path) -> dict[str, Any]:
  """Returns the `one_shot.json` of a config's one-shot search, running it if need be."""
  return _ran([f"--config={config}", "--mode=search"], workdir, "one_shot.json")


def look_up(
  table: Any, space: Any, reward: Callable[..., float], name: str, seed: int, trials: int, **options
) -> list[tuple[tuple[int, ...], float]]:
  """Returns tokens and reward of every trial of a serial search in a table.

  Args: table: (space, tokens, seed) -> values, as of an `effnets.search.proxy.Table`. name,
  options: of `search.algorithms.create`.
  """
  from effnets.search import algorithms

  algorithm = algorithms.create(name, space, seed, **options)
  found = []
  for number in range(trials):
    proposal = algorithm.propose(number)
    values = table(space, proposal.tokens, 0)
    told = algorithms.Result(number, proposal, reward(values), values)
    algorithm.tell(told)
    found.append((proposal.tokens, told.reward))
  return found


def train_anew(
  config: Any, points: Iterable[tuple[int, ...]], seeds: Sequence[int], path: pathlib.Path
) -> dict[tuple[int, ...], list[dict[str, Any]]]:
  """Returns the values of networks of a search's space, trained as its children at other seeds.

  Args: path: a JSON file, which keeps them: what is in it is not trained again.
  """
  from effnets.search import proxy, settings

  space, trainer = settings.spaces_or_landscape(config.search), None
  done = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
  found: dict[tuple[int, ...], list[dict[str, Any]]] = {}
  for tokens in sorted(set(points)):
    found[tokens] = []
    for seed in seeds:
      key = f"{seed} {space.key(tokens)}"
      if key not in done:
        execution = config.search.proxy.execution
        trainer = trainer or proxy.Proxy(
          config, path.parent / "anew", execution=execution, costs=settings.costs(config.search)
        )
        done[key] = trainer(space, tokens, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(done), encoding="utf-8")
      found[tokens].append(done[key])
  return found


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


def latencies(modules: Mapping[str, Any], *, rounds: int = 40) -> dict[str, str]:
  """Returns milliseconds of one picture through each network, and the ratio to the first, as text.

  Compiled for this machine, batch 1, medians of `rounds` interleaved rounds; weights are random,
  which takes no more and no less time.

  Args: modules: name -> a module of `effnets.models`, which says the size of its picture.
  """
  import jax
  import numpy as np

  from effnets import evaluation, models

  def call(module):
    variables = jax.device_put(models.init(module, 0, image_size=module.image_size))
    image = jax.device_put(np.ones((1, module.image_size, module.image_size, 3), np.float32))
    forward = jax.jit(lambda v, x: module.apply(v, x, train=False))
    return lambda: jax.block_until_ready(forward(variables, image))

  calls = {name: call(module) for name, module in modules.items()}
  seconds = evaluation.timing.interleaved(calls, rounds=rounds)
  first = next(iter(seconds.values()))
  return {name: f"{1000 * s:.2f} ms, {s / first:.2f}×" for name, s in seconds.items()}


def machine() -> dict[str, Any]:
  """Returns what the figures were measured on."""
  import jax

  return {
    "python": platform.python_version(),
    "jax": jax.__version__,
    "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
  }


def write(paper: str) -> pathlib.Path:
  """Writes the card of `paper`, and its pictures `results*.png`, and returns the card's path.

  Raises: UserError if there is no such paper, or no results of it.
  """
  measured = _measured()
  if paper not in measured:
    what = "one with experiments/PAPER/results.json below the current folder"
    raise errors.unknown("the paper", paper, what, measured)
  results = EXPERIMENTS / paper / "results.json"
  try:
    content = json.loads(results.read_text(encoding="utf-8"))
    plan = results.with_name("plan.json")
    if plan.exists():
      section = cards.plan_section(json.loads(plan.read_text(encoding="utf-8")))
      content["sections"] = [*content.get("sections", ()), section]
    text = cards.render(content)
    cards.draw(content, results.parent)
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
