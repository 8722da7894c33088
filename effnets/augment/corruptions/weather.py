"""Weather, and what it leaves on the lens. Pictures are float64 (h, w, 3) in [0, 1]."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from effnets.augment.corruptions import edges, filters

Picture = Float[np.ndarray, "h w 3"]

# The published code draws among five of its six photos of frost.
FROST_PHOTOS = 5


def snow(
  x: Picture,
  rng: np.random.Generator,
  mean: float,
  sigma: float,
  zoom: float,
  threshold: float,
  radius: int,
  smear: float,
  share: float,
) -> Picture:
  """Returns x whitened, with flakes that fall at -135 to -45 degrees, and again upside down."""
  layer = flakes(rng.normal(mean, sigma, x.shape[:2]), zoom, threshold)
  layer = filters.motion(layer, radius, smear, rng.uniform(-135, -45))
  return snowed(x, layer, share)


def flakes(
  field: Float[np.ndarray, "h w"], zoom: float, threshold: float
) -> Float[np.ndarray, "h w"]:
  """Returns the zoomed field where it reaches the threshold, within [0, 1] and in 256 steps."""
  field = filters.zoom_centre(field, zoom)
  return np.floor(255 * np.clip(np.where(field < threshold, 0, field), 0, 1)) / 255


def snowed(x: Picture, layer: Float[np.ndarray, "h w"], share: float) -> Picture:
  """Returns the picture, of which only `share` keeps its colour, under a layer of snow."""
  pale = np.maximum(x, 1.5 * filters.grey(x)[..., None] + 0.5)
  return share * x + (1 - share) * pale + (layer + layer[::-1, ::-1])[..., None]


def frost(
  x: Picture,
  rng: np.random.Generator,
  share: float,
  amount: float,
  *,
  photos: Sequence[UInt8[np.ndarray, "H W 3"]],
) -> Picture:
  """Returns `share` of x plus `amount` of a random part of one of the first five photos.

  Raises: ValueError if there is no photo, or the one drawn is smaller than the picture.
  """
  if not len(photos):
    raise ValueError("Frost takes photos of frost.")
  photo = photos[rng.integers(min(len(photos), FROST_PHOTOS))]
  height, width = x.shape[:2]
  down, right = photo.shape[0] - height, photo.shape[1] - width
  if down < 0 or right < 0:
    raise ValueError(f"A photo of frost {photo.shape[:2]} is smaller than the picture {x.shape}.")
  top, left = rng.integers(down + 1), rng.integers(right + 1)
  return share * x + amount * (photo[top : top + height, left : left + width] / 255)


def fog(x: Picture, rng: np.random.Generator, amount: float, decay: float) -> Picture:
  """Returns x behind a plasma fractal; the brightest value stays the brightest."""
  height, width = x.shape[:2]
  side = 1 << (max(height, width, 2) - 1).bit_length()
  brightest = x.max()
  veil = plasma(side, decay, rng)[:height, :width, None]
  return (x + amount * veil) * brightest / (brightest + amount)


def plasma(side: int, decay: float, rng: np.random.Generator) -> Float[np.ndarray, "side side"]:
  """Returns a diamond-square fractal from 0 to 1 that continues at its opposite edges.

  Each level halves the mesh: first the centres of its squares, then the middles of their sides
  become the mean of their four neighbours plus r * U(-r, r); r is 100 and is divided by `decay`
  after each level. (So the noise is as r squared: as published.)

  side: a power of two.
  """
  field = np.zeros((side, side))
  step, rough = side, 100.0
  while step >= 2:
    half = step // 2

    def rise(neighbours, rough=rough):
      return neighbours / 4 + rough * rng.uniform(-rough, rough, neighbours.shape)

    corners = field[::step, ::step]
    rows = corners + np.roll(corners, -1, 0)
    centres = rise(rows + np.roll(rows, -1, 1))
    field[half::step, half::step] = centres
    across = corners + np.roll(corners, -1, 1) + centres + np.roll(centres, 1, 0)
    field[::step, half::step] = rise(across)
    down = corners + np.roll(corners, -1, 0) + centres + np.roll(centres, 1, 1)
    field[half::step, ::step] = rise(down)
    step, rough = half, rough / decay
  field -= field.min()
  return field / field.max()


def spatter(
  x: Picture,
  rng: np.random.Generator,
  mean: float,
  sigma: float,
  smear: float,
  threshold: float,
  amount: float,
  mud: int,
) -> Picture:
  """Returns x behind drops of water, or of mud.

  Distances from the drops' rims are exact here; the published code takes OpenCV's approximation.
  """
  layer = filters.smooth(rng.normal(mean, sigma, x.shape[:2]), smear)
  layer = np.where(layer < threshold, 0, layer)
  if mud:
    cover = filters.smooth((layer > threshold).astype(np.float64), amount)
    cover = np.where(cover < 0.8, 0, cover)[..., None]
    return x * (1 - cover) + cover * np.array([63, 42, 20]) / 255
  drops = water(np.floor(255 * np.clip(layer, 0, 1)).astype(np.uint8))
  return x + amount * drops[..., None] * np.array([175, 238, 238]) / 255


def water(layer: UInt8[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
  """Returns how bright drops shine, 0 to 1: embossed by the distance from their rims."""
  from scipy import ndimage

  rims = edges.canny(layer, 50, 150)
  # Where there is no rim all is far from it.
  far = ndimage.distance_transform_edt(~rims) if rims.any() else np.full(layer.shape, 20.0)
  far = np.floor(ndimage.uniform_filter(np.minimum(far, 20), 3, mode="mirror") + 1e-9)
  relief = edges.equalized(far.astype(np.uint8)).astype(np.float64)
  emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
  relief = np.clip(filters.correlate(relief, emboss), 0, 255)
  shine = layer * np.round(ndimage.uniform_filter(relief, 3, mode="mirror"))
  return shine / max(shine.max(), 1)
