"""From a name and a severity to a corrupted picture."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from effnets.augment.corruptions import blur, digital, noise, tables, weather

Pixels = UInt8[np.ndarray, "h w 3"]

_FLOATING: dict[str, Callable[..., Float[np.ndarray, "h w 3"]]] = {
  "gaussian_noise": noise.gaussian,
  "shot_noise": noise.shot,
  "impulse_noise": noise.impulse,
  "speckle_noise": noise.speckle,
  "gaussian_blur": blur.gaussian,
  "defocus_blur": blur.defocus,
  "glass_blur": blur.glass,
  "motion_blur": blur.motion,
  "zoom_blur": blur.zoom,
  "snow": weather.snow,
  "fog": weather.fog,
  "spatter": weather.spatter,
  "brightness": digital.brightness,
  "saturate": digital.saturate,
  "contrast": digital.contrast,
  "elastic_transform": digital.elastic,
}
_PIXELS = {"pixelate": digital.pixelate, "jpeg_compression": digital.jpeg}


def corrupt(
  image: Pixels,
  name: str,
  severity: int,
  rng: np.random.Generator,
  *,
  size: int = 0,
  frost: Sequence[UInt8[np.ndarray, "H W 3"]] = (),
) -> Pixels:
  """Returns the picture with one of the 15 + 4 corruptions, at a severity from 1 to 5.

  Everything that is drawn comes from `rng`; results are cut to [0, 255] and truncated, as
  published.

  Args:
    size: whose numbers it takes, 32, 224 or 299; 0: those of the nearest size (`table_size`).
    frost: photos for `frost`, each at least as large as the picture.

  Raises: UserError for a name, severity or size that there is not; ValueError for pictures that
    are not uint8 (h, w, 3), or frost without photos.

  >>> grey = np.full((32, 32, 3), 100, np.uint8)
  >>> int(corrupt(grey, "brightness", 5, np.random.default_rng(0))[0, 0, 0])
  176
  """
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
    raise ValueError(f"Pictures are uint8 (h, w, 3); got {image.dtype} {image.shape}.")
  values = tables.parameters(name, severity, size or tables.table_size(*image.shape[:2]))
  if name in _PIXELS:
    return _PIXELS[name](np.ascontiguousarray(image), *values)
  x = image / 255.0
  if name == "frost":
    return pixels(weather.frost(x, rng, *values, photos=frost))
  return pixels(_FLOATING[name](x, rng, *values))


def pixels(x: Float[np.ndarray, "h w 3"]) -> Pixels:
  """Returns a picture in [0, 1] as levels: cut off, and truncated as the published code does."""
  # A whole level must not fall to the one below by a rounding error.
  return (np.clip(x, 0, 1) * 255 + 1e-9).astype(np.uint8)
