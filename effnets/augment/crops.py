"""Flips, shifts and random resized crops of fixed-size images, one key per image."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key, UInt8

PAD_MODES = ("constant", "reflect")


def _check(images, keys) -> None:
  if images.ndim != 4 or jnp.shape(keys) != images.shape[:1]:
    raise ValueError(
      f"Crops take images (b, h, w, c) and keys (b,); got {images.shape} and {jnp.shape(keys)}."
    )


def flip(images: UInt8[Array, "b h w c"], keys: Key[Array, " b"]) -> UInt8[Array, "b h w c"]:
  """Returns each image mirrored left to right with probability one half; any dtype.

  Raises: ValueError unless there is one key per image.
  """
  images = jnp.asarray(images)
  _check(images, keys)
  return jnp.where(mirrored(keys)[:, None, None, None], images[:, :, ::-1], images)


def mirrored(keys: Key[Array, " b"]) -> Bool[Array, " b"]:
  """Returns which images `flip` mirrors with these keys."""
  return jax.vmap(jax.random.bernoulli)(keys)


def shift(
  images: UInt8[Array, "b h w c"],
  keys: Key[Array, " b"],
  *,
  pixels: int = 4,
  mode: str = "constant",
  fill: int | Sequence[int] = 0,
) -> UInt8[Array, "b h w c"]:
  """Returns each image moved by a whole number of rows and columns, uniform in [-pixels, pixels].

  This is the CIFAR augmentation: pad by `pixels`, then cut the original size at random. (The
  published CIFAR code never draws the last offset, 2 * pixels; here all 2 * pixels + 1 are drawn.)

  Args:
    pixels: largest move, from 0 up to h - 1 and w - 1.
    mode: what moves in from outside. `constant`: abc -> ..abc.. with `fill`;
      `reflect`: abc -> cbabcba.
    fill: level in the images' own units, or one for each channel.

  Raises: ValueError for another mode, pixels out of range, or keys that are not one per image.
  """
  images = jnp.asarray(images)
  _check(images, keys)
  _, height, width, _ = images.shape
  if mode not in PAD_MODES:
    raise ValueError(f"mode={mode!r} is none of {PAD_MODES}.")
  if not 0 <= pixels < min(height, width):
    raise ValueError(f"pixels={pixels} is not in [0, {min(height, width) - 1}].")
  if pixels == 0:
    return images
  offsets = jax.vmap(lambda key: jax.random.randint(key, (2,), -pixels, pixels + 1))(keys)

  def move(image, offset):
    row, column = jnp.arange(height) + offset[0], jnp.arange(width) + offset[1]
    if mode == "reflect":
      row = height - 1 - jnp.abs(height - 1 - jnp.abs(row))
      column = width - 1 - jnp.abs(width - 1 - jnp.abs(column))
      return image[row][:, column]
    inside = ((row >= 0) & (row < height))[:, None] & (column >= 0) & (column < width)
    moved = image[jnp.clip(row, 0, height - 1)][:, jnp.clip(column, 0, width - 1)]
    return jnp.where(inside[..., None], moved, jnp.asarray(fill, image.dtype))

  return jax.vmap(move)(images, offsets)


def random_resized_crop(
  images: UInt8[Array, "b h w c"],
  keys: Key[Array, " b"],
  *,
  size: int | None = None,
  area: Sequence[float] = (0.08, 1.0),
  aspect: Sequence[float] = (3 / 4, 4 / 3),
  attempts: int = 10,
) -> UInt8[Array, "b s t c"]:
  """Returns a random part of each image, resized bilinearly (antialiased when it shrinks), uint8.

  The part's share of the image is uniform in `area` and its width / height is log-uniform in
  `aspect`; of `attempts` draws the first that fits is taken, and the whole image if none does.
  The host crops while decoding; this is for images that already have one size, such as CIFAR's.

  Args:
    images: levels in [0, 255]. size: side of the result in pixels; None keeps h and w.
    area: two shares in (0, 1], ascending. aspect: two positive ratios, ascending.

  Raises: ValueError for ranges that are not so, or keys that are not one per image.
  """
  images = jnp.asarray(images)
  _check(images, keys)
  if not 0 < area[0] <= area[1] <= 1:
    raise ValueError(f"area={tuple(area)} is not ascending within (0, 1].")
  if not 0 < aspect[0] <= aspect[1]:
    raise ValueError(f"aspect={tuple(aspect)} is not ascending and positive.")
  _, height, width, channels = images.shape
  target = (size or height, size or width)

  def crop(image, key):
    draws = jax.random.uniform(key, (attempts, 4))
    share = area[0] + draws[:, 0] * (area[1] - area[0])
    low, high = math.log(aspect[0]), math.log(aspect[1])
    ratio = jnp.exp(low + draws[:, 1] * (high - low))
    crop_h = jnp.sqrt(share * height * width / ratio)
    crop_w = jnp.sqrt(share * height * width * ratio)
    # The last row is the whole image, so that `argmax` always finds one that fits.
    crop_h = jnp.append(crop_h, float(height))
    crop_w = jnp.append(crop_w, float(width))
    taken = jnp.argmax((crop_h <= height) & (crop_w <= width))
    extent = jnp.stack([crop_h[taken], crop_w[taken]])
    place = jnp.append(draws[:, 2:], jnp.zeros((1, 2)), axis=0)[taken]
    origin = place * (np.array([height, width], np.float32) - extent)
    scale = np.array(target, np.float32) / extent
    resized = jax.image.scale_and_translate(
      image.astype(jnp.float32),
      (*target, channels),
      (0, 1),
      scale,
      -origin * scale,
      method="linear",
      antialias=True,
    )
    return jnp.clip(jnp.round(resized), 0, 255).astype(jnp.uint8)

  return jax.vmap(crop)(images, keys)
