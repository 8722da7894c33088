"""What several corruptions are built of: filters and samplings of float64 (h, w[, c]) arrays.

SciPy is imported when first used; a program that corrupts nothing needs none.
"""

import functools
import math

import numpy as np
from jaxtyping import Float

Array = Float[np.ndarray, "h w *c"]


def smooth(x: Array, sigma: float, *, mode: str = "nearest", truncate: float = 4.0) -> Array:
  """Returns a Gaussian blur of height and width; sigma 0 changes nothing.

  mode: what lies outside. `nearest`: abc -> ..aabcc..; `reflect`: abc -> ..baabccb..
  truncate: sigmas after which the kernel ends.
  """
  from scipy import ndimage

  sigmas = (sigma, sigma, *(0,) * (x.ndim - 2))
  return ndimage.gaussian_filter(x, sigmas, mode=mode, truncate=truncate)


def correlate(x: Array, kernel: Float[np.ndarray, "p q"]) -> Array:
  """Returns the correlation of each channel with `kernel`; outside: abc -> ..cbabcba.. ."""
  from scipy import ndimage

  weights = kernel.reshape(*kernel.shape, *(1,) * (x.ndim - 2))
  return ndimage.correlate(x, weights, mode="mirror")


def zoom_centre(x: Array, factor: float) -> Array:
  """Returns the centre of the picture, ceil(side / factor), enlarged by `factor` to its old size.

  Linear between the corner pixels' centres, which stay corners; what is over is cut on all sides.
  """
  (rows, below, down), (columns, beside, right) = (_enlarged(n, factor) for n in x.shape[:2])
  down, right = (v.reshape(-1, *(1,) * (x.ndim - 2)) for v in (down, right))
  tall = x[rows] + (x[below] - x[rows]) * down[:, None]
  return tall[:, columns] + (tall[:, beside] - tall[:, columns]) * right


@functools.lru_cache(maxsize=256)
def _enlarged(side: int, factor: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns between which two pixels each of the zoomed ones lies, and how far from the first."""
  part = math.ceil(side / factor)
  whole = round(part * factor)
  places = np.arange(whole) * ((part - 1) / max(whole - 1, 1))
  first = np.minimum(places.astype(int), max(part - 2, 0))
  cut = slice((whole - side) // 2, (whole - side) // 2 + side)
  low = (side - part) // 2 + first[cut]
  return low, np.minimum(low + 1, side - 1), (places - first)[cut]


def sample(x: Array, rows: Array, columns: Array, *, outside: str) -> Array:
  """Returns x read at fractional places (h, w), bilinearly.

  outside: `mirror`: abc -> ..cbabcba..; `reflect`: abc -> ..cbaabccba..; `constant`: 0.
  """
  from scipy import ndimage

  places = np.stack([rows, columns])
  channels = x.reshape(*x.shape[:2], -1)
  read = [
    ndimage.map_coordinates(channels[..., c], places, order=1, mode=outside)
    for c in range(channels.shape[-1])
  ]
  return np.stack(read, -1).reshape(*rows.shape, *x.shape[2:])


def grid(height: int, width: int) -> tuple[Array, Array]:
  """Returns the row and the column of every pixel, float64 (h, w)."""
  return np.meshgrid(np.arange(float(height)), np.arange(float(width)), indexing="ij")


def motion_kernel(radius: float, sigma: float) -> Float[np.ndarray, " taps"]:
  """Returns the weights of a motion blur: half a Gaussian over 2 * radius + 1 pixels, sum 1."""
  weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
  return weights / weights.sum()


def motion(x: Array, radius: int, sigma: float, degrees: float) -> Array:
  """Returns x smeared in one direction; the picture's edge goes on outside.

  Tap i reads the pixel ceil(i sin - 1/2) below and ceil(i cos - 1/2) to the right.
  """
  weights = motion_kernel(radius, sigma)
  down, right = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
  rows, columns = np.arange(x.shape[0]), np.arange(x.shape[1])
  total = np.zeros_like(x)
  for tap, weight in enumerate(weights):
    r = np.clip(rows + math.ceil(tap * down - 0.5), 0, len(rows) - 1)
    c = np.clip(columns + math.ceil(tap * right - 0.5), 0, len(columns) - 1)
    total += weight * x[r[:, None], c]
  return total


def grey(x: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
  """Returns the luma of BT.601."""
  return x @ np.array([0.299, 0.587, 0.114])
