"""VOC's mean average precision against a loop over thresholds, and by hand."""

import math

import numpy as np
import pytest

from effnets.evaluation import voc


def overlap(a, b, offset):
  sides = [max(min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]) + offset, 0) for i in (0, 1)]
  area = lambda box: (box[2] + offset) * (box[3] + offset)  # noqa: E731
  shared = sides[0] * sides[1]
  return shared / (area(a) + area(b) - shared)


def slow_ap(objects, detections, rule, offset):
  """Returns the AP of one class, by walking through the detections and then through recalls."""
  needed = sum(not o["difficult"] for o in objects)
  if not needed:
    return math.nan
  taken, curve, right, wrong = set(), [(0.0, 0.0)], 0, 0
  for detection in sorted(detections, key=lambda d: -d["score"]):
    best, which = 0.0, None
    for place, candidate in enumerate(objects):
      if candidate["image_id"] == detection["image_id"]:
        shared = overlap(detection["bbox"], candidate["bbox"], offset)
        if shared > best:
          best, which = shared, place
    if best >= 0.5 and objects[which]["difficult"]:
      continue
    if best >= 0.5 and which not in taken:
      taken.add(which)
      right += 1
    else:
      wrong += 1
    curve.append((right / needed, right / (right + wrong)))
  if rule == "11points":
    tops = [max([p for r, p in curve if r * 10 >= t - 1e-9], default=0) for t in range(11)]
    return sum(tops) / 11
  # Every object found adds a step as wide as it, as high as precision ever gets from there on.
  steps = sorted({r for r, _ in curve if r > 0})
  return sum(max(p for r, p in curve if r >= step) for step in steps) / needed


@pytest.mark.parametrize("rule", voc.RULES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("seed", range(5))
def test_against_a_loop(seed, offset, rule):
  rng = np.random.default_rng(seed)
  objects, detections = [], []
  for _ in range(40):
    row = {"image_id": int(rng.integers(6)), "category_id": int(rng.integers(1, 4))}
    row["bbox"] = [*rng.uniform(0, 50, 2), *rng.uniform(5, 40, 2)]
    objects.append({**row, "difficult": int(rng.random() < 0.3)})
    for _ in range(rng.integers(3)):
      moved = np.array(row["bbox"]) + rng.normal(size=4) * 3
      other = int(rng.integers(1, 5)) if rng.random() < 0.3 else row["category_id"]
      detections.append({**row, "bbox": moved, "category_id": other, "score": rng.random()})
  # Class 4 has no object, class 5 a difficult one alone.
  objects.append({"image_id": 0, "category_id": 5, "bbox": [1, 1, 9, 9], "difficult": 1})
  categories = [{"id": k, "name": f"class {k}"} for k in range(1, 6)]
  truth = {"images": [], "annotations": objects, "categories": categories}
  found, per_class = voc.average_precision(truth, detections, rule=rule, offset=offset)
  expected = {}
  for k in range(1, 6):
    mine = [[r for r in rows if r["category_id"] == k] for rows in (objects, detections)]
    expected[f"class {k}"] = slow_ap(*mine, rule, offset)
  assert per_class == pytest.approx(expected, nan_ok=True, abs=1e-12)
  assert found == pytest.approx(np.mean([expected[f"class {k}"] for k in (1, 2, 3)]), abs=1e-12)
  assert 0.1 < found < 0.95 and math.isnan(per_class["class 4"] + per_class["class 5"])


@pytest.mark.parametrize(("rule", "wanted"), [("area", 2 / 3), ("11points", 7 / 11)])
def test_by_hand(rule, wanted):
  # Two of three objects found, without a mistake: recalls up to 0.6 are reached.
  assert voc.summed(np.array([True, True]), 3, rule=rule) == pytest.approx(wanted)


def test_nothing_found_and_nothing_there():
  categories = [{"id": 1, "name": "cat"}]
  one = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}
  truth = {"annotations": [one], "categories": categories}
  assert voc.average_precision(truth, [])[0] == 0
  crowd = {"annotations": [{**one, "iscrowd": 1}], "categories": categories}
  assert math.isnan(voc.average_precision(crowd, [{**one, "score": 0.5}])[0])
  with pytest.raises(ValueError, match="rule='points'"):
    voc.average_precision(truth, [], rule="points")
