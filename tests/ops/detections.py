"""Random boxes, and slow NumPy forms of the operators on them, for tests."""

import numpy as np


def random_boxes(rng, count, size=64.0, *, degenerate=0.0):
  """Returns boxes within about `size` pixels; some are points, lines or the wrong way round."""
  first = rng.uniform(-0.1 * size, 0.9 * size, (count, 2))
  sides = rng.uniform(0.02, 0.5, (count, 2)) * size
  kind = rng.uniform(size=count)
  sides[kind < degenerate] *= 0
  sides[kind < 2 / 3 * degenerate, 1] = 5
  sides[kind < 1 / 3 * degenerate] = -4
  return np.concatenate([first, first + sides], 1).astype(np.float32)


def overlap(a, b, offset=0.0):
  """Returns the IoU of two boxes in float64."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  area = lambda x: max(x[2] - x[0] + offset, 0) * max(x[3] - x[1] + offset, 0)  # noqa: E731
  shared = area(np.concatenate([np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])]))
  union = area(a) + area(b) - shared
  return shared / union if union > 0 else 0.0


def suppress(boxes, scores, *, kind="hard", limit=0.5, sigma=0.5, threshold=-np.inf, offset=0.0):
  """Returns [(index, score)] that greedy suppression keeps of candidates of one class."""
  left = {i: float(s) for i, s in enumerate(scores) if s >= threshold and s > -np.inf}
  kept = []
  while left:
    best = max(left, key=lambda i: (left[i], -i))
    kept.append((best, left.pop(best)))
    for i in list(left):
      o = overlap(boxes[best], boxes[i], offset)
      if kind == "gaussian":
        left[i] *= np.exp(-(o**2) / sigma)
      elif o > limit:
        left[i] = left[i] * (1 - o) if kind == "linear" else -np.inf
      if not left[i] >= threshold or left[i] == -np.inf:
        del left[i]
  return kept
