"""MnasFPN: pyramids of inverted bottlenecks between two features, found by search.

A head is data: blocks that each bring two features to a level, at `F` channels, add and convolve
them. Names of parameters: `c6/{conv,norm}`; `cell_c/block_b/input_i/{conv,norm}` and
`cell_c/block_b/{depthwise,pointwise,norm}`; blocks are numbered from the cell's inputs on.
Source: Chen et al. 2020 (arXiv 1912.01106) and its code.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from effnets import errors
from effnets.models import layers, pyramids
from effnets.ops import anchors, resampling


@dataclasses.dataclass(frozen=True)
class Block:
  """Two or more earlier features met on a level.

  inputs: their numbers; the cell's inputs are 0 to 3, the first block is 4. level: of the result.
  expand: channels in which they meet. kernel: taps of the depthwise convolution. merge: `add`, or
  `attention`: of two, the finer one is gated by the coarser one's maxima.
  """

  inputs: tuple[int, ...]
  level: int
  expand: int
  kernel: int = 3
  merge: str = "add"


FOUND = (
  Block((1, 2), 4, 256),
  Block((0, 4), 3, 128),
  Block((5, 4), 4, 128),
  Block((4, 3), 5, 128, 5),
  Block((4, 3), 6, 96),
)
"""The published cell over levels 3 to 6."""


@dataclasses.dataclass(frozen=True)
class Spec:
  """A head. blocks: of a cell; the last one on every level is the cell's output there.

  width: channels of blocks' results and of level 6. residual: cells add their inputs, where shapes
  agree. ordered: a projection comes where the feature is smaller, else always first. expanded:
  False merges at `width` channels. activation: behind the merge.
  """

  blocks: tuple[Block, ...] = FOUND
  width: int = 48
  residual: bool = True
  ordered: bool = True
  expanded: bool = True
  activation: str = "relu6"

  def scaled(self, factor: float) -> "Spec":
    """Returns the head with channels times `factor`, in multiples of 8, at least 16."""
    scale = lambda channels: max(16, layers.divisible(channels * factor))  # noqa: E731
    return dataclasses.replace(
      self,
      blocks=tuple(dataclasses.replace(b, expand=scale(b.expand)) for b in self.blocks),
      width=scale(self.width),
    )

  def check(self, levels: Sequence[int]) -> None:
    """Checks that every block is made of features before it and every level has an output.

    Raises: UserError.
    """
    for index, block in enumerate(self.blocks):
      count = len(levels) + index
      if block.level not in levels or not block.inputs:
        raise errors.UserError(f"config.model.blocks: block {count} is on none of {levels}.")
      if not all(0 <= i < count for i in block.inputs):
        raise errors.UserError(
          f"config.model.blocks: block {count} has inputs {block.inputs}; there are 0 to "
          f"{count - 1}."
        )
      if block.merge not in ("add", "attention") or block.expand < 1 or block.kernel % 2 == 0:
        raise errors.UserError(f"config.model.blocks: {block} is none.")
    missing = set(levels) - {block.level for block in self.blocks}
    if missing:
      raise errors.UserError(f"config.model.blocks: no output on level(s) {sorted(missing)}.")

  def used(self, levels: Sequence[int]) -> frozenset[int]:
    """Returns the blocks that an output needs; the others are not built.

    >>> sorted(Spec().used((3, 4, 5, 6)))
    [4, 5, 6, 7, 8]
    """
    newest = {block.level: len(levels) + index for index, block in enumerate(self.blocks)}
    todo, found = list(newest.values()), set()
    while todo:
      number = todo.pop()
      if number >= len(levels) and number not in found:
        found.add(number)
        todo += self.blocks[number - len(levels)].inputs
    return frozenset(found)


class _Projected(nn.Module):
  """A feature brought to `channels` and a size, the cheaper of the two first."""

  channels: int
  ordered: bool
  settings: layers.Settings

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], size: tuple[int, int], train: bool
  ) -> Float[Array, "b h2 w2 d"]:
    """Returns the feature; pools have three pixels a side, whatever their stride."""
    project = layers.ConvNorm(self.channels, settings=self.settings, start="fan_out", name="edge")
    stride = tuple(-(-old // new) for old, new in zip(x.shape[1:3], size, strict=True))
    shrinks = max(stride) > 1
    if not (shrinks and self.ordered):
      x = project(x, train)
    if shrinks:
      x = resampling.pool(x, 3, stride, padding=self.settings.padding)
      if self.ordered:
        x = project(x, train)
    return resampling.nearest(x, size)


class _Merge(nn.Module):
  """One block."""

  block: Block
  spec: Spec
  settings: layers.Settings

  @nn.compact
  def __call__(
    self, features: Mapping[int, Array], size: tuple[int, int], train: bool
  ) -> Float[Array, "b h w d"]:
    """Returns the new feature."""
    block, spec, settings = self.block, self.spec, self.settings
    channels = block.expand if spec.expanded else spec.width
    parts = [
      _Projected(channels, spec.ordered, settings, name=f"input_{index}")(
        features[number], size, train
      )
      for index, number in enumerate(block.inputs)
    ]
    if block.merge == "attention" and len(parts) > 1:
      first, second = (features[i].shape[1] for i in block.inputs[:2])
      coarse, fine = parts[:2] if first <= second else parts[1::-1]
      gate = jax.nn.sigmoid(coarse.max((1, 2), keepdims=True))
      parts = [coarse + fine * gate, *parts[2:]]
    y = layers.ACTIVATIONS[spec.activation](sum(parts[1:], parts[0]))
    y = pyramids.Separable(
      spec.width, block.kernel, bias=False, settings=settings, start="fan_in", name="separable"
    )(y)
    return layers.BatchNorm(settings=settings, alone=True, name="norm")(y, train)


class _Cell(nn.Module):
  """All blocks once."""

  levels: tuple[int, ...]
  spec: Spec
  settings: layers.Settings

  @nn.compact
  def __call__(self, features: Sequence[Array], train: bool) -> list[Array]:
    """Returns the output of every level."""
    spec, count = self.spec, len(self.levels)
    sizes = dict(zip(self.levels, (x.shape[1:3] for x in features), strict=True))
    found, newest = dict(enumerate(features)), {}
    used = spec.used(self.levels)
    for number, block in enumerate(spec.blocks, count):
      newest[block.level] = number
      if number in used:
        merge = _Merge(block, spec, self.settings, name=f"block_{number}")
        found[number] = merge(found, sizes[block.level], train)
    results = [found[newest[level]] for level in self.levels]
    if spec.residual:
      results = [y + x if x.shape == y.shape else y for x, y in zip(features, results, strict=True)]
    return results


class MnasFpn(nn.Module):
  """Cells over a body's features; levels that it has not are pooled from the coarsest."""

  levels: tuple[int, ...]
  spec: Spec
  repeats: int
  settings: layers.Settings

  @nn.compact
  def __call__(
    self, features: Mapping[int, Float[Array, "b _h _w _c"]], train: bool = False
  ) -> list[Float[Array, "b _h _w d"]]:
    """Returns the feature of every level."""
    self.spec.check(self.levels)
    found = []
    for level in self.levels:
      if level in features:
        found.append(features[level])
        continue
      if not found:
        raise errors.UserError(
          f"config.model.levels: the body has levels {sorted(features)}, not {level}."
        )
      x = found[-1]
      size = anchors.cells(x.shape[1:3], 1)
      stride = tuple(-(-old // new) for old, new in zip(x.shape[1:3], size, strict=True))
      x = resampling.pool(x, 3, stride, padding=self.settings.padding)
      if x.shape[-1] != self.spec.width:
        x = layers.ConvNorm(self.spec.width, settings=self.settings, name=f"c{level}")(x, train)
      found.append(x)
    for index in range(self.repeats):
      found = _Cell(self.levels, self.spec, self.settings, name=f"cell_{index}")(found, train)
    return found
