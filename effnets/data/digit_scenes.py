"""The embedded data set `digit_scenes`: several digits on a canvas, with boxes and masks.

A scene (see `scenes`) is a black canvas, 128 pixels wide unless the option says otherwise, with 1
to `most` (default 4) digits of `digits`, each in a bright colour, 3/16 to 1/2 of the canvas wide.
A later digit covers an earlier one, but none ever loses more than three tenths of its pixels;
one that finds no such place in 20 tries is left out. A digit's pixels are those with a quarter of
its ink or more; its mask is what is in sight of them, its box that mask's hull.

  boxes, classes, crowd, masks   of the digits; a digit's class is what it says, unless the option
                                 `agnostic` makes all of them the one class `digit`
  semantic                       0 where no digit is, else its class + 1: 11 classes, or 2

Everything is a function of the options, the split and the index. Splits are those of `digits`, so
no source digit is in two of them; there are 2,048 scenes of `train`, 256 of `validation`, 512 of
`test`, unless the option `examples` gives another number: the first of them stay the same.

`write` makes a COCO folder of it (`python -m effnets.prepare digit_scenes DIR`), which `coco:PATH`
and `segmentation:PATH` read: the examples are equal.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from effnets import errors
from effnets.data import coco_files, digits, draws, sources

SPLITS = {"train": 2048, "validation": 256, "test": 512}

# Smallest, largest and default value; examples: by split.
_WHOLE = {"canvas": (32, 512, 128), "most": (1, 20, 4), "examples": (1, 10_000_000, 0)}
_FLAGS = ("pixels", "agnostic")
_INK = 64
_IN_SIGHT = 0.7
_TRIES = 20


class DigitScenes:
  """One split. canvas: side of the pictures. most: digits on one. semantic_names: of pixels."""

  class_names = digits.Digits.class_names
  semantic_names = ("background", *class_names)

  def __init__(
    self,
    split: str,
    source: digits.Digits,
    *,
    canvas: int,
    most: int,
    examples: int,
    pixels: bool = False,
    agnostic: bool = False,
  ):
    """Composes scenes of the digits of `source`.

    pixels: classes are those of pixels. agnostic: all digits are of one class.
    """
    if agnostic:
      self.class_names, self.semantic_names = ("digit",), ("background", "digit")
    self._agnostic = agnostic
    self.category_ids = tuple(range(1, len(self.class_names) + 1))
    if pixels:
      self.class_names = self.semantic_names
    self.num_classes = len(self.class_names)
    self.name, self.image_size, self.most = f"digit_scenes/{split}", canvas, most
    self._split, self._source, self._examples = split, source, examples
    self.image_ids = np.arange(1, examples + 1, dtype=np.int64)

  def __len__(self) -> int:
    return self._examples

  def __getitem__(self, index: int) -> sources.Example:
    if not 0 <= index < len(self):
      raise IndexError(f"{self.name}[{index}]: there are {len(self)} examples.")
    rng = draws.generator(0, f"{self.name}", index)
    canvas = self.image_size
    image = np.zeros((canvas, canvas, 3), np.int64)
    owner = np.full((canvas, canvas), -1, np.int64)
    classes, sizes = [], []
    for _ in range(1 + draws.below(rng, self.most)):
      # Equally many numbers for each digit, whatever becomes of them.
      which, width, *colour = rng.random(5).tolist()
      places = rng.random((_TRIES, 2))
      side = -(-3 * canvas // 16) + int(width * (canvas // 2 - -(-3 * canvas // 16) + 1))
      row = int(which * len(self._source))
      ink = digits.enlarge(_LEVELS[self._source.indices[row]], side).astype(np.int64)
      pixels = ink >= _INK
      for y, x in (places * (canvas - side + 1)).astype(int).tolist():
        under = owner[y : y + side, x : x + side]
        covered = np.bincount(under[pixels & (under >= 0)], minlength=len(sizes))
        seen = np.bincount(owner[owner >= 0], minlength=len(sizes))
        if np.all(seen - covered >= _IN_SIGHT * np.array(sizes)):
          shade = 128 + (np.array(colour) * 128).astype(np.int64)
          part = image[y : y + side, x : x + side]
          part[:] = (part * (255 - ink[..., None]) + shade * ink[..., None] + 127) // 255
          under[pixels] = len(sizes)
          classes.append(0 if self._agnostic else int(self._source[row]["label"]))
          sizes.append(int(pixels.sum()))
          break
    masks = owner[None] == np.arange(len(sizes))[:, None, None]
    semantic = np.append(np.array(classes, np.uint8) + 1, 0).astype(np.uint8)[owner]
    return {
      "image": image.astype(np.uint8),
      "label": np.int32(-1),
      "name": f"{self.name} #{index}",
      "boxes": np.array([_hull(mask) for mask in masks], np.float32),
      "classes": np.array(classes, np.int32),
      "crowd": np.zeros(len(classes), bool),
      "masks": masks.astype(np.uint8),
      "semantic": semantic,
    }

  def truth(self, indices: Sequence[int] | None = None) -> dict[str, Any]:
    """Returns the COCO data set of some examples, all by default, as evaluation wants it."""
    return coco_files.described(self, range(len(self)) if indices is None else indices)


_LEVELS = digits.levels()


def _hull(mask: np.ndarray) -> tuple[int, int, int, int]:
  rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
  return rows[0], columns[0], rows[-1] + 1, columns[-1] + 1


def open_split(
  argument: str, split: str, *, options: Mapping[str, Any], key: str, split_key: str
) -> DigitScenes:
  """Returns one split; options `canvas`, `examples`, `most`, `pixels`, `agnostic`.

  pixels: True where classes are those of `semantic`, as segmentation counts them. agnostic: True
  where it does not matter which digit one is.

  Raises: errors.UserError if the split or an option is not one of these.
  """
  sources.check_options(options, (*_WHOLE, *_FLAGS), kind="digit_scenes", key=key)
  flags = {name: options.get(name, False) for name in _FLAGS}
  for name, value in flags.items():
    if not isinstance(value, bool):
      raise errors.UserError(f"{key}.options.{name}={value!r} is not True or False.")
  if split not in SPLITS:
    raise errors.unknown(split_key, split, "a split of digit_scenes", SPLITS)
  values = sources.whole_options(options, _WHOLE, most=SPLITS[split], key=key)
  source = digits.open_split(argument, split, options={}, key=key, split_key=split_key)
  return DigitScenes(split, source, **values, **flags)


def write(path: str | os.PathLike, options: Mapping[str, Any] | None = None) -> dict[str, int]:
  """Writes all splits as a COCO folder, with classes of pixels in PATH/semantic; returns counts.

  Options: as `open_split`; `examples` is then of each split. Splits are called `train`, `val` and
  `test` there, as in COCO.
  Raises: errors.UserError for a wrong option.
  """
  counts = {}
  for split in SPLITS:
    source = open_split("", split, options=options or {}, key="digit_scenes", split_key="split")
    coco_files.write(path, "val" if split == "validation" else split, source, semantic=True)
    counts[split] = len(source)
  names = pathlib.Path(path) / "semantic" / "classes.txt"
  names.write_text("".join(f"{name}\n" for name in source.semantic_names), encoding="utf-8")
  return counts
