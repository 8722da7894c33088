"""State dicts of timm and TensorFlow variables to variables of ours, and back to timm.

Both go the same way: a layout (`layout.py` for timm, `tensorflow.py`) says which tensors a network
has there and where each belongs here; the rest does not know where they come from.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from absl import logging

from effnets import errors, models
from effnets.weights import catalog, files, layout, tensorflow
from effnets.weights.tensor import Tensor

_CLASSIFIER = ("params", "classifier", "kernel")
# Class 0 of TensorFlow's ImageNet networks with so many classes is the background.
_WITH_BACKGROUND = 1001
# Shapes of parameters do not depend on it; a small one traces as well as the real one.
_IMAGE_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Report:
  """What became of the tensors that were imported.

  name: the weight set, tag included. loaded: how many tensors were taken.
  missing: tensors that the network needs and the source has not; they have initial values.
  leftover: tensors of the source that the network has no place for.
  replaced: tensors of the classifier that gave way to a new one with other classes.
  Step counters and optimizer slots are not mentioned.
  """

  name: str
  loaded: int
  missing: tuple[str, ...] = ()
  leftover: tuple[str, ...] = ()
  replaced: tuple[str, ...] = ()

  @property
  def complete(self) -> bool:
    """Whether every tensor found its place."""
    return not (self.missing or self.leftover or self.replaced)

  def __str__(self) -> str:
    parts = [f"{self.name}: {self.loaded} tensors loaded"]
    for key in ("missing", "leftover", "replaced"):
      names = getattr(self, key)
      if names:
        parts.append(f"{len(names)} {key} ({', '.join(names)})")
    return "; ".join(parts)


class Imported(NamedTuple):
  """A network with somebody's weights.

  module: with everything that belongs to the weight set: padding, epsilon, block rules, classes.
  variables: float32 NumPy arrays. preprocessing: of pictures for evaluation; None for texts.
  """

  module: nn.Module
  variables: dict[str, Any]
  preprocessing: catalog.Preprocessing | None
  report: Report


def _counter(name: str) -> bool:
  return name.endswith("num_batches_tracked")


def read_arrays(name: str, state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns the tensors as arrays, without step counters and the prefix of a parallel wrapper."""
  if not isinstance(state_dict, Mapping) or not state_dict:
    raise errors.UserError(
      f"weights {name!r}: a state dict of tensors by name was expected, not "
      f"{'an empty one' if isinstance(state_dict, Mapping) else type(state_dict).__name__}."
    )
  prefix = "module." if all(str(key).startswith("module.") for key in state_dict) else ""
  arrays = {}
  for key, value in state_dict.items():
    key = str(key).removeprefix(prefix)
    if _counter(key):
      continue
    if hasattr(value, "detach"):  # a PyTorch tensor, on any device, of any type
      value = value.detach().cpu().float().numpy()
    value = np.asarray(value)
    try:
      arrays[key] = value.astype(np.float32, copy=False)
    except (TypeError, ValueError) as error:
      raise errors.UserError(
        f"weights {name!r}: {key} holds {value.dtype} values, not numbers."
      ) from error
  return arrays


def leaf_shapes(module: nn.Module) -> dict[tuple[str, ...], tuple[int, ...]]:
  """Returns the shape of every leaf of a module's variables, by its path."""
  found: dict[tuple[str, ...], tuple[int, ...]] = {}

  def visit(tree: Mapping[str, Any], *path: str) -> None:
    for name, value in tree.items():
      if isinstance(value, Mapping):
        visit(value, *path, name)
      else:
        found[*path, name] = tuple(value.shape)

  visit(models.abstract(module, _IMAGE_SIZE))
  return found


def get(tree: Mapping[str, Any], path: Sequence[str]) -> Any:
  """Returns the leaf at `path` of nested dictionaries."""
  for name in path:
    tree = tree[name]
  return tree


def put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
  """Sets the leaf at `path` of nested dictionaries."""
  for name in path[:-1]:
    tree = tree.setdefault(name, {})
  tree[path[-1]] = value


def _tensors(architecture: catalog.Architecture, module: nn.Module) -> tuple[Tensor, ...]:
  """Returns the tensors that an architecture's layout has for what is in the module."""
  if architecture.scope:
    return tensorflow.tensors(module, architecture.scope)
  return tuple(t for t in layout.tensors(module) if t.kind != "counter")


def _needed(architecture: catalog.Architecture) -> tuple[Tensor, ...]:
  """Returns those of them that the source has. The number of classes changes none of this."""
  found = _tensors(architecture, architecture.create(1000))
  return tuple(t for t in found if t.name not in architecture.absent)


def _official(
  arrays: Mapping[str, np.ndarray], needed: Sequence[Tensor]
) -> Mapping[str, np.ndarray]:
  """Returns TensorFlow's variables under their official names, where the layout knows them."""
  renamed = tensorflow.rename(arrays, needed)
  found: dict[str, np.ndarray] = {}
  for name, value in arrays.items():
    new = renamed.get(name, name)
    found[name if new in found else new] = value
  return found


def _twins(arrays: Mapping[str, np.ndarray]) -> list[str]:
  """Returns the architectures to which tensors may belong, by names and channels."""
  found = []
  plain = {name: arrays[given] for name, given in tensorflow.select(arrays).items()}
  for base, architecture in catalog.architectures().items():
    needed = _needed(architecture)
    given = _official(plain, needed) if architecture.scope else arrays
    if {tensor.name for tensor in needed} == set(given) and all(
      tensor.channels is None or given[tensor.name].shape[:1] == (tensor.channels,)
      for tensor in needed
    ):
      found.append(base)
  return found


def _listed(items: Sequence[str], *, sep: str = ", ", count: int = 4) -> str:
  more = f"{sep}and {len(items) - count} more" if len(items) > count else ""
  return sep.join(items[:count]) + more


def _classes(arrays: Mapping[str, np.ndarray], head: Tensor) -> int | None:
  """Returns the classes of a classifier's kernel, or None if it is not there."""
  kernel = arrays.get(head.name)
  if kernel is None or kernel.ndim != len(head.theirs((1, 1))):
    return None
  return head.to_ours(kernel).shape[-1]


def _check(
  entry: catalog.WeightSet,
  arrays: Mapping[str, np.ndarray],
  shapes: Mapping[str, tuple[int, ...]],
) -> None:
  """Checks that the arrays belong to the network whose tensors have `shapes`.

  Raises: UserError.
  """
  common = [name for name in shapes if name in arrays]
  wrong = [name for name in common if arrays[name].shape != shapes[name]]
  if not wrong and len(common) == len(shapes) == len(arrays):
    return
  twins = _twins(arrays)
  if twins and entry.base not in twins:
    raise errors.UserError(
      f"weights {entry.name!r}: these are the tensors of another network, "
      f"{' or '.join(map(repr, twins))}. Give that name."
    )
  if len(common) - len(wrong) < len(shapes) / 2:
    raise errors.UserError(
      f"weights {entry.name!r}: these are the tensors of another network: "
      f"{len(common) - len(wrong)} of the {len(shapes)} tensors needed are in it, and it has "
      f"{len(arrays)}, such as {_listed(list(arrays))}."
    )
  if wrong:
    told = [f"{name} has shape {arrays[name].shape}, needed is {shapes[name]}" for name in wrong]
    raise errors.UserError(f"weights {entry.name!r}: {_listed(told, sep='; ')}.")


def _import(
  entry: catalog.WeightSet,
  arrays: Mapping[str, np.ndarray],
  *,
  num_classes: int | None,
  replace_head: bool,
  seed: int,
) -> Imported:
  """Returns tensors of either source as a module and its variables."""
  architecture = entry.architecture
  needed = _needed(architecture)
  if architecture.scope:
    arrays = _official(arrays, needed)
    if num_classes != _WITH_BACKGROUND:
      arrays = _without_background(arrays, needed)
  given = _classes(arrays, next(t for t in needed if t.path == _CLASSIFIER))
  classes = num_classes or given or 1000
  if given not in (None, classes) and not replace_head:
    raise errors.UserError(
      f"weights {entry.name!r}: their classifier has {given} classes, num_classes={classes} was "
      "asked for; replace_head=True drops it for a new one, num_classes=None keeps it."
    )
  module = architecture.create(given or classes)
  leaves = leaf_shapes(module)
  shapes = {t.name: t.theirs(leaves[t.path]) for t in needed}
  _check(entry, arrays, shapes)

  replaced = set()
  if given not in (None, classes):
    module = architecture.create(classes)
    replaced = {t.name for t in needed if t.path[1] == "classifier"}
  missing = tuple(key for key in shapes if key not in arrays)
  initial = models.init(module, seed, image_size=_IMAGE_SIZE) if missing or replaced else {}
  variables: dict[str, Any] = {}
  for tensor in needed:
    if tensor.name in replaced or tensor.name not in arrays:
      value = get(initial, tensor.path)
    else:
      value = tensor.to_ours(arrays[tensor.name])
    put(variables, tensor.path, value)
  for tensor in _tensors(architecture, module):
    if tensor.name in architecture.absent:
      put(variables, tensor.path, np.zeros(leaves[tensor.path], np.float32))
  report = Report(
    name=entry.name,
    loaded=len(shapes) - len(missing) - len(replaced.difference(missing)),
    missing=missing,
    leftover=tuple(key for key in arrays if key not in shapes),
    replaced=tuple(key for key in shapes if key in replaced and key in arrays),
  )
  if not report.complete:
    logging.warning("%s", report)
  return Imported(module, variables, entry.preprocessing, report)


def _without_background(
  arrays: Mapping[str, np.ndarray], needed: Sequence[Tensor]
) -> Mapping[str, np.ndarray]:
  """Returns the arrays without class 0 of a classifier of 1,001 classes; others as they are."""
  heads = [t.name for t in needed if t.path[1] == "classifier" and t.name in arrays]
  if any(arrays[name].shape[-1:] != (_WITH_BACKGROUND,) for name in heads):
    return arrays
  return {**arrays, **{name: arrays[name][..., 1:] for name in heads}}


def _found(name: str, *, official: bool) -> catalog.WeightSet:
  """Returns the weight set of a name that has to be of one of the two sources."""
  entry = catalog.find(name)
  if bool(entry.architecture.scope) != official:
    theirs, right = (
      ("an official one", "from_tensorflow") if not official else ("timm's", "from_timm")
    )
    raise errors.UserError(f"weights name={name!r} is {theirs}; `weights.{right}` takes it.")
  return entry


def from_timm(
  name: str,
  state_dict: Mapping[str, Any],
  *,
  num_classes: int | None = None,
  replace_head: bool = False,
  seed: int = 0,
) -> Imported:
  """Returns a weight set of timm as a module of ours and its variables.

  Args:
    name: as timm spells it, tag optional: `tf_efficientnet_b0.ns_jft_in1k`.
    state_dict: tensors by name, of NumPy, JAX or PyTorch.
    num_classes: that the module should have; None for those of the state dict.
    replace_head: whether a classifier with other classes may be dropped for a new one.
    seed: of the values of a new classifier, and of missing tensors.
  Raises:
    UserError for an unknown name, the state dict of another network, a tensor of the wrong shape,
    or other classes without `replace_head`.
  """
  entry = _found(name, official=False)
  arrays = read_arrays(entry.name, state_dict)
  return _import(entry, arrays, num_classes=num_classes, replace_head=replace_head, seed=seed)


def from_tensorflow(
  name: str,
  arrays: Mapping[str, Any],
  *,
  num_classes: int | None = None,
  replace_head: bool = False,
  seed: int = 0,
) -> Imported:
  """Returns a paper's own weight set as a module of ours and its variables.

  The moving average of a variable is taken where there is one, which is what the papers measured;
  optimizer slots and step counters are left out. Of 1,001 classes the first, the background, is
  left out too, unless `num_classes` is 1001.

  Args:
    name: as the paper's code spells it, tag optional: `efficientnet-b0.noisystudent`, `mixnet-s`,
      `v3-large_224_1.0_float`.
    arrays: the checkpoint's variables by name (see `files.Checkpoint`). Others: see `from_timm`.
  Raises: UserError as `from_timm`.
  """
  entry = _found(name, official=True)
  if isinstance(arrays, Mapping):
    arrays = {plain: arrays[given] for plain, given in tensorflow.select(arrays).items()}
  return _import(
    entry,
    read_arrays(entry.name, arrays),
    num_classes=num_classes,
    replace_head=replace_head,
    seed=seed,
  )


def to_timm(module: nn.Module | str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns variables as timm's state dict: float32, its names, layouts and order.

  Args:
    module: the network, or the name of a weight set of timm's.
    variables: `params` and `batch_stats`. Norms' step counters, which we have not, are 0.
  Raises: UserError if the variables are not those of the module, naming what differs.
  """
  absent: frozenset[str] = frozenset()
  if isinstance(module, str):
    architecture = catalog.find(module).architecture
    absent = architecture.absent
    try:
      classes = np.shape(variables["params"]["classifier"]["bias"])[0]
    except (KeyError, IndexError, TypeError) as error:
      raise errors.UserError(
        f"variables have no params/classifier/bias, so they are none of {module!r}."
      ) from error
    module = architecture.create(classes)
  leaves, state_dict, wrong, used = leaf_shapes(module), {}, [], set()
  for tensor in layout.tensors(module):
    if tensor.kind == "counter":
      state_dict[tensor.name] = np.zeros((), np.int64)
      continue
    used.add(tensor.path)
    try:
      value = get(variables, tensor.path)
      shape = tuple(np.shape(value))
    except (KeyError, TypeError):
      shape = None
    if shape != leaves[tensor.path]:
      found = "is missing" if shape is None else f"has shape {shape}"
      wrong.append(f"{'/'.join(tensor.path)} {found}, needed is {leaves[tensor.path]}")
    elif tensor.name not in absent:
      state_dict[tensor.name] = tensor.to_theirs(value)
  wrong += [f"{'/'.join(path)} has no name in timm" for path in leaves if path not in used]
  if wrong:
    raise errors.UserError(f"variables do not fit the module: {_listed(wrong, sep='; ')}.")
  return state_dict


def load(
  name: str,
  source: str | os.PathLike[str],
  *,
  num_classes: int | None = None,
  replace_head: bool = False,
  seed: int = 0,
) -> Imported:
  """Returns a weight set that is in a file or on the Hugging Face hub.

  Args:
    name: in the source's spelling, tag included: `tf_efficientnet_b0.ns_jft_in1k`, or of a paper's
      own checkpoint, `efficientnet-b0.noisystudent`.
    source: see `files.read`. The others: see `from_timm` and `from_tensorflow`.
  Raises: UserError as `files.read` and they; for a wrong name before anything is read.
  """
  take = from_tensorflow if catalog.find(name).architecture.scope else from_timm
  return take(
    name, files.read(source), num_classes=num_classes, replace_head=replace_head, seed=seed
  )
