"""I3D: Inception-v1 inflated over time, whose logits the Fréchet video distance compares.

Names are the scopes of the published checkpoint. Every convolution is padded as TensorFlow does,
has no bias, and is followed by a batch norm with an offset but no scale (epsilon 1e-3) and ReLU.
It is for what was trained elsewhere: moments are running ones.
Source: Carreira and Zisserman 2017 (arXiv 1705.07750) and its code.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from effnets.models import initialize

CLASSES = 400
LEAST_FRAMES = 9
"""Frames below which nothing is left for the last pool."""

# Branches: 1x1; 1x1, 3x3; 1x1, 3x3; pool, 1x1. Before each group of three or so a pool.
MIXED = {
  "3b": (64, 96, 128, 16, 32, 32),
  "3c": (128, 128, 192, 32, 96, 64),
  "4b": (192, 96, 208, 16, 48, 64),
  "4c": (160, 112, 224, 24, 64, 64),
  "4d": (128, 128, 256, 24, 64, 64),
  "4e": (112, 144, 288, 32, 64, 64),
  "4f": (256, 160, 320, 32, 128, 128),
  "5b": (256, 160, 320, 32, 128, 128),
  "5c": (384, 192, 384, 48, 128, 128),
}
# Pool before the block: window, stride.
_POOLS = {"3b": ((1, 3, 3), (1, 2, 2)), "4b": ((3, 3, 3), (2, 2, 2)), "5b": ((2, 2, 2), (2, 2, 2))}


class Conv(nn.Module):
  """Convolution over `t h w`, kernel THWIO. kernel, stride: the same in all three."""

  channels: int
  kernel: int
  stride: int = 1
  bias: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2 o"]:
    """Returns the convolved `x`."""
    shape = (*(self.kernel,) * 3, x.shape[-1], self.channels)
    start = initialize.Normal((2 / (self.kernel**3 * x.shape[-1])) ** 0.5)
    w = initialize.parameter(self, "w", start, shape)
    x = jax.lax.conv_general_dilated(
      x.astype(self.dtype),
      w.astype(self.dtype),
      (self.stride,) * 3,
      "SAME",
      dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    if self.bias:
      x = x + initialize.parameter(self, "b", initialize.Constant(0.0), (self.channels,))
    return x


class Unit(nn.Module):
  """Convolution, norm by running moments, ReLU."""

  channels: int
  kernel: int = 1
  stride: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2 o"]:
    """Returns the unit's features."""
    x = Conv(self.channels, self.kernel, self.stride, dtype=self.dtype, name="conv_3d")(x)
    return nn.relu(_Norm(name="batch_norm")(x))


class _Norm(nn.Module):
  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = (x.shape[-1],)
    zero, one = initialize.Constant(0.0), initialize.Constant(1.0)
    beta = initialize.parameter(self, "beta", zero, shape)
    mean, var = (
      initialize.state(self, "batch_stats", name, initializer=start, shape=shape).value
      for name, start in (("moving_mean", zero), ("moving_variance", one))
    )
    factor = jax.lax.rsqrt(var + 1e-3)
    return (x * factor + (beta - mean * factor)).astype(x.dtype)


class Mixed(nn.Module):
  """Four branches side by side. sizes: a row of `MIXED`. slip: one name is as in `Mixed_5b`."""

  sizes: tuple[int, ...]
  slip: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w d"]:
    """Returns the branches' features, joined."""
    unit = lambda channels, kernel, name: Unit(  # noqa: E731
      channels, kernel, dtype=self.dtype, name=name
    )
    a, b, c, d, e, f = self.sizes
    pooled = nn.max_pool(x, (3, 3, 3), (1, 1, 1), "SAME")
    third = "Branch_2/Conv3d_0a_3x3" if self.slip else "Branch_2/Conv3d_0b_3x3"
    branches = (
      unit(a, 1, "Branch_0/Conv3d_0a_1x1")(x),
      unit(c, 3, "Branch_1/Conv3d_0b_3x3")(unit(b, 1, "Branch_1/Conv3d_0a_1x1")(x)),
      unit(e, 3, third)(unit(d, 1, "Branch_2/Conv3d_0a_1x1")(x)),
      unit(f, 1, "Branch_3/Conv3d_0b_1x1")(pooled),
    )
    return jnp.concatenate(branches, -1)


class I3D(nn.Module):
  """The RGB stream with its 400 classes of Kinetics."""

  num_classes: int = CLASSES
  frames: int = 16
  image_size: int = 224
  dtype: Any = jnp.float32

  def abstract_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Returns the shape of one clip."""
    shape = (1, self.frames, self.image_size, self.image_size, 3)
    return (jax.ShapeDtypeStruct(shape, jnp.float32),)

  @nn.compact
  def features(self, clips: Float[Array, "b t h w 3"]) -> dict[str, Float[Array, "b *s d"]]:
    """Returns the end points: `Mixed_3b` and so on, and `logits` (b 400), the mean over time.

    Args: clips: in [-1, 1], at least 9 frames of at least 193 pixels.
    """
    unit = lambda channels, kernel, name, stride=1: Unit(  # noqa: E731
      channels, kernel, stride, self.dtype, name=name
    )
    x = unit(64, 7, "Conv3d_1a_7x7", 2)(clips)
    x = nn.max_pool(x, (1, 3, 3), (1, 2, 2), "SAME")
    x = unit(192, 3, "Conv3d_2c_3x3")(unit(64, 1, "Conv3d_2b_1x1")(x))
    ends = {}
    for name, sizes in MIXED.items():
      if name in _POOLS:
        x = nn.max_pool(x, *_POOLS[name], "SAME")
      x = Mixed(sizes, name == "5b", self.dtype, name=f"Mixed_{name}")(x)
      ends[f"Mixed_{name}"] = x
    x = nn.avg_pool(x, (2, 7, 7), (1, 1, 1), "VALID")
    last = Conv(self.num_classes, 1, bias=True, name="Logits/Conv3d_0c_1x1/conv_3d")
    ends["logits"] = last(x.astype(jnp.float32)).mean((1, 2, 3))
    return ends

  def __call__(self, clips: Float[Array, "b t h w 3"]) -> Float[Array, "b k"]:
    """Returns the logits; see `features`."""
    return self.features(clips)["logits"]
