"""Perturbation sequences: one picture as 31 or 41 frames that differ little from each other.

Frames are cut from the centre of a larger picture, 224 of 256 pixels as published, so that turning
and shifting brings in what lies beside; a picture that has nothing beside is black there. Lengths
in pixels are for frames of 224 and scale with their side, rounded where they count pixels.

The published sequences are films (x264); what that leaves out is not imitated here.

Source: Hendrycks and Dietterich 2019, and the benchmark's code.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, UInt8

from effnets import errors
from effnets.augment.corruptions import apply, digital, filters, weather

Picture = Float[np.ndarray, "H W 3"]
Frames = Iterator[Picture]

FRAMES = 31
TRANSLATE_FRAMES = 41
_SIDE = 224

# Compared with their first frame, which is the picture itself; the others with the frame before.
NOISE_SEQUENCES = ("gaussian_noise", "shot_noise", "speckle_noise")

# By difficulty: sigma, photons, sigma.
_NOISE = {
  "gaussian_noise": (0.03, 0.05, 0.08),
  "shot_noise": (300, 120, 60),
  "speckle_noise": (0.05, 0.10, 0.15),
}


def _noise(name: str, x: Picture, rng: np.random.Generator, difficulty: int) -> Frames:
  amount = _NOISE[name][difficulty - 1]
  yield x
  for _ in range(1, FRAMES):
    if name == "shot_noise":
      yield rng.poisson(x * amount) / amount
    else:
      noise = rng.normal(0, amount, x.shape)
      yield x + (noise if name == "gaussian_noise" else x * noise)


def _motion_blur(x: Picture, rng: np.random.Generator, scale: float) -> Frames:
  radius = max(1, round(10 * scale))
  for i in range(FRAMES):
    yield filters.motion(x, radius, 3 * scale, 4 * (i - 30))


def _gaussian_blur(x: Picture, rng: np.random.Generator, scale: float) -> Frames:
  for i in range(FRAMES):
    yield filters.smooth(x, (0.25 + 0.035 * i) * scale, truncate=6)


def _zoom_blur(x: Picture, rng: np.random.Generator, scale: float) -> Frames:
  total = np.zeros_like(x)
  for i in range(FRAMES):
    total += filters.zoom_centre(x, 1 + 0.004 * i)
    yield total / (i + 1)


def _snow(x: Picture, rng: np.random.Generator, scale: float) -> Frames:
  flakes = weather.flakes(rng.normal(0.05, 0.3, x.shape[:2]), 3, 0.5)
  radius = max(1, round(14 * scale))
  for i in range(FRAMES):
    layer = filters.motion(flakes, radius, 4 * scale, 4 * i - 150)
    yield weather.snowed(x, layer, 0.85)


def _brightness(x: Picture, rng: np.random.Generator, scale: float) -> Frames:
  for i in range(FRAMES):
    yield digital.brightness(x, rng, 0.02 * (i - 15))


def _translate(x: Picture, rng: np.random.Generator, scale: float) -> Frames:
  for i in range(TRANSLATE_FRAMES):
    shift = round((i - 20) * scale)
    yield warp(x, np.array([[1, 0, shift], [0, 1, 0], [0, 0, 1]]))


def _rotate(x: Picture, rng: np.random.Generator, scale: float) -> Frames:
  for i in range(FRAMES):
    cosine, sine = _turn(i - 15)
    yield warp(x, np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]]))


def _tilt(x: Picture, rng: np.random.Generator, scale: float) -> Frames:
  focal = math.hypot(*x.shape[:2])
  for i in range(FRAMES):
    cosine, sine = _turn(i - 15)
    about_x = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    about_y = np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])
    # A point (u, v) of the plane turns to (x, y, z) and is seen from `focal` away.
    plane = (about_x @ about_y)[:, :2]
    seen = np.array([[focal, 0, 0], [0, focal, 0], [0, 0, 1]]) @ np.column_stack(
      [plane, [0, 0, focal]]
    )
    yield warp(x, seen)


def _scale(x: Picture, rng: np.random.Generator, scale: float) -> Frames:
  for i in range(FRAMES):
    size = (40 + 2.5 * i) / 100
    yield warp(x, np.diag([size, size, 1]))


def _shear(x: Picture, rng: np.random.Generator, scale: float) -> Frames:
  for i in range(FRAMES):
    slope = math.tan(math.radians(i - 15))
    yield warp(x, np.array([[1, slope, 0], [0, 1, 0], [0, 0, 1]]))


_MAKERS: dict[str, Callable[[Picture, np.random.Generator, float], Frames]] = {
  "motion_blur": _motion_blur,
  "zoom_blur": _zoom_blur,
  "snow": _snow,
  "brightness": _brightness,
  "translate": _translate,
  "rotate": _rotate,
  "tilt": _tilt,
  "scale": _scale,
  "gaussian_blur": _gaussian_blur,
  "shear": _shear,
}

# In the order in which they are reported; the mFR is over these.
PERTURBATIONS = (
  "gaussian_noise",
  "shot_noise",
  "motion_blur",
  "zoom_blur",
  "snow",
  "brightness",
  "translate",
  "rotate",
  "tilt",
  "scale",
)
EXTRA_PERTURBATIONS = ("speckle_noise", "gaussian_blur", "shear")
# Published as films, but not made here.
FILMED_PERTURBATIONS = ("spatter",)


def _turn(degrees: float) -> tuple[float, float]:
  return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def warp(x: Picture, matrix: Float[np.ndarray, "3 3"]) -> Picture:
  """Returns the picture under a projective map of its plane, read bilinearly, black outside.

  matrix: where (x, y, 1) goes, measured from the picture's centre, x to the right, y down.
  """
  height, width = x.shape[:2]
  centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
  rows, columns = filters.grid(height, width)
  back = np.linalg.inv(matrix)
  places = np.stack([columns - centre_x, rows - centre_y, np.ones_like(rows)])
  u, v, w = np.tensordot(back, places, 1)
  return filters.sample(x, v / w + centre_y, u / w + centre_x, outside="constant")


def check(name: str, *, key: str) -> None:
  """Raises UserError, with the nearest names, if there is no such sequence."""
  known = (*PERTURBATIONS, *EXTRA_PERTURBATIONS)
  if name not in known:
    raise errors.unknown(key, name, "a perturbation sequence", known)


def frames(name: str) -> int:
  """Returns how many frames a sequence has."""
  return TRANSLATE_FRAMES if name == "translate" else FRAMES


def sequence(
  image: UInt8[np.ndarray, "H W 3"],
  name: str,
  rng: np.random.Generator,
  *,
  side: int = 0,
  difficulty: int = 1,
) -> UInt8[np.ndarray, "t h w 3"]:
  """Returns the frames of a perturbation sequence; what is drawn comes from `rng`.

  Args:
    side: of the frames, cut from the picture's centre; 0 keeps the picture's size.
    difficulty: 1 to 3; of noise only, the other sequences become harder by leaving out frames.

  Raises: UserError for an unknown name; ValueError for a difficulty or side that cannot be.
  """
  check(name, key="perturbation")
  height, width = image.shape[:2]
  tall, wide = (side, side) if side else (height, width)
  if difficulty not in (1, 2, 3) or (difficulty > 1 and name not in NOISE_SEQUENCES):
    raise ValueError(f"difficulty={difficulty} of {name!r}: noise has 1 to 3, the others 1.")
  if tall > height or wide > width:
    raise ValueError(f"side={side} does not fit in a picture of {height} x {width}.")
  top, left = (height - tall) // 2, (width - wide) // 2
  x = image / 255.0
  if name in NOISE_SEQUENCES:
    made = _noise(name, x, rng, difficulty)
  else:
    made = _MAKERS[name](x, rng, min(tall, wide) / _SIDE)
  return np.stack([apply.pixels(frame[top : top + tall, left : left + wide]) for frame in made])
