"""Convolution of images with few channels, such as the first one of a network."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from effnets.ops import _bilinear, depthwise

# Products per output beyond which XLA's convolution is the faster one: 27 are 3x3 of 3 channels.
MOST_PRODUCTS = 27


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def shallow(
  x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c o"], geometry: _bilinear.Geometry
) -> Float[Array, "b h2 w2 o"]:
  """Returns the convolution; derivatives of every kind and order are XLA's.

  On a CPU the value is a sum of shifted products, all outputs of a pixel at once: XLA's library
  call is made for deep inputs and takes 1.7 times as long for three channels.
  """
  return jax.lax.platform_dependent(
    x,
    kernel,
    cpu=functools.partial(_shift_and_add, geometry=geometry),
    default=functools.partial(depthwise.xla_convolution, geometry=geometry),
  )


@shallow.defjvp
def _shallow_jvp(geometry, primals, tangents):
  (x, kernel), (d_x, d_kernel) = primals, tangents
  by_x = depthwise.xla_convolution(d_x, kernel, geometry)
  return shallow(x, kernel, geometry), by_x + depthwise.xla_convolution(x, d_kernel, geometry)


def _shift_and_add(x: Array, kernel: Array, geometry: _bilinear.Geometry) -> Array:
  dtype = _bilinear.accumulator(x.dtype)
  # Barriers as in the depthwise form: one padded array, and a sum that is written once.
  padded = jax.lax.optimization_barrier(_bilinear.pad(x, geometry))
  total = jnp.zeros((), dtype)
  for i, row in enumerate(_bilinear.taps(padded, geometry.padded())):
    for j, view in enumerate(row):
      for c in range(x.shape[3]):
        total = total + view[..., c : c + 1].astype(dtype) * kernel[i, j, c].astype(dtype)
  return jax.lax.optimization_barrier(total.astype(x.dtype))
