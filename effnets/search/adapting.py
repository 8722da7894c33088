"""NetAdapt on trained networks: narrower step by step, weights inherited, until a cost is reached.

`config` is that of the network to start from, any classifier of `spaces.narrower`; it is trained
first, or taken as `config.weights` has it. `config.netadapt` has

  target     cost to get to, as a share of the network's own
  cost       `madds`, or `latency`: the sum of its layers', each measured once on this machine
  delta, decay, choice   of `algorithms.netadapt.Settings`
  multiple   of which widths are multiples
  execution  of the short trainings: `shared` or `loop`, see `shared.py`
  short      overrides of the config: the training that judges a proposal, on the validation split
  long       overrides of the config: the training of what comes out

A proposal's weights are the first channels of the present network's, trained for `short`; those of
the best proposal are the next network's. What comes out is trained for `long` twice, from those
weights and from fresh ones. All that is finished is kept, and the same command goes on.

Source: Yang et al. 2018 (1804.03230); Howard et al. 2019 (arXiv 1905.02244), section 4.2.
"""

import contextlib
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.serialization
import jax
import ml_collections
import numpy as np
from jaxtyping import PyTree

from effnets import configuration, errors, parallel, training, workdirs
from effnets.search import (
  algorithms,
  cost,
  latency,
  network,
  proxy,
  report,
  shared,
  spaces,
  trainings,
)
from effnets.search.algorithms import netadapt

RESULT, STEPS, PLOT = "netadapt.json", "steps.jsonl", "plots/netadapt.png"
_SETTINGS = ("choice", "cost", "decay", "delta", "execution", "long", "multiple", "short", "target")
_COSTS = ("latency", "madds")


def truncated(variables: PyTree, shapes: PyTree) -> PyTree:
  """Returns the first entries of every array along every axis, as many as `shapes` says.

  Raises: ValueError if one would have to grow.
  """

  def cut(leaf, shape):
    if len(leaf.shape) != len(shape.shape) or any(map(int.__gt__, shape.shape, leaf.shape)):
      raise ValueError(f"an array of shape {leaf.shape} cannot be cut to {shape.shape}.")
    return np.asarray(leaf)[tuple(slice(length) for length in shape.shape)]

  return jax.tree.map(cut, variables, shapes)


def check(config: Any) -> None:
  """Checks `config.netadapt`. Raises: UserError for what is none."""
  found = config.netadapt
  for name in found:
    if name not in _SETTINGS:
      raise errors.unknown("config.netadapt", name, "a setting", _SETTINGS)
  for name in _SETTINGS:
    if name not in found:
      raise errors.UserError(f"config.netadapt.{name} is missing; start from configs/netadapt.py.")
  for name, known in (("cost", _COSTS), ("execution", proxy.EXECUTIONS)):
    if found[name] not in known:
      raise errors.unknown(f"config.netadapt.{name}", found[name], "one of its values", known)
  if not 0 < found.target < 1:
    raise errors.UserError(
      f"config.netadapt.target={found.target} is a share of the network's own cost, such as 0.5."
    )
  if config.task.name != "classification":
    raise errors.UserError(
      f"config.task.name={config.task.name!r}: networks are narrowed as classifiers."
    )


def run(config: Any, workdir: str | pathlib.Path, say: Callable[[str], None]) -> dict[str, Any]:
  """Narrows the network of `config` in `workdir`, and returns what `netadapt.json` holds.

  That is: `space`, `tokens` and `channels` of the network that came out, `path`, by step the cost
  and the accuracy on the validation split, and the test figures of `seed`, of `adapted`, which has
  inherited weights, and of `scratch`. best.json is for `configs/retrain.py`.

  Raises: UserError for a mistake in the config, or a target that cannot be reached.
  """
  check(config)
  path, found = pathlib.Path(workdir), config.netadapt
  space = spaces.create("narrower", model=config.model.name, multiple=found.multiple)
  workdirs.claim(path, config)
  base = ml_collections.ConfigDict(config.to_dict())
  del base["netadapt"]
  variables, seed = _seed(base, path / "seed", say)
  classes = training.inputs.evaluation(config, "validation").num_classes
  size = config.data.image_size
  with _costs(found.cost, path) as measured:
    costs = functools.lru_cache(maxsize=None)(
      lambda tokens: measured(cost.pieces(space.decode(tokens), size, classes))
    )
    search = netadapt.NetAdapt(
      space,
      cost=costs,
      target=found.target * costs(space.whole),
      **{name: found[name] for name in ("delta", "decay", "choice")},
    )
    short = _merged(base, found.short, "short")
    short.weights = ""
    train = _Trainings(short, space, found.execution, path / "proposals")
    steps, inherited = _adapt(search, train, variables, path, say)
    reached = costs(search.current)
  tokens = search.current
  result = {
    "space": report.about(space),
    "tokens": list(tokens),
    "channels": space.values(tokens),
    "path": steps,
    "seed": seed,
  }
  long = _merged(base, found.long, "long")
  long.weights = ""
  network.set_tokens(long, space, tokens)
  for name, initial in (("adapted", inherited), ("scratch", None)):
    result[name] = trainings.finished(long, path / name, name, initial)
  report.write_best(path, space, tokens, steps[-1]["accuracy"], {"cost": reached})
  workdirs.write(path, RESULT, json.dumps(result, indent=2) + "\n")
  _draw(steps, found.cost, path / PLOT)
  return result


def _merged(base: ml_collections.ConfigDict, given: Any, name: str) -> ml_collections.ConfigDict:
  made = ml_collections.ConfigDict(base.to_dict())
  configuration.merge(made, given.to_dict(), key=f"config.netadapt.{name}")
  return made


def _seed(
  config: ml_collections.ConfigDict, folder: pathlib.Path, say: Callable[[str], None]
) -> tuple[PyTree, dict[str, float]]:
  """Returns the variables of the network to start from, and its test figures if it was trained."""
  if config.weights:
    task, _ = training.results.model(config)
    say(f"starts from {config.weights}")
    return parallel.to_host(training.start.variables(config, task)), {}
  figures = trainings.finished(config, folder, "seed")
  say(
    f"the network to start from: test {config.checkpoint.best_metric} {_best(config, figures):.4f}"
  )
  trained = training.results.restore(ml_collections.ConfigDict(config.to_dict()).lock(), folder)
  return parallel.to_host(trained.variables), figures


def _best(config: Any, figures: Mapping[str, float]) -> float:
  return figures[config.checkpoint.best_metric]


class _Trainings:
  """Short trainings of narrower networks from given variables."""

  def __init__(self, config: Any, space: Any, execution: str, folder: pathlib.Path):
    self._config, self._space, self._folder = config, space, folder
    self._shared = None
    if execution == "shared":
      self._shared = shared.Shared(proxy.child(config, space, space.whole, config.seed))

  def __call__(self, tokens: tuple[int, ...], variables: PyTree) -> tuple[float | None, PyTree]:
    """Returns the accuracy on the validation split, None if the loss diverged, and what trained."""
    config = proxy.child(self._config, self._space, tokens, self._config.seed)
    task, _ = training.results.model(config)
    initial = truncated(variables, task.abstract())
    try:
      if self._shared is not None:
        figures, trained = self._shared.trained(config, initial)
      else:
        result = training.train(config, self._folder / "training", name="", initial=initial)
        figures = result.figures[config.data.split.validation]
        trained = parallel.to_host(result.variables)
        shutil.rmtree(self._folder / "training")
    except FloatingPointError:
      return None, initial
    return _best(config, figures), trained


def _adapt(
  search: netadapt.NetAdapt,
  train: _Trainings,
  variables: PyTree,
  path: pathlib.Path,
  say: Callable[[str], None],
) -> tuple[list[dict[str, float]], PyTree]:
  """Runs `search` to its target.

  Returns cost, accuracy and number of proposals of every step, the first of them the network it
  starts from, and the last network's variables.
  """
  log, folder = path / STEPS, path / "proposals"
  folder.mkdir(parents=True, exist_ok=True)
  training.writers.drop_torn_line(log)
  done = {row["number"]: row for row in training.writers.read(log)}
  number, steps, rows = 0, [], []
  while not search.done:
    proposal = search.propose(number)
    if number not in done:
      accuracy, trained = train(proposal.tokens, variables)
      _write(folder / f"{number}.msgpack", trained)
      row = {"number": number, **proposal.info, "tokens": proposal.tokens, "accuracy": accuracy}
      with open(log, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
      done[number] = row
    rows.append(done[number])
    search.tell(algorithms.Result(number, proposal, rows[-1]["accuracy"], {}))
    number += 1
    if search.summary()["step"] == proposal.info["step"]:
      continue
    best = next(row for row in rows if tuple(row["tokens"]) == search.current)
    variables = _read(folder / f"{best['number']}.msgpack")
    for row in rows:
      if row is not best:
        (folder / f"{row['number']}.msgpack").unlink(missing_ok=True)
    steps.append({key: best[key] for key in ("cost", "accuracy")} | {"proposals": len(rows)})
    say(
      f"step {best['step']}: cost {best['cost']:,.6g} of {search.first_cost:,.6g}, accuracy "
      f"{best['accuracy']:.4f}, the best of {len(rows)}"
    )
    rows = []
  return steps, variables


def _write(path: pathlib.Path, variables: PyTree) -> None:
  partial = path.with_suffix(".tmp")
  partial.write_bytes(flax.serialization.msgpack_serialize(jax.tree.map(np.asarray, variables)))
  os.replace(partial, path)


def _read(path: pathlib.Path) -> PyTree:
  return flax.serialization.msgpack_restore(path.read_bytes())


@contextlib.contextmanager
def _costs(kind: str, path: pathlib.Path) -> Iterator[Callable[[Sequence[cost.Piece]], float]]:
  """Yields what the layers of a network cost together: multiply-adds, or milliseconds."""
  if kind == "madds":
    yield lambda pieces: float(cost.total(pieces).madds)
    return
  # Measured once: the file answers whoever goes on.
  with latency.Meter(cache=path / "latency.jsonl") as meter:
    call = meter.nothing().p50
    yield lambda pieces: call + sum(max(0.0, meter.piece(piece).p50 - call) for piece in pieces)


def _draw(steps: Sequence[Mapping[str, float]], kind: str, path: pathlib.Path) -> None:
  from matplotlib import figure
  from matplotlib.backends import backend_agg

  made = figure.Figure(figsize=(5.6, 3.6), layout="constrained")
  backend_agg.FigureCanvasAgg(made)
  axes = made.subplots()
  axes.plot(
    [step["cost"] for step in steps], [100 * step["accuracy"] for step in steps], "o-", markersize=4
  )
  axes.invert_xaxis()
  label = "milliseconds, by layers" if kind == "latency" else "multiply-adds"
  axes.set(xlabel=label, ylabel="accuracy on the validation split, %")
  path.parent.mkdir(parents=True, exist_ok=True)
  made.savefig(path, dpi=120)
