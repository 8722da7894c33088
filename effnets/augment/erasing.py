"""Cutout and random erasing: a rectangle of each image is painted over, one key per image."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, UInt8

from effnets.augment import operations as ops
from effnets.augment import settings

_ATTEMPTS = 10

Fill = int | Sequence[int]


def _paint(images, windows, paint):
  inside = jax.vmap(lambda window: ops.within(images.shape[1:3], window))(windows)
  return jnp.where(inside[..., None], paint, images)


def cutout(
  images: UInt8[Array, "b h w c"], keys: Key[Array, " b"], *, size: int, fill: Fill = ops.FILL
) -> UInt8[Array, "b h w c"]:
  """Returns each image with one square painted over, any dtype.

  The middle is uniform over the pixels, so that up to three quarters of the square lie outside.

  Args:
    size: side of the square in pixels, at least 0. fill: level, or one for each channel.

  Raises: ValueError if size is negative, or there is not one key per image.
  Source: DeVries and Taylor 2017 (arXiv 1708.04552), which fills with the data's mean colour.
  """
  images = jnp.asarray(images)
  settings.check_batch("cutout", images, keys)
  if size < 0:
    raise ValueError(f"size={size} is negative.")
  extent = jnp.array(images.shape[1:3], jnp.uint32)
  words = jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(keys)
  corner = (words % extent).astype(jnp.int32) - size // 2
  side = jnp.full(len(keys), size)
  windows = ops.Window(corner[:, 0], corner[:, 1], side, side)
  return _paint(images, windows, jnp.asarray(fill, images.dtype))


def random_erasing(
  images: UInt8[Array, "b h w c"],
  keys: Key[Array, " b"],
  *,
  probability: float = 0.5,
  area: Sequence[float] = (0.02, 0.4),
  aspect: Sequence[float] = (0.3, 1 / 0.3),
  fill: Fill | str = "pixel",
) -> UInt8[Array, "b h w c"]:
  """Returns the images, each with `probability` with a rectangle painted over.

  The rectangle's share of the image is uniform in `area`, its height / width in `aspect`; of ten
  draws the first that is lower and narrower than the image is taken, its place is uniform. If none
  is, nothing is painted.

  Args:
    images: levels in [0, 255]. area: two shares in (0, 1], ascending. aspect: two positive ratios,
      ascending.
    fill: what is painted. `pixel`: a random level in [0, 255] for every pixel and channel; or a
      level, or one for each channel.

  Raises: ValueError for ranges that are not so, another fill, or not one key per image.
  Source: Zhong et al. 2017 (arXiv 1708.04896) and its code: the paper's text draws a place too and
    starts over where the rectangle does not fit there, which favours small ones.
  """
  images = jnp.asarray(images)
  settings.check_batch("random_erasing", images, keys)
  if not 0 <= probability <= 1:
    raise ValueError(f"probability={probability!r} is not in [0, 1].")
  if not 0 < area[0] <= area[1] <= 1:
    raise ValueError(f"area={tuple(area)} is not ascending within (0, 1].")
  if not 0 < aspect[0] <= aspect[1]:
    raise ValueError(f"aspect={tuple(aspect)} is not ascending and positive.")
  if isinstance(fill, str) and fill != "pixel":
    raise ValueError(f"fill={fill!r} is neither 'pixel' nor levels.")
  height, width = images.shape[1:3]
  extent = np.array([height, width])

  def window(key):
    draws = jax.random.uniform(key, (_ATTEMPTS + 1, 4))
    share = area[0] + draws[1:, 0] * (area[1] - area[0])
    ratio = aspect[0] + draws[1:, 1] * (aspect[1] - aspect[0])
    pixels = share * (height * width)
    sides = jnp.sqrt(jnp.stack([pixels * ratio, pixels / ratio], axis=-1))
    sides = jnp.round(sides).astype(jnp.int32)
    fits = jnp.all(sides < extent, axis=-1)
    taken = jnp.argmax(fits)
    side, place = sides[taken], draws[1:, 2:][taken]
    side = jnp.where(fits[taken] & (draws[0, 0] < probability), side, 0)
    corner = jnp.minimum((place * (extent - side + 1)).astype(jnp.int32), extent - side)
    return ops.Window(corner[0], corner[1], side[0], side[1])

  paint = jnp.asarray(0 if fill == "pixel" else fill, images.dtype)
  if fill == "pixel":
    shape = images.shape[1:]
    # Of a key of their own, so that the rectangles do not depend on what fills them.
    noise = jax.vmap(lambda key: jax.random.bits(jax.random.fold_in(key, 1), shape, jnp.uint8))
    paint = noise(keys).astype(images.dtype)
  return _paint(images, jax.vmap(window)(keys), paint)
