"""How alike two pictures are: PSNR and SSIM, one figure a picture."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_SIDE, _SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03


def psnr(a: Float[Array, "*b h w c"], b: Float[Array, "*b h w c"]) -> Float[Array, "*b"]:
  """Returns the peak signal-to-noise ratio of pictures in [0, 1], in dB; equal ones have inf.

  >>> float(psnr(jnp.zeros((4, 4, 3)), jnp.full((4, 4, 3), 0.1)))
  20.0...
  """
  error = jnp.square(a.astype(jnp.float32) - b.astype(jnp.float32)).mean((-3, -2, -1))
  return -10 * jnp.log10(error)


def ssim(a: Float[Array, "*b h w c"], b: Float[Array, "*b h w c"]) -> Float[Array, "*b"]:
  """Returns the structural similarity of pictures in [0, 1], at least 11 pixels high and wide.

  A Gaussian window of 11x11 pixels and deviation 1.5 that lies wholly inside, K1 = 0.01, K2 = 0.03;
  the mean over places, then channels. It is that of `tf.image.ssim`.
  Raises: ValueError if pictures are smaller than the window.
  Source: Wang et al. 2004, eq. 13.
  """
  if min(a.shape[-3:-1]) < _SIDE:
    raise ValueError(f"SSIM looks at {_SIDE}x{_SIDE} pixels; pictures are {a.shape[-3:-1]}.")
  a, b = a.astype(jnp.float32), b.astype(jnp.float32)
  mean_a, mean_b = _windowed(a), _windowed(b)
  product, squares = mean_a * mean_b, jnp.square(mean_a) + jnp.square(mean_b)
  c1, c2 = _K1**2, _K2**2
  luminance = (2 * product + c1) / (squares + c1)
  covariance = 2 * (_windowed(a * b) - product)
  variances = _windowed(jnp.square(a) + jnp.square(b)) - squares
  return (luminance * (covariance + c2) / (variances + c2)).mean((-3, -2, -1))


def _windowed(x: Float[Array, "*b h w c"]) -> Float[Array, "*b h2 w2 c"]:
  """Returns the weighted means over all windows: rows first, columns second."""
  offsets = np.arange(_SIDE) - _SIDE // 2
  weights = np.exp(-np.square(offsets) / (2 * _SIGMA**2))
  weights = (weights / weights.sum()).astype(np.float32)
  for axis in (x.ndim - 3, x.ndim - 2):
    size = x.shape[axis] - _SIDE + 1
    parts = [
      w * jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i, w in enumerate(weights.tolist())
    ]
    x = sum(parts[1:], parts[0])
  return x
