"""Random brightness and saturation: the colour part of the Inception pre-processing."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, UInt8


def recolour(
  images: UInt8[Array, "b h w 3"],
  keys: Key[Array, " b"],
  *,
  brightness: float = 32.0,
  saturation: Sequence[float] = (0.5, 1.5),
) -> UInt8[Array, "b h w 3"]:
  """Returns each image with a level added and its colours made paler or stronger, uint8.

  The level is uniform in [-brightness, brightness]; the factor of the saturation (of HSV, at most
  1 after it) is uniform in `saturation`. Levels are clipped to [0, 255] after each of the two.

  Args:
    images: levels in [0, 255]. brightness: in levels, at least 0. saturation: factors, ascending.

  Raises: ValueError for a range that is none, or keys that are not one per image.
  Source: Inception pre-processing of TensorFlow's slim in its fast mode, which the MobileNets were
    trained with; it clips at the end alone.
  """
  images = jnp.asarray(images)
  if images.ndim != 4 or jnp.shape(keys) != images.shape[:1]:
    raise ValueError(
      f"recolour takes images (b, h, w, 3) and keys (b,); got {images.shape} and {jnp.shape(keys)}."
    )
  if brightness < 0 or not 0 <= saturation[0] <= saturation[1]:
    raise ValueError(f"brightness={brightness!r} or saturation={saturation!r} is no range.")

  def change(image, key):
    draws = jax.random.uniform(key, (2,))
    level = brightness * (2 * draws[0] - 1)
    factor = saturation[0] + draws[1] * (saturation[1] - saturation[0])
    x = jnp.clip(image.astype(jnp.float32) + level, 0, 255)
    # Hue and value stay if every channel's distance from the largest grows by the same factor; the
    # smallest then reaches 0 where the saturation reaches 1.
    high, low = x.max(-1, keepdims=True), x.min(-1, keepdims=True)
    most = high / jnp.maximum(high - low, 1e-6)
    x = high - (high - x) * jnp.minimum(factor, most)
    return jnp.clip(jnp.round(x), 0, 255).astype(jnp.uint8)

  return jax.vmap(change)(images, keys)
