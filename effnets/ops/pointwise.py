"""1x1 convolution as a matrix product."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def pointwise(
  x: Float[Array, "b h w c"],
  kernel: Float[Array, "1 1 c o"],
  *,
  stride: int = 1,
  split: bool = False,
) -> Float[Array, "b h2 w2 o"]:
  """Returns the 1x1 convolution of `x` without padding, output ceil(size / stride).

  Derivatives of every kind and order are XLA's own products. split: whether the height is split
  over a mesh.
  """
  if stride > 1:
    x = jax.lax.slice(x, (0, 0, 0, 0), x.shape, (1, stride, stride, 1))
  if split:
    return _by_channel(x, kernel[0, 0])
  return jax.lax.platform_dependent(x, kernel[0, 0], cpu=_flat, default=_by_channel)


# Pixels per output channel from which on gating the kernel costs less than gating the image: at 20
# (28x28 to 40 channels) it takes 0.8 of the time, at 2.5 (14x14 to 80) 1.2.
_MANY_PIXELS = 12


def gated(
  x: Float[Array, "b h w c"],
  gate: Float[Array, "b 1 1 c"],
  kernel: Float[Array, "1 1 c o"],
  *,
  split: bool = False,
) -> Float[Array, "b h w o"]:
  """Returns the 1x1 convolution of `x * gate`.

  On a CPU, where a large image would be written and read once more for it, the gate goes to each
  example's copy of the kernel instead: (x * gate) @ kernel = x @ (gate * kernel).
  split: as of `pointwise`.
  """
  if split or x.shape[1] * x.shape[2] < _MANY_PIXELS * kernel.shape[3]:
    return pointwise(x * gate, kernel, split=split)
  return jax.lax.platform_dependent(
    x,
    gate,
    kernel[0, 0],
    cpu=_gated_kernel,
    default=lambda x, gate, matrix: _by_channel(x * gate, matrix),
  )


def _gated_kernel(x: Array, gate: Array, matrix: Array) -> Array:
  flat = x.reshape(x.shape[0], -1, x.shape[3])
  product = jax.lax.batch_matmul(flat, gate.reshape(x.shape[0], -1, 1) * matrix)
  return product.reshape(*x.shape[:3], matrix.shape[1])


def _flat(x: Array, matrix: Array) -> Array:
  # Two-dimensional operands, because the weight gradient of a product with three contracted
  # dimensions is compiled for the CPU as two transposed copies and then a product: 5 times slower.
  flat = x.reshape(-1, x.shape[-1])
  return jnp.dot(flat, matrix).reshape(*x.shape[:-1], matrix.shape[-1])


def _by_channel(x: Array, matrix: Array) -> Array:
  # Height and batch stay apart: a merged dimension would lose the sharding of one of them.
  return jax.lax.dot_general(x, matrix, (((x.ndim - 1,), (0,)), ((), ())))
