"""COCO's figures against the sheet's closed forms and a slow NumPy form of the protocol."""

import json

import numpy as np
import pytest
from pycocotools import mask as rle_lib

import effnets.data as data
import effnets.ops as ops
from effnets.data import coco_files, digit_scenes
from effnets.evaluation import detection
from tests.ops import detections


def _truth(boxes, *, crowd=(), categories=1):
  """One picture with objects of category 1, or (category, box) pairs."""
  return {
    "images": [{"id": 1, "height": 1000, "width": 1000}],
    "annotations": [
      {
        "id": i + 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": list(box),
        "area": box[2] * box[3],
        "iscrowd": int(i in crowd),
      }
      for i, box in enumerate(boxes)
    ],
    "categories": [{"id": k + 1, "name": f"c{k + 1}"} for k in range(categories)],
  }


# The sheet's check 7: hits in order of score, objects, AP at one threshold.
@pytest.mark.parametrize(
  ("hits", "objects", "expected"),
  [([1, 0, 1], 2, 0.834983), ([1, 0, 1], 3, 0.554455), ([0, 1], 1, 0.5)],
)
def test_closed_forms(hits, objects, expected):
  boxes = [[100 * i, 100, 50, 50] for i in range(objects)]
  free = iter(boxes)
  found = [
    {
      "image_id": 1,
      "category_id": 1,
      "bbox": next(free) if hit else [5, 700 + 60 * i, 50, 50],
      "score": 0.9 - 0.1 * i,
    }
    for i, hit in enumerate(hits)
  ]
  figures, per_class = detection.average_precision(_truth(boxes), found)
  assert list(figures) == list(detection.COCO_FIGURES)
  # All boxes are exact, so every threshold gives the same.
  for name in ("ap", "ap50", "ap75", "ap_medium"):
    assert figures[name] == pytest.approx(expected, abs=1e-6)
  assert figures["ap_small"] == figures["ap_large"] == -1
  assert figures["ar100"] == pytest.approx(sum(hits) / objects)
  assert per_class == {"c1": pytest.approx(expected, abs=1e-6)}


def test_the_area_is_the_annotations_and_nothing_found_is_zero():
  truth = _truth([[0, 0, 50, 50]])
  truth["annotations"][0]["area"] = 10.0
  found = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "score": 0.5}]
  figures, _ = detection.average_precision(truth, found)
  assert figures["ap_small"] == pytest.approx(1) and figures["ap_medium"] == -1
  figures, per_class = detection.average_precision(truth, [])
  assert figures["ap"] == 0 and figures["ar100"] == 0 and per_class == {"c1": 0.0}
  assert "ignore" not in truth["annotations"][0]  # the tool's own marks stay with the tool


_AREAS = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))
_LIMITS = np.linspace(0.5, 0.95, 10)


def _slow(truth, found, overlaps, areas):
  """Returns the twelve figures by the sheet's account (3.4), one detection after the other.

  overlaps(detection, object), areas(detection).
  """
  ids = [c["id"] for c in truth["categories"]]
  precision = np.full((10, 101, len(ids), 4), -1.0)
  recall = np.full((10, len(ids), 4, 3), -1.0)
  for k, category in enumerate(ids):
    for r, (low, high) in enumerate(_AREAS):
      for m, most in enumerate((1, 10, 100)):
        for t, limit in enumerate(_LIMITS):
          rows, npos = [], 0
          for image in truth["images"]:
            mine = lambda x, i=image["id"], k=category: (x["image_id"], x["category_id"]) == (i, k)  # noqa: E731
            objects = [a for a in truth["annotations"] if mine(a)]
            ignored = {a["id"] for a in objects if a["iscrowd"] or not low <= a["area"] <= high}
            objects.sort(key=lambda a: a["id"] in ignored)
            npos += len(objects) - len(ignored)
            seen = sorted((d for d in found if mine(d)), key=lambda d: -d["score"])[:most]
            used = set()
            for d in seen:
              best, chosen = min(limit, 1 - 1e-10), None
              for a in objects:
                if a["id"] in used and not a["iscrowd"]:
                  continue
                if chosen and chosen["id"] not in ignored and a["id"] in ignored:
                  break
                o = overlaps(d, a)
                if o >= best:
                  best, chosen = o, a
              if chosen:
                used.add(chosen["id"])
                skip = chosen["id"] in ignored
              else:
                skip = not low <= areas(d) <= high
              if not skip:
                rows.append((d["score"], chosen is not None))
          if not npos:
            continue
          rows.sort(key=lambda x: -x[0])
          hits = np.cumsum([h for _, h in rows], dtype=float)
          recalls = hits / npos
          recall[t, k, r, m] = recalls[-1] if len(hits) else 0
          if most == 100:
            values = np.append(hits / np.arange(1, len(hits) + 1), 0.0)
            for i in range(len(hits) - 1, 0, -1):
              values[i - 1] = max(values[i - 1], values[i])
            at = np.searchsorted(recalls, np.linspace(0, 1, 101), side="left")
            precision[t, :, k, r] = values[at]
  mean = lambda x: float(x[x > -1].mean()) if (x > -1).any() else -1.0  # noqa: E731
  p = precision
  return [
    mean(p[..., 0]), mean(p[0, ..., 0]), mean(p[5, ..., 0]),
    mean(p[..., 1]), mean(p[..., 2]), mean(p[..., 3]),
    mean(recall[:, :, 0, 0]), mean(recall[:, :, 0, 1]), mean(recall[:, :, 0, 2]),
    mean(recall[:, :, 1, 2]), mean(recall[:, :, 2, 2]), mean(recall[:, :, 3, 2]),
  ]  # fmt: skip


def _random_case(seed):
  rng = np.random.default_rng(seed)
  images = [{"id": i, "height": 400, "width": 400} for i in (4, 7, 9)]
  annotations, found = [], []
  for image in images:
    for _ in range(rng.integers(0, 9)):
      box = rng.uniform([0, 0, 8, 8], [300, 300, 150, 150]).round(1).tolist()
      base = {"image_id": image["id"], "category_id": int(rng.integers(1, 4)), "bbox": box}
      area = box[2] * box[3] * rng.uniform(0.5, 1)
      crowd = int(rng.uniform() < 0.15)
      annotations.append({**base, "id": len(annotations) + 1, "area": area, "iscrowd": crowd})
      for _ in range(rng.integers(0, 3)):
        moved = (np.array(box) + rng.normal(0, 6, 4)).tolist()
        moved[2:] = np.maximum(moved[2:], 1).tolist()
        found.append({**base, "bbox": moved, "score": float(rng.uniform())})
    for _ in range(5):
      box = rng.uniform([0, 0, 8, 8], [300, 300, 100, 100]).tolist()
      found.append(
        {
          "image_id": image["id"],
          "category_id": int(rng.integers(1, 4)),
          "bbox": box,
          "score": float(rng.uniform()),
        }
      )
  categories = [{"id": k, "name": f"c{k}"} for k in (1, 2, 3, 8)]
  return {"images": images, "annotations": annotations, "categories": categories}, found


def _box_overlap(d, a):
  corners = lambda b: np.array([b[1], b[0], b[1] + b[3], b[0] + b[2]])  # noqa: E731
  one, two = corners(d["bbox"]), corners(a["bbox"])
  if not a["iscrowd"]:
    return detections.overlap(one, two)
  sides = np.maximum(np.minimum(one[2:], two[2:]) - np.maximum(one[:2], two[:2]), 0)
  return sides.prod() / (d["bbox"][2] * d["bbox"][3])


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_the_slow_form(seed):
  truth, found = _random_case(seed)
  expected = _slow(truth, found, _box_overlap, lambda d: d["bbox"][2] * d["bbox"][3])
  figures, per_class = detection.average_precision(truth, found)
  np.testing.assert_allclose(list(figures.values()), expected, atol=1e-9)
  assert per_class["c8"] == -1  # a category without objects
  alone = [ap for ap in per_class.values() if ap > -1]
  assert figures["ap"] == pytest.approx(np.mean(alone))


def test_masks_are_judged_by_their_pixels():
  rng = np.random.default_rng(0)
  truth, found = _random_case(5)
  bitmaps = {}
  for entry in (*truth["annotations"], *found):
    x, y, w, h = (int(v) for v in entry["bbox"])
    bitmap = np.zeros((400, 400), np.uint8)
    bitmap[max(y, 0) : y + h, max(x, 0) : x + w] = 1
    bitmap &= rng.uniform(size=bitmap.shape) < 0.97
    entry["segmentation"] = coco_files.encoded(bitmap)
    bitmaps[entry["segmentation"]["counts"]] = bitmap.astype(bool)
  for annotation in truth["annotations"]:
    annotation["area"] = int(bitmaps[annotation["segmentation"]["counts"]].sum())
  of = lambda entry: bitmaps[entry["segmentation"]["counts"]]  # noqa: E731

  def overlap(d, a):
    one, two = of(d), of(a)
    whole = one.sum() if a["iscrowd"] else (one | two).sum()
    return (one & two).sum() / whole if whole else 0.0

  figures, _ = detection.average_precision(truth, found, masks=True)
  expected = _slow(truth, found, overlap, lambda d: of(d).sum())
  np.testing.assert_allclose(list(figures.values()), expected, atol=1e-9)


def test_perfect_detections_of_scenes_have_an_ap_of_one(tmp_path):
  source = digit_scenes.open_split("", "test", options={"examples": 5}, key="k", split_key="s")
  k = 4
  boxes, classes = np.zeros((5, k, 4)), np.full((5, k), -1)
  masks = [[None] * k for _ in range(5)]
  for i in range(5):
    scene = source[i]
    count = len(scene["boxes"])
    boxes[i, :count], classes[i, :count] = scene["boxes"], scene["classes"]
    masks[i][:count] = [coco_files.encoded(mask) for mask in scene["masks"]]
  scores = np.random.default_rng(0).uniform(0.1, 1, (5, k))
  found = detection.results(
    boxes,
    scores,
    classes,
    image_ids=source.image_ids,
    category_ids=source.category_ids,
    masks=masks,
  )
  assert len(found) == (classes >= 0).sum()
  for of_masks in (False, True):
    figures, _ = detection.average_precision(source.truth(), found, masks=of_masks)
    assert figures["ap"] == figures["ar100"] == pytest.approx(1)
  # The file that is written gives the same.
  (tmp_path / "results.json").write_text(detection.to_json(found))
  read = json.loads((tmp_path / "results.json").read_text())
  assert set(read[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}
  assert detection.average_precision(source.truth(), read)[0]["ap"] == pytest.approx(1)
  assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_boxes_of_evaluation_batches_go_back_to_the_files_pictures(tmp_path):
  digit_scenes.write(tmp_path, {"examples": 7, "canvas": 100})
  source = data.open_source(f"coco:{tmp_path}", "validation")
  fit = data.scenes.Fit((64, 96), max_objects=5)
  scores = np.full((4, 5), 0.5)
  found = []
  for batch in data.eval_batches(source, 4, transform=fit, threads=0):
    real = batch["mask"]
    boxes = data.scenes.back(batch["boxes"], batch["scale"], batch["original"])
    found += detection.results(
      boxes[real],
      scores[real],
      batch["classes"][real],
      image_ids=source.image_ids[batch["index"][real]],
      category_ids=source.category_ids,
    )
  figures, _ = detection.average_precision(source.truth(), found)
  assert figures["ap"] == pytest.approx(1)


def test_results_skip_padding_and_refuse_nonsense():
  boxes = np.array([[[1.0, 2, 5, 8], [0, 0, 0, 0], [3, 3, 4, 4]]])
  scores, classes = np.array([[0.5, np.nan, 0.2]]), np.array([[1, -1, 0]])
  found = detection.results(boxes, scores, classes, image_ids=[42], category_ids=(0, 7))
  box = {"image_id": 42, "category_id": 7, "bbox": [2.0, 1.0, 6.0, 4.0], "score": 0.5}
  assert found == [box]  # the last one's class does not exist
  with pytest.raises(ValueError, match="2 image ids for 1 pictures"):
    detection.results(boxes, scores, classes, image_ids=[1, 2], category_ids=(1, 7))
  with pytest.raises(ValueError, match="class 1 of a detection; there are 1"):
    detection.results(boxes, scores, classes, image_ids=[1], category_ids=(1,))
  scores[0, 0] = np.inf
  with pytest.raises(ValueError, match="no finite number"):
    detection.results(boxes, scores, classes, image_ids=[1], category_ids=(1, 7))
  with pytest.raises(ValueError, match="image_id 42, which is not among"):
    detection.average_precision(_truth([[0, 0, 5, 5]]), [box])


def test_masks_pasted_into_pictures_are_those_of_the_operator():
  rng = np.random.default_rng(0)
  masks = rng.uniform(size=(12, 7, 7)).astype(np.float32)
  boxes = detections.random_boxes(rng, 12, 40.0, degenerate=0.2)
  valid = np.arange(12) != 3
  found = detection.pasted(masks, boxes, valid, height=40, width=52)
  whole = np.asarray(ops.masks.paste(masks, boxes, height=40, width=52))
  assert found[3] is None
  for i in np.flatnonzero(valid):
    close = np.abs(whole[i] - 0.5) < 1e-5
    np.testing.assert_array_equal(rle_lib.decode(found[i])[~close], (whole[i] >= 0.5)[~close])
