"""Mean average precision against a loop, and the sheet's figures."""

import math

import numpy as np
import pytest

from effnets import evaluation


def slow(scores, targets):
  """Returns the mean over classes, as the official scorer goes about it."""
  scores = [
    [s if any(own) else -math.inf for s in row] for row, own in zip(scores, targets, strict=True)
  ]
  found = []
  for label in range(len(targets[0])):
    order = sorted(range(len(scores)), key=lambda i: -scores[i][label])
    right, total, seen = 0, 0.0, 0
    for i in order:
      seen += 1
      if targets[i][label] == 1:
        right += 1
        total += right / seen
    found.append(total / right)
  return sum(found) / len(found)


def test_mean_average_precision_equals_a_loop():
  rng = np.random.default_rng(0)
  scores, targets = rng.standard_normal((60, 7)), (rng.random((60, 7)) < 0.2).astype(float)
  assert (targets.sum(1) == 0).any() and (targets.sum(0) > 0).all()
  figures = evaluation.multi_label(scores, targets)
  assert figures["map"] == pytest.approx(slow(scores.tolist(), targets.tolist()), abs=1e-12)
  assert figures["examples"] == 60
  each = evaluation.average_precisions(scores, targets)
  weighted = (each * targets.sum(0)).sum() / targets.sum()
  assert figures["weighted_map"] == pytest.approx(weighted)
  p = 1 / (1 + np.exp(-scores))
  entropy = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum(1).mean()
  assert figures["cross_entropy"] == pytest.approx(entropy)


def test_figures_of_the_sheet():
  scores = np.array([[0.9], [0.8], [0.7], [0.6]])
  # Without another class, an example of none would be sent to the end.
  targets = np.array([[1, 1], [0, 1], [1, 1], [0, 1]])
  both = np.concatenate([scores, scores], 1)
  found = evaluation.average_precisions(both, targets)
  np.testing.assert_allclose(found, [(1 + 2 / 3) / 2, 1.0])
  assert evaluation.multi_label(targets * 1.0, targets)["map"] == 1.0


def test_classes_that_do_not_occur_are_left_out():
  targets = np.array([[1, 0], [0, 0]])
  found = evaluation.average_precisions(np.array([[0.1, 0.5], [0.9, 0.2]]), targets)
  # The second example is of no class, so it comes last whatever its score.
  assert found[0] == 1.0 and np.isnan(found[1])
  assert evaluation.multi_label(np.zeros((2, 2)), targets)["map"] == 1.0
  assert np.isnan(evaluation.multi_label(np.zeros((2, 2)), 0 * targets)["map"])
