"""Shortcuts without weights, and branches whose gradient is weighed otherwise than their value.

The random numbers are one row per example, drawn by the caller from the example's own key.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def fit(
  x: Float[Array, "b h w c"], stride: int, channels: int, *, centred: bool
) -> Float[Array, "b h2 w2 o"]:
  """Returns `x` averaged over squares of `stride` pixels, with zeros for channels that it lacks.

  Where a square reaches over the lower or right edge, the mean is that of the pixels there are.

  Args: centred: half of the zeros before the channels and the rest behind; False: all behind.
  Raises: ValueError if `x` has more than `channels`.
  """
  missing = channels - x.shape[-1]
  if missing < 0:
    raise ValueError(f"a shortcut of {x.shape[-1]} channels does not fit {channels}.")
  if stride > 1:
    window = (stride, stride)
    # The number of pixels is float32, and so would the mean of half precision be.
    x = nn.avg_pool(x, window, window, "SAME", count_include_pad=False).astype(x.dtype)
  before = missing // 2 if centred else 0
  return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, missing - before))) if missing else x


def averaged(x: Float[Array, "b h w c"], stride: int, channels: int) -> Float[Array, "b h2 w2 o"]:
  """Returns the means of 3x3 windows of `x`, `stride` apart, with `channels` channels.

  Further ones are cut, missing ones zero. At the edge the mean is that of the pixels there are.
  """
  y = nn.avg_pool(x, (3, 3), (stride, stride), "SAME", count_include_pad=False).astype(x.dtype)
  missing = channels - y.shape[-1]
  return jnp.pad(y, ((0, 0),) * 3 + ((0, missing),)) if missing > 0 else y[..., :channels]


@jax.custom_jvp
def weigh(
  x: Float[Array, " b *s"], forward: Float[Array, " b"], backward: Float[Array, " b"]
) -> Float[Array, " b *s"]:
  """Returns each example times its `forward`; its gradient is taken times `backward` instead.

  The factors themselves have no gradient.
  """
  del backward
  return x * _rows(forward, x)


@weigh.defjvp
def _weigh_jvp(primals, tangents):
  x, _, backward = primals
  return weigh(*primals), tangents[0] * _rows(backward, x)


def _rows(factors: Array, x: Array) -> Array:
  return factors.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)


def shake(
  branches: Sequence[Float[Array, " b *s"]], noise: Float[Array, "b 2n"] | None
) -> Float[Array, " b *s"]:
  """Returns a random mean of n branches, by other random weights in the backward pass.

  Args:
    noise: uniform in [0, 1), for the weights of the forward pass and then of the backward pass,
      each normalised to sum 1; None is the plain mean, as in evaluation.
  Source: Gastaldi 2017 (arXiv 1705.07485); the weights are those of AutoAugment's official code,
    two numbers over their sum, where the paper has a number and its complement.
  """
  count = len(branches)
  if noise is None:
    return sum(branches) / count
  # The smallest float32 instead of 0, so that two zeros, which no run will meet, are no 0 / 0.
  noise = jnp.maximum(noise, jnp.finfo(jnp.float32).tiny).reshape(-1, 2, count)
  forward, backward = jnp.moveaxis(noise / noise.sum(-1, keepdims=True), 1, 0)
  weighed = (weigh(y, forward[:, i], backward[:, i]) for i, y in enumerate(branches))
  return sum(weighed)


def shake_drop(
  x: Float[Array, " b *s"], noise: Float[Array, "b 3"] | None, rate: float
) -> Float[Array, " b *s"]:
  """Returns a residual branch, in `rate` of the examples times a random number instead of 1.

  That number is uniform in [-1, 1) for the value and, drawn anew, in [0, 1) for the gradient.

  Args:
    noise: uniform in [0, 1): whether, and the two numbers. None is the expectation, 1 - rate times
      `x`, as in evaluation. rate: probability, in [0, 1).
  Source: Yamada et al. 2018 (arXiv 1802.02375), eq. 6, `alpha` in [-1, 1], `beta` in [0, 1].
  """
  if noise is None:
    return x * (1 - rate) if rate else x
  kept = noise[:, 0] >= rate
  return weigh(x, jnp.where(kept, 1.0, 2 * noise[:, 1] - 1), jnp.where(kept, 1.0, noise[:, 2]))
