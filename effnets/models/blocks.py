"""The vocabulary of stage tables, and the blocks its words stand for."""

import dataclasses
import math
from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Array, Float

from effnets.models import layers


@dataclasses.dataclass(frozen=True)
class Row:
  """One stage of a network: `repeats` equal blocks, of which only the first strides.

  op: a key of `BLOCKS`. kernel: taps of the spatial convolution. stride: of the first block.
  expand: inner channels over input channels; 1 leaves the expansion out. channels: of the output.
  squeeze: squeeze-excitation, or None. activation: a key of `layers.ACTIVATIONS`.
  skip: whether blocks that keep size and channels add their input.
  """

  op: str
  kernel: int
  stride: int
  expand: float
  channels: int
  repeats: int = 1
  squeeze: layers.Squeeze | None = None
  activation: str = "swish"
  skip: bool = True


@dataclasses.dataclass(frozen=True)
class Table:
  """A network before scaling: channels of the first and the last convolution, stages between."""

  stem: int
  rows: tuple[Row, ...]
  head: int


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


def scale(table: Table, *, width: float = 1.0, depth: float = 1.0) -> Table:
  """Returns `table` with channels and repeats scaled; kernels, strides and ratios stay.

  Source: Tan and Le 2019, section 3.3; stem and head have one layer at any depth.
  """
  rows = tuple(
    dataclasses.replace(
      row,
      channels=round_filters(row.channels, width),
      repeats=round_repeats(row.repeats, depth),
    )
    for row in table.rows
  )
  return Table(round_filters(table.stem, width), rows, round_filters(table.head, width))


def unroll(rows: Sequence[Row]) -> tuple[Row, ...]:
  """Returns one row per block, in order; blocks after a stage's first have stride 1."""
  return tuple(
    dataclasses.replace(row, repeats=1, stride=row.stride if index == 0 else 1)
    for row in rows
    for index in range(row.repeats)
  )


class MBConv(nn.Module):
  """Inverted bottleneck: expand, depthwise convolution, squeeze-excite, project, add the input.

  drop_rate: probability that an example skips the branch, where there is a skip.
  Source: Tan and Le 2019, section 4; Sandler et al. 2018.
  """

  row: Row
  drop_rate: float = 0.0
  settings: layers.Settings = layers.Settings()

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b h w c"],
    train: bool = False,
    noise: Float[Array, "b"] | None = None,
  ) -> Float[Array, "b h2 w2 o"]:
    """Returns the block's output; noise: one number in [0, 1) per example, None drops nothing."""
    row, settings, inputs = self.row, self.settings, x.shape[-1]
    # Every published table agrees with this rounding; only fractional factors need it.
    expanded = inputs if row.expand == 1 else layers.divisible(inputs * row.expand)
    y = x
    if row.expand != 1:
      y = layers.ConvNorm(expanded, activation=row.activation, settings=settings, name="expand")(
        y, train
      )
    y = layers.ConvNorm(
      expanded,
      row.kernel,
      row.stride,
      groups=expanded,
      activation=row.activation,
      settings=settings,
      name="depthwise",
    )(y, train)
    if row.squeeze is not None:
      y = layers.SqueezeExcite(
        row.squeeze.width(inputs, expanded),
        row.squeeze.activation or row.activation,
        row.squeeze.gate,
        settings,
        name="squeeze",
      )(y)
    y = layers.ConvNorm(row.channels, settings=settings, name="project")(y, train)
    if row.skip and row.stride == 1 and inputs == row.channels:
      if train and noise is not None and self.drop_rate > 0:
        y = layers.stochastic_depth(y, noise, self.drop_rate)
      y = y + x
    return y


BLOCKS: dict[str, type[nn.Module]] = {"mbconv": MBConv}
