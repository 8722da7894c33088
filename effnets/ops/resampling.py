"""Change of a feature map's size: nearest, bilinear with aligned corners, pooling."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from effnets.ops import convolution


def nearest(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b h2 w2 c"]:
  """Returns `x` at `size`; pixel i takes floor(i * h / h2), as TensorFlow and PyTorch have it.

  >>> import jax.numpy as jnp
  >>> nearest(jnp.arange(3.0).reshape(1, 3, 1, 1), (5, 1)).ravel().tolist()
  [0.0, 0.0, 1.0, 1.0, 2.0]
  """
  for axis, new in zip((1, 2), size, strict=True):
    old = x.shape[axis]
    if new == old:
      continue
    if new % old == 0:
      # A broadcast, not a gather: it needs no indices and stays where its rows are.
      x = jnp.repeat(x, new // old, axis=axis)
    else:
      x = jnp.take(x, np.arange(new) * old // new, axis=axis)
  return x


def _aligned(x: Array, new: int, axis: int) -> Array:
  old = x.shape[axis]
  if new == old:
    return x
  places = np.arange(new) * ((old - 1) / (new - 1)) if new > 1 else np.zeros(1)
  low = np.minimum(places.astype(int), old - 1)
  shape = [1] * x.ndim
  shape[axis] = new
  share = jnp.asarray((places - low).reshape(shape), jnp.float32).astype(x.dtype)
  first = jnp.take(x, low, axis=axis)
  second = jnp.take(x, np.minimum(low + 1, old - 1), axis=axis)
  return first + (second - first) * share


def bilinear(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b h2 w2 c"]:
  """Returns `x` at `size`, linear between pixels, corner pixels staying corners.

  `jax.image.resize` has the pixels' outer edges aligned instead.

  >>> import jax.numpy as jnp
  >>> bilinear(jnp.arange(2.0).reshape(1, 2, 1, 1), (5, 1)).ravel().tolist()
  [0.0, 0.25, 0.5, 0.75, 1.0]
  """
  return _aligned(_aligned(x, size[0], 1), size[1], 2)


def pool(
  x: Float[Array, "b h w c"],
  kernel: int | tuple[int, int],
  stride: int | tuple[int, int],
  *,
  padding: str = "SAME",
  kind: str = "max",
) -> Float[Array, "b h2 w2 c"]:
  """Returns the maxima (`kind` max) or means (avg) of windows; padding counts for neither.

  Args: kernel, stride: in pixels, or (height, width). padding: of `resolve_padding`.
  """
  kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
  stride = (stride, stride) if isinstance(stride, int) else stride
  pads = [
    convolution.resolve_padding(padding, x.shape[1 + d], kernel[d], stride[d]) for d in (0, 1)
  ]
  window, strides, padded = (1, *kernel, 1), (1, *stride, 1), ((0, 0), *pads, (0, 0))
  if kind == "max":
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, padded)
  if kind != "avg":
    raise ValueError(f"kind={kind!r} is neither 'max' nor 'avg'.")
  zero = np.zeros((), x.dtype)  # not an array of JAX's: by its value the sum is recognised
  total = jax.lax.reduce_window(x, zero, jax.lax.add, window, strides, padded)
  ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
  return total / jax.lax.reduce_window(ones, zero, jax.lax.add, window, strides, padded)


def shrink(
  x: Float[Array, "b h w c"], size: tuple[int, int], *, padding: str = "SAME", kind: str = "max"
) -> Float[Array, "b h2 w2 c"]:
  """Returns `x` pooled to `size`: stride s = floor((h - 1) / h2) + 1, windows of s + 1 pixels.

  Source: Tan et al. 2020 (arXiv 1911.09070), official code.
  """
  stride = tuple((old - 1) // new + 1 for old, new in zip(x.shape[1:3], size, strict=True))
  if stride == (1, 1):
    return x
  kernel = tuple(s + 1 if s > 1 else 1 for s in stride)
  y = pool(x, kernel, stride, padding=padding, kind=kind)
  if y.shape[1:3] != tuple(size):
    raise ValueError(f"pooling {x.shape[1:3]} by {stride} gives {y.shape[1:3]}, not {size}.")
  return y
