"""The vocabulary of stage tables, and the blocks its words stand for.

Parameters are named by what they do, the same in every family:

  stem/{conv,norm}, head/{conv,norm}, classifier/{kernel,bias}   a second head is head_1
  hidden/{kernel,bias}                         MobileNetV3: between pool and classifier, no norm
  block_i/{expand,depthwise,project}/{conv,norm}     i counts all blocks; no expand at factor 1
  block_i/squeeze/{reduce,expand}/{kernel,bias}
  block_i/spatial/{conv,norm}                  a plain convolution
  block_i/{reduce,spatial,project,shortcut}/{conv,norm}   ResNet; shortcut where shapes change
  block_i/{norm,{reduce,spatial,project}/{conv,norm}}   norm first: PyramidNet; Wide-ResNet, whose
                                               project has no norm
  block_i/{spatial,project}_{0,1}/{conv,norm}  Shake-Shake; shortcut as in ResNet, of two parts
  tail                                         a norm behind the last block

A `conv` has one leaf, `kernel` (HWIO; depthwise: kh kw 1 c). A convolution in several parts has one
for each, `conv/0/kernel`, `conv/1/kernel`, ..., in the order of its channels, and one `norm` for
all of them. A `norm` has the parameters `scale` and `bias` and the running moments `mean` and
`var`. `stages(unroll(rows))` gives the blocks as other code bases number them: stage, then block.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from effnets.models import layers, shortcuts


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of a stage table: `repeats` equal blocks, of which only the first strides.

  op: a key of `BLOCKS`. stride: of the first block. channels: of the output.
  kernel: taps of the spatial convolution, or of each part of a mixed one.
  expand: inner channels over input channels, 1 leaves the expansion out; of a `bottleneck`: inner
    channels over output channels.
  squeeze: squeeze-excitation, or None. activation: a key of `layers.ACTIVATIONS`.
  skip: whether blocks that keep size and channels add their input.
  joined: whether the row belongs to the stage of the row before it.
  expand_parts, project_parts: parts of the 1x1 convolutions. partition: see `layers.partition`.
  dilated: stride-1 blocks have 3x3 taps so far apart that they span `kernel`.
  declared: input channels as the skip rule sees them, None for the true ones.
  activated_skip: the first block's shortcut begins behind its first norm and activation.
  rate: pixels between the taps of the spatial convolution, of an `mbconv`, a `separable` or a
    `bottleneck` (see `atrous`).
  widened: inner channels of an `mbconv` row's first block, instead of `expand` times the input's;
    None for those.
  pooled: of an `mbconv` or a `conv`: every block adds its input whatever the shapes, averaged over
    3x3 pixels with the block's stride, its last channels cut or zeros behind them; beside `skip`,
    which then does nothing.
  grown: of a `pyramid`: inner channels before the first block and of the last one, between which
    they grow evenly, rounded; the output has them over `expand`. None: `channels` in every block.
  """

  op: str
  kernel: int | tuple[int, ...]
  stride: int
  expand: float
  channels: int
  repeats: int = 1
  squeeze: layers.Squeeze | None = None
  activation: str = "swish"
  skip: bool = True
  joined: bool = False
  expand_parts: int = 1
  project_parts: int = 1
  partition: str = "equal"
  dilated: bool = False
  declared: int | None = None
  activated_skip: bool = False
  grown: tuple[float, float] | None = None
  rate: int = 1
  widened: int | None = None
  pooled: bool = False


HEAD_SCALING = ("scaled", "fixed", "grown")


@dataclasses.dataclass(frozen=True)
class Table:
  """A network before scaling: first and last convolution, the stages between, what they share.

  stem, head: channels of the first convolution and of the last 1x1 one; head 0 leaves it out.
  activation: of stem, head and hidden layer. stem_kernel: taps. stem_pool: halve again by 3x3 max.
  stem_stride: of the first convolution. stem_end, tail: what follows it, and the last block,
    `norm`, `activation`, `norm activation` or nothing. outer_skips: the input of every stage is
    added to its output, and that of the first block to the last one's, by shortcuts without
    weights.
  hidden: units of a biased layer between pool and classifier; 0 leaves it out; never scaled.
  head_scaling: what width does to the head: `scaled` like all channels, `fixed`, or `grown`, never
    below the table's. kernel_std: kernels start from a truncated normal of that standard deviation;
    None: see `layers.Conv`. depth_rounding: a key of `ROUNDINGS`.
  """

  stem: int
  rows: tuple[Row, ...]
  head: int
  activation: str = "swish"
  stem_kernel: int = 3
  stem_pool: bool = False
  hidden: int = 0
  head_scaling: str = "scaled"
  kernel_std: float | None = None
  depth_rounding: str = "up"
  stem_stride: int = 2
  stem_end: str = "norm activation"
  tail: str = ""
  outer_skips: bool = False


ROUNDINGS = {"up": math.ceil, "nearest": lambda value: max(1, round(value))}


def round_filters(filters: int, width: float) -> int:
  """Returns `filters * width` rounded to a multiple of 8, never more than a tenth below.

  >>> round_filters(32, 1.2), round_filters(112, 1.1), round_filters(320, 4.3)
  (40, 120, 1376)
  """
  return layers.divisible(filters * width)


def round_repeats(repeats: int, depth: float) -> int:
  """Returns `repeats * depth`, rounded up.

  >>> round_repeats(1, 1.1), round_repeats(4, 3.1)
  (2, 13)
  """
  return math.ceil(depth * repeats)


def stages(rows: Sequence[Row]) -> tuple[tuple[Row, ...], ...]:
  """Returns the rows of each stage: a row that is not `joined` starts one."""
  found: list[list[Row]] = []
  for row in rows:
    if row.joined and found:
      found[-1].append(row)
    else:
      found.append([row])
  return tuple(tuple(stage) for stage in found)


def deepen(stage: Sequence[Row], depth: float, *, rounding: str = "up") -> tuple[Row, ...]:
  """Returns the rows of one stage with `depth` times as many blocks in all.

  The total is rounded, then shared among the rows in proportion to their repeats, last row first,
  so that what rounding leaves over falls on the early rows, which change the shape.
  Source: timm's builder; with one row per stage it is Tan and Le's rule.
  """
  left = sum(row.repeats for row in stage)
  total, scaled = ROUNDINGS[rounding](left * depth), []
  for row in reversed(stage):
    repeats = max(1, round(row.repeats / left * total))
    scaled.append(dataclasses.replace(row, repeats=repeats))
    left, total = left - row.repeats, total - repeats
  return tuple(reversed(scaled))


def scale(
  table: Table, *, width: float = 1.0, depth: float = 1.0, keep_ends: bool = False
) -> Table:
  """Returns `table` with channels and repeats scaled; kernels, strides and ratios stay.

  Width 1 leaves channels that are no multiple of 8 as they are. keep_ends: depth leaves the first
  and the last stage alone. Source: Tan and Le 2019, section 3.3; stem and head have one layer at
  any depth.
  """

  def channels(count: int) -> int:
    return count if width == 1 or not count else round_filters(count, width)

  groups = stages(table.rows)
  rows = []
  for index, stage in enumerate(groups):
    end = keep_ends and index in (0, len(groups) - 1)
    for row in deepen(stage, 1.0 if end else depth, rounding=table.depth_rounding):
      declared = None if row.declared is None else channels(row.declared)
      grown = None if row.grown is None else tuple(width * inner for inner in row.grown)
      changed = {"channels": channels(row.channels), "declared": declared, "grown": grown}
      rows.append(dataclasses.replace(row, **changed))
  head = {
    "scaled": channels(table.head),
    "fixed": table.head,
    "grown": max(table.head, channels(table.head)),
  }[table.head_scaling]
  return dataclasses.replace(table, stem=channels(table.stem), rows=tuple(rows), head=head)


def small_strides(rows: Sequence[Row]) -> tuple[Row, ...]:
  """Returns the rows with the first two striding ones at stride 1, for images of 32 pixels.

  Source: Noisy Student, official code, `small_image_model` (stages 2 and 3 of EfficientNet-B0).
  """
  striding = [index for index, row in enumerate(rows) if row.stride > 1][:2]
  return tuple(
    dataclasses.replace(row, stride=1) if index in striding else row
    for index, row in enumerate(rows)
  )


def halve(rows: Sequence[Row], *, inner: bool = False) -> tuple[Row, ...]:
  """Returns the rows with half the channels in the last stage that strides, and behind it.

  inner: the expansion of its first block is halved too, else it only follows from its input.
  Source: Howard et al. 2019 (arXiv 1905.02244), section 6.3 (not inner) and 6.4 (inner).
  """
  last = max((i for i, row in enumerate(rows) if row.stride > 1), default=0)
  before = rows[last - 1].channels if last else 0
  halved = []
  for index, row in enumerate(rows):
    if index >= last:
      widened = layers.divisible(before * row.expand / 2) if inner and index == last else None
      row = dataclasses.replace(row, channels=row.channels // 2, widened=widened)
    halved.append(row)
  return tuple(halved)


def atrous(rows: Sequence[Row], stride: int, *, before: int = 2) -> tuple[Row, ...]:
  """Returns one row per block, with no more than `stride` in all.

  Where a block would exceed it, it keeps its size, and the taps of all later ones are as much
  farther apart. before: stride of what comes before the first block.
  Source: TensorFlow's slim, `output_stride`.
  """
  found, rate = [], 1
  for row in unroll(rows):
    if before * row.stride > stride:
      found.append(dataclasses.replace(row, stride=1, rate=rate))
      rate *= row.stride
    else:
      found.append(dataclasses.replace(row, rate=rate))
      before *= row.stride
  return tuple(found)


def mix(
  table: Table, kernels: Sequence[int] = (), *, partition: str = "equal", dilated: bool = False
) -> Table:
  """Returns `table` with every depthwise convolution mixed.

  Args: kernels: taps of each part, smallest first; empty keeps each row's own. Others: of `Row`.
  Source: Tan and Le 2019 (arXiv 1907.09595), section 3.
  """
  rows = tuple(
    dataclasses.replace(
      row, kernel=tuple(kernels) or row.kernel, partition=partition, dilated=dilated
    )
    if row.op in DEPTHWISE
    else row
    for row in table.rows
  )
  return dataclasses.replace(table, rows=rows)


def unroll(rows: Sequence[Row]) -> tuple[Row, ...]:
  """Returns one row per block, in order; blocks after a row's first have stride 1."""
  return tuple(
    dataclasses.replace(
      row,
      repeats=1,
      stride=row.stride if index == 0 else 1,
      joined=row.joined or index > 0,
      declared=row.declared if index == 0 else None,
      activated_skip=row.activated_skip and index == 0,
      widened=row.widened if index == 0 else None,
      channels=_grown(row, index),
      grown=None,
    )
    for row in rows
    for index in range(row.repeats)
  )


def _grown(row: Row, index: int) -> int:
  """Returns the output channels of a row's block number `index`.

  >>> row = Row("pyramid", 3, 1, 0.25, 64, 3, grown=(10, 16))
  >>> [_grown(row, index) for index in range(3)]
  [48, 56, 64]
  """
  if row.grown is None:
    return row.channels
  first, last = row.grown
  inner = first + (last - first) * (index + 1) / row.repeats
  return round(math.floor(inner + 0.5) / row.expand)


_Inner = dict[str, Float[Array, "b h w e"]]


class Block(nn.Module):
  """What all blocks have in common.

  drop_rate: probability that an example skips the branch, where there is a skip.
  draws: shape of the random numbers that an example takes. shaken: whether it takes them at a
  `drop_rate` of 0 too. first_drop: the number that a network's first block has in the rule of drop
  rates.
  """

  draws: ClassVar[tuple[int, ...]] = ()
  shaken: ClassVar[bool] = False
  first_drop: ClassVar[int] = 0

  row: Row
  drop_rate: float = 0.0
  settings: layers.Settings = layers.Settings()

  def __call__(
    self,
    x: Float[Array, "b h w c"],
    train: bool = False,
    noise: Float[Array, "b *d"] | None = None,
  ) -> Float[Array, "b h2 w2 o"]:
    """Returns the block's output; noise: `draws` numbers in [0, 1) per example, None for none."""
    return self.ends(x, train, noise)[0]

  def _convolve(self, name: str, channels: int, **fields) -> layers.ConvNorm:
    return layers.ConvNorm(channels, settings=self.settings, name=name, **fields)

  def _depthwise(self, x: Array, train: bool) -> Array:
    row = self.row
    return self._convolve(
      "depthwise",
      x.shape[-1],
      kernel=row.kernel,
      stride=row.stride,
      groups=x.shape[-1],
      activation=row.activation,
      partition=row.partition,
      dilated=row.dilated,
      rate=row.rate,
    )(x, train)

  def _skip(self, x: Array, y: Array, noise: Array | None) -> Array:
    """Returns the branch's output `y` with the input `x` added, where and how the row says."""
    row, inputs = self.row, x.shape[-1]
    if row.pooled:
      return self._add(shortcuts.averaged(x, row.stride, row.channels), y, noise)
    declared = inputs if row.declared is None else row.declared
    if row.skip and row.stride == 1 and inputs == declared == row.channels:
      return self._add(x, y, noise)
    return y

  def _add(self, x: Array, y: Array, noise: Array | None) -> Array:
    if noise is not None and self.drop_rate > 0:
      y = layers.stochastic_depth(y, noise, self.drop_rate)
    return y + x


class MBConv(Block):
  """Inverted bottleneck: expand, depthwise convolution, squeeze-excite, project, add the input.

  Source: Tan and Le 2019, section 4; Sandler et al. 2018; parts: Tan and Le 2019 (1907.09595).
  """

  @nn.compact
  def ends(
    self,
    x: Float[Array, "b h w c"],
    train: bool = False,
    noise: Float[Array, "b"] | None = None,
  ) -> tuple[Float[Array, "b h2 w2 o"], _Inner]:
    """Returns the output; `expand` and `depthwise`, activated, the latter before the squeeze."""
    row, inputs, inner = self.row, x.shape[-1], {}
    expanded = inputs * row.expand
    # MobileNetV3 rounds; whole factors of odd widths (MnasNet-d1: 9 times 36) stay as they are.
    expanded = layers.divisible(expanded) if expanded % inputs else int(expanded)
    expanded = expanded if row.widened is None else row.widened
    y = x
    if row.expand != 1:
      y = self._convolve(
        "expand", expanded, kernel=(1,) * row.expand_parts, activation=row.activation
      )(y, train)
      inner["expand"] = y
    y = inner["depthwise"] = self._depthwise(y, train)
    gate = None
    if row.squeeze is not None:
      gate = layers.SqueezeExcite(
        row.squeeze.width(inputs, expanded),
        row.squeeze.activation or row.activation,
        row.squeeze.gate,
        self.settings,
        name="squeeze",
      )(y)
    y = self._convolve("project", row.channels, kernel=(1,) * row.project_parts)(y, train, gate)
    return self._skip(x, y, noise), inner


class Convolution(Block):
  """One convolution with its norm and activation; the input is added behind them.

  Of a row, `expand`, `squeeze` and parts are not looked at.
  """

  @nn.compact
  def ends(
    self,
    x: Float[Array, "b h w c"],
    train: bool = False,
    noise: Float[Array, "b"] | None = None,
  ) -> tuple[Float[Array, "b h2 w2 o"], _Inner]:
    """Returns the output and `spatial`, activated."""
    row = self.row
    convolved = self._convolve(
      "spatial", row.channels, kernel=row.kernel, stride=row.stride, activation=row.activation
    )(x, train)
    return self._skip(x, convolved, noise), {"spatial": convolved}


class Separable(Block):
  """Depthwise convolution, then an activated 1x1 one; no expansion, no skip.

  Source: Howard et al. 2017, section 3.1.
  """

  @nn.compact
  def ends(
    self,
    x: Float[Array, "b h w c"],
    train: bool = False,
    noise: Float[Array, "b"] | None = None,
  ) -> tuple[Float[Array, "b h2 w2 o"], _Inner]:
    """Returns the output and `depthwise`; noise is not used."""
    y = self._depthwise(x, train)
    project = self._convolve("project", self.row.channels, activation=self.row.activation)
    return project(y, train), {"depthwise": y}


class Bottleneck(Block):
  """Residual bottleneck: 1x1 reduction, spatial convolution with the stride, 1x1 projection, add.

  The projection's norm starts at scale 0, so that every block starts as its shortcut.
  Source: He et al. 2016, figure 5; the stride is in the spatial convolution, as in every later
  implementation, not in the reduction; zero scale: Goyal et al. 2017, section 5.1.
  """

  @nn.compact
  def ends(
    self,
    x: Float[Array, "b h w c"],
    train: bool = False,
    noise: Float[Array, "b"] | None = None,
  ) -> tuple[Float[Array, "b h2 w2 o"], _Inner]:
    """Returns the output and `spatial`, activated."""
    row = self.row
    inner = layers.divisible(row.channels * row.expand)
    y = self._convolve("reduce", inner, activation=row.activation)(x, train)
    spatial = self._convolve(
      "spatial",
      inner,
      kernel=row.kernel,
      stride=row.stride,
      activation=row.activation,
      rate=row.rate,
    )(y, train)
    y = self._convolve("project", row.channels, scale=0.0)(spatial, train)
    if row.stride > 1 or x.shape[-1] != row.channels:
      x = self._convolve("shortcut", row.channels, stride=row.stride)(x, train)
    return layers.ACTIVATIONS[row.activation](self._add(x, y, noise)), {"spatial": spatial}


class PreActivated(Block):
  """Two spatial convolutions, each behind a norm and an activation; the shortcut has no weights.

  Source: He et al. 2016 (arXiv 1603.05027), figure 4e; Zagoruyko and Komodakis 2016 (arXiv
  1605.07146), with the shortcut of AutoAugment's official code.
  """

  @nn.compact
  def ends(
    self,
    x: Float[Array, "b h w c"],
    train: bool = False,
    noise: Float[Array, "b"] | None = None,
  ) -> tuple[Float[Array, "b h2 w2 o"], _Inner]:
    """Returns the output and `spatial`, activated."""
    row = self.row
    y = layers.BatchNorm(row.activation, self.settings, alone=True, name="norm")(x, train)
    if row.activated_skip:
      x = y
    spatial = self._convolve(
      "spatial", row.channels, kernel=row.kernel, stride=row.stride, activation=row.activation
    )(y, train)
    y = self._convolve("project", row.channels, kernel=row.kernel, normalised=False)(spatial, train)
    x = shortcuts.fit(x, row.stride, row.channels, centred=True)
    return self._add(x, y, noise), {"spatial": spatial}


class _Halves(nn.Module):
  """Two 1x1 convolutions, of every `stride`-th pixel and of its lower right neighbour, joined."""

  channels: int
  stride: int
  settings: layers.Settings

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
    """Returns the convolved pixels; beyond the edge there are zeros."""
    moved = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    for axis in (1, 2):
      moved = jax.lax.slice_in_dim(moved, 1, None, axis=axis)
    half = self.channels // 2
    sizes = (half, self.channels - half)
    return jnp.concatenate(
      [
        layers.Conv(size, 1, self.stride, settings=self.settings, name=str(index))(part)
        for index, (size, part) in enumerate(zip(sizes, (x, moved), strict=True))
      ],
      -1,
    )


class _HalvesNorm(nn.Module):
  """`_Halves` and a norm, named as in `layers.ConvNorm`."""

  channels: int
  stride: int
  settings: layers.Settings

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 o"]:
    """Returns the normalised convolution."""
    y = _Halves(self.channels, self.stride, self.settings, name="conv")(x)
    return layers.BatchNorm(settings=self.settings, name="norm")(y, train)


class Shake(Block):
  """Two branches of two spatial convolutions each, in a random mean.

  Source: Gastaldi 2017 (arXiv 1705.07485), with the shortcut of AutoAugment's official code.
  """

  draws = (5,)  # two weights for the value, two for the gradient, one for stochastic depth
  shaken = True

  @nn.compact
  def ends(
    self,
    x: Float[Array, "b h w c"],
    train: bool = False,
    noise: Float[Array, "b 5"] | None = None,
  ) -> tuple[Float[Array, "b h2 w2 o"], _Inner]:
    """Returns the output; without noise it is the branches' plain mean."""
    row, branches = self.row, []
    activated = layers.ACTIVATIONS[row.activation](x)
    for index in range(2):
      y = self._convolve(
        f"spatial_{index}",
        row.channels,
        kernel=row.kernel,
        stride=row.stride,
        activation=row.activation,
      )(activated, train)
      y = self._convolve(f"project_{index}", row.channels, kernel=row.kernel)(y, train)
      branches.append(y)
    y = shortcuts.shake(branches, None if noise is None else noise[:, :4])
    if row.stride > 1 or x.shape[-1] != row.channels:
      x = _HalvesNorm(row.channels, row.stride, self.settings, name="shortcut")(x, train)
    return self._add(x, y, None if noise is None else noise[:, 4]), {}


class Pyramid(Block):
  """Bottleneck with a norm at its beginning and end, dropped as `shortcuts.shake_drop` does.

  Source: Han et al. 2017 (arXiv 1610.02915), figure 6d; Yamada et al. 2018 (arXiv 1802.02375).
  """

  draws = (3,)
  first_drop = 1

  @nn.compact
  def ends(
    self,
    x: Float[Array, "b h w c"],
    train: bool = False,
    noise: Float[Array, "b 3"] | None = None,
  ) -> tuple[Float[Array, "b h2 w2 o"], _Inner]:
    """Returns the output and `spatial`, activated; without noise the branch counts 1 - rate."""
    row = self.row
    inner = round(row.channels * row.expand)
    y = layers.BatchNorm(settings=self.settings, alone=True, name="norm")(x, train)
    y = self._convolve("reduce", inner, activation=row.activation)(y, train)
    spatial = self._convolve(
      "spatial", inner, kernel=row.kernel, stride=row.stride, activation=row.activation
    )(y, train)
    y = self._convolve("project", row.channels)(spatial, train)
    y = shortcuts.shake_drop(y, noise, self.drop_rate)
    return y + shortcuts.fit(x, row.stride, row.channels, centred=False), {"spatial": spatial}


BLOCKS: dict[str, type[Block]] = {
  "mbconv": MBConv,
  "conv": Convolution,
  "separable": Separable,
  "bottleneck": Bottleneck,
  "preactivated": PreActivated,
  "shake": Shake,
  "pyramid": Pyramid,
}
DEPTHWISE = ("mbconv", "separable")
