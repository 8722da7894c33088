"""Noise: every value of the picture is drawn anew. Pictures are float64 (h, w, c) in [0, 1]."""

import numpy as np
from jaxtyping import Float

Picture = Float[np.ndarray, "h w c"]


def gaussian(x: Picture, rng: np.random.Generator, sigma: float) -> Picture:
  """Returns x + N(0, sigma); not clipped."""
  return x + rng.normal(0, sigma, x.shape)


def shot(x: Picture, rng: np.random.Generator, photons: float) -> Picture:
  """Returns Poisson(photons * x) / photons."""
  return rng.poisson(x * photons) / photons


def impulse(x: Picture, rng: np.random.Generator, share: float) -> Picture:
  """Returns x where each value is 0 or 1, equally likely, with probability `share`."""
  # One number says both whether and which: u < share / 2 is pepper, u < share salt.
  u = rng.random(x.shape)
  return np.where(u < share, (u >= share / 2).astype(x.dtype), x)


def speckle(x: Picture, rng: np.random.Generator, sigma: float) -> Picture:
  """Returns x + x * N(0, sigma)."""
  return x + x * rng.normal(0, sigma, x.shape)
