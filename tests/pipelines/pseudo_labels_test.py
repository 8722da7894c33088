"""Filtering and balancing, against the worked examples of the paper's official code."""

import numpy as np
import pytest

from effnets import errors
from effnets.pipelines import pseudo_labels


def _all_of_class_0(confidences, classes=20):
  """Rows whose largest probability is the given confidence, all for class 0."""
  rest = (1 - np.array(confidences)) / (classes - 1)
  rows = np.repeat(rest[:, None], classes, axis=1)
  rows[:, 0] = confidences
  return rows


@pytest.mark.parametrize(
  ("confidences", "threshold", "kept", "copies"),
  [
    ([0.955, 0.955, 0.605, 0.315, 0.205], 0.60, 3, 1.0),
    ([0.955, 0.315, 0.205], 0.30, 2, 1.5),
    ([0.955] * 5, 0.95, 5, 0.6),
  ],
)
def test_worked_examples(confidences, threshold, kept, copies):
  rows = _all_of_class_0(confidences)
  limit, total = pseudo_labels.thresholds(rows, min_confidence=0.3, per_class=3)
  assert limit[0] == pytest.approx(threshold)
  assert total[0] == kept
  selection = pseudo_labels.select(rows, min_confidence=0.3, per_class=3)
  assert selection.copies[0] == pytest.approx(copies)
  assert np.all(np.array(confidences)[selection.indices] >= threshold)


def test_thresholds_against_the_loop_of_the_paper():
  rng = np.random.default_rng(0)
  rows = rng.dirichlet(np.full(4, 0.3), 400)
  limit, total = pseudo_labels.thresholds(rows, min_confidence=0.3, per_class=40)
  for c in range(4):
    confident = rows.max(1)[rows.argmax(1) == c]
    count, j = 0, 100
    while True:
      inside = (confident >= j / 100) & ((confident < (j + 1) / 100) | (j == 100))
      count += int(inside.sum())
      if count >= 40 or j == 30:
        break
      j -= 1
    assert limit[c] == pytest.approx(j / 100)
    assert total[c] == count


def test_classes_are_flat_in_expectation():
  rng = np.random.default_rng(1)
  label = rng.choice(4, 4000, p=[0.6, 0.3, 0.08, 0.02])
  rows = np.full((4000, 4), 0.02)
  rows[np.arange(4000), label] = rng.uniform(0.5, 0.94, 4000)
  rows /= rows.sum(1, keepdims=True)
  counts = [
    np.bincount(
      pseudo_labels.select(rows, min_confidence=0.3, per_class=500, seed=seed).labels, minlength=4
    )
    for seed in range(20)
  ]
  # A kept example's copies vary by at most 1/4 (Bernoulli), at most 2400 are kept: 25 at 1 sigma.
  assert np.abs(np.mean(counts, 0) - 500).max() < 3 * 25 / np.sqrt(20)


def test_without_upsampling_nothing_is_taken_twice():
  rows = _all_of_class_0([0.9] * 10)
  selection = pseudo_labels.select(rows, min_confidence=0.3, per_class=100, upsample=False)
  assert sorted(selection.indices) == list(range(10))


def test_same_seed_same_selection():
  rows = np.random.default_rng(2).dirichlet(np.ones(3), 100)
  once, again, other = (
    pseudo_labels.select(rows, min_confidence=0.3, per_class=20, seed=s).indices for s in (1, 1, 2)
  )
  np.testing.assert_array_equal(once, again)
  assert not np.array_equal(once, other)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"min_confidence": 0.305, "per_class": 3}, r"min_confidence=0.305 .* multiple of 0.01"),
    ({"min_confidence": 0.3, "per_class": 0}, r"per_class=0 is below 1"),
    ({"min_confidence": 0.99, "per_class": 3}, r"sure of none of the 2 .*largest: 0.50"),
  ],
)
def test_mistakes(settings, message):
  with pytest.raises(errors.UserError, match=message):
    pseudo_labels.select(_all_of_class_0([0.5, 0.4]), **settings)
