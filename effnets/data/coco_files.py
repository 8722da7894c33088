"""COCO's own format: reading, checking and writing annotation files and masks; its categories."""

import json
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle_lib

from effnets import errors

# COCO's 80 categories, in the order of their ids, which have gaps.
_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
IDS = tuple(i for i in range(1, 91) if i not in _GAPS)
NAMES = tuple(
  (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire "
    "hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, "
    "zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports "
    "ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine "
    "glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot "
    "dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, "
    "clock, vase, scissors, teddy bear, hair drier, toothbrush"
  ).split(", ")
)

_ALIASES = {"validation": "val"}
# What COCO publishes of pictures whose objects are kept secret has another name.
_SECRET = "image_info_"
_FILE = re.compile(rf"(?:{_SECRET}|instances_)(.+?)(\d{{4}})?\.json")


def read(path: str | os.PathLike) -> dict[str, Any]:
  """Returns the content of an annotation file, with what every entry needs.

  Raises: errors.UserError with file, line and reason if it is no JSON; with file, entry and reason
    if it is no COCO file.
  """
  path = pathlib.Path(path)
  try:
    text = path.read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as error:
    raise errors.UserError(
      f"{path} cannot be read: {getattr(error, 'strerror', None) or error}."
    ) from error
  try:
    dataset = json.loads(text)
  except json.JSONDecodeError as error:
    raise errors.UserError(
      f"{path}, line {error.lineno}, column {error.colno}: {error.msg}; expected a COCO file in "
      "JSON."
    ) from error
  except RecursionError as error:
    raise errors.UserError(f"{path}: nested too deeply; expected a COCO file in JSON.") from error
  if isinstance(dataset, dict) and path.name.startswith(_SECRET):
    dataset.setdefault("annotations", [])
  if not isinstance(dataset, dict):
    raise errors.UserError(f"{path}: expected an object with images, annotations and categories.")
  for part, needed in (
    ("images", {"id": int, "file_name": str, "height": int, "width": int}),
    ("annotations", {}),
    ("categories", {"id": int, "name": str}),
  ):
    _check_part(path, text, dataset, part, needed)
  if not dataset["categories"]:
    raise errors.UserError(f"{path}: categories is empty; expected one at least.")
  return dataset


def _check_part(path, text: str, dataset, part: str, needed: Mapping[str, type]) -> None:
  entries = dataset.get(part)
  if not isinstance(entries, list):
    raise errors.UserError(
      f"{path}: {part} is {'missing' if entries is None else 'no list'}; expected a COCO file with "
      "images, annotations and categories."
    )
  ids = set()
  for number, entry in enumerate(entries):
    reason = ""
    if not isinstance(entry, dict):
      reason = "expected an object"
    for name, kind in needed.items():
      if reason:
        break
      value = entry.get(name)
      if not isinstance(value, kind) or isinstance(value, bool):
        reason = f"{name}={value!r}, expected {'a whole number' if kind is int else 'text'}"
      elif name in ("height", "width") and value < 1:
        reason = f"{name}={value!r}, expected at least 1"
      elif part == "categories" and name == "id" and value < 1:
        reason = f"id={value!r}, expected at least 1"
    if not reason and needed:
      if entry["id"] in ids:
        reason = f"id={entry['id']!r} is there twice"
      ids.add(entry["id"])
    if reason:
      line = _line(text, part, number)
      raise errors.UserError(f"{path}, line {line}: {part}[{number}]: {reason}.")


def _line(text: str, part: str, number: int) -> int:
  """Returns the line on which entry `number` of a list of a JSON object begins."""
  decoder = json.JSONDecoder()
  space = re.compile(r"[\s,]*")
  at = text.index("{") + 1
  while True:
    # Key, colon, value, one after the other: the key's text may also stand within a value.
    at = space.match(text, at).end()
    name, at = decoder.raw_decode(text, at)
    at = re.compile(r"\s*:\s*").match(text, at).end()
    if name == part and text[at] == "[":
      at += 1
      for _ in range(number):
        _, at = decoder.raw_decode(text, space.match(text, at).end())
      at = space.match(text, at).end()
      return text.count("\n", 0, at) + 1
    _, at = decoder.raw_decode(text, at)


def find(root, split: str, year: str, key: str, split_key: str):
  """Returns the annotation file and the folder of pictures of a split."""
  inner = root / "annotations"
  # Of two files for one split, the one with objects comes last and stays.
  files = sorted(inner.glob("*.json")) if inner.is_dir() else []
  files = [file for file in files if _FILE.fullmatch(file.name)]
  if not files:
    raise errors.UserError(
      f"{key}.source='coco:{root}': no annotations in {inner.absolute()}; expected "
      "PATH/annotations/instances_SPLIT.json beside PATH/SPLIT with the pictures."
    )
  known = {}
  for file in files:
    match = _FILE.fullmatch(file.name)
    known[match[1], match[2] or ""] = file
  wanted = _ALIASES.get(split, split)
  fits = {k: f for k, f in known.items() if _ALIASES.get(k[0], k[0]) == wanted}
  if not fits:
    raise errors.unknown(split_key, split, f"a split of {root}", {k[0] for k in known})
  if year:
    fits = {k: f for k, f in fits.items() if k[1] == year}
  if len(fits) != 1:
    years = sorted(k[1] for k in known if _ALIASES.get(k[0], k[0]) == wanted)
    raise errors.UserError(
      f"{key}.options.year={year!r}: {root} has {split} of {', '.join(years)}; name one of them."
    )
  (name, its_year), file = next(iter(fits.items()))
  # test-dev is a part of test.
  pictures = name.removesuffix("-dev") + its_year
  folders = [root / pictures, root / "images" / pictures]
  return file, next((f for f in folders if f.is_dir()), folders[0])


def rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
  """Returns polygons (lists of x, y, x, y, …), or RLE with counts as numbers or text, as RLE."""
  if isinstance(segmentation, list):
    return rle_lib.merge(rle_lib.frPyObjects(segmentation, height, width))
  if isinstance(segmentation["counts"], list):
    return rle_lib.frPyObjects(segmentation, height, width)
  return segmentation


def wrong_mask(segmentation: Any, height: int, width: int) -> str:
  """Returns what is wrong with a segmentation, empty if nothing is."""
  if isinstance(segmentation, list):
    if not segmentation:
      return "no polygons"
    for polygon in segmentation:
      if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return "a polygon without three corners"
      if not all(isinstance(x, int | float) and math.isfinite(x) for x in polygon):
        return "a polygon with corners that are no numbers"
  elif isinstance(segmentation, dict):
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
      return f"RLE of size {size}, the picture has {[height, width]} (height, width)"
    if isinstance(counts, list):
      if not all(isinstance(c, int) and c >= 0 for c in counts) or sum(counts) != height * width:
        return f"RLE whose runs do not add up to {height * width} pixels"
    elif not isinstance(counts, str) or _runs(counts) != height * width:
      return f"RLE whose runs do not add up to {height * width} pixels"
    if not rle_lib.area(rle(segmentation, height, width)):
      return "RLE without a pixel"
  else:
    return "no segmentation"
  return ""


def _runs(counts: str) -> int:
  """Returns the number of pixels of a compressed RLE, -1 if it is broken.

  Runs are written with five bits to a letter, the sixth says that more follow; from the third run
  on they are differences to the one before the last.
  """
  runs: list[int] = []
  value = shift = 0
  for letter in counts.encode("ascii", "replace"):
    bits = letter - 48
    if not 0 <= bits < 64:
      return -1
    value |= (bits & 31) << shift
    shift += 5
    if not bits & 32:
      if bits & 16:
        value -= 1 << shift
      if len(runs) > 2:
        value += runs[-2]
      if value < 0:
        return -1
      runs.append(value)
      value = shift = 0
  return -1 if shift else sum(runs)


def described(source: Any, indices: Sequence[int], examples: Any = None) -> dict[str, Any]:
  """Returns the COCO data set of some scenes of a source.

  Masks are compressed RLE, crowds uncompressed as in COCO. Area is that of the mask; without masks
  the scene's own `area`, else that of the box. Annotations are numbered as they come.
  examples: the scenes of `indices`, if they are at hand.
  """
  ids = getattr(source, "category_ids", None) or tuple(range(1, source.num_classes + 1))
  images, annotations = [], []
  for i, example in zip(indices, examples or map(source.__getitem__, indices), strict=True):
    height, width = example["image"].shape[:2]
    image = {"id": int(source.image_ids[i]), "file_name": f"{i:06}.png"}
    images.append({**image, "height": height, "width": width})
    crowd = example.get("crowd", np.zeros(len(example["boxes"]), bool))
    areas = example.get("area")
    for j, (y0, x0, y1, x1) in enumerate(example["boxes"].tolist()):
      annotation = {
        "id": len(annotations) + 1,
        "image_id": image["id"],
        "category_id": ids[int(example["classes"][j])],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": float(areas[j]) if areas is not None else (y1 - y0) * (x1 - x0),
        "iscrowd": int(crowd[j]),
        "segmentation": [],
      }
      if "masks" in example:
        mask = example["masks"][j]
        annotation["area"] = int(mask.sum())
        annotation["segmentation"] = encoded(mask, runs=bool(crowd[j]))
      annotations.append(annotation)
  categories = [{"id": i, "name": source.class_names[k]} for k, i in enumerate(ids) if i]
  return {"images": images, "annotations": annotations, "categories": categories}


def write(path: str | os.PathLike, split: str, source: Any, *, semantic: bool = False) -> None:
  """Writes a source of scenes as one split of a COCO folder; see `described`.

  Pictures are PNG files in PATH/SPLIT. semantic: also PATH/semantic/SPLIT with classes of pixels.
  The annotation file is renamed into place last.
  """
  root = pathlib.Path(path)
  folder, labels = root / split, root / "semantic" / split
  for directory in (folder, root / "annotations", *([labels] if semantic else [])):
    directory.mkdir(parents=True, exist_ok=True)

  def saved():
    for i in range(len(source)):
      example = source[i]
      Image.fromarray(example["image"]).save(folder / f"{i:06}.png")
      if semantic:
        Image.fromarray(example["semantic"]).save(labels / f"{i:06}.png")
      yield example

  dataset = described(source, range(len(source)), saved())
  file = root / "annotations" / f"instances_{split}.json"
  partial = file.with_suffix(".tmp")
  partial.write_text(json.dumps(dataset), encoding="utf-8")
  os.replace(partial, file)


def encoded(mask: np.ndarray, *, runs: bool = False) -> dict[str, Any]:
  """Returns the RLE of a mask `h w` as JSON can hold it; runs: counts as numbers, not as text."""
  if runs:
    flat = mask.ravel(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(flat, prepend=np.int8(0)))
    return {"size": list(mask.shape), "counts": np.diff([0, *edges.tolist(), flat.size]).tolist()}
  found = rle_lib.encode(np.asfortranarray(mask, np.uint8))
  return {"size": list(found["size"]), "counts": found["counts"].decode("ascii")}
