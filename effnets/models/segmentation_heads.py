"""Heads of semantic segmentation, on a body's features or a pyramid's; see `segmentation`."""

import dataclasses
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from effnets.models import initialize, layers
from effnets.ops import resampling

_Keys = Mapping[str, Key[Array, " b"]] | None

HEADS = ("lraspp", "raspp", "deeplabv3", "deeplabv3plus", "tower", "transposed")


@dataclasses.dataclass(frozen=True)
class Spec:
  """A head. kind: one of `HEADS`; the last two stand on a pyramid, the others on the body.

  filters: channels. high, low: end points of the body; low is "" where none is used.
  window, stride: of LR-ASPP's pool, in features (height, width); windows larger than the features
    are cut. gate: its activation. rates: of DeepLab's atrous convolutions. separable: whether those
    and the refining ones are. low_filters: DeepLabV3+'s projection of `low`. repeats: convolutions
    of a tower. activation: of all.
  """

  kind: str = "lraspp"
  filters: int = 128
  high: str = "features"
  low: str = ""
  window: int = 49
  stride: tuple[int, int] = (16, 20)
  gate: str = "hard_sigmoid"
  rates: tuple[int, ...] = (6, 12, 18)
  separable: bool = False
  low_filters: int = 48
  repeats: int = 3
  activation: str = "relu"


class _Head(nn.Module):
  """What heads on a body share. dropout_rate: before the logits, where a head has dropout."""

  spec: Spec
  num_classes: int
  settings: layers.Settings
  dropout_rate: float = 0.0

  def _convolve(self, x: Array, name: str, train: bool, *, kernel: int = 1, rate: int = 1) -> Array:
    """Returns a convolution of `spec.filters` channels with its norm and activation."""
    shared = {"activation": self.spec.activation, "settings": self.settings}
    if kernel > 1 and self.spec.separable:
      depthwise = layers.ConvNorm(
        x.shape[-1], kernel, groups=x.shape[-1], rate=rate, name=f"{name}_depthwise", **shared
      )
      x, kernel, rate = depthwise(x, train), 1, 1
    conv = layers.ConvNorm(self.spec.filters, kernel, rate=rate, name=name, **shared)
    return conv(x, train)

  def _classify(self, x: Array, name: str = "classify") -> Array:
    return layers.Conv(self.num_classes, bias=True, settings=self.settings, name=name)(x)

  def _drop(self, x: Array, keys: _Keys) -> Array:
    if keys is None or "dropout" not in keys or not self.dropout_rate:
      return x
    return layers.dropout(x, keys["dropout"], self.dropout_rate)


class LrAspp(_Head):
  """A projection gated by a coarse pool, and logits of it and of finer features, added."""

  @nn.compact
  def __call__(
    self,
    high: Float[Array, "b h w c"],
    low: Float[Array, "b h2 w2 d"] | None,
    train: bool,
    keys: _Keys,
  ) -> Float[Array, "b h2 w2 k"]:
    """Returns logits at the size of `low`."""
    spec, size = self.spec, high.shape[1:3]
    x = self._convolve(high, "project", train)
    window = tuple(min(spec.window, side) for side in size)
    pooled = resampling.pool(high, window, spec.stride, padding="VALID", kind="avg")
    gate = layers.Conv(spec.filters, bias=True, settings=self.settings, name="gate")(pooled)
    x = x * resampling.bilinear(layers.ACTIVATIONS[spec.gate](gate), size)
    if low is None:
      return self._classify(x)
    x = resampling.bilinear(x, low.shape[1:3])
    return self._classify(x) + self._classify(low, "classify_low")


class RAspp(_Head):
  """A projection and a projection of the mean over the image, joined."""

  @nn.compact
  def __call__(
    self, high: Float[Array, "b h w c"], low: None, train: bool, keys: _Keys
  ) -> Float[Array, "b h w k"]:
    """Returns logits at the size of `high`."""
    del low
    x = self._convolve(high, "project", train)
    pooled = self._convolve(high.mean((1, 2), keepdims=True), "pooled", train)
    x = jnp.concatenate([x, jnp.broadcast_to(pooled, x.shape)], -1)
    return self._classify(self._drop(self._convolve(x, "join", train), keys))


class Aspp(_Head):
  """Convolutions whose taps are at several distances, and the mean over the image, joined."""

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], train: bool, keys: _Keys
  ) -> Float[Array, "b h w d"]:
    """Returns `spec.filters` channels."""
    parts = [self._convolve(x, "point", train)]
    for rate in self.spec.rates:
      parts.append(self._convolve(x, f"atrous_{rate}", train, kernel=3, rate=rate))
    pooled = self._convolve(x.mean((1, 2), keepdims=True), "pooled", train)
    parts.append(jnp.broadcast_to(pooled, parts[0].shape))
    return self._drop(self._convolve(jnp.concatenate(parts, -1), "project", train), keys)


class DeepLab(_Head):
  """Aspp and logits; between them, if there are finer features, two convolutions over both."""

  @nn.compact
  def __call__(
    self,
    high: Float[Array, "b h w c"],
    low: Float[Array, "b h2 w2 d"] | None,
    train: bool,
    keys: _Keys,
  ) -> Float[Array, "b h2 w2 k"]:
    """Returns logits at the size of `low`, or of `high`."""
    spec = self.spec
    x = Aspp(spec, 0, self.settings, self.dropout_rate, name="aspp")(high, train, keys)
    if low is not None:
      shared = {"activation": spec.activation, "settings": self.settings}
      low = layers.ConvNorm(spec.low_filters, name="low", **shared)(low, train)
      x = jnp.concatenate([resampling.bilinear(x, low.shape[1:3]), low], -1)
      for index in range(2):
        x = self._convolve(x, f"refine_{index}", train, kernel=3)
    return self._classify(x)


class Grown(nn.Module):
  """Transposed 3x3 convolution of stride 2."""

  channels: int
  bias: bool
  settings: layers.Settings

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w d"]:
    """Returns `x` at twice the size. Its kernel is HWIO."""
    shape, dtype = (3, 3, x.shape[-1], self.channels), self.settings.dtype
    kernel = initialize.parameter(self, "kernel", initialize.kernel_start("glorot", shape), shape)
    y = jax.lax.conv_transpose(
      x.astype(dtype),
      kernel.astype(dtype),
      (2, 2),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    if self.bias:
      shift = initialize.parameter(self, "bias", initialize.Constant(0.0), (self.channels,))
      y = y + shift.astype(dtype)
    return y


class Transposed(nn.Module):
  """From the coarsest level on: doubled, joined to the next finer one; at last doubled to logits.

  Source: the segmentation head of EfficientDet's code.
  """

  spec: Spec
  num_classes: int
  settings: layers.Settings

  @nn.compact
  def __call__(
    self, features: Sequence[Float[Array, "b _h _w c"]], train: bool
  ) -> Float[Array, "b h w k"]:
    """Returns logits at twice the size of the finest level."""
    x = features[-1]
    for index, finer in enumerate(reversed(features[:-1])):
      y = Grown(self.spec.filters, False, self.settings, name=f"grow_{index}")(x)
      norm = layers.BatchNorm(
        self.spec.activation, self.settings, alone=True, name=f"grow_norm_{index}"
      )
      y = norm(y, train)[:, : finer.shape[1], : finer.shape[2]]
      x = jnp.concatenate([y, finer], -1)
    return Grown(self.num_classes, True, self.settings, name="classify")(x)
