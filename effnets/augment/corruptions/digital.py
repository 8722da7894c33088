"""What cameras, screens and files do to pictures: float64 (h, w, 3) in [0, 1], or uint8 for PIL."""

import io

import numpy as np
from jaxtyping import Float, UInt8

from effnets.augment.corruptions import filters

Picture = Float[np.ndarray, "h w 3"]
Pixels = UInt8[np.ndarray, "h w 3"]


def contrast(x: Picture, rng: np.random.Generator, factor: float) -> Picture:
  """Returns x drawn towards each channel's mean."""
  del rng
  mean = x.mean((0, 1), keepdims=True)
  return (x - mean) * factor + mean


def brightness(x: Picture, rng: np.random.Generator, change: float) -> Picture:
  """Returns x with `change` added to HSV's value, which stays in [0, 1].

  At the same hue and saturation all channels are in proportion to the value; black turns grey.
  """
  del rng
  value = x.max(-1, keepdims=True)
  new = np.clip(value + change, 0, 1)
  return np.where(value > 0, x * (new / np.where(value > 0, value, 1)), new)


def saturate(x: Picture, rng: np.random.Generator, factor: float, offset: float) -> Picture:
  """Returns x with HSV's saturation times `factor` plus `offset`, within [0, 1].

  At the same hue and value each channel is as far below the value as saturation says. Grey has no
  hue; it counts as red.
  """
  del rng
  value, least = x.max(-1, keepdims=True), x.min(-1, keepdims=True)
  spread = value - least
  saturation = spread / np.where(value > 0, value, 1)
  new = np.clip(saturation * factor + offset, 0, 1)
  red = np.array([0.0, 1.0, 1.0])
  below = np.where(spread > 0, (value - x) / np.where(spread > 0, spread, 1), red)
  return value * (1 - new * below)


def elastic(
  x: Picture, rng: np.random.Generator, strength: float, sigma: float, reach: float
) -> Picture:
  """Returns x under a random affine map, then under a random smooth displacement.

  The map takes three corners of the central square, shorter side // 3 from the centre, to places up
  to `reach` pixels off. Displacements are `strength` times uniform noise smoothed by `sigma`.
  """
  height, width = x.shape[:2]
  centre = np.array([width // 2, height // 2], np.float64)
  corners = centre + min(height, width) // 3 * np.array([[1, 1], [1, -1], [-1, -1]])
  moved = corners + rng.uniform(-reach, reach, corners.shape)
  # Where the pixel at a place comes from: the inverse map, (x, y, 1) @ back.
  back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners)
  rows, columns = filters.grid(height, width)
  from_x, from_y = (columns * back[0, i] + rows * back[1, i] + back[2, i] for i in range(2))
  x = filters.sample(x, from_y, from_x, outside="mirror")
  if not strength:
    return x
  right, down = (
    strength
    * filters.smooth(rng.uniform(-1, 1, (height, width)), sigma, mode="reflect", truncate=3)
    for _ in range(2)
  )
  return filters.sample(x, rows + down, columns + right, outside="reflect")


def pixelate(pixels: Pixels, share: float) -> Pixels:
  """Returns the picture made smaller, to int(share * side), and large again, box-filtered."""
  from PIL import Image

  height, width = pixels.shape[:2]
  small = max(1, int(width * share)), max(1, int(height * share))
  picture = Image.fromarray(pixels).resize(small, Image.Resampling.BOX)
  return np.asarray(picture.resize((width, height), Image.Resampling.BOX))


def jpeg(pixels: Pixels, quality: int, *, optimize: bool = False) -> Pixels:
  """Returns what is left of the picture in a JPEG file."""
  from PIL import Image

  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "JPEG", quality=quality, optimize=optimize)
  return np.asarray(Image.open(file).convert("RGB"))
