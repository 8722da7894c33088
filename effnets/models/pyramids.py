"""Feature pyramids as graphs: which features meet in a node, and how they are weighed.

Features are numbered: first the cell's inputs, one per level from the finest, then its nodes in
order. A cell gives the newest feature of every level and is repeated. Names of parameters:

  level_l/{conv,norm}                  projection of a body's level, or of the one an extra level
                                       is made of
  cell_c/node_n/from_i/{conv,norm}     projection of input i of node n (counted within the cell)
  cell_c/node_n/edges                  weights of its inputs
  cell_c/node_n/{depthwise,pointwise,norm} or {conv,norm}
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from effnets import errors
from effnets.models import initialize, layers
from effnets.ops import anchors, resampling

FUSIONS = ("fast", "softmax", "sum", "channel_fast", "channel_softmax")
_LITTLE = 1e-4


@dataclasses.dataclass(frozen=True)
class Node:
  """A new feature on `level`, made of those that `inputs` number.

  fusion: "" for the pyramid's, else one of `FUSIONS`, or `attention`: of the first two inputs the
  finer one is gated by the coarser one's maxima, then all are added.
  """

  level: int
  inputs: tuple[int, ...]
  fusion: str = ""


def outputs(levels: Sequence[int], nodes: Sequence[Node]) -> tuple[int, ...]:
  """Returns the newest feature of every level."""
  newest = {level: index for index, level in enumerate(levels)}
  newest |= {node.level: len(levels) + index for index, node in enumerate(nodes)}
  return tuple(newest[level] for level in levels)


class _Growing:
  """A graph under construction."""

  def __init__(self, levels: Sequence[int]):
    self.on = {level: [index] for index, level in enumerate(levels)}
    self.nodes: list[Node] = []
    self._count = len(levels)

  def add(self, level: int, inputs: Sequence[int], fusion: str = "") -> int:
    """Adds a node and returns its number."""
    self.nodes.append(Node(level, tuple(inputs), fusion))
    self.on[level].append(self._count)
    self._count += 1
    return self._count - 1


def bifpn(levels: Sequence[int]) -> tuple[Node, ...]:
  """Returns the nodes of a BiFPN cell: top-down, then bottom-up with all features of a level.

  >>> [node.inputs for node in bifpn((3, 4, 5))]
  [(1, 2), (0, 3), (1, 3, 4), (2, 5)]

  Source: Tan et al. 2020 (arXiv 1911.09070), section 3.2.
  """
  graph = _Growing(levels)
  for level in reversed(levels[:-1]):
    graph.add(level, (graph.on[level][-1], graph.on[level + 1][-1]))
  for level in levels[1:]:
    graph.add(level, (*graph.on[level], graph.on[level - 1][-1]))
  return tuple(graph.nodes)


def fpn(levels: Sequence[int]) -> tuple[Node, ...]:
  """Returns the nodes of a top-down cell. Source: Lin et al. 2017 (arXiv 1612.03144)."""
  graph = _Growing(levels)
  for level in reversed(levels[:-1]):
    graph.add(level, (graph.on[level][-1], graph.on[level + 1][-1]))
  return tuple(graph.nodes)


def panet(levels: Sequence[int]) -> tuple[Node, ...]:
  """Returns the nodes of a top-down and a bottom-up path, each over the newest features.

  Source: Liu et al. 2018 (arXiv 1803.01534), figure 1.
  """
  graph = _Growing(levels)
  for level in reversed(levels[:-1]):
    graph.add(level, (graph.on[level][-1], graph.on[level + 1][-1]))
  for level in levels[1:]:
    graph.add(level, (graph.on[level][-1], graph.on[level - 1][-1]))
  return tuple(graph.nodes)


def qufpn(levels: Sequence[int]) -> tuple[Node, ...]:
  """Returns a BiFPN and its mirror image side by side, the two results of a level fused.

  Source: the option of that name in EfficientDet's code.
  """
  graph, first = _Growing(levels), {level: index for index, level in enumerate(levels)}
  results = []
  for down in (True, False):
    there, back = (levels[::-1], levels) if down else (levels, levels[::-1])
    step = 1 if down else -1
    middle = dict(first)
    for level in there[1:]:
      middle[level] = graph.add(level, (first[level], middle[level + step]))
    last = {back[0]: middle[back[0]]}
    for level in back[1:]:
      own = dict.fromkeys((first[level], middle[level]))
      last[level] = graph.add(level, (*own, last[level - step]))
    results.append(last)
  for level in levels:
    graph.add(level, [last[level] for last in results], "fast")
  return tuple(graph.nodes)


@dataclasses.dataclass(frozen=True)
class Merge:
  """A merging cell of NAS-FPN: level of the new feature, fusion, inputs, whether an output."""

  level: int
  fusion: str
  inputs: tuple[int, int]
  output: bool = False


FOUND = (
  Merge(4, "attention", (1, 3)),
  Merge(4, "sum", (1, 5)),
  Merge(3, "sum", (0, 6), True),
  Merge(4, "sum", (6, 7), True),
  Merge(5, "attention", (7, 8), True),
  Merge(7, "attention", (6, 9), True),
  Merge(6, "attention", (9, 10), True),
)
"""The found cell over levels 3 to 7."""


def merged(levels: Sequence[int], merges: Sequence[Merge]) -> tuple[Node, ...]:
  """Returns the nodes of merging cells; outputs take in features of their level that nothing used.

  Source: Ghiasi et al. 2019 (arXiv 1904.07392), section 3.1.
  """
  graph, used = _Growing(levels), set()
  for merge in merges:
    used |= set(merge.inputs)
    idle = [i for i in graph.on[merge.level] if i not in used] if merge.output else []
    used |= set(idle)
    graph.add(merge.level, (*merge.inputs, *idle), merge.fusion)
  return tuple(graph.nodes)


def nasfpn(levels: Sequence[int]) -> tuple[Node, ...]:
  """Returns the nodes of the cell found by search, over five levels.

  Raises: UserError for another number of levels.
  Source: Ghiasi et al. 2019 (arXiv 1904.07392), figure 6.

  >>> [node.inputs for node in nasfpn((3, 4, 5, 6, 7))[4:6]]
  [(7, 8, 2), (6, 9, 4)]
  """
  if len(levels) != 5:
    raise errors.UserError(f"config.model.pyramid='nasfpn' has 5 levels, not {len(levels)}.")
  return merged(levels, [dataclasses.replace(m, level=levels[m.level - 3]) for m in FOUND])


GRAPHS: dict[str, Callable[[Sequence[int]], tuple[Node, ...]]] = {
  "bifpn": bifpn,
  "fpn": fpn,
  "panet": panet,
  "qufpn": qufpn,
  "nasfpn": nasfpn,
}


def check(levels: Sequence[int], nodes: Sequence[Node]) -> None:
  """Checks that nodes are on the pyramid's levels and made of features before them.

  Raises: UserError.
  """
  for index, node in enumerate(nodes):
    if node.level not in levels:
      raise errors.UserError(
        f"config.model.nodes: node {index} is on level {node.level}; levels are {tuple(levels)}."
      )
    count = len(levels) + index
    wrong = [i for i in node.inputs if not 0 <= i < count]
    if wrong or not node.inputs:
      raise errors.UserError(
        f"config.model.nodes: node {index} has inputs {node.inputs}; there are 0 to {count - 1}."
      )
    if node.fusion not in ("", "attention", *FUSIONS):
      raise errors.unknown("config.model.nodes", node.fusion, "a fusion", ("attention", *FUSIONS))


@dataclasses.dataclass(frozen=True)
class Style:
  """What all nodes of a pyramid share.

  width: channels. fusion: one of `FUSIONS`:
    fast: sum of relu(w_i) x_i / (sum of relu(w_j) + 1e-4). softmax: sum of softmax(w)_i x_i.
    sum: no weights. channel_*: the same with weights of every channel.
  activation: before a node's convolution, which is `separable` or not; nothing follows its norm.
  bias: convolutions before norms have one. lateral: the inputs are projected once, else where
  they are used. overlapping: a pool of stride s has windows of s + 1, else of s. activate_last:
  the activation is behind the norm instead. start: of kernels.
  """

  width: int
  fusion: str = "fast"
  activation: str = "swish"
  separable: bool = True
  bias: bool = True
  lateral: bool = False
  overlapping: bool = True
  activate_last: bool = False
  start: str | float = "glorot"


class Resample(nn.Module):
  """Brings a feature to `style.width` channels, if it has others, and to a size."""

  style: Style
  settings: layers.Settings

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], size: tuple[int, int], train: bool = False
  ) -> Float[Array, "b h2 w2 d"]:
    """Returns the feature: projected at its own size, then pooled or repeated."""
    style = self.style
    if x.shape[-1] != style.width:
      conv = layers.Conv(
        style.width, bias=style.bias, settings=self.settings, start=style.start, name="conv"
      )
      x = layers.BatchNorm(settings=self.settings, name="norm")(conv(x), train)
    return fit(x, size, overlapping=style.overlapping, padding=self.settings.padding)


def fit(
  x: Float[Array, "b h w c"], size: tuple[int, int], *, overlapping: bool, padding: str
) -> Float[Array, "b h2 w2 c"]:
  """Returns `x` at `size`: the maxima of windows where it is larger, else repeated pixels."""
  smaller = tuple(min(pair) for pair in zip(x.shape[1:3], size, strict=True))
  if smaller != x.shape[1:3]:
    if overlapping:
      x = resampling.shrink(x, smaller, padding=padding)
    else:
      stride = tuple(-(-old // new) for old, new in zip(x.shape[1:3], smaller, strict=True))
      x = resampling.pool(x, stride, stride)
  return resampling.nearest(x, size)


class Separable(nn.Module):
  """Depthwise convolution and a 1x1 one behind it, nothing between."""

  channels: int
  kernel: int = 3
  bias: bool = True
  settings: layers.Settings = layers.Settings()
  start: str | float = "glorot"
  bias_start: float = 0.0

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
    """Returns the convolved `x`."""
    inputs = x.shape[-1]
    shared = {"settings": self.settings, "start": self.start}
    y = layers.Conv(inputs, self.kernel, groups=inputs, name="depthwise", **shared)(x)
    pointwise = layers.Conv(
      self.channels, bias=self.bias, bias_start=self.bias_start, name="pointwise", **shared
    )
    return pointwise(y)


class _Fusion(nn.Module):
  """One node: inputs brought together, weighed, activated, convolved, normalised."""

  node: Node
  style: Style
  settings: layers.Settings

  @nn.compact
  def __call__(
    self, features: Sequence[Array], size: tuple[int, int], train: bool
  ) -> Float[Array, "b h w d"]:
    """Returns the new feature."""
    style, settings, node = self.style, self.settings, self.node
    parts = [
      Resample(style, settings, name=f"from_{index}")(features[index], size, train)
      for index in node.inputs
    ]
    fusion = node.fusion or style.fusion
    y = self._attend(parts, features) if fusion == "attention" else self._weigh(parts, fusion)
    if not style.activate_last:
      y = layers.ACTIVATIONS[style.activation](y)
    shared = {"bias": style.bias, "settings": settings, "start": style.start}
    if style.separable:
      # Its layers stand beside the norm, as those of a dense convolution do.
      inputs = y.shape[-1]
      y = layers.Conv(
        inputs, 3, groups=inputs, settings=settings, start=style.start, name="depthwise"
      )(y)
      y = layers.Conv(style.width, name="pointwise", **shared)(y)
    else:
      y = layers.Conv(style.width, 3, name="conv", **shared)(y)
    last = style.activation if style.activate_last else "identity"
    return layers.BatchNorm(last, settings, alone=style.separable, name="norm")(y, train)

  def _attend(self, parts: Sequence[Array], features: Sequence[Array]) -> Array:
    first, second = self.node.inputs[:2]
    finer = features[first].shape[1] > features[second].shape[1]
    coarse, fine = (parts[1], parts[0]) if finer else (parts[0], parts[1])
    gate = jax.nn.sigmoid(coarse.max((1, 2), keepdims=True))
    return sum(parts[2:], coarse + fine * gate)

  def _weigh(self, parts: Sequence[Array], fusion: str) -> Array:
    if fusion == "sum":
      return sum(parts[1:], parts[0])
    shape = (len(parts), self.style.width) if fusion.startswith("channel") else (len(parts),)
    edges = initialize.parameter(self, "edges", initialize.Constant(1.0), shape)
    return fuse(parts, edges, fusion)


def fuse(
  parts: Sequence[Float[Array, "b h w c"]], edges: Float[Array, " n *c"], fusion: str
) -> Float[Array, "b h w c"]:
  """Returns the weighted sum of `parts`, by one of the rules of `Style` that has weights."""
  if fusion.endswith("softmax"):
    shares = jax.nn.softmax(edges, 0)
  else:
    positive = jax.nn.relu(edges)
    shares = positive / (positive.sum(0) + _LITTLE)
  shares = shares.astype(parts[0].dtype)
  return sum((part * shares[i] for i, part in enumerate(parts[1:], 1)), parts[0] * shares[0])


class Cell(nn.Module):
  """All nodes of a pyramid once."""

  levels: tuple[int, ...]
  nodes: tuple[Node, ...]
  style: Style
  settings: layers.Settings

  @nn.compact
  def __call__(
    self, features: tuple[Float[Array, "b _h _w _c"], ...], train: bool = False
  ) -> tuple[Float[Array, "b _h _w d"], ...]:
    """Returns the newest feature of every level, given one of every level."""
    sizes = dict(zip(self.levels, (x.shape[1:3] for x in features), strict=True))
    found = list(features)
    for index, node in enumerate(self.nodes):
      made = _Fusion(node, self.style, self.settings, name=f"node_{index}")
      found.append(made(found, sizes[node.level], train))
    return tuple(found[index] for index in outputs(self.levels, self.nodes))


class Pyramid(nn.Module):
  """A body's features, further levels made of the coarsest of them, and cells over all."""

  levels: tuple[int, ...]
  nodes: tuple[Node, ...]
  repeats: int
  style: Style
  settings: layers.Settings
  remat: bool = False

  @nn.compact
  def __call__(
    self, features: Mapping[int, Float[Array, "b _h _w _c"]], train: bool = False
  ) -> list[Float[Array, "b _h _w d"]]:
    """Returns the feature of every level.

    Raises: UserError if the body has not the finest level.
    """
    found = list(self._inputs(features, train))
    cell = nn.remat(Cell, static_argnums=(2,)) if self.remat else Cell
    for index in range(self.repeats):
      made = cell(self.levels, self.nodes, self.style, self.settings, name=f"cell_{index}")
      found = made(tuple(found), train)
    return list(found)

  def _inputs(self, features: Mapping[int, Array], train: bool):
    last = None
    for level in self.levels:
      resample = Resample(self.style, self.settings, name=f"level_{level}")
      if level in features:
        last = features[level]
        if self.style.lateral:
          last = resample(last, last.shape[1:3], train)
      elif last is None:
        raise errors.UserError(
          f"config.model.levels: the body has levels {sorted(features)}, not {level}."
        )
      else:
        last = resample(last, anchors.cells(last.shape[1:3], 1), train)
      yield last


class TopDown(nn.Module):
  """RetinaNet's pyramid: laterals, additions from above, a convolution and a norm for each level.

  Levels that the body has not are convolutions of stride 2 of the level before; the second and
  later of them behind an activation. All convolutions have biases.
  Source: Lin et al. 2017 (arXiv 1708.02002), as in the TPU code.
  """

  levels: tuple[int, ...]
  width: int
  settings: layers.Settings
  activation: str = "relu"

  @nn.compact
  def __call__(
    self, features: Mapping[int, Float[Array, "b _h _w _c"]], train: bool = False
  ) -> list[Float[Array, "b _h _w d"]]:
    """Returns the feature of every level."""
    given = [level for level in self.levels if level in features]
    if not given or given[0] != self.levels[0]:
      raise errors.UserError(
        f"config.model.levels: the body has levels {sorted(features)}, not {self.levels[0]}."
      )
    convolve = lambda kernel, stride, name: layers.Conv(  # noqa: E731
      self.width, kernel, stride, bias=True, settings=self.settings, start="glorot", name=name
    )
    found: dict[int, Array] = {}
    for level in reversed(given):
      found[level] = convolve(1, 1, f"lateral_{level}")(features[level])
      if level + 1 in found:
        found[level] += resampling.nearest(found[level + 1], found[level].shape[1:3])
    found = {level: convolve(3, 1, f"level_{level}")(found[level]) for level in given}
    for level in self.levels[len(given) :]:
      x = found[level - 1]
      if level - 1 not in given:
        x = layers.ACTIVATIONS[self.activation](x)
      found[level] = convolve(3, 2, f"level_{level}")(x)
    return [
      layers.BatchNorm(settings=self.settings, alone=True, name=f"norm_{level}")(
        found[level], train
      )
      for level in self.levels
    ]
