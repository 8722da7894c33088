"""What is known of public data sets without having them, for plans: how many, of how many classes.

Source: their catalogue entries in TensorFlow Datasets.
"""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from effnets import errors
from effnets.data import clips, sources


@dataclasses.dataclass(frozen=True)
class Known:
  """A data set's classes and the examples of its splits. image_size: None if sizes differ.

  films: whether examples are films; several: of several classes each.
  """

  classes: int
  splits: Mapping[str, int]
  image_size: int | None = None
  films: bool = False
  several: bool = False


_COCO = {"train": 118_287, "validation": 5_000, "test": 40_670}

KNOWN = {
  "bair_robot_pushing_small": Known(1, {"train": 43_264, "test": 256}, films=True),
  "cars196": Known(196, {"train": 8_144, "test": 8_041}),
  "charades": Known(
    157, {"train": 7_985, "validation": 1_863, "test": 1_863}, films=True, several=True
  ),
  "cifar10": Known(10, {"train": 50_000, "test": 10_000}, 32),
  "cifar100": Known(100, {"train": 50_000, "test": 10_000}, 32),
  # Also a COCO folder's: `coco:PATH`.
  "coco": Known(80, _COCO),
  "coco/2017": Known(80, _COCO),
  "food101": Known(101, {"train": 75_750, "validation": 25_250}),
  # Recordings of Human3.6M, 4 cameras; KITTI's raw ones, 2 cameras; towel-pick's trajectories.
  "human36m": Known(1, {"train": 3_360, "validation": 1_440, "test": 1_440}, films=True),
  "imagenet2012": Known(1_000, {"train": 1_281_167, "validation": 50_000}),
  "kitti": Known(1, {"train": 290, "validation": 6, "test": 6}, films=True),
  "oxford_flowers102": Known(102, {"train": 1_020, "validation": 1_020, "test": 6_149}),
  "oxford_iiit_pet": Known(37, {"train": 3_680, "test": 3_669}),
  "robot": Known(1, {"train": 30_000, "validation": 256, "test": 256}, films=True),
  "svhn_cropped": Known(10, {"train": 73_257, "test": 26_032, "extra": 531_131}, 32),
  "ucf101": Known(101, {"train": 9_537, "test": 3_783}, films=True),
  # Any folder of films, as the paper's: Moments in Time.
  "videos": Known(339, {"train": 802_264, "validation": 33_900, "test": 33_900}, films=True),
  "voc/2012": Known(20, {"train": 5_717, "validation": 5_823, "test": 10_991}),
}

_PART = re.compile(r"(\w+)(?:\[(-?\d*)(%?):(-?\d*)(%?)\])?")


def count(name: str, split: str) -> int | None:
  """Returns how many examples a split has, `train[:90%]+validation` too; None if not known.

  >>> count("imagenet2012", "train[25022:]"), count("cifar10", "train[:90%]"), count("mine", "all")
  (1256145, 45000, None)
  """
  if name not in KNOWN:
    return None
  total = 0
  for part in split.split("+"):
    match = _PART.fullmatch(part.strip())
    size = KNOWN[name].splits.get(match[1]) if match else None
    if size is None:
      return None
    bounds = [
      (round(int(text) * size / 100) if percent else int(text)) if text else None
      for text, percent in ((match[2], match[3]), (match[4], match[5]))
    ]
    total += len(range(*slice(*bounds).indices(size)))
  return total


class Blank:
  """A source of black pictures in place of one that is not here: only its sizes are right.

  soft: whether examples carry probabilities, as pseudo-labels do.
  """

  def __init__(
    self, name: str, *, examples: int, classes: int, image_size: int | None, soft: bool = False
  ):
    self.name = name
    self.num_classes = classes
    self.class_names = tuple(map(str, range(classes)))
    self.image_size = image_size
    self._examples, self._soft = examples, soft

  def __len__(self) -> int:
    return self._examples

  def __getitem__(self, index: int) -> sources.Example:
    side = self.image_size or 256
    example = {"image": np.zeros((side, side, 3), np.uint8), "label": np.int32(0)}
    if self._soft:
      example["probabilities"] = np.full(self.num_classes, 1 / self.num_classes, np.float32)
    return example


class BlankFilms(clips.Films):
  """A source of black films. several: whether they could be of several classes each."""

  def __init__(self, name: str, *, examples: int, classes: int, several: bool):
    self.name, self.num_classes, self.targets = name, classes, several
    self.class_names = tuple(map(str, range(classes)))
    self._examples = examples

  def __len__(self) -> int:
    return self._examples

  def __getitem__(self, index: int) -> sources.Example:
    return {"label": np.int32(0), **self.blank()}


def blank(
  name: str, split: str, *, examples: int = 0, classes: int = 0, key: str
) -> Blank | BlankFilms:
  """Returns a stand-in for the split of a data set that is not here.

  examples, classes: what is known of it from elsewhere; 0 for what is known here.

  Raises: UserError if neither knows.
  """
  base = name.removeprefix("tfds:").partition(":")[0]
  known = KNOWN.get(base)
  examples = examples or count(base, split) or 0
  classes = classes or (known.classes if known else 0)
  if not (examples and classes):
    raise errors.UserError(
      f"{key}={name!r}, split {split!r}, is not here and its size is not known; give "
      "--config.plan.examples=COUNT and --config.plan.classes=COUNT."
    )
  if known and known.films:
    where = f"{name}/{split}"
    return BlankFilms(where, examples=examples, classes=classes, several=known.several)
  size = known.image_size if known else None
  return Blank(f"{name}/{split}", examples=examples, classes=classes, image_size=size)
