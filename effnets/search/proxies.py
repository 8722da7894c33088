"""How good a proxy task is: its noise, its ranks beside full training, its learning curves.

  python -m effnets.search.proxies noise --config=configs/search_mnasnet.py --out=runs/noise
  python -m effnets.search.proxies ranks --config=configs/search_mnasnet.py --out=runs/ranks
  python -m effnets.search.proxies curves --config=configs/search_mnasnet.py --out=runs/curves

Each draws networks from the config's space, trains them as its search would and leaves a table,
NAME.json, and a picture, NAME.png.

noise    each network at several seeds: the standard deviation over seeds, over the mean and over
         the standard deviation between networks, which a search has to tell apart
ranks    each network at several lengths of training, the last one the full one: Kendall's tau of
         the ranks at every length with those of the longest
curves   the hold-out figure while each network trains, and how often it falls
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from effnets import configuration, errors, training, workdirs
from effnets.search import proxy, rewards, settings
from effnets.search.running import FailedError, InfeasibleError

Evaluate = Callable[[Any, tuple[int, ...], int], Mapping[str, Any]]
FEWEST = 5
"""Networks below which ranks say nothing."""


def networks(space: Any, count: int, seed: int) -> list[tuple[int, ...]]:
  """Returns `count` different networks of a space, drawn at random."""
  rng, found = np.random.default_rng(seed), {}
  for _ in range(100 * count):
    tokens = space.sample(rng)
    found.setdefault(space.key(tokens), tokens)
    if len(found) == count:
      break
  return list(found.values())


def _figure(evaluate: Evaluate, space: Any, tokens: tuple[int, ...], seed: int) -> float | None:
  """Returns the accuracy, or None for a child that cannot be trained."""
  try:
    return float(evaluate(space, tokens, seed)["accuracy"])
  except (InfeasibleError, FailedError):
    return None


def noise(
  evaluate: Evaluate, space: Any, chosen: Sequence[tuple[int, ...]], seeds: Sequence[int]
) -> dict[str, Any]:
  """Returns the accuracies of every network at every seed, and how they spread.

  `variation`: the mean over networks of standard deviation over mean; 0.02 is good, 0.4 useless.
  `share`: the variance over seeds within that of all, 0 to 1: how much of a difference is luck.

  Raises: UserError for one seed, or if no network could be trained.
  """
  if len(seeds) < 2:
    raise errors.UserError(f"seeds={len(seeds)}: noise takes at least 2.")
  rows = []
  for tokens in chosen:
    values = [_figure(evaluate, space, tokens, seed) for seed in seeds]
    if None not in values:
      rows.append({"tokens": list(tokens), "accuracy": values})
  if not rows:
    raise errors.UserError("no network of these could be trained at all seeds.")
  table = np.array([row["accuracy"] for row in rows])
  inside = table.var(1, ddof=1).mean()
  # Means over seeds vary by a part of the noise too.
  between = max(0.0, table.mean(1).var(ddof=1) - inside / len(seeds)) if len(rows) > 1 else 0.0
  variation = float(np.mean(table.std(1, ddof=1) / np.maximum(table.mean(1), 1e-12)))
  share = float(inside / (inside + between)) if inside + between else 0.0
  return {"networks": rows, "variation": variation, "share": share, "deviation": inside**0.5}


def ranks(
  evaluators: Mapping[int, Evaluate],
  space: Any,
  chosen: Sequence[tuple[int, ...]],
  seed: int,
) -> dict[str, Any]:
  """Returns the accuracies of every network at every length, and Kendall's tau with the longest.

  evaluators: steps of training -> evaluator. Networks that fail at any length are left out.

  Raises: UserError for fewer than five networks that can be ranked, or a single length.
  """
  lengths = sorted(evaluators)
  if len(lengths) < 2:
    raise errors.UserError(f"steps={lengths}: ranks takes a proxy's and, last, the full ones.")
  rows = []
  for tokens in chosen:
    values = {n: _figure(evaluators[n], space, tokens, seed) for n in lengths}
    if None not in values.values():
      rows.append({"tokens": list(tokens), "accuracy": {str(n): v for n, v in values.items()}})
  if len(rows) < FEWEST:
    raise errors.UserError(f"{len(rows)} networks were trained; ranks takes at least {FEWEST}.")
  by_length = {n: [row["accuracy"][str(n)] for row in rows] for n in lengths}
  full = by_length[lengths[-1]]
  tau = {str(n): rewards.kendall(by_length[n], full) for n in lengths[:-1]}
  return {"networks": rows, "full": lengths[-1], "tau": tau}


def falls(curve: Sequence[float]) -> float:
  """Returns the share of the steps of a curve that go down.

  >>> falls([0.1, 0.3, 0.2, 0.4])
  0.3333333333333333
  """
  return float(np.mean(np.diff(curve) < 0)) if len(curve) > 1 else 0.0


def curves(
  config: Any,
  space: Any,
  chosen: Sequence[tuple[int, ...]],
  folder: pathlib.Path,
  points: int = 10,
) -> dict[str, Any]:
  """Returns the hold-out figure of every network, `points` times while it trains by the loop."""
  rows = []
  for tokens in chosen:
    made = ml_collections.ConfigDict(proxy.child(config, space, tokens, config.seed).to_dict())
    made.evaluation.every_percent = 100.0 / points
    where = folder / "children" / space.key(tokens)
    training.train(made.lock(), where, name="")
    key = f"{made.data.split.validation}/{made.checkpoint.best_metric}"
    lines = (where / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    seen = [line for line in map(json.loads, lines) if key in line]
    curve = [line[key] for line in seen]
    steps = [line["step"] for line in seen]
    rows.append({"tokens": list(tokens), "steps": steps, "figure": curve, "falls": falls(curve)})
  return {"networks": rows, "falls": float(np.mean([row["falls"] for row in rows]))}


def at_length(config: Any, steps: int) -> ml_collections.ConfigDict:
  """Returns `config` with children of so many steps, its schedule stretched with them."""
  made = ml_collections.ConfigDict(config.to_dict())
  made.train.update({"steps": steps, "epochs": 0.0})
  return made.lock()


def _draw(kind: str, found: Mapping[str, Any], path: pathlib.Path) -> None:
  from matplotlib import figure
  from matplotlib.backends import backend_agg

  made = figure.Figure(figsize=(5.6, 4.0), layout="constrained")
  backend_agg.FigureCanvasAgg(made)
  axes = made.subplots()
  for number, row in enumerate(found["networks"]):
    if kind == "noise":
      axes.plot([number] * len(row["accuracy"]), row["accuracy"], "o", color="#0072B2", ms=4)
      axes.set(xlabel="network", ylabel="hold-out figure")
    elif kind == "ranks":
      steps = [int(n) for n in row["accuracy"]]
      axes.plot(steps, list(row["accuracy"].values()), "o-", ms=3, lw=1)
      axes.set(xlabel="steps of training", ylabel="hold-out figure", xscale="log")
      axes.set_xticks(steps, labels=[str(n) for n in steps])
      axes.minorticks_off()
    else:
      axes.plot(row["steps"], row["figure"], "-", lw=1)
      axes.set(xlabel="step", ylabel="hold-out figure")
  axes.set_title(_headline(kind, found), fontsize=10)
  made.savefig(path, dpi=120)


def _headline(kind: str, found: Mapping[str, Any]) -> str:
  count = len(found["networks"])
  if kind == "noise":
    return (
      f"{count} networks: variation {found['variation']:.3f}, "
      f"{found['share']:.0%} of the variance is noise"
    )
  if kind == "ranks":
    taus = ", ".join(f"{n}: {tau:.2f}" for n, tau in found["tau"].items())
    return f"{count} networks: tau with {found['full']} steps at {taus}"
  return f"{count} networks: {found['falls']:.0%} of the steps of a curve go down"


def write(kind: str, found: Mapping[str, Any], out: pathlib.Path) -> str:
  """Writes the table and the picture into the folder `out`, and returns the line that sums up."""
  out.mkdir(parents=True, exist_ok=True)
  workdirs.write(out, f"{kind}.json", json.dumps(found, indent=2) + "\n")
  _draw(kind, found, out / f"{kind}.png")
  return _headline(kind, found)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog="python -m effnets.search.proxies")
  parser.add_argument("kind", choices=("noise", "ranks", "curves"))
  parser.add_argument("--config", default="configs/search_mnasnet.py", help="FILE[:ARG]")
  parser.add_argument("--out", default="runs/proxies", help="folder of the table and the picture")
  parser.add_argument("--networks", type=int, default=8)
  parser.add_argument("--seeds", type=int, default=5, help="of noise")
  parser.add_argument("--steps", default="25,50,100,400", help="of ranks, the last one the full")
  parser.add_argument("--points", type=int, default=10, help="of a curve")
  parser.add_argument("--seed", type=int, default=0, help="draws the networks")
  return parser


def main(arguments: Sequence[str]) -> int:
  """Measures, writes and prints one line; returns the exit status."""
  parsed = _parser().parse_args(arguments)
  out = pathlib.Path(parsed.out)
  try:
    config = configuration.load(parsed.config)
    space = settings.create(config, out).space
    chosen = networks(space, parsed.networks, parsed.seed)
    if parsed.kind == "curves":
      found = curves(config, space, chosen, out, parsed.points)
    elif parsed.kind == "noise":
      seeds = range(config.seed, config.seed + parsed.seeds)
      found = noise(_evaluator(config, out), space, chosen, seeds)
    else:
      lengths = [int(text) for text in parsed.steps.split(",") if text.isdigit() and int(text)]
      made = {n: _evaluator(at_length(config, n), out) for n in lengths}
      found = ranks(made, space, chosen, config.seed)
  except errors.UserError as error:
    sys.stderr.write(f"Error: {error}\n")
    return 2
  sys.stdout.write(f"{out / parsed.kind}.json: {write(parsed.kind, found, out)}\n")
  return 0


def _evaluator(config: Any, out: pathlib.Path) -> proxy.Proxy:
  return proxy.Proxy(config, out / "children", execution=config.search.proxy.execution)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
