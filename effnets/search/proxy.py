"""Evaluators: what a network is worth, from a short training or from a table of earlier ones.

Each is called as (space, tokens, seed) -> values. The landscapes of `landscapes.py` are others.
"""

import collections
import functools
import json
import pathlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import ml_collections

from effnets import errors, models, parallel, training
from effnets.search import cost, network, shared
from effnets.search import study as study_lib
from effnets.search.running import FailedError, InfeasibleError

Costs = Callable[[Any, tuple[int, ...]], Mapping[str, float]]
"""(space, tokens) -> further costs, such as a latency."""

EXECUTIONS = ("loop", "shared")
_KEPT = 4  # programs; those of large children take memory
_NO_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory", "OOM")


def child(
  config: Any,
  space: Any,
  tokens: Sequence[int],
  seed: int,
  edges: Mapping[str, float] | None = None,
) -> ml_collections.ConfigDict:
  """Returns the config of a child: the search's own, with this network, seed and no test split.

  What would have judged on the test split judges on the hold-out part, so that no number of a
  search has seen a test picture. edges: weights that edges begin at, by their decisions' names.

  Raises: UserError if both are the same.
  """
  split = config.data.split
  if split.validation == split.test:
    raise errors.UserError(
      f"config.data.split.validation={split.validation!r} is the test split; a search needs a "
      "hold-out part of its own, such as train[:10%] with train[10%:] to train on."
    )
  made = ml_collections.ConfigDict(config.to_dict())
  for section in ("search", "arch"):
    if section in made:
      del made[section]
  made.data.split.test = split.validation
  made.checkpoint.update({"every_percent": 100.0, "keep": 1})
  made.evaluation.every_percent = 100.0
  made.tensorboard = False
  made.profile.steps = 0
  made.seed = seed
  network.set_tokens(made, space, tuple(tokens))
  if edges:
    with made.ignore_type():
      start = space.started(tuple(tokens), edges, masked=made.model.get("masked", False))
      made.model.edge_start = start
  return made.lock()


class Proxy:
  """Trains a child for as long as the config says, and judges it on the hold-out part.

  Args:
    config: of the search, whose `train`, `data`, `optimizer`, ... are the child's.
    folder: of the children; each has its own there while it trains, and goes on in it.
    execution: `loop`, the one loop, one compilation a child; or `shared`, see `shared.py`.
    devices: of the children's mesh; default: all, or the first for `shared`.
    limits: value -> the most that a network may have; beyond it, it is infeasible.
    costs: of the network before it is trained, beside `params` and `madds`.

  Values are `accuracy`, `loss` (cross-entropy), `params`, `madds`, the costs, and what the space's
  `learned` finds in the trained parameters, if it has such a method.
  """

  def __init__(
    self,
    config: Any,
    folder: str | pathlib.Path,
    *,
    execution: str = "loop",
    devices: Sequence[jax.Device] | None = None,
    limits: Mapping[str, float] | None = None,
    costs: Costs | None = None,
  ):
    if execution not in EXECUTIONS:
      raise errors.unknown(
        "config.search.proxy.execution", execution, "a way to train children", EXECUTIONS
      )
    self._config, self._folder = config, pathlib.Path(folder)
    self._devices, self._costs = devices, costs
    self._limits = dict(limits or {})
    # Detectors may have a logit that belongs to no class.
    slots = int(config.task.get("background", False))
    self._classes = training.inputs.evaluation(config, "validation").num_classes + slots
    self._programs: collections.OrderedDict[Any, training.Programs] = collections.OrderedDict()
    self.shared = None
    if execution == "shared":
      self.shared = shared.Shared(config, devices[0] if devices else None)

  def __call__(self, space: Any, tokens: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Returns the child's values.

    Raises: InfeasibleError, FailedError with the reason; other errors are the machine's.
    """
    return self._valued(space, tokens, seed, None)

  def inheriting(self, info: Mapping[str, Any]) -> Callable[..., dict[str, Any]]:
    """Returns the same for a child with that note: `edges`, the weights that its edges begin at."""
    return functools.partial(self._valued, edges=info.get("edges"))

  def _valued(
    self, space: Any, tokens: tuple[int, ...], seed: int, edges: Mapping[str, float] | None
  ) -> dict[str, Any]:
    values = self.cost(space, tokens)
    config = child(self._config, space, tokens, seed, edges)
    try:
      return {**self._train(config, space, tokens), **values}
    except FloatingPointError as error:
      raise FailedError(f"not finite: {error}") from error
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
      text = str(error)
      if isinstance(error, MemoryError) or any(word in text for word in _NO_MEMORY):
        first = text.splitlines()[0] if text else "MemoryError"
        raise FailedError(f"out of memory: {first}; give config.batch_size less.") from error
      raise

  def cost(self, space: Any, tokens: tuple[int, ...]) -> dict[str, float]:
    """Returns what the network costs, which needs no training.

    Raises: InfeasibleError if that is more than a limit.
    """
    size = self._config.data.image_size
    try:
      more = network.counted(self._config, space)
      found = cost.of(space, tokens, image_size=size, num_classes=self._classes, **more)
    except errors.UserError as error:
      raise InfeasibleError(str(error)) from error
    values: dict[str, float] = {"params": found.params, "madds": found.madds}
    if self._costs is not None:
      values |= self._costs(space, tokens)
    for name, most in self._limits.items():
      if name not in values:
        raise errors.unknown("config.search.limits", name, "a cost that is measured", values)
      if values[name] > most:
        raise InfeasibleError(f"{name}={values[name]:,} is more than {most:,}")
    return values

  def _train(self, config: Any, space: Any, tokens: tuple[int, ...]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if self.shared is not None:
      figures = self.shared.train(config)
    else:
      path = self._folder / f"{space.key(tokens)}_{config.seed}"
      programs = self._compiled(config, space, tokens)
      result = training.train(config, path, name="", devices=self._devices, programs=programs)
      figures = result.figures[config.data.split.validation]
      shutil.rmtree(path)
      if hasattr(space, "learned"):
        settings = {key: value for key, value in config.model.items() if key != "name"}
        module = models.create(config.model.name, self._classes, **settings)
        told = space.learned(module, parallel.to_host(result.variables["params"]))
    values = {**told, "accuracy": figures[config.checkpoint.best_metric]}
    if "cross_entropy" in figures:
      values["loss"] = figures["cross_entropy"]
    return values

  def _compiled(self, config: Any, space: Any, tokens: tuple[int, ...]) -> training.Programs:
    """Returns the programs of a child, those of an earlier one if they are the same."""
    masked = config.model.get("masked", False)
    key = space.whole(tokens) if masked else tokens
    found = self._programs.pop(key, None) or training.Programs()
    self._programs[key] = found  # the latest one is the last to go
    if len(self._programs) > _KEPT:
      self._programs.popitem(last=False)
    return found


class Table:
  """Looks up what networks were worth, in a file of `write_table`.

  Values of a network with several trainings are those of seed modulo their number. One that the
  table has not is infeasible. costs: such as latencies on another machine, before the table's own.

  Raises: UserError if the file is none, or of another space or version.
  """

  def __init__(self, path: str | pathlib.Path, space: Any, costs: Costs | None = None):
    self._values: dict[str, list[dict[str, Any]]] = {}
    self._costs = costs
    try:
      lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
      head, *rows = (json.loads(line) for line in lines)
      self.about = dict(head)
      version = head["space_version"]
      for row in rows:
        self._values.setdefault(row["key"], []).append(row["values"])
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise errors.UserError(
        f"config.search.table={str(path)!r} is no table of networks ({error})."
      ) from error
    with errors.context(f"config.search.table={str(path)!r}"):
      if head["space"] != space.name:
        raise errors.UserError(f"its networks are of the space {head['space']!r}.")
      if version != space.version:
        raise errors.UserError(f"its space has version {version}, here it is {space.version}.")

  def __len__(self) -> int:
    return len(self._values)

  def __call__(self, space: Any, tokens: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Returns the network's values. Raises: InfeasibleError if the table has not got it."""
    found = self.trainings(space, tokens)
    return found[seed % len(found)]

  def trainings(self, space: Any, tokens: tuple[int, ...]) -> list[dict[str, Any]]:
    """Returns the values of every training of a network. Raises: as a call."""
    found = self._values.get(space.key(tokens))
    if found is None:
      raise InfeasibleError("the table does not have it")
    costs = {} if self._costs is None else self._costs(space, tokens)
    return [{**values, **costs} for values in found]

  def mean(self, space: Any, tokens: tuple[int, ...], seed: int = 0) -> dict[str, float]:
    """Returns a network's values, averaged over its trainings; `seed` is not used. Raises: so."""
    found = self.trainings(space, tokens)
    return {name: sum(values[name] for values in found) / len(found) for name in found[0]}


def write_table(
  path: str | pathlib.Path, space: Any, records: Iterable[study_lib.Record], command: str
) -> int:
  """Writes the networks that were trained as a table; returns how many trainings those are.

  command: what made them, to be made again.
  """
  head = {"space": space.name, "space_version": space.version, "command": command}
  lines = [head]
  for record in records:
    if record.state is study_lib.State.COMPLETE and record.of is None:
      row = {"key": record.key, "tokens": list(record.tokens), "values": dict(record.values)}
      lines.append(row)
  text = "".join(f"{json.dumps(line)}\n" for line in lines)
  pathlib.Path(path).write_text(text, encoding="utf-8")
  return len(lines) - 1
