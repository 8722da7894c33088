"""Stage tables: what a network of blocks consists of, as data, and how it is scaled.

A row is a number of equal blocks; `blocks` has the modules that its words stand for.
"""

import dataclasses
import math
from collections.abc import Sequence

from effnets.models import layers


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of a stage table: `repeats` equal blocks, of which only the first strides.

  op: a key of `blocks.BLOCKS`. stride: of the first block. channels: of the output.
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


# Words of blocks whose spatial convolution is of each channel alone.
DEPTHWISE = ("mbconv", "separable")
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
