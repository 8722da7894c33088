"""The embedded data set `cluttered_digits`: one whole digit among fragments of others, no download.

Each picture is a canvas, 64 pixels wide unless the option says otherwise, with

  - one whole digit of `digits`, which gives the label, 3/16 to 5/16 of the canvas wide, or with
    `digits="large"` 3/8 to 5/8, with `digits="tiny"` 1/8 to 5/24;
  - `clutter` fragments (default 8): windows of half the width, cut from digits of the same split
    drawn at sizes of the same range; none touches the whole digit's box;
  - white ink on black, or (`background="photos"`) on a part of one of scikit-learn's two sample
    photos at half brightness.

Sizes, places, fragments and backgrounds are drawn anew for each of the `copies` (default 4)
pictures of a source digit, by fixed rules: an example is a function of the options and its index.
Splits are those of `digits`, so no source digit, whole or in fragments, is in two of test,
validation and train (`labelled` and `unlabelled` are parts of train); nor is a column of a photo
(validation 320-447, test 448-639, train the rest). Example i shows source digit i modulo their
number.

Digits are small, so a model sees more of them at a larger `image_size`, to which the canvas is
resized: resolution is a real axis here. `box(i)` tells where the whole digit is.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8
from sklearn import datasets

from effnets import errors
from effnets.data import digits, draws, sources

# Valid values, the first being the default.
_WORDS = {"background": ("plain", "photos"), "digits": ("small", "large", "tiny")}
# Six times the width of digits, that of small ones being 1.
_SIXTHS = {"small": 6, "large": 12, "tiny": 4}
# Smallest, largest and default value.
_WHOLE = {"canvas": (32, 128, 64), "clutter": (0, 64, 8), "copies": (1, 100, 4)}
_COLUMNS = {"validation": (320, 448), "test": (448, 640)}
_TRAIN_COLUMNS = (0, 320)
# Tries to place a fragment beside the digit; small digits have at most 1 in 3 of them overlap.
_TRIES = 20


class ClutteredDigits:
  """One split. canvas: side of the pictures. clutter, copies, size: see above. photos: behind."""

  num_classes = digits.Digits.num_classes
  class_names = digits.Digits.class_names

  def __init__(
    self,
    name: str,
    source: digits.Digits,
    *,
    canvas: int,
    clutter: int,
    copies: int,
    photos: bool,
    size: str,
  ):
    """Holds `copies` pictures of every digit of `source`."""
    self.name, self.image_size = name, canvas
    self.clutter, self.copies, self._digits = clutter, copies, size
    self._source = source
    self._columns = _COLUMNS.get(source.name.partition("/")[2], _TRAIN_COLUMNS) if photos else None

  def __len__(self) -> int:
    return self.copies * len(self._source)

  def __getitem__(self, index: int) -> sources.Example:
    draw = self._draws(index)
    top, left, side = self._place(index)
    ink = np.zeros((self.image_size, self.image_size), np.uint8)
    self._fragments(ink, draw("clutter"), (top, left, side))
    row = index % len(self._source)
    ink[top : top + side, left : left + side] = _enlarged(side)[self._source.indices[row]]
    image = np.repeat(ink[..., None], 3, -1)
    if self._columns is not None:
      image = self._on_photo(ink[..., None], draw("background"))
    return {"image": image, "label": self._source[row]["label"]}

  def box(self, index: int) -> tuple[int, int, int, int]:
    """Returns top, left, bottom and right of the whole digit's square, in canvas pixels."""
    top, left, side = self._place(index)
    return top, left, top + side, left + side

  def _draws(self, index: int) -> Any:
    """Returns the random numbers of an example, by what they are for."""
    if not 0 <= index < len(self):
      raise IndexError(f"{self.name}[{index}]: there are {len(self)} examples.")
    copy, row = divmod(index, len(self._source))
    # A digit's place is its own, whatever else is in its split.
    position = 1797 * copy + int(self._source.indices[row])
    return lambda what: draws.generator(0, f"cluttered_digits/{what}", position)

  def _sides(self) -> tuple[int, int]:
    """Returns the smallest and largest width of a digit in pixels."""
    # In sixths of a pixel, which are whole numbers.
    canvas = _SIXTHS[self._digits] * self.image_size
    return -(-3 * canvas // 96), 5 * canvas // 96

  def _place(self, index: int) -> tuple[int, int, int]:
    rng = self._draws(index)("place")
    low, high = self._sides()
    side = low + draws.below(rng, high - low + 1)
    room = self.image_size - side + 1
    return draws.below(rng, room), draws.below(rng, room), side

  def _fragments(
    self, ink: UInt8[np.ndarray, "h w"], rng: np.random.Generator, place: tuple[int, int, int]
  ) -> None:
    """Draws the fragments into `ink`; one that finds no room beside the digit is left out."""
    top, left, side = place
    low, high = self._sides()
    # Equally many numbers for each fragment: one more of them changes no other.
    for which, width, down, right, *places in rng.random((self.clutter, 4 + 2 * _TRIES)).tolist():
      own = low + int(width * (high - low + 1))
      half = own // 2
      y, x = int(down * (own - half + 1)), int(right * (own - half + 1))
      digit = self._source.indices[int(which * len(self._source))]
      part = _enlarged(own)[digit, y : y + half, x : x + half]
      room = self.image_size - half + 1
      for y, x in zip(places[::2], places[1::2], strict=True):
        y, x = int(y * room), int(x * room)
        if y >= top + side or y + half <= top or x >= left + side or x + half <= left:
          target = ink[y : y + half, x : x + half]
          np.maximum(target, part, out=target)
          break

  def _on_photo(
    self, ink: UInt8[np.ndarray, "h w 1"], rng: np.random.Generator
  ) -> UInt8[np.ndarray, "h w 3"]:
    photos, size = _photos(), self.image_size
    photo = photos[draws.below(rng, len(photos))]
    first, end = self._columns
    y = draws.below(rng, photo.shape[0] - size + 1)
    x = first + draws.below(rng, end - first - size + 1)
    behind = photo[y : y + size, x : x + size].astype(np.int64) // 2
    grey = ink.astype(np.int64)
    return ((behind * (255 - grey) + 255 * grey + 127) // 255).astype(np.uint8)


def open_split(
  argument: str, split: str, *, options: Mapping[str, Any], key: str, split_key: str
) -> ClutteredDigits:
  """Returns one split; options `background`, `canvas`, `clutter`, `copies`, `digits`, `labels`.

  Raises: errors.UserError if the split or an option is not one of these.
  """
  sources.check_options(options, (*_WHOLE, *_WORDS, "labels"), kind="cluttered_digits", key=key)
  of_digits = {name: options[name] for name in ("labels",) if name in options}
  source = digits.open_split(argument, split, options=of_digits, key=key, split_key=split_key)
  values = {}
  for name, (low, high, default) in _WHOLE.items():
    value = values[name] = options.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
      raise errors.UserError(
        f"{key}.options.{name}={value!r} must be a whole number from {low} to {high}; "
        f"default: {default}."
      )
  for name, valid in _WORDS.items():
    if options.get(name, valid[0]) not in valid:
      raise errors.unknown(f"{key}.options.{name}", options[name], "one of its values", valid)
  values["photos"] = options.get("background") == "photos"
  values["size"] = options.get("digits", "small")
  return ClutteredDigits(f"cluttered_digits/{split}", source, **values)


@functools.cache
def _enlarged(side: int) -> UInt8[np.ndarray, "n s s"]:
  return digits.enlarge(digits.levels(), side)


@functools.cache
def _photos() -> tuple[UInt8[np.ndarray, "427 640 3"], ...]:
  return tuple(datasets.load_sample_images().images)
