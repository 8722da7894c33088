"""Names and layouts of the papers' own TensorFlow checkpoints, derived from a stage table.

Google's EfficientNet, MnasNet and MixNet number blocks from 0 over the whole network, and count the
layers of a kind: `blocks_3/conv2d` expands and `blocks_3/conv2d_1` projects. EfficientNet counts
within a block; the others count convolutions over the whole model, as it was constructed: blocks,
then stem, then head. Slim's MobileNets name layers by what they do. Kernels are HWIO, depthwise
ones HWC1. Beside a variable may stand its moving average, which is what the papers measured, and
the optimizer's slots.
Source: tensorflow/tpu (models/official), tensorflow/models (research/slim).
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence

import flax.linen as nn

from effnets.models import stage_tables
from effnets.weights.tensor import Tensor

_AVERAGE = "/ExponentialMovingAverage"
# What an optimizer, or a moving average that starts at zero, keeps beside a variable.
_SLOTS = r"/(RMSProp|Momentum|Adam)(_\d+)?$|/(biased|local_step)$"
_STEPS = r"(^|/)(global_step|beta[12]_power|save_counter|_CHECKPOINTABLE_OBJECT_GRAPH)$"
_ASIDE = re.compile(f"{_SLOTS}|{_STEPS}")

_COUNTED = re.compile(
  r"(?:.*/)?(?P<scope>(?:mnas_)?(?:stem|head|blocks_\d+(?:/se)?))/"
  r"(?:tpu_)?(?P<kind>conv2d|depthwise_conv2d|batch_normalization|dense)(?:_(?P<index>\d+))?/"
  r"(?P<leaf>\w+)"
)
_SLIM = re.compile(r"(?:.*/)?(MobilenetV[123]/.*)")

_NORM = (
  ("gamma", "params", "scale"),
  ("beta", "params", "bias"),
  ("moving_mean", "batch_stats", "mean"),
  ("moving_variance", "batch_stats", "var"),
)


@dataclasses.dataclass(frozen=True)
class _Layer:
  """One layer: where its variables are made, its kind there, our path, output channels if known."""

  scope: str
  kind: str
  path: tuple[str, ...]
  channels: int | None = None


def _convolution(scope: str, kind: str, parts: int, *path: str) -> Iterator[_Layer]:
  for part in range(parts):
    yield _Layer(scope, kind, (*path, "conv", *((str(part),) if parts > 1 else ())))


def _parts(kernel: int | tuple[int, ...]) -> int:
  return 1 if isinstance(kernel, int) else len(kernel)


def _layers(module: nn.Module) -> Iterator[_Layer]:
  """Yields the layers in the order in which the official code constructs them."""
  for index, row in enumerate(stage_tables.unroll(module.rows)):
    scope, path = f"blocks_{index}", f"block_{index}"
    if row.expand != 1:
      yield from _convolution(scope, "conv2d", row.expand_parts, path, "expand")
      yield _Layer(scope, "batch_normalization", (path, "expand", "norm"))
    yield from _convolution(scope, "depthwise_conv2d", _parts(row.kernel), path, "depthwise")
    yield _Layer(scope, "batch_normalization", (path, "depthwise", "norm"))
    if row.squeeze is not None:
      for place in ("reduce", "expand"):
        yield _Layer(f"{scope}/se", "conv2d", (path, "squeeze", place))
    yield from _convolution(scope, "conv2d", row.project_parts, path, "project")
    yield _Layer(scope, "batch_normalization", (path, "project", "norm"), row.channels)
  for scope, channels in (("stem", module.stem), ("head", module.head)):
    yield from _convolution(scope, "conv2d", 1, scope)
    yield _Layer(scope, "batch_normalization", (scope, "norm"), channels)
  yield _Layer("head", "dense", ("classifier",))


def _google(
  module: nn.Module, model: str, *, prefix: str = "", keras: str = ""
) -> Iterator[Tensor]:
  """Yields the variables of a network of tensorflow/tpu.

  Args:
    model: the variable scope around all. prefix: of the scopes inside it. keras: scope of the Keras
      layers, which are counted over the whole model; "" if all layers count within their scope.
  """
  counts: dict[tuple[str, str], int] = collections.Counter()
  for layer in _layers(module):
    normalizes = layer.kind == "batch_normalization"
    scope = f"{prefix}{layer.scope}"
    kind = f"tpu_{layer.kind}" if normalizes and not keras else layer.kind
    counter = ("" if keras and not normalizes else scope, kind)
    index = counts[counter]
    counts[counter] += 1
    outer = f"{model}/{keras}" if keras and not normalizes else model
    name = f"{outer}/{scope}/{kind}{f'_{index}' if index else ''}"
    if normalizes:
      for theirs, collection, ours in _NORM:
        where = (collection, *layer.path, ours)
        yield Tensor(f"{name}/{theirs}", where, "vector", layer.channels)
      continue
    leaf, axes = {
      "conv2d": ("kernel", "tf_conv"),
      "depthwise_conv2d": ("depthwise_kernel", "tf_depthwise"),
      "dense": ("kernel", "tf_dense"),
    }[kind]
    yield Tensor(f"{name}/{leaf}", ("params", *layer.path, "kernel"), axes)
    if kind == "dense" or layer.scope.endswith("/se"):
      yield Tensor(f"{name}/bias", ("params", *layer.path, "bias"), "vector")


def _slim_convolution(
  name: str, path: Sequence[str], *, depthwise: bool = False, channels: int | None = None
) -> Iterator[Tensor]:
  leaf, kind = ("depthwise_weights", "tf_depthwise") if depthwise else ("weights", "tf_conv")
  yield Tensor(f"{name}/{leaf}", ("params", *path, "conv", "kernel"), kind)
  for theirs, collection, ours in _NORM:
    where = (collection, *path, "norm", ours)
    yield Tensor(f"{name}/BatchNorm/{theirs}", where, "vector", channels)


def _slim_biased(
  name: str, path: Sequence[str], *, kind: str = "tf_conv", channels: int | None = None
) -> Iterator[Tensor]:
  yield Tensor(f"{name}/weights", ("params", *path, "kernel"), kind)
  yield Tensor(f"{name}/biases", ("params", *path, "bias"), "vector", channels)


def _slim_blocks(module: nn.Module, model: str) -> Iterator[Tensor]:
  """Yields the variables of MobileNetV2 and V3."""
  yield from _slim_convolution(f"{model}/Conv", ("stem",), channels=module.stem)
  for index, row in enumerate(stage_tables.unroll(module.rows)):
    name, path = f"{model}/expanded_conv{f'_{index}' if index else ''}", f"block_{index}"
    if row.expand != 1:
      yield from _slim_convolution(f"{name}/expand", (path, "expand"))
    yield from _slim_convolution(f"{name}/depthwise", (path, "depthwise"), depthwise=True)
    if row.squeeze is not None:
      for theirs, ours in (("Conv", "reduce"), ("Conv_1", "expand")):
        yield from _slim_biased(f"{name}/squeeze_excite/{theirs}", (path, "squeeze", ours))
    yield from _slim_convolution(f"{name}/project", (path, "project"), channels=row.channels)
  yield from _slim_convolution(f"{model}/Conv_1", ("head",), channels=module.head)
  if module.hidden:
    yield from _slim_biased(f"{model}/Conv_2", ("hidden",), channels=module.hidden)


def _slim_separable(module: nn.Module, model: str) -> Iterator[Tensor]:
  """Yields the variables of MobileNetV1."""
  yield from _slim_convolution(f"{model}/Conv2d_0", ("stem",), channels=module.stem)
  for index, row in enumerate(stage_tables.unroll(module.rows)):
    name, path = f"{model}/Conv2d_{index + 1}", f"block_{index}"
    yield from _slim_convolution(f"{name}_depthwise", (path, "depthwise"), depthwise=True)
    yield from _slim_convolution(f"{name}_pointwise", (path, "project"), channels=row.channels)


def _slim(module: nn.Module, model: str) -> Iterator[Tensor]:
  separable = any(row.op == "separable" for row in module.rows)
  yield from (_slim_separable if separable else _slim_blocks)(module, model)
  yield from _slim_biased(f"{model}/Logits/Conv2d_1c_1x1", ("classifier",), kind="tf_logits")


def tensors(module: nn.Module, scope: str) -> tuple[Tensor, ...]:
  """Returns every variable of `module` that an official checkpoint has.

  Args:
    module: a `models.network.Network`. scope: the variable scope of the whole model, such as
      `efficientnet-b0`, `mnasnet-a1`, `mixnet-s` or `MobilenetV3`; it says whose layout it is.
  """
  if scope.startswith("Mobilenet"):
    return tuple(_slim(module, scope))
  if scope.startswith("mnasnet"):
    return tuple(_google(module, scope, prefix="mnas_", keras="mnas_net_model"))
  if scope.startswith("mixnet"):
    return tuple(_google(module, scope, keras="mixnet_model"))
  return tuple(_google(module, scope))


def select(names: Iterable[str]) -> dict[str, str]:
  """Returns each variable of a checkpoint, and the name under which its value is to be taken.

  That is its moving average where there is one. Optimizer slots and step counters are left out: a
  name below the name of another variable is one.

  >>> select(["a/kernel", "a/kernel/RMSProp", "a/kernel/ExponentialMovingAverage", "global_step"])
  {'a/kernel': 'a/kernel/ExponentialMovingAverage'}
  """
  names, chosen = set(names), {}
  for name in sorted(names):
    plain = name.removesuffix(_AVERAGE)
    if _ASIDE.search(plain) or plain.rpartition("/")[0] in names:
      continue
    if plain not in chosen or plain != name:
      chosen[plain] = name
  return chosen


def rename(names: Iterable[str], layout: Sequence[Tensor]) -> dict[str, str]:
  """Returns the official name, by the layout, of each of a checkpoint's variables it recognises.

  Scopes around the model do not matter. Where layers are counted otherwise, because another model
  was built before this one in the same graph, their order within a block decides.
  """
  layers: dict[tuple[str, str], dict[int, list[Tensor]]] = {}
  official: dict[str, str] = {}
  for tensor in layout:
    found = _COUNTED.fullmatch(tensor.name)
    if found:
      group = layers.setdefault((found["scope"], found["kind"]), {})
      group.setdefault(int(found["index"] or 0), []).append(tensor)
    else:
      official[tensor.name] = tensor.name
  given: dict[tuple[str, str], dict[int, list[tuple[str, str]]]] = {}
  renamed = {}
  for name in names:
    slim, found = _SLIM.fullmatch(name), _COUNTED.fullmatch(name)
    if slim and slim[1] in official:
      renamed[name] = slim[1]
    elif found:
      group = given.setdefault((found["scope"], found["kind"]), {})
      group.setdefault(int(found["index"] or 0), []).append((name, found["leaf"]))
  for key, indices in given.items():
    known = layers.get(key, {})
    if indices.keys() <= known.keys():
      places = {index: index for index in indices}
    elif len(indices) == len(known):
      places = dict(zip(sorted(indices), sorted(known), strict=True))
    else:
      continue
    for index, place in places.items():
      leaves = {tensor.name.rpartition("/")[2]: tensor.name for tensor in known[place]}
      for name, leaf in indices[index]:
        if leaf in leaves:
          renamed[name] = leaves[leaf]
  return renamed
