"""VGG16's convolutions, whose features say how alike two pictures look.

It is for what was trained elsewhere, on BGR pixels less their means, as Caffe has them. Source:
Simonyan and Zisserman 2015 (arXiv 1409.1556).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from effnets.models import initialize

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
MEANS = (103.939, 116.779, 123.68)
"""Of blue, green and red, in levels of 255."""


class VGG16(nn.Module):
  """Five stages of 3x3 convolutions with bias and ReLU, names conv1_1 to conv5_3."""

  image_size: int = 64
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images: Float[Array, "b h w 3"]) -> list[Float[Array, "b h2 w2 c"]]:
    """Returns the last features of every stage. images: RGB in [0, 1]."""
    x = (images[..., ::-1] * 255 - jnp.asarray(MEANS)).astype(self.dtype)
    ends = []
    for stage, (channels, repeats) in enumerate(STAGES, 1):
      if ends:
        x = nn.max_pool(x, (2, 2), (2, 2))
      for index in range(1, repeats + 1):
        x = nn.relu(_Conv(channels, self.dtype, name=f"conv{stage}_{index}")(x))
      ends.append(x)
    return ends


class _Conv(nn.Module):
  channels: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = (3, 3, x.shape[-1], self.channels)
    start = initialize.Normal((2 / (9 * x.shape[-1])) ** 0.5)
    kernel = initialize.parameter(self, "kernel", start, shape)
    bias = initialize.parameter(self, "bias", initialize.Constant(0.0), (self.channels,))
    y = jax.lax.conv_general_dilated(
      x, kernel.astype(self.dtype), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + bias.astype(self.dtype)


def cosine(
  ends: list[Float[Array, "b h w c"]], others: list[Float[Array, "b h w c"]]
) -> Float[Array, " b"]:
  """Returns the cosine of the channels at every place: mean over places, then over stages.

  Source: the code of Lee et al. 2018 (arXiv 1804.01523).
  """

  def unit(x: Array) -> Array:
    x = x.astype(jnp.float32)
    return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-10)

  each = [(unit(a) * unit(b)).sum(-1).mean((1, 2)) for a, b in zip(ends, others, strict=True)]
  return jnp.stack(each).mean(0)
