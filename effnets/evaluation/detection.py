"""COCO's average precision of boxes and masks, by the official tool.

Ground truth is a COCO data set in memory, as a source's `truth()` gives it; detections are a list
of COCO results. Both are judged in pixels of the files' pictures. Areas of objects are what the
annotations say, those of detected boxes width times height.

Source: Lin et al. 2014 (arXiv 1405.0312) and pycocotools.
"""

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import coco as coco_lib
from pycocotools import cocoeval

# In the official tool's order.
COCO_FIGURES = (
  "ap",
  "ap50",
  "ap75",
  "ap_small",
  "ap_medium",
  "ap_large",
  "ar1",
  "ar10",
  "ar100",
  "ar_small",
  "ar_medium",
  "ar_large",
)

Result = dict[str, Any]


def results(
  boxes: Float[np.ndarray, "n k 4"],
  scores: Float[np.ndarray, "n k"],
  classes: Int[np.ndarray, "n k"],
  *,
  image_ids: Sequence[int],
  category_ids: Sequence[int],
  masks: Sequence[Sequence[Mapping[str, Any] | None]] | None = None,
) -> list[Result]:
  """Returns COCO results of n pictures, in the order given.

  Args:
    boxes: y0 x0 y1 x1 in pixels of the files' pictures; scores: any order. classes: -1 in places
      without a detection. image_ids: of the n pictures. category_ids: of the classes, 0 for a class
      that there is not, whose detections are left out. masks: RLE of each detection, for the
      pictures' sizes.
  Raises: ValueError if there are not as many ids as pictures, or a score or box is no number.
  """
  boxes, scores = np.asarray(boxes, np.float64), np.asarray(scores, np.float64)
  classes, ids = np.asarray(classes), np.asarray(category_ids)
  if len(image_ids) != len(boxes):
    raise ValueError(f"{len(image_ids)} image ids for {len(boxes)} pictures.")
  if classes.size and classes.max() >= len(ids):
    raise ValueError(f"class {classes.max()} of a detection; there are {len(ids)}.")
  there = (classes >= 0) & (ids[np.maximum(classes, 0)] > 0)
  if not (np.isfinite(scores[there]).all() and np.isfinite(boxes[there]).all()):
    raise ValueError("a detection's score or box is no finite number.")
  found = []
  for i, j in zip(*np.nonzero(there), strict=True):
    y0, x0, y1, x1 = boxes[i, j].tolist()
    result = {
      "image_id": int(image_ids[i]),
      "category_id": int(ids[classes[i, j]]),
      "bbox": [x0, y0, x1 - x0, y1 - y0],
      "score": float(scores[i, j]),
    }
    if masks is not None:
      result["segmentation"] = masks[i][j]
    found.append(result)
  return found


def to_json(found: Sequence[Result], *, digits: int = 3) -> str:
  """Returns COCO's result file; boxes to `digits` decimals, scores to five.

  It is what COCO's servers take; the rounding keeps 5,000 pictures below 70 MB.
  """
  lines = [
    {**r, "bbox": [round(v, digits) for v in r["bbox"]], "score": round(r["score"], 5)}
    for r in found
  ]
  return json.dumps(lines)


def average_precision(
  truth: Mapping[str, Any], found: Sequence[Result], *, masks: bool = False
) -> tuple[dict[str, float], dict[str, float]]:
  """Returns COCO's twelve figures, and the AP of each category by name.

  A figure without any object to judge by is -1, as in the official tool; so is the AP of a category
  without objects.

  Args:
    truth: `images`, `annotations`, `categories`; annotations of all pictures that were looked at.
    found: of those pictures; of each picture and category the 100 best count. Results of other
      categories are no mistakes. masks: judge `segmentation` instead of boxes.
  Raises: ValueError if a result is of a picture that is not in `truth`.
  """
  known = {image["id"] for image in truth["images"]}
  strange = next((r["image_id"] for r in found if r["image_id"] not in known), None)
  if strange is not None:
    raise ValueError(f"a result of image_id {strange}, which is not among the pictures judged.")
  kind = "segm" if masks else "bbox"
  with contextlib.redirect_stdout(io.StringIO()):  # the tool prints what it does
    judge = cocoeval.COCOeval(
      _indexed(truth, truth["annotations"]), _indexed(truth, _detected(found, masks)), kind
    )
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
  figures = dict(zip(COCO_FIGURES, map(float, judge.stats), strict=True))
  # thresholds, recalls, categories, areas, numbers of detections
  precision = judge.eval["precision"][:, :, :, 0, -1]
  names = {c["id"]: c["name"] for c in truth["categories"]}
  per_class = {}
  for k, category in enumerate(judge.params.catIds):
    values = precision[:, :, k]
    values = values[values > -1]
    per_class[names[category]] = float(values.mean()) if values.size else -1.0
  return figures, per_class


def _detected(found: Sequence[Result], masks: bool) -> list[dict[str, Any]]:
  detected = []
  for number, result in enumerate(found, 1):
    _, _, width, height = result["bbox"]
    area = width * height
    if masks:
      area = float(coco_lib.maskUtils.area(result["segmentation"]))
    detected.append({**result, "id": number, "iscrowd": 0, "area": area})
  return detected


def _indexed(truth: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> coco_lib.COCO:
  built = coco_lib.COCO()
  # Copies: the tool writes marks into annotations.
  built.dataset = {
    "images": list(truth["images"]),
    "categories": list(truth["categories"]),
    "annotations": [dict(a) for a in annotations],
  }
  built.createIndex()
  return built


def pasted(
  masks: Float[np.ndarray, "k s s"],
  boxes: Float[np.ndarray, "k 4"],
  valid: Bool[np.ndarray, " k"],
  *,
  height: int,
  width: int,
  threshold: float = 0.5,
) -> list[dict[str, Any] | None]:
  """Returns, for each valid detection, the RLE of its mask in a picture; None for the others.

  masks: probabilities on a grid over each box, boxes: y0 x0 y1 x1 in pixels of that picture. Pixels
  with a probability of `threshold` or more belong to the object; see `ops.masks.paste`, of which
  this is the form for pictures of any size.
  """
  out: list[dict[str, Any] | None] = []
  for mask, box, there in zip(masks, boxes, valid, strict=True):
    out.append(_pasted(np.asarray(mask), box, height, width, threshold) if there else None)
  return out


def _pasted(mask, box, height: int, width: int, threshold: float) -> dict[str, Any]:
  whole = np.zeros((height, width), np.uint8, order="F")
  y0, x0, y1, x1 = map(float, box)
  # Beyond half a mask's pixel outside of the box everything is zero.
  slack_y, slack_x = (y1 - y0) / mask.shape[0], (x1 - x0) / mask.shape[1]
  rows = slice(max(int(y0 - slack_y), 0), min(int(np.ceil(y1 + slack_y)) + 1, height))
  columns = slice(max(int(x0 - slack_x), 0), min(int(np.ceil(x1 + slack_x)) + 1, width))
  if y1 > y0 and x1 > x0 and rows.stop > rows.start and columns.stop > columns.start:
    down = _weights(np.arange(rows.start, rows.stop), y0, y1, mask.shape[0])
    across = _weights(np.arange(columns.start, columns.stop), x0, x1, mask.shape[1])
    whole[rows, columns] = down @ mask @ across.T >= threshold
  found = coco_lib.maskUtils.encode(whole)
  return {"size": list(found["size"]), "counts": found["counts"].decode("ascii")}


def _weights(pixels: np.ndarray, low: float, high: float, count: int) -> np.ndarray:
  """Returns bilinear weights of `count` cells of [low, high] at the pixels' middles."""
  place = (pixels + 0.5 - low) / (high - low) * count - 0.5
  return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(count)))
