"""Pictures with a class for each pixel: `segmentation:PATH`, in one of three layouts.

  VOC         PATH/JPEGImages/*.jpg, PATH/SegmentationClass/*.png and the names of a split in
              PATH/ImageSets/Segmentation/SPLIT.txt; 21 classes, background first
  Cityscapes  PATH/leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and
              PATH/gtFine/SPLIT/CITY/*_gtFine_labelTrainIds.png, or *_labelIds.png, whose 34 ids
              become the 19 that count
  plain       PATH/images/SPLIT/NAME.jpg (or .png, …) and PATH/masks/SPLIT/NAME.png; or, as
              `digit_scenes.write` has it, PATH/SPLIT/NAME.png and PATH/semantic/SPLIT/NAME.png.
              Names of the classes, one a line, in masks/classes.txt or semantic/classes.txt

PATH may also be the folder that holds it, as VOCdevkit does. `validation` and `val` are the same.
Label files are palette or grey PNGs whose values are classes; 255 does not count.

Examples are scenes (see `scenes`) with `image` and `semantic`. Option `max_missing`: share of
pictures that may lack their labels, default 0.01; they are left out, and named in the log. A label
file of another size than its picture, or with a class that there is not, makes the example
unreadable.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL
from absl import logging
from PIL import Image

from effnets import errors
from effnets.data import decode, folder, scenes, sources

VOC = (
  "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
  "motorbike person pottedplant sheep sofa train tvmonitor"
).split()
CITYSCAPES = {
  "road": 7,
  "sidewalk": 8,
  "building": 11,
  "wall": 12,
  "fence": 13,
  "pole": 17,
  "traffic light": 19,
  "traffic sign": 20,
  "vegetation": 21,
  "terrain": 22,
  "sky": 23,
  "person": 24,
  "rider": 25,
  "car": 26,
  "truck": 27,
  "bus": 28,
  "train": 31,
  "motorcycle": 32,
  "bicycle": 33,
}
_ALIASES = {"validation": "val"}
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_LAYOUTS = (
  "PATH/JPEGImages with PATH/SegmentationClass, PATH/leftImg8bit with PATH/gtFine, or PATH/images "
  "with PATH/masks"
)


class Segmentation:
  """One split. class_names, semantic_names: of the pixels' classes; both are the same."""

  image_size = None

  def __init__(
    self,
    name: str,
    files: list[tuple[str, str]],
    class_names: tuple[str, ...],
    table: np.ndarray | None = None,
  ):
    """Holds (picture, label file) pairs; table uint8 (256,): from a file's values to classes."""
    self.name, self.files = name, files
    self.class_names = self.semantic_names = class_names
    self.num_classes = len(class_names)
    self._table = table

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: int) -> sources.Example:
    """Returns a scene without objects.

    Raises: sources.Unreadable.
    """
    path, labels = self.files[index]
    try:
      encoded = pathlib.Path(path).read_bytes()
    except OSError as error:
      raise sources.Unreadable(f"{path} ({error.strerror})") from error
    pixels = decode.image(encoded, path)
    semantic = self._labels(labels)
    if semantic.shape != pixels.shape[:2]:
      raise sources.Unreadable(
        f"{labels} ({_size(semantic)} pixels, its picture has {_size(pixels)})"
      )
    return {"image": pixels, "label": np.int32(-1), "name": path, "semantic": semantic}

  def _labels(self, path: str) -> np.ndarray:
    try:
      with Image.open(path) as picture:
        # Not converted: a palette's colours are only for looking at.
        values = np.asarray(picture)
    except PIL.UnidentifiedImageError as error:
      raise sources.Unreadable(f"{path} (no known image format)") from error
    except Exception as error:  # PIL raises nearly every kind of exception for a damaged file.
      raise sources.Unreadable(f"{path} ({type(error).__name__}: {error})") from error
    if values.ndim != 2 or values.dtype != np.uint8:
      raise sources.Unreadable(f"{path} (classes should be one byte a pixel, not colours)")
    if self._table is not None:
      values = self._table[values]
    worst = int(np.where(values == scenes.IGNORED, 0, values).max(initial=0))
    if worst >= self.num_classes:
      raise sources.Unreadable(f"{path} (class {worst}, there are {self.num_classes}, from 0)")
    return values


def open_split(
  argument: str, split: str, *, options: Mapping[str, Any], key: str, split_key: str
) -> Segmentation:
  """Returns one split of the folder `argument`; see the module's docstring.

  Raises: errors.UserError if the folder or split is not there, or labels are missing.
  """
  sources.check_options(options, ("max_missing",), kind="a segmentation folder", key=key)
  limit = options.get("max_missing", 0.01)
  if isinstance(limit, bool) or not isinstance(limit, int | float):
    raise errors.UserError(f"{key}.options.max_missing={limit!r} should be a share, 0 to 1.")
  where = f"{key}.source='segmentation:{argument}'"
  root = pathlib.Path(argument).expanduser()
  if not root.is_dir():
    raise errors.UserError(f"{where}: there is no folder {root.absolute()}; expected {_LAYOUTS}.")
  table = None
  if found := folder.below(argument, "SegmentationClass"):
    pairs, names = _voc(found.parent, split, split_key), tuple(VOC)
  elif found := folder.below(argument, "leftImg8bit"):
    pairs, names = _cityscapes(found.parent, split, split_key), tuple(CITYSCAPES)
    if not any(labels.endswith("labelTrainIds.png") for _, labels in pairs):
      table = np.full(256, scenes.IGNORED, np.uint8)
      table[list(CITYSCAPES.values())] = np.arange(len(CITYSCAPES))
  else:
    pairs, names = _plain(root, split, where, split_key)
  there = [pair for pair in pairs if pathlib.Path(pair[1]).is_file()]
  missing = [pair for pair in pairs if not pathlib.Path(pair[1]).is_file()]
  if not there or len(missing) > limit * len(pairs):
    first = f" First: {missing[0][1]}." if missing else ""
    raise errors.UserError(
      f"{where}, split={split!r}: {len(missing)} of {len(pairs)} pictures have no labels, more "
      f"than the share {key}.options.max_missing={limit} allows.{first}"
    )
  for _, labels in missing[:3]:
    logging.warning("%s: %d pictures without labels, such as %s", where, len(missing), labels)
  return Segmentation(f"segmentation:{argument}/{split}", there, names, table)


def _voc(root: pathlib.Path, split: str, split_key: str) -> list[tuple[str, str]]:
  lists = {path.stem: path for path in (root / "ImageSets" / "Segmentation").glob("*.txt")}
  name = split if split in lists else _ALIASES.get(split, split)
  if name not in lists:
    raise errors.unknown(split_key, split, f"a list in {root}/ImageSets/Segmentation", lists)
  names = lists[name].read_text(encoding="utf-8").split()
  return [
    (str(root / "JPEGImages" / f"{n}.jpg"), str(root / "SegmentationClass" / f"{n}.png"))
    for n in names
  ]


def _cityscapes(root: pathlib.Path, split: str, split_key: str) -> list[tuple[str, str]]:
  inner = _split_folder(root / "leftImg8bit", split, split_key)
  pairs = []
  for path in sorted(inner.glob("*/*_leftImg8bit.png")):
    stem = path.name.removesuffix("_leftImg8bit.png")
    labels = root / "gtFine" / inner.name / path.parent.name / f"{stem}_gtFine_labelTrainIds.png"
    pairs.append((str(path), labels))
  kind = "labelTrainIds" if pairs and pairs[0][1].is_file() else "labelIds"
  return [(path, str(labels).replace("labelTrainIds", kind)) for path, labels in pairs]


def _plain(
  root: pathlib.Path, split: str, where: str, split_key: str
) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
  known = {"masks": root / "images", "semantic": root}
  labels = next((name for name in known if (root / name).is_dir()), None)
  if labels is None:
    raise errors.UserError(f"{where}: {root.absolute()} has no labels; expected {_LAYOUTS}.")
  listing = root / labels / "classes.txt"
  if not listing.is_file():
    raise errors.UserError(
      f"{where}: {listing} is missing; expected the classes' names, one a line."
    )
  names = tuple(line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line)
  if not 2 <= len(names) <= scenes.IGNORED:
    raise errors.UserError(f"{where}: {listing} has {len(names)} lines; expected 2 to 255 classes.")
  inner = _split_folder(root / labels, split, split_key)
  base = known[labels] / inner.name
  found = sorted(p for p in base.rglob("*") if p.suffix.lower() in _SUFFIXES)
  return [(str(p), str(inner / p.relative_to(base).with_suffix(".png"))) for p in found], names


def _split_folder(root: pathlib.Path, split: str, split_key: str) -> pathlib.Path:
  inner = {path.name: path for path in root.iterdir() if path.is_dir()}
  name = split if split in inner else _ALIASES.get(split, split)
  if name not in inner:
    raise errors.unknown(split_key, split, f"a folder in {root}", inner)
  return inner[name]


def _size(pixels: np.ndarray) -> str:
  return f"{pixels.shape[1]}x{pixels.shape[0]}"
