"""Areas, distances and accuracies against slow loops."""

import numpy as np
import pytest

from effnets.evaluation import glimpses


def test_area_counts_every_pixel_once():
  rng = np.random.default_rng(0)
  # Some windows reach over the edges.
  windows = np.concatenate(
    [rng.integers(-4, 20, (3, 5, 2)), rng.integers(1, 9, (3, 5, 1))], axis=-1
  )
  found = glimpses.coverage(windows, 20)
  for n in range(3):
    for t in range(5):
      inside = sum(
        any(y <= r < y + s and x <= c < x + s for y, x, s in windows[n, : t + 1])
        for r in range(20)
        for c in range(20)
      )
      assert found[n, t] == pytest.approx(inside / 400)


def test_distances_are_of_pairs():
  windows = np.random.default_rng(1).integers(0, 30, (4, 6, 3))
  found = glimpses.diversity(windows, 40)
  for n in range(4):
    apart = [
      np.hypot(*(windows[n, i, :2] - windows[n, j, :2])) / 20 for i in range(6) for j in range(i)
    ]
    assert found[n] == pytest.approx(np.mean(apart))
  assert glimpses.diversity(windows[:, :1], 40).tolist() == [0] * 4


def test_figures_by_number_of_glimpses():
  hits = {"hits1": np.array([[False, True], [True, True]]), "hits5": np.ones((2, 2), bool)}
  windows = np.array([[[0, 0, 5], [0, 0, 5]], [[0, 0, 5], [5, 5, 5]]])
  found = glimpses.judged(hits, windows, 10)
  assert found["top1"] == [0.5, 1.0] and found["top5"] == [1.0, 1.0]
  assert found["coverage"] == [0.25, 0.375]
  # One glimpse has no pairs; then twice the same place, and 5 pixels down and to the right.
  assert found["diversity"] == [0.0, pytest.approx(np.sqrt(2) / 2)]


def test_windows_of_a_grid():
  found = glimpses.grid_windows(np.array([[0, 5], [11, 1]]), grid=4, stride=8, side=9)
  assert found.tolist() == [[[0, 0, 9], [8, 8, 9]], [[16, 24, 9], [0, 8, 9]]]
