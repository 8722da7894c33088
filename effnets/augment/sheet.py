"""Contact sheets: what a policy does to pictures, for people to look at."""

import os
from typing import BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from effnets import streams
from effnets.augment import policy as policies

_GAP = 2
_PAPER = 255


def contact_sheet(
  images: UInt8[Array, "b h w 3"], policy: policies.Policy, *, seed: int = 0, count: int = 8
) -> UInt8[np.ndarray, "H W 3"]:
  """Returns a grid with one row per image: the image itself, then `count` augmented versions.

  Tiles are separated by a white line of 2 pixels. Row r, version j is drawn at position
  r * count + j of the stream `augment`, as a training run with this seed would draw it.

  Raises: ValueError if count is below 1.
  """
  if count < 1:
    raise ValueError(f"count={count} is below 1.")
  images = np.asarray(images)
  key = streams.stream(jax.random.key(seed), "augment")
  keys = streams.example_keys(key, streams.words(np.arange(len(images) * count)))
  versions = np.asarray(jax.jit(policy)(jnp.repeat(images, count, axis=0), keys))
  versions = versions.reshape(len(images), count, *versions.shape[1:])
  return grid(np.concatenate([images[:, None], versions], axis=1))


def grid(tiles: UInt8[np.ndarray, "r n h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
  """Returns one picture of r rows and n columns of tiles, 2 white pixels between them."""
  rows, columns, height, width, _ = tiles.shape
  shape = (rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3)
  paper = np.full(shape, _PAPER, np.uint8)
  for row in range(rows):
    for column in range(columns):
      top, left = row * (height + _GAP), column * (width + _GAP)
      paper[top : top + height, left : left + width] = tiles[row, column]
  return paper


def write_png(path: str | os.PathLike | BinaryIO, image: UInt8[np.ndarray, "H W 3"]) -> None:
  """Writes an image to a PNG file, given by its path or open."""
  from PIL import Image  # only people who look at pictures need it

  Image.fromarray(np.asarray(image, np.uint8)).save(path, format="PNG")
