"""From pixels to what a model takes."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8


def normalize(
  images: UInt8[Array, "*b h w c"],
  mean: float | Sequence[float],
  std: float | Sequence[float],
  *,
  dtype: jnp.dtype = jnp.float32,
) -> Float[Array, "*b h w c"]:
  """Returns (images / 255 - mean) / std, computed in float32 and given as `dtype`.

  Args:
    images: levels in [0, 255], uint8 or floating.
    mean, std: per channel or one for all, in shares of the full range: 0.485, not 123.675.

  Raises: ValueError for a std that is not positive, or a mean that looks like levels in [0, 255].

  >>> import numpy as np
  >>> normalize(np.full((1, 1, 3), 255, np.uint8), 0.5, 0.25)[0, 0].tolist()
  [2.0, 2.0, 2.0]
  """
  mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
  if np.any(std <= 0):
    raise ValueError(f"std={std.tolist()} is not positive.")
  if np.any(np.abs(mean) > 2):
    raise ValueError(
      f"mean={mean.tolist()} looks like levels in [0, 255]; give shares of the full range, such as "
      f"{np.round(mean / 255, 4).tolist()}, and std likewise."
    )
  # One multiplication and one addition per value.
  scale = (1 / (255 * std)).astype(np.float32)
  offset = (-mean / std).astype(np.float32)
  return (jnp.asarray(images).astype(jnp.float32) * scale + offset).astype(dtype)
