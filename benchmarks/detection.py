"""Milliseconds per picture of suppression: 1,000 boxes with scores of 90 classes, 100 kept.

  python benchmarks/detection.py [--boxes 1000] [--classes 90] [--batch 8] [--rounds 7]

`compiled` is this package's operator inside a compiled program, a batch at a time; `NumPy` are the
usual host programs, a picture at a time:

  classes  torchvision's way: class by class, candidates above the threshold, sorted, greedy
  offsets  effdet's way: the 5,000 best (box, class) pairs, each class moved to a place of its own,
           then one greedy pass
  soft     the official EfficientDet code's way: class by class, scores lowered one pick at a time

Each stops as soon as it has 100, which theirs do not. `same`: share of the detections of either
side that both have. Scenes are clusters of boxes about 30 objects. Rounds are interleaved, one
timing of each, so that a busy machine slows all alike; figures are medians, and ratios mean more
than they do.
"""

import argparse
import os
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import numpy as np

from effnets import ops

_MOST = 100


def scenes(batch: int, boxes: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns boxes (b, n, 4) in pixels of 640 and scores (b, n, c): objects, and noise."""
  rng = np.random.default_rng(0)
  middle = rng.uniform(60, 580, (batch, 30, 2))
  sides = rng.uniform(20, 160, (batch, 30, 2))
  owner = rng.integers(0, 30, (batch, boxes))
  take = lambda x: np.take_along_axis(x, owner[..., None], 1)  # noqa: E731
  near = take(middle) + rng.normal(0, 0.15, (batch, boxes, 2)) * take(sides)
  size = take(sides) * np.exp(rng.normal(0, 0.2, (batch, boxes, 2)))
  logits = rng.normal(-4.5, 1.2, (batch, boxes, classes))
  label = take(rng.integers(0, classes, (batch, 30, 1)))
  hit = np.arange(classes) == label
  logits += hit * rng.uniform(0, 7, (batch, boxes, 1))
  corners = np.concatenate([near - size / 2, near + size / 2], -1)
  return corners.astype(np.float32), (1 / (1 + np.exp(-logits))).astype(np.float32)


def _overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
  first, last = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
  shared = np.prod(np.maximum(last - first, 0), 1)
  areas = np.prod(boxes[:, 2:] - boxes[:, :2], 1)
  return shared / (np.prod(box[2:] - box[:2]) + areas - shared)


def _greedy(boxes: np.ndarray, scores: np.ndarray, limit: float) -> np.ndarray:
  """Returns the indices kept, best first; as many as there can be places for."""
  order = np.argsort(-scores, kind="stable")
  kept = []
  while len(order) and len(kept) < _MOST:
    kept.append(order[0])
    rest = order[1:]
    order = rest[_overlaps(boxes[order[0]], boxes[rest]) <= limit]
  return np.array(kept, int)


def _best(parts: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
  """Returns scores, classes and boxes' numbers of the best over all parts."""
  scores, classes, index = (np.concatenate(p) for p in zip(*parts, strict=True))
  order = np.argsort(-scores, kind="stable")[:_MOST]
  return scores[order], classes[order], index[order]


def numpy_classes(boxes: np.ndarray, scores: np.ndarray, threshold: float):
  """Hard suppression class by class."""
  parts = []
  for k in range(scores.shape[1]):
    rows = np.flatnonzero(scores[:, k] >= threshold)
    kept = rows[_greedy(boxes[rows], scores[rows, k], 0.5)]
    parts.append((scores[kept, k], np.full(len(kept), k), kept))
  return _best(parts)


def numpy_offsets(boxes: np.ndarray, scores: np.ndarray, threshold: float):
  """Hard suppression of the 5,000 best pairs, classes moved apart."""
  flat = scores.ravel()
  count = min(5000, flat.size)
  pairs = np.argpartition(-flat, count - 1)[:count]
  pairs = pairs[flat[pairs] >= threshold]
  index, classes = np.divmod(pairs, scores.shape[1])
  moved = boxes[index] + classes[:, None] * (boxes.max() + 1)
  kept = _greedy(moved, flat[pairs], 0.5)
  return flat[pairs][kept], classes[kept], index[kept]


def numpy_soft(boxes: np.ndarray, scores: np.ndarray, threshold: float):
  """Gaussian suppression class by class, sigma 0.5."""
  parts = []
  for k in range(scores.shape[1]):
    left = np.where(scores[:, k] >= threshold, scores[:, k], -1)
    kept, values = [], []
    # No class gives more than all classes together keep.
    while len(kept) < _MOST and left.max(initial=-1) > 0:
      best = int(left.argmax())
      kept.append(best)
      values.append(left[best])
      left = left * np.exp(-(_overlaps(boxes[best], boxes) ** 2) / 0.5)
      left[best] = -1
      left[left < threshold] = -1
    parts.append((np.array(values), np.full(len(kept), k), np.array(kept, int)))
  return _best(parts)


def _same(found: ops.nms.Detections, peers: list[tuple[np.ndarray, ...]]) -> float:
  """Returns the share of detections that both sides have, of all pictures."""
  shares = []
  for i, (_, classes, index) in enumerate(peers):
    count = int(found.count[i])
    ours = set(zip(found.index[i][:count].tolist(), found.classes[i][:count].tolist(), strict=True))
    theirs = set(zip(index.tolist(), classes.tolist(), strict=True))
    shares.append(len(ours & theirs) / max(len(ours | theirs), 1))
  return float(np.mean(shares))


def _timed(function) -> float:
  begin = time.perf_counter()
  function()
  return time.perf_counter() - begin


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--boxes", type=int, default=1000)
  parser.add_argument("--classes", type=int, default=90)
  parser.add_argument("--batch", type=int, default=8, help="pictures")
  parser.add_argument("--rounds", type=int, default=7, help="timings of each")
  options = parser.parse_args()
  boxes, scores = scenes(options.batch, options.boxes, options.classes)
  write = sys.stdout.write
  write(
    f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {options.boxes} boxes, "
    f"{options.classes} classes, {_MOST} kept, median ms per picture of {options.rounds}\n"
  )
  write(
    f"{'':34}{'batch 1':>10}{f'batch {options.batch}':>10}{'NumPy':>10}{'ratio':>9}{'same':>8}\n"
  )
  rows = (
    ("hard, threshold 0.05: classes", "hard", 0.05, 0, numpy_classes),
    ("hard, threshold 0.001: classes", "hard", 0.001, 0, numpy_classes),
    ("hard, threshold 0.001: offsets", "hard", 0.001, 5000, numpy_offsets),
    ("gaussian, threshold 0.001: soft", "gaussian", 0.001, 0, numpy_soft),
  )
  one, many = (jax.device_put((boxes[:n], scores[:n])) for n in (1, options.batch))
  for name, kind, threshold, candidates, peer in rows:
    rule = ops.nms.Rule(kind, threshold=threshold, most=_MOST)
    compiled = jax.jit(
      lambda b, s, rule=rule, candidates=candidates: ops.nms.per_class(
        b, s, rule=rule, candidates=candidates
      )
    )
    run = lambda arrays, f=compiled: jax.block_until_ready(f(*arrays))  # noqa: E731
    peers = [peer(b, s, threshold) for b, s in zip(boxes, scores, strict=True)]
    run(one)
    same = _same(jax.device_get(run(many)), peers)
    times = {"one": [], "many": [], "NumPy": []}
    for _ in range(options.rounds):
      times["one"].append(_timed(lambda run=run: run(one)))
      times["many"].append(_timed(lambda run=run: run(many)) / options.batch)
      times["NumPy"].append(_timed(lambda peer=peer, t=threshold: peer(boxes[0], scores[0], t)))
    ms = {key: 1e3 * statistics.median(values) for key, values in times.items()}
    write(
      f"{name:34}{ms['one']:10.2f}{ms['many']:10.2f}{ms['NumPy']:10.2f}"
      f"{ms['NumPy'] / ms['one']:8.1f}x{same:8.1%}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
  main()
