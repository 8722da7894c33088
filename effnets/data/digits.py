"""The embedded data set `digits`: 1,797 real handwritten digits, 10 classes, no download.

The digits are the UCI set that scikit-learn installs (8x8, 17 grey levels), given as 32x32x3 uint8:
levels 0..16 become 0..255, and each side grows fourfold by bilinear interpolation between pixel
centres (edges repeated), in exact integer arithmetic, so every machine sees the same pixels.

Splits, fixed, disjoint, balanced over classes; each class has one fixed random order, cut into:

  test        400  the first 40 of each class
  validation  200  the next 20
  train     1,197  the rest, with labels (114 to 123 of each class)
  labelled    100  the first `labels`/10 of each class of `train` (option `labels`, default 100)
  unlabelled 1,097 the other examples of `train`; label hidden (-1)

The option moves examples between `labelled` and `unlabelled` only: the first 50 labelled examples
are among the first 100, and validation and test never move. The UCI set does not say who wrote
what, so one writer's digits can be in several splits.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from sklearn import datasets

from effnets import errors
from effnets.data import draws, sources

SPLITS = ("labelled", "test", "train", "unlabelled", "validation")
_TEST, _VALIDATION, _CLASSES = 40, 20, 10


class Digits:
  """One split of the digits. `indices` int (n,): the rows of scikit-learn's array it holds."""

  num_classes = _CLASSES
  class_names = tuple(str(digit) for digit in range(_CLASSES))
  image_size = 32

  def __init__(self, name: str, indices: Int[np.ndarray, " n"], *, hidden: bool = False):
    """Holds the examples `indices`; `hidden` gives every label as -1."""
    self.name = name
    self.indices = indices
    images, labels = _load()
    self._images = images[indices]
    self._labels = np.full_like(labels[indices], -1) if hidden else labels[indices]

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index: int) -> sources.Example:
    return {"image": self._images[index], "label": self._labels[index]}


def open_split(
  argument: str, split: str, *, options: Mapping[str, Any], key: str, split_key: str
) -> Digits:
  """Returns one split; option `labels`: size of `labelled`, a multiple of 10 in [10, 1140].

  Raises: errors.UserError if the split or an option is not one of these.
  """
  del argument
  sources.check_options(options, ("labels",), kind="digits", key=key)
  if split not in SPLITS:
    raise errors.unknown(split_key, split, "a split of digits", SPLITS)
  labels = options.get("labels", 100)
  orders = _orders()
  most = _CLASSES * (min(map(len, orders)) - _TEST - _VALIDATION)
  whole = isinstance(labels, int) and not isinstance(labels, bool)
  if not whole or labels % _CLASSES or not _CLASSES <= labels <= most:
    raise errors.UserError(
      f"{key}.options.labels={labels!r} must be a multiple of {_CLASSES} from {_CLASSES} to {most}"
      " (equally many of each class); default: 100."
    )
  first, second = _TEST, _TEST + _VALIDATION
  third = second + labels // _CLASSES
  start, end = {
    "test": (0, first),
    "validation": (first, second),
    "train": (second, None),
    "labelled": (second, third),
    "unlabelled": (third, None),
  }[split]
  indices = np.sort(np.concatenate([order[start:end] for order in orders]))
  return Digits(f"digits/{split}", indices, hidden=split == "unlabelled")


@functools.cache
def _load() -> tuple[UInt8[np.ndarray, "n 32 32 3"], Int[np.ndarray, " n"]]:
  grey = enlarge(levels())
  return np.repeat(grey[..., None], 3, -1), datasets.load_digits().target.astype(np.int32)


@functools.cache
def _orders() -> tuple[Int[np.ndarray, " n"], ...]:
  """Returns, per class, its rows in the fixed random order that the splits are cut from."""
  labels = _load()[1]
  order = np.argsort(draws.generator(0, "digits/splits", 0).random(len(labels)), kind="stable")
  return tuple(order[labels[order] == digit] for digit in range(_CLASSES))


def levels() -> Int[np.ndarray, "n 8 8"]:
  """Returns the digits as they are stored, levels 0 to 16, in scikit-learn's order."""
  return datasets.load_digits().images.astype(np.int64)


def enlarge(levels: Int[np.ndarray, "*n 8 8"], side: int = 32) -> UInt8[np.ndarray, "*n s s"]:
  """Returns levels 0..16 as grey values 0..255 on a bilinear grid of `side`, rounded half up."""
  weights = _weights(side)
  sums = weights @ levels @ weights.T  # in 1 / (2 side)**2 of a level
  unit = 16 * (2 * side) ** 2
  return ((sums * 255 * 2 + unit) // (2 * unit)).astype(np.uint8)


@functools.cache
def _weights(side: int) -> Int[np.ndarray, "s 8"]:
  # Output centre j lies at input coordinate 8 (j + 0.5) / side - 0.5, which is
  # (16 j + 8 - side) / (2 side): whole numbers of that unit suffice.
  unit = 2 * side
  weights = np.zeros((side, 8), np.int64)
  for j in range(side):
    low, part = divmod(16 * j + 8 - side, unit)
    weights[j, min(max(low, 0), 7)] += unit - part
    weights[j, min(max(low + 1, 0), 7)] += part
  return weights
