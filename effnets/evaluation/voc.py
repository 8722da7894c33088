"""PASCAL VOC's mean average precision of boxes, by its own two rules.

Differs from COCO's: one threshold of overlap, precision summed up by another rule, no limit of
detections per picture, and difficult objects, which are neither found nor missed. Corners are
pixels that belong to the box where `offset=1`, as in VOC's own files.

Source: Everingham et al. 2010, sections 4.2 and 4.4; the development kits of 2007 (11 points) and
of 2010 and later (area).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

RULES = ("area", "11points")


def average_precision(
  truth: Mapping[str, Any],
  found: Sequence[Mapping[str, Any]],
  *,
  rule: str = "area",
  overlap: float = 0.5,
  offset: float = 0.0,
) -> tuple[float, dict[str, float]]:
  """Returns the mean over classes with objects, and the AP of each category by name.

  A category without objects (that are not difficult) is NaN, and so is the mean over none.

  Args:
    truth: as of COCO: `images`, `annotations`, `categories`; those with `iscrowd` or `difficult`
      are difficult. found: COCO results, `bbox` x y width height.
    rule: `area`      under the falling hull of precision over recall (2010 and later)
      `11points`  mean of the largest precision at a recall of 0, 0.1, …, 1 or more (2007)
    overlap: IoU from which a detection finds an object. offset: added to sides.
  Raises: ValueError for another rule.
  """
  if rule not in RULES:
    raise ValueError(f"rule={rule!r} must be one of {RULES}.")
  of_truth, of_found = _by_class(truth["annotations"]), _by_class(found)
  per_class = {}
  for category in truth["categories"]:
    objects = of_truth.get(category["id"], [])
    hits, count = _hits(objects, of_found.get(category["id"], []), overlap, offset)
    per_class[category["name"]] = summed(hits, count, rule=rule)
  there = [value for value in per_class.values() if not np.isnan(value)]
  return (float(np.mean(there)) if there else float("nan")), per_class


def summed(hits: Bool[np.ndarray, " n"], count: int, *, rule: str = "area") -> float:
  """Returns the AP of detections in falling order of score; NaN if there are no objects.

  hits: which found an object. count: objects there are.

  >>> round(summed(np.array([True, False, True]), 2), 6)
  0.833333
  >>> round(summed(np.array([True, False, True]), 2, rule="11points"), 6)
  0.848485
  """
  if not count:
    return float("nan")
  found = np.cumsum(hits)
  recall, precision = found / count, found / np.arange(1, len(hits) + 1)
  if rule == "11points":
    # Tenths as the kit counts them; a recall that rounding put just below one reaches it too.
    tops = [precision[recall >= t - 1e-9] for t in np.arange(11) / 10]
    return float(np.mean([top.max(initial=0) for top in tops]))
  hull = np.maximum.accumulate(precision[::-1])[::-1]
  return float(np.sum(np.diff(recall, prepend=0.0) * hull))


def _by_class(rows: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
  found: dict[int, list[Mapping[str, Any]]] = {}
  for row in rows:
    found.setdefault(row["category_id"], []).append(row)
  return found


def _hits(objects, detections, overlap: float, offset: float) -> tuple[np.ndarray, int]:
  """Returns, of those detections of a class that count, whether they found something; objects."""
  pictures: dict[Any, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
  for picture in {o["image_id"] for o in objects}:
    mine = [o for o in objects if o["image_id"] == picture]
    difficult = [bool(o.get("iscrowd") or o.get("difficult")) for o in mine]
    boxes = np.array([o["bbox"] for o in mine], np.float64)
    pictures[picture] = boxes, np.array(difficult), np.zeros(len(mine), bool)
  hits = []
  for row in sorted(detections, key=lambda d: -d["score"]):
    boxes, difficult, taken = pictures.get(row["image_id"], (np.zeros((0, 4)), None, None))
    shared = _iou(np.asarray(row["bbox"], np.float64), boxes, offset)
    best = int(np.argmax(shared)) if len(shared) else -1
    if best < 0 or shared[best] < overlap:
      hits.append(False)
    elif not difficult[best]:
      # A second detection of an object is a mistake.
      hits.append(not taken[best])
      taken[best] = True
  return np.array(hits, bool), sum(int(np.sum(~d)) for _, d, _ in pictures.values())


def _iou(
  box: Float[np.ndarray, "4"], boxes: Float[np.ndarray, "n 4"], offset: float
) -> Float[np.ndarray, " n"]:
  first = np.maximum(box[:2], boxes[:, :2])
  last = np.minimum(box[:2] + box[2:], boxes[:, :2] + boxes[:, 2:])
  shared = np.prod(np.maximum(last - first + offset, 0), 1)
  union = np.prod(box[2:] + offset) + np.prod(boxes[:, 2:] + offset, 1) - shared
  return np.divide(shared, union, out=np.zeros(len(boxes)), where=union > 0)
