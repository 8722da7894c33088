"""Blurs. Pictures are float64 (h, w, c) in [0, 1]."""

import numpy as np
from jaxtyping import Float, Int

from effnets.augment.corruptions import filters

Picture = Float[np.ndarray, "h w c"]


def gaussian(x: Picture, rng: np.random.Generator, sigma: float) -> Picture:
  """Returns a Gaussian blur; the kernel ends at 4 sigma, the edge goes on outside."""
  del rng
  return filters.smooth(x, sigma)


def disk(radius: float, sigma: float) -> Float[np.ndarray, "k k"]:
  """Returns the kernel of a lens out of focus: a disk of sum 1, its rim smoothed.

  The grid is 17 x 17 up to radius 8, then 2 * radius + 1. The smoothing reflects at the grid's
  edge, so the kernel of a disk that touches it sums to more than 1: radius 8 gives 1.013, which is
  part of the benchmark.
  """
  reach, taps = (8, 1) if radius <= 8 else (int(radius), 2)
  places = np.arange(-reach, reach + 1)
  inside = (places[:, None] ** 2 + places**2 <= radius**2).astype(np.float64)
  inside /= inside.sum()
  weights = np.exp(-(np.arange(-taps, taps + 1) ** 2) / (2 * sigma**2))
  weights /= weights.sum()
  return filters.correlate(inside, np.outer(weights, weights))


def defocus(x: Picture, rng: np.random.Generator, radius: float, sigma: float) -> Picture:
  """Returns x seen through a lens out of focus."""
  del rng
  return filters.correlate(x, disk(radius, sigma))


def glass(x: Picture, rng: np.random.Generator, sigma: float, reach: int, sweeps: int) -> Picture:
  """Returns x blurred, its pixels replaced by near ones, and blurred again.

  The published code means to exchange pixels, but its pixel takes the neighbour's value and the
  neighbour keeps it; so it is here.
  """
  x = np.floor(255 * np.clip(filters.smooth(x, sigma), 0, 1)) / 255
  height, width, channels = x.shape
  flat = x.reshape(-1, channels)
  for _ in range(sweeps):
    offsets = rng.integers(-reach, reach, (2, height, width))
    flat = flat[glass_sources(offsets, reach)]
  return filters.smooth(flat.reshape(x.shape), sigma)


def glass_sources(offsets: Int[np.ndarray, "2 h w"], reach: int) -> Int[np.ndarray, " n"]:
  """Returns for each of the n = h * w pixels which old one it shows after a sweep.

  offsets: rows and columns to the pixel that each copies. The sweep goes from h - reach, w - reach
  up and left, to reach + 1; so a copy of what lies further on in reading order is a copy of a copy.
  """
  _, height, width = offsets.shape
  count = height * width
  own = np.arange(count)
  row, column = np.divmod(own, width)
  swept = (row > reach) & (row <= height - reach) & (column > reach) & (column <= width - reach)
  copied = np.where(swept, own + offsets[0].ravel() * width + offsets[1].ravel(), own)
  # Node i is pixel i after the sweep, node count + i before; following the links to their ends,
  # twice as far each time, is the sweep without a loop over pixels.
  later = swept[copied] & (copied > own)
  links = np.concatenate([np.where(later, copied, copied + count), own + count])
  while True:
    further = links[links]
    if np.array_equal(further, links):
      return links[:count] - count
    links = further


def motion(x: Picture, rng: np.random.Generator, radius: int, sigma: float) -> Picture:
  """Returns x smeared at an angle from -45 to 45 degrees."""
  return filters.motion(x, radius, sigma, rng.uniform(-45, 45))


def zoom(x: Picture, rng: np.random.Generator, factors: tuple[float, ...]) -> Picture:
  """Returns the mean of x and of x zoomed by each factor."""
  del rng
  return (x + sum(filters.zoom_centre(x, factor) for factor in factors)) / (len(factors) + 1)
