"""The figures of a classifier against slow loops and hand counts."""

import math

import numpy as np
import pytest

from effnets import evaluation


def test_against_a_slow_loop():
  rng = np.random.default_rng(0)
  logits, labels = rng.standard_normal((57, 7)), rng.integers(0, 7, 57)
  top1 = top5 = entropy = 0.0
  hits: dict[int, list[bool]] = {}
  bins: dict[int, list[tuple[float, bool]]] = {}
  for row, label in zip(logits, labels, strict=True):
    ranked = sorted(range(7), key=lambda c: -row[c])
    exps = [math.exp(v) for v in row]
    probabilities = [e / sum(exps) for e in exps]
    top1 += ranked[0] == label
    top5 += label in ranked[:5]
    entropy -= math.log(probabilities[label])
    hits.setdefault(int(label), []).append(ranked[0] == label)
    confidence = max(probabilities)
    bins.setdefault(int(confidence * 15), []).append((confidence, ranked[0] == label))
  gap = sum(
    abs(sum(c for c, _ in b) / len(b) - sum(r for _, r in b) / len(b)) * len(b) / 57
    for b in bins.values()
  )
  expected = {
    "top1": top1 / 57,
    "top5": top5 / 57,
    "mean_per_class": sum(sum(h) / len(h) for h in hits.values()) / len(hits),
    "cross_entropy": entropy / 57,
    "calibration_error": gap,
    "examples": 57,
  }
  assert tuple(expected) == evaluation.CLASSIFICATION_FIGURES
  assert evaluation.classification(logits, labels) == pytest.approx(expected, abs=1e-12)


def test_certain_and_right_is_calibrated_and_certain_and_wrong_is_not():
  logits = 100 * np.eye(4)
  right = evaluation.classification(logits, np.arange(4))
  wrong = evaluation.classification(logits, np.array([1, 2, 3, 0]))
  assert right["top1"] == 1 and right["calibration_error"] == pytest.approx(0, abs=1e-12)
  assert wrong["top1"] == 0 and wrong["calibration_error"] == pytest.approx(1)
  assert wrong["cross_entropy"] == pytest.approx(100)


def test_five_or_fewer_classes_have_a_top5_of_one():
  assert evaluation.classification(np.zeros((3, 5)), np.array([4, 4, 0]))["top5"] == 1.0
