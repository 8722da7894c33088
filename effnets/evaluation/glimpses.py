"""How much of a picture was looked at, how far apart, and how well after how many glimpses."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

Windows = Int[np.ndarray, "n t 3"]
"""Top, left and side of every glimpse, in pixels; parts outside of the picture do not count."""


def coverage(windows: Windows, image_size: int) -> Float[np.ndarray, "n t"]:
  """Returns the share of pixels that are in one of the first 1, 2, … t windows.

  >>> coverage(np.array([[[0, 0, 2], [0, 1, 2]]]), 4).tolist()
  [[0.25, 0.375]]
  """
  number, count = windows.shape[:2]
  shares = np.empty((number, count))
  for index, looked_at in enumerate(windows.tolist()):
    seen = np.zeros((image_size, image_size), bool)
    for step, (top, left, side) in enumerate(looked_at):
      seen[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = True
      shares[index, step] = seen.mean()
  return shares


def diversity(windows: Windows, image_size: int) -> Float[np.ndarray, " n"]:
  """Returns the mean distance of two glimpses, the picture's half side being 1; 0 for one glimpse.

  >>> diversity(np.array([[[0, 0, 2], [3, 4, 2]]]), 10).tolist()
  [1.0]
  """
  count = windows.shape[1]
  if count < 2:
    return np.zeros(len(windows))
  at = windows[..., :2] / (image_size / 2)
  apart = np.sqrt(((at[:, :, None] - at[:, None]) ** 2).sum(-1))
  return apart.sum((1, 2)) / (count * (count - 1))


def looked(windows: Windows, image_size: int) -> dict[str, float]:
  """Returns the means of `coverage`, after all glimpses, and of `diversity`."""
  return {
    "coverage": float(coverage(windows, image_size)[:, -1].mean()),
    "diversity": float(diversity(windows, image_size).mean()),
  }


def judged(
  hits: Mapping[str, Bool[np.ndarray, "n t"]], windows: Windows, image_size: int
) -> dict[str, list[float]]:
  """Returns figures of a policy after 1, 2, … t glimpses: `top1`, `top5`, `coverage`, `diversity`.

  hits: `hits1` and `hits5`, whether an example was right.
  """
  steps = range(1, windows.shape[1] + 1)
  return {
    "top1": hits["hits1"].mean(0).tolist(),
    "top5": hits["hits5"].mean(0).tolist(),
    "coverage": coverage(windows, image_size).mean(0).tolist(),
    "diversity": [float(diversity(windows[:, :t], image_size).mean()) for t in steps],
  }


def grid_windows(places: Int[np.ndarray, "n t"], *, grid: int, stride: int, side: int) -> Windows:
  """Returns the windows of numbered places of a grid.

  >>> grid_windows(np.array([[4]]), grid=3, stride=8, side=77).tolist()
  [[[8, 8, 77]]]
  """
  tops = stride * np.stack([places // grid, places % grid], -1)
  return np.concatenate([tops, np.full_like(tops[..., :1], side)], -1)


def thinned(number: int, most: int) -> Sequence[int]:
  """Returns at most `most` numbers of examples, evenly spread.

  >>> list(thinned(10, 4))
  [0, 3, 6, 9]
  """
  return np.unique(np.linspace(0, number - 1, min(number, most)).astype(int)).tolist()
