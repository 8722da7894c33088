"""The numbers of the published corruptions: five severities each, for pictures of three sizes.

  224  ImageNet-C, the release that mCE is defined on
  299  its release for networks of 299 pixels; what is not listed is as at 224
  32   CIFAR-10-C and CIFAR-100-C; spatter is not published for them and is as at 224

A picture of another size takes the table of the size nearest to its shorter side by ratio: 32 up to
84 pixels, 224 from 85 to 258, 299 from there on. Lengths in pixels are taken as they stand.

Source: Hendrycks and Dietterich 2019, and the benchmark's code.
"""

import math

import numpy as np

from effnets import errors

NOISE = ("gaussian_noise", "shot_noise", "impulse_noise")
BLUR = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur")
WEATHER = ("snow", "frost", "fog", "brightness")
DIGITAL = ("contrast", "elastic_transform", "pixelate", "jpeg_compression")

# In the order in which they are reported; the mCE is over these.
CORRUPTIONS = (*NOISE, *BLUR, *WEATHER, *DIGITAL)
# For choosing settings; not in the mCE.
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
SEVERITIES = (1, 2, 3, 4, 5)
SIZES = (32, 224, 299)


def _singles(*values):
  return tuple((value,) for value in values)


def _factors(step, *ends):
  """Returns the zoom factors from 1 up to each end; the first range of 224 includes its end."""
  return tuple((tuple(np.arange(1, end, by).tolist()),) for end, by in zip(ends, step, strict=True))


_AT_224 = {
  "gaussian_noise": _singles(0.08, 0.12, 0.18, 0.26, 0.38),
  "shot_noise": _singles(60, 25, 12, 5, 3),
  "impulse_noise": _singles(0.03, 0.06, 0.09, 0.17, 0.27),
  "speckle_noise": _singles(0.15, 0.2, 0.35, 0.45, 0.6),
  "gaussian_blur": _singles(1, 2, 3, 4, 6),
  # Radius, sigma of the smoothed rim.
  "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
  # Sigma, farthest neighbour, sweeps.
  "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
  # Radius, sigma.
  "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
  "zoom_blur": _factors((0.01, 0.01, 0.02, 0.02, 0.03), 1.11, 1.16, 1.21, 1.26, 1.31),
  # Mean, deviation, zoom, threshold, radius and sigma of the flakes' motion, share of the picture.
  "snow": (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
  ),
  # Shares of the picture and of the frost.
  "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
  # Amount, decay of the fractal's roughness.
  "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
  # Mean, deviation, sigma, threshold, amount (or sigma of the mud), mud.
  "spatter": (
    (0.65, 0.3, 4, 0.69, 0.6, 0),
    (0.65, 0.3, 3, 0.68, 0.6, 0),
    (0.65, 0.3, 2, 0.68, 0.5, 0),
    (0.65, 0.3, 1, 0.65, 1.5, 1),
    (0.67, 0.4, 1, 0.65, 1.5, 1),
  ),
  "brightness": _singles(0.1, 0.2, 0.3, 0.4, 0.5),
  # Factor, offset of the saturation.
  "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
  "contrast": _singles(0.4, 0.3, 0.2, 0.1, 0.05),
  # Strength and sigma of the field, reach of the affine map's corners.
  "elastic_transform": (
    (488, 170.8, 24.4),
    (488, 19.52, 48.8),
    (12.2, 2.44, 4.88),
    (17.08, 2.44, 4.88),
    (29.28, 2.44, 4.88),
  ),
  "pixelate": _singles(0.6, 0.5, 0.4, 0.3, 0.25),
  "jpeg_compression": _singles(25, 18, 15, 10, 7),
}

_AT_299 = {
  **_AT_224,
  "gaussian_noise": _singles(0.09, 0.13, 0.19, 0.27, 0.40),
  "shot_noise": _singles(50, 20, 10, 5, 3),
  "impulse_noise": _singles(0.04, 0.07, 0.10, 0.18, 0.28),
  "speckle_noise": _singles(0.16, 0.21, 0.36, 0.46, 0.61),
  "gaussian_blur": _singles(1.5, 2.5, 3.5, 4.5, 6.5),
  "glass_blur": ((0.8, 1, 3), (1, 3, 1), (1.1, 2, 4), (1.2, 4, 2), (1.6, 5, 2)),
  "defocus_blur": ((4, 0.1), (5, 0.5), (7, 0.5), (10, 0.5), (12, 0.5)),
  "motion_blur": ((12, 4), (17, 6), (17, 9), (17, 13), (22, 16)),
  "fog": ((1.5, 2), (2, 2), (2.5, 1.8), (2.5, 1.6), (3, 1.5)),
  "spatter": (
    (0.65, 0.3, 4, 0.69, 0.9, 0),
    (0.65, 0.3, 3.5, 0.68, 0.9, 0),
    (0.65, 0.3, 3, 0.68, 0.8, 0),
    (0.65, 0.3, 1.2, 0.65, 1.8, 1),
    (0.67, 0.4, 1.2, 0.65, 1.8, 1),
  ),
  "jpeg_compression": _singles(23, 16, 13, 8, 5),
  "pixelate": _singles(0.5, 0.4, 0.3, 0.25, 0.2),
  "elastic_transform": (
    (720, 252, 36),
    (720, 28.8, 72),
    (18, 3.6, 7.2),
    (25.2, 3.6, 7.2),
    (43.2, 3.6, 7.2),
  ),
}

_AT_32 = {
  **_AT_224,
  "gaussian_noise": _singles(0.04, 0.06, 0.08, 0.09, 0.10),
  "shot_noise": _singles(500, 250, 100, 75, 50),
  "impulse_noise": _singles(0.01, 0.02, 0.03, 0.05, 0.07),
  "speckle_noise": _singles(0.06, 0.1, 0.12, 0.16, 0.2),
  "gaussian_blur": _singles(0.4, 0.6, 0.7, 0.8, 1),
  "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
  "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
  "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
  "zoom_blur": _factors((0.01,) * 5, 1.06, 1.11, 1.16, 1.21, 1.26),
  "snow": (
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
  ),
  "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
  "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
  "brightness": _singles(0.05, 0.1, 0.15, 0.2, 0.3),
  "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
  "contrast": _singles(0.75, 0.5, 0.4, 0.3, 0.15),
  "elastic_transform": (
    (0, 0, 2.56),
    (1.6, 6.4, 2.24),
    (2.56, 1.92, 1.92),
    (3.2, 1.28, 1.6),
    (3.2, 0.96, 0.96),
  ),
  "pixelate": _singles(0.95, 0.9, 0.85, 0.75, 0.65),
  "jpeg_compression": _singles(80, 65, 58, 50, 40),
}

_TABLES = {32: _AT_32, 224: _AT_224, 299: _AT_299}


def table_size(height: int, width: int) -> int:
  """Returns whose numbers a picture takes: 32, 224 or 299.

  >>> [table_size(side, 400) for side in (28, 84, 85, 258, 259)]
  [32, 32, 224, 224, 299]
  """
  side = max(min(height, width), 1)
  return min(SIZES, key=lambda size: abs(math.log(side / size)))


def parameters(name: str, severity: int, size: int) -> tuple:
  """Returns the numbers of a corruption; size: 32, 224 or 299.

  Raises: UserError for a name, severity or size that there is not.
  """
  check(name, key="corruption")
  if severity not in SEVERITIES:
    raise errors.UserError(f"severity={severity!r} of a corruption should be from 1 to 5.")
  if size not in SIZES:
    raise errors.UserError(f"size={size!r} of the corruptions' tables should be 32, 224 or 299.")
  return _TABLES[size][name][severity - 1]


def check(name: str, *, key: str) -> None:
  """Raises UserError, with the nearest names, if there is no such corruption."""
  if name not in _AT_224:
    raise errors.unknown(key, name, "a corruption", _AT_224)
