"""The weights that a training starts from, or an evaluation takes, when a config names some."""

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np
from jaxtyping import PyTree

from effnets import errors, models, parallel, tasks, weights, workdirs
from effnets.training import results

_HEAD = ("params", "classifier")
_BESIDE = ("params", tasks.learned_operations.NAME)
_NAMED = 4  # leaves that a message names before it counts


def load(config: Any) -> PyTree:
  """Returns the variables that `config.weights` names, whole, as host arrays.

  Raises: UserError if they cannot be had.
  """
  choice = weights.parse(config.weights)
  if not choice.run:
    return weights.open_choice(config.weights).variables
  with errors.context("config.weights"):
    trained = results.restore(workdirs.saved(choice.source), choice.source)
  return models.main_set(parallel.to_host(trained.variables))


def variables(config: Any, task: tasks.Task) -> PyTree:
  """Returns the variables that `config.weights` names, made to fit `task`.

  With `config.new_head` a classifier of other classes gives way to a fresh one.

  Raises: UserError if they cannot be had, or do not fit.
  """
  return fit(load(config), task, config)


def fit(loaded: PyTree, task: tasks.Task, config: Any) -> PyTree:
  """Returns `loaded` with the classifier that `task` needs; see `variables`.

  Auxiliary norms start as copies of the main ones. What a task learned beside the network stays
  behind, and starts anew.
  """
  ours, theirs = _flat(task.abstract()), _flat(loaded)
  own = {path for path in ours if path[: len(_BESIDE)] == _BESIDE}
  theirs = {path: leaf for path, leaf in theirs.items() if path[: len(_BESIDE)] != _BESIDE}
  if own:
    fresh = _flat(task.init(config.seed))
    theirs |= {path: fresh[path] for path in own}
  for path in ours.keys() - theirs.keys():
    main = (*path[:-1], models.main_name(path[-1]))
    if main in theirs:
      theirs[path] = theirs[main]
  head = {path for path in ours if path[: len(_HEAD)] == _HEAD}
  wrong = [p for p in ours.keys() | theirs.keys() if _shape(ours, p) != _shape(theirs, p)]
  others = sorted("/".join(path) for path in set(wrong) - head)
  if others:
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    raise errors.UserError(
      f"config.weights={config.weights!r} are those of another network than config.model: "
      f"{', '.join(others[:_NAMED])}{more} differ. Leave config.model to the weights."
    )
  if not wrong:
    return flax.traverse_util.unflatten_dict(theirs)
  if not config.new_head:
    bias = (*_HEAD, "bias")
    raise errors.UserError(
      f"config.weights={config.weights!r}: their classifier has {_shape(theirs, bias)[0]} classes, "
      f"{_shape(ours, bias)[0]} are needed; --config.new_head=True puts a new one in its place."
    )
  fresh = _flat(task.init(config.seed))
  return flax.traverse_util.unflatten_dict({**theirs, **{path: fresh[path] for path in head}})


def _flat(tree: PyTree) -> dict[tuple[str, ...], Any]:
  return flax.traverse_util.flatten_dict(tree)


def _shape(leaves: Mapping[tuple[str, ...], Any], path: tuple[str, ...]) -> tuple[int, ...] | None:
  return tuple(np.shape(leaves[path])) if path in leaves else None


def imported(config: Any) -> results.Trained:
  """Returns the model of `config.weights` with all its classes, on the mesh; it is at step 0.

  Raises: UserError if it cannot be had, or does not fit `config.model`.
  """
  choice = weights.parse(config.weights)
  loaded = load(config)
  classes = _shape(_flat(loaded), (*_HEAD, "bias"))[0]
  task, placement = results.model(config, num_classes=classes)
  whole = fit(loaded, task, config)
  names = workdirs.class_names(choice.source) if choice.run else ()
  return results.Trained(
    config=config,
    task=task,
    placement=placement,
    variables=placement.put(whole, placement.state(whole)),
    step=0,
    about={"weights": config.weights},
    class_names=names,
  )
