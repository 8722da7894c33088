"""The weights that a training starts from, or an evaluation takes, when a config names some."""

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np
from jaxtyping import PyTree

from effnets import errors, models, parallel, tasks, weights, workdirs
from effnets.training import results

_HEAD = ("params", "classifier")
# Of detectors: of towers; of one tower for both, and of SSD; of Mask R-CNN.
_DETECTOR_HEADS = (
  ("params", "class_head", "predict"),
  ("params", "head"),
  ("params", "box_head", "predict_class"),
  ("params", "box_head", "predict_box"),
  ("params", "mask_head", "predict"),
)
_BODY = "backbone"
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

  Weights of a classifier become the body of a detector or segmenter, the rest of which is fresh.
  Auxiliary norms start as copies of the main ones. What a task learned beside the network stays
  behind, and starts anew.
  """
  ours, theirs = _flat(task.abstract()), _flat(loaded)
  if _BODY in {path[1] for path in ours} and _BODY not in {path[1] for path in theirs}:
    return _with_body(ours, theirs, task, config)
  own = {path for path in ours if path[: len(_BESIDE)] == _BESIDE}
  theirs = {path: leaf for path, leaf in theirs.items() if path[: len(_BESIDE)] != _BESIDE}
  if own:
    fresh = _flat(task.init(config.seed))
    theirs |= {path: fresh[path] for path in own}
  for path in ours.keys() - theirs.keys():
    main = (*path[:-1], models.main_name(path[-1]))
    if main in theirs:
      theirs[path] = theirs[main]
  on_body = _BODY in {path[1] for path in ours}
  heads = _DETECTOR_HEADS if on_body else (_HEAD,)
  head = {path for path in ours if any(path[: len(h)] == h for h in heads)}
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
    they, we = _shape(theirs, bias), _shape(ours, bias)
    what = f"{they[0]} classes, {we[0]} are needed" if they and we else "other classes"
    raise errors.UserError(
      f"config.weights={config.weights!r}: their classifier has {what}; --config.new_head=True "
      "puts a new one in its place."
    )
  fresh = _flat(task.init(config.seed))
  # Of a detector's head only what depends on classes is new.
  new = set(wrong) if on_body else head
  theirs = {path: leaf for path, leaf in theirs.items() if path in ours}
  return flax.traverse_util.unflatten_dict({**theirs, **{path: fresh[path] for path in new}})


def _with_body(ours: Any, theirs: Any, task: tasks.Task, config: Any) -> PyTree:
  """Returns fresh variables with a classifier's weights in the body."""
  inside = {(kind, _BODY, *path): leaf for (kind, *path), leaf in theirs.items()}
  body = {path for path in ours if path[1] == _BODY}
  wrong = sorted("/".join(p) for p in body if _shape(ours, p) != _shape(inside, p))
  if wrong:
    more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    raise errors.UserError(
      f"config.weights={config.weights!r} are not those of the body of {config.model.name!r}: "
      f"{', '.join(wrong[:_NAMED])}{more} differ. Give those of the classifier that it is built on."
    )
  whole = {**_flat(task.init(config.seed)), **{path: inside[path] for path in body}}
  return flax.traverse_util.unflatten_dict(whole)


def _flat(tree: PyTree) -> dict[tuple[str, ...], Any]:
  return flax.traverse_util.flatten_dict(tree)


def _shape(leaves: Mapping[tuple[str, ...], Any], path: tuple[str, ...]) -> tuple[int, ...] | None:
  return tuple(np.shape(leaves[path])) if path in leaves else None


def imported(config: Any) -> results.Trained:
  """Returns the model of `config.weights` with all its classes, on the mesh; it is at step 0.

  Raises: UserError if it cannot be had, or does not fit `config.model`.
  """
  choice = weights.parse(config.weights)
  if choice.run:
    loaded = load(config)
    classes = _shape(_flat(loaded), (*_HEAD, "bias"))
    classes = classes[0] if classes else len(workdirs.class_names(choice.source))
  else:
    found = weights.open_choice(config.weights)
    # A logit that belongs to no class.
    slots = config.task.get("background", config.task.name == "instances")
    loaded, classes = found.variables, found.module.num_classes - slots
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
