"""The blocks that the words of stage tables stand for.

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
`var`. `stage_tables.stages` of unrolled rows has the blocks as other code bases number them: stage,
then block.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from effnets.models import layers, shortcuts, stage_tables

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

  row: stage_tables.Row
  drop_rate: float = 0.0
  settings: layers.Settings = layers.Settings()

  def __call__(
    self,
    x: Float[Array, "b h w c"],
    train: bool = False,
    noise: Float[Array, " b *d"] | None = None,
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
    noise: Float[Array, " b"] | None = None,
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
    noise: Float[Array, " b"] | None = None,
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
    noise: Float[Array, " b"] | None = None,
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
    noise: Float[Array, " b"] | None = None,
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
    noise: Float[Array, " b"] | None = None,
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
