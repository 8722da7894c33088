"""Edges and histograms of grey pictures, as OpenCV defines them."""

import math

import numpy as np
from jaxtyping import Bool, UInt8

Grey = UInt8[np.ndarray, "h w"]


def canny(pixels: Grey, low: float, high: float) -> Bool[np.ndarray, "h w"]:
  """Returns where edges are: ridges of the Sobel gradient above `low` that touch one above `high`.

  The gradient's size is |dx| + |dy|; its direction counts as across, down or one of the diagonals.
  """
  from scipy import ndimage

  levels = pixels.astype(np.int64)
  dx = ndimage.sobel(levels, axis=1, mode="nearest")
  dy = ndimage.sobel(levels, axis=0, mode="nearest")
  size = np.abs(dx) + np.abs(dy)
  padded = np.pad(size, 1)

  def beside(rows, columns):
    height, width = size.shape
    return padded[1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]

  slope, steep = math.tan(math.radians(22.5)), math.tan(math.radians(67.5))
  across = np.abs(dy) < slope * np.abs(dx)
  down = ~across & (np.abs(dy) > steep * np.abs(dx))
  rising = (dx < 0) != (dy < 0)
  ridge = np.select(
    [across, down, rising],
    [
      (size > beside(0, -1)) & (size >= beside(0, 1)),
      (size > beside(-1, 0)) & (size >= beside(1, 0)),
      (size > beside(-1, 1)) & (size > beside(1, -1)),
    ],
    (size > beside(-1, -1)) & (size > beside(1, 1)),
  )
  weak = ridge & (size > low)
  parts, _ = ndimage.label(weak, structure=np.ones((3, 3)))
  strong = np.unique(parts[weak & (size > high)])
  return np.isin(parts, strong[strong > 0])


def equalized(pixels: Grey) -> Grey:
  """Returns the picture with each level replaced by the share of other pixels up to it, times 255.

  Pixels of the lowest level are 0 and do not count; a picture of one level stays as it is.
  """
  counts = np.bincount(pixels.ravel(), minlength=256)
  lowest = int(np.argmax(counts > 0))
  rest = pixels.size - counts[lowest]
  if not rest:
    return pixels
  sums = np.cumsum(counts) - counts[lowest]
  return np.round(np.maximum(sums, 0) * (255 / rest)).astype(np.uint8)[pixels]
