"""From frames to codes and back: the encoders and decoders of video prediction.

All take and give frames `b t h w c`, every frame by itself but for batch norm, whose moments are
over time too. An encoder also gives its skips, the features that the decoder joins to its own, from
the largest to the smallest. Biases start at 0, scales of norms at N(1, 0.02), kernels as `start`
says, see `initialize.kernel_start`: the official code of SVG has N(0, 0.02).

  shallow  VGG16 up to its third stage, then a plain convolution: a map an eighth of the frame
  vgg      four stages and a convolution over all that is left: a vector, a map of one pixel
  dcgan    four strided convolutions and the same

Source: Denton and Fergus 2018 (arXiv 1802.07687) and its code; Villegas et al. 2019 (arXiv
1911.01655) for `shallow` and its widths.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from effnets.models import initialize, layers

CODERS = ("shallow", "vgg", "dcgan")

START = 0.02
_SCALE = initialize.Around(1.0, START)
_STAGES = {"shallow": ((64, 2), (128, 2), (256, 3)), "vgg": ((64, 2), (128, 2), (256, 3), (512, 3))}
_STRIDED = (64, 128, 256, 512)


def per_frame(function: Callable[[Array], Array], x: Float[Array, "b t *s"]) -> Array:
  """Returns `function` of all frames as one batch of images, `b t *r`."""
  y = function(x.reshape(-1, *x.shape[2:]))
  return y.reshape(*x.shape[:2], *y.shape[1:])


def wide(channels: int, factor: float) -> int:
  """Returns channels times a factor, rounded down, at least 1."""
  return max(1, int(channels * factor))


def reduction(coder: str) -> int:
  """Returns how many times a frame's side halves."""
  return 3 if coder == "shallow" else 4


class ConvTranspose(nn.Module):
  """Transposed convolution: every pixel spreads over `kernel` x `kernel`, `stride` apart.

  pad: rows and columns that are cut from every side of the result, as PyTorch's `padding`. The
  kernel is HWIO and applied as `jax.lax.conv_transpose` has it, PyTorch's turned by half.
  """

  channels: int
  kernel: int
  stride: int = 1
  pad: int = 0
  settings: layers.Settings = layers.Settings()
  start: str | float = START

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
    """Returns `(h - 1) * stride + kernel - 2 * pad` rows, in the compute dtype."""
    shape = (self.kernel, self.kernel, x.shape[-1], self.channels)
    start = initialize.kernel_start(self.start, shape)
    kernel = initialize.parameter(self, "kernel", start, shape)
    bias = initialize.parameter(self, "bias", initialize.Constant(0.0), (self.channels,))
    edge = self.kernel - 1 - self.pad
    x, kernel, bias = (array.astype(self.settings.dtype) for array in (x, kernel, bias))
    y = jax.lax.conv_general_dilated(
      x,
      kernel,
      (1, 1),
      ((edge, edge), (edge, edge)),
      lhs_dilation=(self.stride, self.stride),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + bias


class _Coder(nn.Module):
  """What encoders and decoders are made of. width: factor of all channels but the code's.

  remat: the input of every layer alone is kept for the backward pass.
  """

  coder: str
  width: float
  settings: layers.Settings
  remat: bool = False
  start: str | float = START

  def layer(self, x: Array, channels: int, train: bool, name: str) -> Array:
    """Returns the VGG layer: 3x3 convolution, norm, leaky ReLU."""
    kind = nn.remat(VggLayer, static_argnums=(2,)) if self.remat else VggLayer
    return kind(wide(channels, self.width), self.settings, self.start, name=name)(x, train)

  def conv(self, channels: int, name: str, **kwargs: Any) -> layers.Conv:
    """Returns the convolution with bias, 3x3 if `kwargs` do not say otherwise."""
    kwargs = {"kernel": 3, "settings": self.settings, **kwargs}
    return layers.Conv(channels, bias=True, start=self.start, name=name, **kwargs)

  def normed(self, x: Array, train: bool, name: str, act: str = "leaky_relu") -> Array:
    """Returns the normalised, activated `x`."""
    return layers.BatchNorm(act, self.settings, _SCALE, name=name)(x, train)


class VggLayer(nn.Module):
  """3x3 convolution with bias, batch norm, leaky ReLU of slope 0.2."""

  channels: int
  settings: layers.Settings
  start: str | float = START

  @nn.compact
  def __call__(self, x: Float[Array, "b t h w c"], train: bool) -> Float[Array, "b t h w d"]:
    """Returns the layer's features."""
    conv = layers.Conv(
      self.channels, 3, bias=True, settings=self.settings, start=self.start, name="conv"
    )
    norm = layers.BatchNorm("leaky_relu", self.settings, _SCALE, name="norm")
    return norm(per_frame(conv, x), train)


class Encoder(_Coder):
  """Frames to codes. code: channels of the code."""

  code: int = 128

  @nn.compact
  def __call__(
    self, frames: Float[Array, "b t h w c"], train: bool
  ) -> tuple[Float[Array, "b t h2 w2 g"], tuple[Float[Array, "b t _ _ _"], ...]]:
    """Returns the codes and the skips, the largest first; train: by moments of this batch."""
    x, skips = frames.astype(self.settings.dtype), []
    if self.coder == "dcgan":
      for stage, channels in enumerate(_STRIDED):
        conv = self.conv(wide(channels, self.width), f"conv_{stage}", kernel=4, stride=2)
        x = self.normed(per_frame(conv, x), train, f"norm_{stage}")
        skips.append(x)
    else:
      for stage, (channels, repeats) in enumerate(_STAGES[self.coder]):
        for index in range(repeats):
          x = self.layer(x, channels, train, f"stage_{stage}_{index}")
        skips.append(x)
        x = per_frame(lambda f: nn.max_pool(f, (2, 2), (2, 2)), x)
    if self.coder == "shallow":
      return per_frame(self.conv(self.code, "code"), x), tuple(skips)
    whole = dataclasses.replace(self.settings, padding="VALID", split=None)
    x = per_frame(self.conv(self.code, "code", kernel=x.shape[2], settings=whole), x)
    return jnp.tanh(self.normed(x, train, "code_norm", "identity")), tuple(skips)


class Decoder(_Coder):
  """Codes and skips to frames of `channels` in (0, 1)."""

  channels: int = 3

  @nn.compact
  def __call__(
    self,
    codes: Float[Array, "b t h2 w2 g"],
    skips: Sequence[Float[Array, "b t _ _ _"]],
    train: bool,
  ) -> Float[Array, "b t h w c"]:
    """Returns the frames, float32; train: by moments of this batch."""
    x = codes.astype(self.settings.dtype)
    if self.coder == "dcgan":
      return self._dcgan(x, skips, train)
    stages = _STAGES[self.coder]
    if self.coder == "shallow":
      x = per_frame(self.conv(wide(256, self.width), "code"), x)
    else:
      x = self._grown(x, wide(512, self.width), skips[-1].shape[2] // 2, train)
    for stage in reversed(range(len(stages))):
      channels, repeats = stages[stage]
      narrower = stages[stage - 1][0] if stage else channels
      x = jnp.concatenate([_doubled(x), skips[stage]], -1)
      # The first stage's second layer is the transposed convolution that ends it.
      last = repeats - 1 if stage == 0 else repeats
      for index in range(last):
        out = narrower if stage and index == last - 1 else channels
        x = self.layer(x, out, train, f"stage_{stage}_{index}")
    # Of stride 1 and as many pixels it is a convolution by the turned kernel.
    x = per_frame(self.conv(self.channels, "frames"), x)
    return nn.sigmoid(x.astype(jnp.float32))

  def _grown(self, x: Array, channels: int, side: int, train: bool) -> Array:
    """Returns the code's one pixel as a map of `side`."""
    grow = ConvTranspose(channels, side, 1, 0, self.settings, self.start, name="code")
    return self.normed(per_frame(grow, x), train, "code_norm")

  def _dcgan(self, x: Array, skips: Sequence[Array], train: bool) -> Array:
    widths = [wide(channels, self.width) for channels in _STRIDED]
    x = self._grown(x, widths[-1], skips[-1].shape[2], train)
    for stage in reversed(range(len(widths))):
      x = jnp.concatenate([x, skips[stage]], -1)
      out = widths[stage - 1] if stage else self.channels
      name = f"conv_{stage}" if stage else "frames"
      x = per_frame(ConvTranspose(out, 4, 2, 1, self.settings, self.start, name=name), x)
      if stage:
        x = self.normed(x, train, f"norm_{stage}")
    return nn.sigmoid(x.astype(jnp.float32))


def _doubled(x: Float[Array, "b t h w c"]) -> Float[Array, "b t 2*h 2*w c"]:
  """Returns every pixel twice in both directions: the nearest neighbour."""
  b, t, h, w, c = x.shape
  y = jnp.broadcast_to(x[:, :, :, None, :, None], (b, t, h, 2, w, 2, c))
  return y.reshape(b, t, 2 * h, 2 * w, c)
