"""From a file's bytes to a uint8 image of fixed size, on the host.

Decoding gives RGB: grey is repeated, a palette is looked up, transparency is dropped (not blended),
16-bit grey keeps its high byte. The EXIF orientation is left alone, as in the papers' input code:
labels and published accuracies were made with the pixels as they are stored.

A transform is a function `(example, draw) -> example`, where `draw(name)` gives the NumPy generator
of this example's position in the stream `name`; so a crop depends on (seed, `crop`, position) only.
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


def resize(pixels: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
  """Returns the image resized to a square, bicubic (a = -0.5), anti-aliased when it shrinks.

  Source: PIL's filter, as in timm's evaluations. TensorFlow 1's bicubic, used by the papers' code,
  has a = -0.75, no anti-aliasing and no half-pixel centres; accuracies differ by 0.1-0.3 points.
  """
  if pixels.shape[:2] == (size, size):
    return pixels
  picture = Image.fromarray(np.ascontiguousarray(pixels))
  return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))


def centre_box(height: int, width: int, size: int, padding: int) -> tuple[int, int, int, int]:
  """Returns (top, left, height, width) of the square evaluation crop, in pixels of the image.

  Its side is size / (size + padding) of the shorter side, rounded down, at least 1.
  """
  side = max(1, size * min(height, width) // (size + padding))
  return (height - side + 1) // 2, (width - side + 1) // 2, side, side


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
  """Training: a random part of the image, resized to `size` (bicubic).

  size: side of the result in pixels. area: range of the part's share of the area, in (0, 1].
  aspect: range of width/height. attempts: tries before the evaluation crop is taken instead.
  padding: of that crop, see `CentreCrop`.

  Source: EfficientNet's input code (area 8-100 %, aspect 3/4-4/3, 10 attempts, centre crop). That
  code draws the height uniformly, here the area is uniform. Flips are drawn on the device.
  """

  size: int
  area: tuple[float, float] = (0.08, 1.0)
  aspect: tuple[float, float] = (3 / 4, 4 / 3)
  attempts: int = 10
  padding: int = 32

  def __post_init__(self):
    if self.size < 1 or self.attempts < 0 or self.padding < 0:
      raise ValueError(f"size must be > 0, attempts and padding >= 0: {self}.")
    if not 0 < self.area[0] <= self.area[1] <= 1 or not 0 < self.aspect[0] <= self.aspect[1]:
      raise ValueError(f"area must be a range within (0, 1], aspect a range above 0: {self}.")

  def __call__(self, example: sources.Example, draw: Draw) -> sources.Example:
    """Returns the example with `image` uint8 (size, size, 3)."""
    height, width = example["image"].shape[:2]
    rng = draw("crop")
    box = random_box(height, width, rng, area=self.area, aspect=self.aspect, attempts=self.attempts)
    return _cut(example, box or centre_box(height, width, self.size, self.padding), self.size)


@dataclasses.dataclass(frozen=True)
class CentreCrop:
  """Evaluation: the centre square of side size/(size+padding) * min(h, w), resized to `size`.

  size: side of the result in pixels. padding: crop padding in pixels of the result, >= 0;
  32 as the released EfficientNets (224 -> 0.875 of the shorter side); 0 takes all of it.
  """

  size: int
  padding: int = 32

  def __post_init__(self):
    if self.size < 1 or self.padding < 0:
      raise ValueError(f"size must be > 0 and padding >= 0: {self}.")

  def __call__(self, example: sources.Example, draw: Draw | None = None) -> sources.Example:
    """Returns the example with `image` uint8 (size, size, 3); nothing is drawn."""
    height, width = example["image"].shape[:2]
    return _cut(example, centre_box(height, width, self.size, self.padding), self.size)


def _cut(example: sources.Example, box: tuple[int, int, int, int], size: int) -> sources.Example:
  top, left, height, width = box
  part = example["image"][top : top + height, left : left + width]
  return {**example, "image": resize(part, size)}


def drawing(seed: int, position: int, prefix: str = "") -> Draw:
  """Returns the `draw` of a position: the generator of (seed, prefix + name, position) by name."""
  return lambda name: draws.generator(seed, prefix + name, position)
