"""From a file's bytes to a uint8 image of fixed size, on the host.

Decoding gives RGB: grey is repeated, a palette is looked up, transparency is dropped (not blended),
16-bit grey keeps its high byte. The EXIF orientation is left alone, as in the papers' input code:
labels and published accuracies were made with the pixels as they are stored.

A transform is a function `(example, draw) -> example`, where `draw(name)` gives the NumPy generator
of this example's position in the stream `name`; so a crop depends on (seed, `crop`, position) only.
One with an attribute `fields` names arrays of fixed shape that it gives beside image and label (see
`scenes`); batches hold them too.
"""

import dataclasses
import io
import math
from collections.abc import Callable

import numpy as np
import PIL
from jaxtyping import UInt8
from PIL import Image

from effnets.data import draws, sources

Draw = Callable[[str], np.random.Generator]
Transform = Callable[[sources.Example, Draw], sources.Example]


def image(encoded: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
  """Returns the RGB pixels of an encoded image (JPEG, PNG, …).

  Raises: sources.Unreadable, with `name` and the reason, if it cannot be decoded.
  """
  try:
    with Image.open(io.BytesIO(encoded)) as picture:
      if picture.mode.startswith("I"):
        # PIL would clip 16-bit grey to 255 instead of scaling it.
        grey = np.clip(np.asarray(picture).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, -1)
      return np.asarray(picture.convert("RGB"))
  except PIL.UnidentifiedImageError as error:
    # Its own text holds an address in memory: the same file would get a new name each time.
    raise sources.Unreadable(f"{name} (no known image format)") from error
  except Exception as error:  # PIL raises nearly every kind of exception for a damaged file.
    raise sources.Unreadable(f"{name} ({type(error).__name__}: {error})") from error


_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
INTERPOLATIONS = tuple(_FILTERS)


def resize(
  pixels: UInt8[np.ndarray, "h w 3"], size: int, interpolation: str = "bicubic"
) -> UInt8[np.ndarray, "size size 3"]:
  """Returns the image resized to a square, anti-aliased when it shrinks.

  interpolation: `bilinear`, or `bicubic` (a = -0.5).

  Source: PIL's filter, as in timm's evaluations. TensorFlow 1's bicubic, used by the papers' code,
  has a = -0.75, no anti-aliasing and no half-pixel centres; accuracies differ by 0.1-0.3 points.
  """
  if pixels.shape[:2] == (size, size):
    return pixels
  picture = Image.fromarray(np.ascontiguousarray(pixels))
  return np.asarray(picture.resize((size, size), _FILTERS[interpolation]))


def centre_box(
  height: int, width: int, fraction: float, squash: bool = False
) -> tuple[int, int, int, int]:
  """Returns (top, left, height, width) of the evaluation crop, in pixels of the image.

  It is a square whose side is `fraction` of the shorter side, or with `squash` that part of each
  side; rounded down, at least 1.
  """
  sides = (height, width) if squash else (min(height, width),) * 2
  # A fraction such as 224/256 of 256 may lie a rounding error below the integer that is meant.
  tall, wide = (max(1, math.floor(fraction * side + 1e-6)) for side in sides)
  return (height - tall + 1) // 2, (width - wide + 1) // 2, tall, wide


def random_box(
  height: int,
  width: int,
  rng: np.random.Generator,
  *,
  area: tuple[float, float],
  aspect: tuple[float, float],
  attempts: int,
) -> tuple[int, int, int, int] | None:
  """Returns (top, left, height, width) of a random crop, or None if no attempt fits in the image.

  The share of the image's area is uniform in `area`, the ratio width/height log-uniform in `aspect`
  (so that wide and tall are equally likely), the place uniform.
  """
  low, high = math.log(aspect[0]), math.log(aspect[1])
  for _ in range(attempts):
    # Four numbers per attempt whether or not they are used: attempts stay independent.
    share, ratio, down, right = rng.random(4)
    pixels = height * width * (area[0] + share * (area[1] - area[0]))
    ratio = math.exp(low + ratio * (high - low))
    w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
    if 0 < w <= width and 0 < h <= height:
      return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w
  return None


@dataclasses.dataclass(frozen=True)
class RandomCrop:
  """Training: a random part of the image, resized to `size`.

  size: side of the result in pixels. area: range of the part's share of the area, in (0, 1].
  aspect: range of width/height. attempts: tries before the evaluation crop is taken instead.
  fraction: of that crop, see `CentreCrop`. interpolation: see `resize`.

  Source: EfficientNet's input code (area 8-100 %, aspect 3/4-4/3, 10 attempts, centre crop). That
  code draws the height uniformly, here the area is uniform. Flips are drawn on the device.
  """

  size: int
  area: tuple[float, float] = (0.08, 1.0)
  aspect: tuple[float, float] = (3 / 4, 4 / 3)
  attempts: int = 10
  fraction: float = 0.875
  interpolation: str = "bicubic"

  def __post_init__(self):
    _check(self)
    if self.attempts < 0:
      raise ValueError(f"attempts must be >= 0: {self}.")
    if not 0 < self.area[0] <= self.area[1] <= 1 or not 0 < self.aspect[0] <= self.aspect[1]:
      raise ValueError(f"area must be a range within (0, 1], aspect a range above 0: {self}.")

  def __call__(self, example: sources.Example, draw: Draw) -> sources.Example:
    """Returns the example with `image` uint8 (size, size, 3)."""
    height, width = example["image"].shape[:2]
    rng = draw("crop")
    box = random_box(height, width, rng, area=self.area, aspect=self.aspect, attempts=self.attempts)
    return _cut(example, box or centre_box(height, width, self.fraction), self)


@dataclasses.dataclass(frozen=True)
class CentreCrop:
  """Evaluation: the centre of the image, resized to `size`.

  size: side of the result in pixels. fraction: share of the shorter side that the square cut has,
  in (0, 1]; 0.875 as the released EfficientNet-B0; 1 takes all of it. interpolation: see `resize`.
  squash: takes that share of each side instead, so that proportions change but nothing of a long
  picture is lost at fraction 1.
  """

  size: int
  fraction: float = 0.875
  interpolation: str = "bicubic"
  squash: bool = False

  def __post_init__(self):
    _check(self)

  def __call__(self, example: sources.Example, draw: Draw | None = None) -> sources.Example:
    """Returns the example with `image` uint8 (size, size, 3); nothing is drawn."""
    height, width = example["image"].shape[:2]
    return _cut(example, centre_box(height, width, self.fraction, self.squash), self)


def _check(crop: RandomCrop | CentreCrop) -> None:
  if crop.size < 1 or not 0 < crop.fraction <= 1 or crop.interpolation not in _FILTERS:
    raise ValueError(
      f"size must be > 0, fraction in (0, 1], interpolation one of {INTERPOLATIONS}: {crop}."
    )


def _cut(
  example: sources.Example, box: tuple[int, int, int, int], crop: RandomCrop | CentreCrop
) -> sources.Example:
  top, left, height, width = box
  part = example["image"][top : top + height, left : left + width]
  return {**example, "image": resize(part, crop.size, crop.interpolation)}


def fields(transform: Transform | None) -> tuple[str, ...]:
  """Returns the names of what a transform gives beside image and label."""
  return getattr(transform, "fields", ())


def drawing(seed: int, position: int, prefix: str = "") -> Draw:
  """Returns the `draw` of a position: the generator of (seed, prefix + name, position) by name."""
  return lambda name: draws.generator(seed, prefix + name, position)
