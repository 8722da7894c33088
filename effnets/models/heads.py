"""Heads of one-stage detectors: class logits and box regressions from every level.

Names of parameters:

  class_head, box_head, or head for both   towers that all levels share, with norms of their own:
    conv_i/{depthwise,pointwise} or conv_i, norm_i_l      repeat i, level l
    predict, or predict_class and predict_box             as a conv_i
  head/extra_j/{reduce,depthwise,expand}/{conv,norm}      SSD: further maps
  head/class_m/{depthwise/{conv,norm},predict}            SSD: predictors of map m; box_m likewise
"""

import math
from collections.abc import Mapping, Sequence

import flax.linen as nn
from jaxtyping import Array, Float

from effnets.models import layers, pyramids

PRIOR = -math.log(99)
"""Bias of class predictors: every score starts at 0.01."""


class Tower(nn.Module):
  """Convolutions shared by all levels, a norm and activation of each level's own, predictions.

  levels: numbers of them, for names. predictions: name, channels and first bias of every result.
  separable: whether convolutions are. bias: whether those before norms have one. start: of
  kernels; predict_start: of a dense prediction's, "" for the same. predict_kernel: its taps.
  survival: above 0, repeats from the second on are added to what goes into them, in training each
  example's with this probability.
  """

  levels: tuple[int, ...]
  width: int
  repeats: int
  predictions: tuple[tuple[str, int, float], ...]
  activation: str = "swish"
  separable: bool = True
  bias: bool = True
  start: str | float = "fan_in"
  predict_start: str | float = ""
  predict_kernel: int = 3
  survival: float = 0.0
  settings: layers.Settings = layers.Settings()

  def setup(self) -> None:
    settings = self.settings
    self.convolutions = [
      self._convolve(self.width, f"conv_{index}", bias=self.bias, start=self.start)
      for index in range(self.repeats)
    ]
    self.norms = [
      [
        layers.BatchNorm(self.activation, settings, alone=True, name=f"norm_{index}_{level}")
        for level in self.levels
      ]
      for index in range(self.repeats)
    ]
    start = self.start if self.predict_start == "" else self.predict_start
    self.predictors = [
      self._convolve(
        channels, name, bias=True, bias_start=first, start=start, kernel=self.predict_kernel
      )
      for name, channels, first in self.predictions
    ]

  def _convolve(self, channels: int, name: str, *, kernel: int = 3, **fields) -> nn.Module:
    make = pyramids.Separable if self.separable else layers.Conv
    return make(channels, kernel, settings=self.settings, name=name, **fields)

  def __call__(
    self,
    x: Float[Array, "b h w c"],
    place: int,
    train: bool = False,
    noise: Float[Array, "b r"] | None = None,
  ) -> list[Float[Array, "b h w _k"]]:
    """Returns every prediction on the level at `place`, in the compute dtype.

    noise: in [0, 1), of each repeat's survival; None: all survive, unscaled.
    """
    for index, (convolve, norms) in enumerate(zip(self.convolutions, self.norms, strict=True)):
      y = norms[place](convolve(x), train)
      if self.survival and index:
        if noise is not None:
          y = layers.stochastic_depth(y, noise[:, index], 1 - self.survival)
        y += x
      x = y
    return [predict(x) for predict in self.predictors]


class Extra(nn.Module):
  """One of SSD's further maps: halved by a depthwise convolution at half the channels."""

  channels: int
  activation: str
  settings: layers.Settings

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b h2 w2 d"]:
    """Returns the next map."""
    shared = {"activation": self.activation, "settings": self.settings}
    half = self.channels // 2
    x = layers.ConvNorm(half, name="reduce", **shared)(x, train)
    x = layers.ConvNorm(half, 3, 2, half, name="depthwise", **shared)(x, train)
    return layers.ConvNorm(self.channels, name="expand", **shared)(x, train)


class _Predictor(nn.Module):
  """Of one of SSD's maps: depthwise convolution, 1x1 convolution with a bias."""

  outputs: int
  bias_start: float
  activation: str
  settings: layers.Settings
  lite: bool = True

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b h w k"]:
    """Returns the predictions, in the compute dtype."""
    kernel = 3
    if self.lite:
      channels, kernel = x.shape[-1], 1
      x = layers.ConvNorm(
        channels,
        3,
        groups=channels,
        activation=self.activation,
        settings=self.settings,
        name="depthwise",
      )(x, train)
    return layers.Conv(
      self.outputs,
      kernel,
      bias=True,
      bias_start=self.bias_start,
      settings=self.settings,
      name="predict",
    )(x)


class Ssd(nn.Module):
  """Two maps of the body, further ones, and predictors of each map's own.

  extras: channels of the further maps. counts: anchors of a cell on every map. lite: predictors are
  separable. Source: Liu et al. 2016 (arXiv 1512.02325); Sandler et al. 2018 (1801.04381), 6.2.
  """

  levels: tuple[int, ...]
  counts: tuple[int, ...]
  num_classes: int
  extras: tuple[int, ...] = (512, 256, 256, 128)
  activation: str = "relu6"
  bias_start: float = -4.6
  lite: bool = True
  settings: layers.Settings = layers.Settings()

  @nn.compact
  def __call__(
    self, features: Mapping[int, Float[Array, "b _h _w _c"]], train: bool = False
  ) -> tuple[list[Float[Array, "b _h _w _k"]], list[Float[Array, "b _h _w _r"]]]:
    """Returns class logits and box regressions of every map."""
    maps: Sequence[Array] = [features[level] for level in self.levels if level in features]
    for index, channels in enumerate(self.extras):
      extra = Extra(channels, self.activation, self.settings, name=f"extra_{index}")
      maps = [*maps, extra(maps[-1], train)]
    shared = (self.activation, self.settings, self.lite)
    classes, boxes = [], []
    for index, (x, count) in enumerate(zip(maps, self.counts, strict=True)):
      predict = _Predictor(
        count * self.num_classes, self.bias_start, *shared, name=f"class_{index}"
      )
      classes.append(predict(x, train))
      boxes.append(_Predictor(count * 4, 0.0, *shared, name=f"box_{index}")(x, train))
    return classes, boxes
