"""Exponential moving average of weights and batch-norm moments, as pure functions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree


def rate(step: Int[Array, ""] | int, *, decay: float) -> Float[Array, ""]:
  """Returns one minus the decay at `step`: `1 - min(decay, (1 + step) / (10 + step))`, float32.

  Computed as `max(1 - decay, 9 / (10 + step))`: 1 - 0.9999 taken in float32 is off by 1e-4 of it.

  Args:
    step: updates applied before this one, from 0. decay: its limit, in [0, 1).
  Source: EfficientNet sheet 3.6.

  >>> [round(1 - float(rate(t, decay=0.9999)), 6) for t in (0, 1, 10, 1000, 100000)]
  [0.1, 0.181818, 0.55, 0.991089, 0.9999]
  """
  ramp = 9.0 / (10.0 + jnp.asarray(step).astype(jnp.float32))
  return jnp.maximum(jnp.float32(1.0 - decay), ramp)


def update(average: PyTree, values: PyTree, step: Int[Array, ""] | int, *, decay: float) -> PyTree:
  """Returns the average after one more value: `average + rate(step) * (values - average)`.

  Written as a correction, so that a leaf that equals its average (a frozen weight) stays equal
  bit for bit. Float leaves keep the average's dtype; other leaves are taken from `values`.

  Args:
    average, values: trees of the same structure, such as {'params': ..., 'batch_stats': ...}.
    step: updates applied before the one that gave `values`. decay: its limit, in [0, 1).
  """
  weight = rate(step, decay=decay)

  def leaf(old, new):
    if not jnp.issubdtype(old.dtype, jnp.floating):
      return new
    old32 = old.astype(jnp.float32)
    return (old32 + weight * (new.astype(jnp.float32) - old32)).astype(old.dtype)

  return jax.tree.map(leaf, average, values)
