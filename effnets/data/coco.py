"""A COCO folder as a source of scenes: `coco:PATH`, annotations in JSON beside folders of pictures.

PATH/annotations/instances_SPLIT.json with the pictures in PATH/SPLIT (or PATH/images/SPLIT), where
SPLIT may end in a year as in `train2017`. `validation` and `val` mean the same. `test` and
`test-dev`, of which COCO publishes no objects, are read from image_info_SPLIT.json.

Options:
  year         of several, such as 2017
  annotations  a file, instead of what is found; images: its folder of pictures
  masks        True: examples hold `masks`, of polygons and RLE
  sparse       True: class = category id - 1, with gaps, as detectors with 90 classes count; else
               classes are the categories in the order of their ids, without gaps
  max_missing  share of pictures that may be missing on disk, default 0.01

What is wrong in a file is never passed over in silence. A file that is no JSON, or lacks what makes
it a COCO file, is an error with its place. Of the rest, each kind is counted and named, by these
rules (`notes` holds them, the log says them once):

  missing picture    left out of the set; more than `max_missing` of them is an error
  unknown picture    the annotation names an image id that there is not: skipped
  unknown category   skipped
  no box             `bbox` is not four finite numbers: skipped
  outside            a box beyond the picture by more than a pixel: clipped; all of it: skipped
  zero area          no height or width, before or after clipping: skipped
  wrong mask         (with `masks`) an RLE of another size or without a pixel, no polygons, or
                     broken ones: skipped

Evaluation judges by the annotations as the file has them (`truth`): only those of unknown pictures
and categories are left out there, as the official tool does.
"""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from pycocotools import mask as rle_lib

from effnets import errors
from effnets.data import coco_files, decode, sources

_OPTIONS = ("annotations", "images", "masks", "max_missing", "sparse", "year")
# Rounding of annotation tools; not worth a word.
_SLACK = 1.0


class Notes:
  """What was wrong with a set: counts by rule, and the first few names of each."""

  _NAMED = 3

  def __init__(self):
    self.counts: dict[str, int] = {}
    self.names: dict[str, list[str]] = {}

  def add(self, rule: str, name: str) -> None:
    """Counts one case of a rule."""
    self.counts[rule] = self.counts.get(rule, 0) + 1
    names = self.names.setdefault(rule, [])
    if len(names) < self._NAMED:
      names.append(name)

  def lines(self) -> list[str]:
    """Returns one line for each rule: how many, and which first."""
    return [
      f"{count} × {rule}: {'; '.join(self.names[rule])}" + ("; …" if count > self._NAMED else "")
      for rule, count in self.counts.items()
    ]


class Coco:
  """One split. notes: what was wrong with it. image_ids: COCO's, of the examples in order.

  category_ids: COCO's, of the classes in order (0 where there is no such class).
  """

  image_size = None

  def __init__(
    self,
    name: str,
    dataset: Mapping[str, Any],
    folder: str | os.PathLike,
    *,
    masks: bool = False,
    sparse: bool = False,
    max_missing: float = 0.01,
    key: str = "config.data",
  ):
    """Takes a file's content, checked by `coco_files.read`, and the folder of its pictures.

    Raises: errors.UserError if too many pictures are missing, or there are no categories.
    """
    self.name, self.notes = name, Notes()
    self._folder, self._masks = pathlib.Path(folder), masks
    categories = sorted(dataset["categories"], key=lambda c: c["id"])
    if sparse:
      by_id = {c["id"]: c["name"] for c in categories}
      self.category_ids = tuple(i if i in by_id else 0 for i in range(1, max(by_id) + 1))
      self.class_names = tuple(by_id.get(i, "") for i in range(1, max(by_id) + 1))
    else:
      self.category_ids = tuple(c["id"] for c in categories)
      self.class_names = tuple(c["name"] for c in categories)
    self.num_classes = len(self.category_ids)
    self._images = self._present(dataset["images"], max_missing, key)
    self.image_ids = np.array([image["id"] for image in self._images], np.int64)
    self._categories = categories
    self._raw: list[tuple[np.ndarray, list]] = []
    self._objects = self._read(dataset["images"], dataset["annotations"])
    for line in self.notes.lines():
      logging.warning("%s: %s", name, line)

  def __len__(self) -> int:
    return len(self._images)

  def __getitem__(self, index: int) -> sources.Example:
    """Returns a scene; see `scenes`.

    Raises: sources.Unreadable if the picture cannot be decoded, or is not of the size in the file.
    """
    if not 0 <= index < len(self):
      raise IndexError(f"{self.name}[{index}]: there are {len(self)} examples.")
    image = self._images[index]
    path = self._folder / image["file_name"]
    try:
      pixels = decode.image(path.read_bytes(), str(path))
    except OSError as error:
      raise sources.Unreadable(f"{path} ({error.strerror})") from error
    if pixels.shape[:2] != (image["height"], image["width"]):
      raise sources.Unreadable(
        f"{path} ({pixels.shape[1]}x{pixels.shape[0]} pixels, its annotations say "
        f"{image['width']}x{image['height']})"
      )
    boxes, classes, crowd, _ = self._objects[index]
    example = {
      "image": pixels,
      "label": np.int32(-1),
      "name": str(path),
      "boxes": boxes,
      "classes": classes,
      "crowd": crowd,
    }
    if self._masks:
      example["masks"] = self._decoded(index)
    return example

  def truth(self, indices: Sequence[int] | None = None) -> dict[str, Any]:
    """Returns the COCO data set of some examples, all by default, as evaluation wants it."""
    indices = range(len(self)) if indices is None else indices
    annotations = []
    for i in indices:
      numbers, segmentations = self._raw[i]
      for (category, x, y, width, height, area, crowd), mask in zip(
        numbers.tolist(), segmentations or [None] * len(numbers), strict=True
      ):
        # Numbered anew: the official tool takes an object with id 0 for one that was not found.
        annotations.append(
          {
            "id": len(annotations) + 1,
            "image_id": self._images[i]["id"],
            "category_id": int(category),
            "bbox": [x, y, width, height],
            "area": area,
            "iscrowd": int(crowd),
            **({"segmentation": mask} if mask is not None else {}),
          }
        )
    images = [self._images[i] for i in indices]
    return {"images": images, "annotations": annotations, "categories": self._categories}

  def _present(self, images, max_missing: float, key: str) -> list[dict]:
    there: dict[str, set[str]] = {}

    def exists(file_name: str) -> bool:
      # One listing instead of 118,287 questions.
      parent, _, base = file_name.rpartition("/")
      if parent not in there:
        folder = self._folder / parent
        there[parent] = set(os.listdir(folder)) if folder.is_dir() else set()
      return base in there[parent]

    present = []
    for image in images:
      if exists(image["file_name"]):
        present.append(image)
      else:
        self.notes.add("missing picture", str(self._folder / image["file_name"]))
    missing = len(images) - len(present)
    if not present or missing > max_missing * len(images):
      named = "; ".join(self.notes.names.get("missing picture", ()))
      raise errors.UserError(
        f"{self.name}: {missing} of {len(images)} pictures are missing in "
        f"{self._folder.absolute()}, more than the share {key}.options.max_missing={max_missing} "
        f"allows. First: {named or 'there are none in the annotations'}."
      )
    return present

  def _read(self, images, annotations) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, list]]:
    """Returns boxes, classes, crowd and segmentations of each picture's usable objects."""
    places = {int(image["id"]): i for i, image in enumerate(self._images)}
    classes = {c: i for i, c in enumerate(self.category_ids) if c}
    # Annotations of missing pictures are no mistake of their own.
    known = {image["id"] for image in images}
    kept: list[list[tuple]] = [[] for _ in self._images]
    raw: list[list[tuple]] = [[] for _ in self._images]
    for number, annotation in enumerate(annotations):
      what = f"annotation {annotation.get('id', f'number {number}')}"
      place = places.get(annotation.get("image_id"))
      if place is None:
        if annotation.get("image_id") not in known:
          self.notes.add("unknown picture", f"{what}: image_id {annotation.get('image_id')!r}")
        continue
      what += f" of {self._images[place]['file_name']}"
      label = classes.get(annotation.get("category_id"))
      if label is None:
        self.notes.add("unknown category", f"{what}: category_id {annotation.get('category_id')!r}")
        continue
      corners = _corners(annotation.get("bbox"))
      if corners is None:
        self.notes.add("no box", f"{what}: bbox {annotation.get('bbox')!r}")
        continue
      segmentation = annotation.get("segmentation") if self._masks else None
      raw[place].append((_official(annotation), segmentation))
      box = self._inside(corners, place, what)
      if box is None:
        continue
      if self._masks:
        image = self._images[place]
        reason = coco_files.wrong_mask(segmentation, image["height"], image["width"])
        if reason:
          self.notes.add("wrong mask", f"{what}: {reason}")
          continue
      kept[place].append((box, label, bool(annotation.get("iscrowd", 0)), segmentation))
    self._raw = [
      (
        np.array([r[0] for r in of_one], np.float64).reshape(-1, 7),
        [r[1] for r in of_one] if self._masks else [],
      )
      for of_one in raw
    ]
    return [
      (
        np.array([o[0] for o in objects], np.float32).reshape(-1, 4),
        np.array([o[1] for o in objects], np.int32),
        np.array([o[2] for o in objects], bool),
        [o[3] for o in objects],
      )
      for objects in kept
    ]

  def _inside(self, corners, place: int, what: str) -> tuple[float, ...] | None:
    """Returns the box cut off at the picture's border, None if nothing is left."""
    y0, x0, y1, x1 = corners
    height, width = self._images[place]["height"], self._images[place]["width"]
    if y1 <= y0 or x1 <= x0:
      self.notes.add("zero area", f"{what}: {x1 - x0:g}x{y1 - y0:g}")
      return None
    box = (max(y0, 0.0), max(x0, 0.0), min(y1, height), min(x1, width))
    if box[2] <= box[0] or box[3] <= box[1]:
      self.notes.add("outside", f"{what}: all of it, skipped")
      return None
    if max(abs(a - b) for a, b in zip(box, corners, strict=True)) > _SLACK:
      self.notes.add("outside", f"{what}: clipped")
    return box

  def _decoded(self, index: int) -> np.ndarray:
    image, segmentations = self._images[index], self._objects[index][3]
    shape = (image["height"], image["width"])
    masks = [rle_lib.decode(coco_files.rle(s, *shape)) for s in segmentations]
    return np.stack(masks) if masks else np.zeros((0, *shape), np.uint8)


def open_split(
  argument: str, split: str, *, options: Mapping[str, Any], key: str, split_key: str
) -> Coco:
  """Returns one split of the COCO folder `argument`; see the module's docstring.

  Raises: errors.UserError if the folder, the split, a file or an option is not there or wrong.
  """
  sources.check_options(options, _OPTIONS, kind="a COCO folder", key=key)
  for name in ("masks", "sparse"):
    if not isinstance(options.get(name, False), bool):
      raise errors.UserError(f"{key}.options.{name}={options[name]!r} should be True or False.")
  max_missing = options.get("max_missing", 0.01)
  if isinstance(max_missing, bool) or not isinstance(max_missing, int | float):
    raise errors.UserError(f"{key}.options.max_missing={max_missing!r} should be a share, 0 to 1.")
  root = pathlib.Path(argument).expanduser()
  if bool(options.get("annotations")) != bool(options.get("images")):
    raise errors.UserError(f"{key}.options: give annotations and images together, or neither.")
  if options.get("annotations"):
    file, folder = (pathlib.Path(options[n]).expanduser() for n in ("annotations", "images"))
  else:
    file, folder = coco_files.find(root, split, str(options.get("year") or ""), key, split_key)
  if not folder.is_dir():
    raise errors.UserError(f"{key}.source='coco:{argument}': there is no folder {folder}.")
  return Coco(
    f"coco:{argument}/{split}",
    coco_files.read(file),
    folder,
    masks=options.get("masks", False),
    sparse=options.get("sparse", False),
    max_missing=max_missing,
    key=key,
  )


def _corners(bbox: Any) -> tuple[float, float, float, float] | None:
  if not isinstance(bbox, list) or len(bbox) != 4:
    return None
  if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in bbox):
    return None
  if not all(map(math.isfinite, bbox)):
    return None
  x, y, width, height = bbox
  return y, x, y + height, x + width


def _official(annotation: Mapping[str, Any]) -> tuple[float, ...]:
  """Returns the numbers of an annotation that evaluation reads."""
  x, y, width, height = annotation["bbox"]
  area = annotation.get("area")
  if not isinstance(area, int | float) or not math.isfinite(area):
    area = width * height
  crowd = bool(annotation.get("iscrowd", 0))
  return annotation["category_id"], x, y, width, height, area, crowd
