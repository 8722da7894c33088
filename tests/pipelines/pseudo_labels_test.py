"""Filtering and balancing, against the worked examples of the paper's official code."""

import numpy as np
import pytest

from effnets import errors
from effnets.pipelines import pseudo_labels


def _answers(rows):
  return pseudo_labels.Answers.of(np.asarray(rows))


def _all_of_class_0(confidences, classes=20):
  """Rows whose largest probability is the given confidence, all for class 0."""
  rest = (1 - np.array(confidences)) / (classes - 1)
  rows = np.repeat(rest[:, None], classes, axis=1)
  rows[:, 0] = confidences
  return rows


def _select(rows, *, seed=0, cuts=(), **settings):
  """Returns rule and number of copies of each row, the rows cut into shards at `cuts`."""
  edges = [0, *cuts, len(rows)]
  shards = [_answers(rows[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
  histogram = sum(shard.histogram(np.shape(rows)[1]) for shard in shards)
  rule = pseudo_labels.rule(histogram, **{"min_confidence": 0.3, **settings})
  counts = [rule.counts(shard, start=a, seed=seed) for shard, a in zip(shards, edges, strict=False)]
  return rule, np.concatenate(counts)


@pytest.mark.parametrize(
  ("confidences", "threshold", "kept", "copies"),
  [
    ([0.955, 0.955, 0.605, 0.315, 0.205], 0.60, 3, 1.0),
    ([0.955, 0.315, 0.205], 0.30, 2, 1.5),
    ([0.955] * 5, 0.95, 5, 0.6),
  ],
)
def test_worked_examples(confidences, threshold, kept, copies):
  rule, counts = _select(_all_of_class_0(confidences), per_class=3)
  assert rule.thresholds[0] == pytest.approx(threshold)
  assert rule.kept[0] == kept
  assert rule.copies[0] == pytest.approx(copies)
  taken = np.array(confidences)[counts > 0]
  assert len(taken) and np.all(taken >= threshold)


@pytest.mark.parametrize(
  ("kept", "per_class", "copies"),
  # The sheet's check 5: ImageNet's 130,000 and SVHN's 53,113 pictures of each class.
  [(130_500, 130_000, 0.99617), (81_000, 130_000, 1.60494), (20_000, 53_113, 2.65565)],
)
def test_copies_of_the_sheet(kept, per_class, copies):
  histogram = np.zeros((2, pseudo_labels.BINS), np.int64)
  histogram[0, 42] = kept
  settings = {"min_confidence": 0.3, "per_class": per_class}
  rule = pseudo_labels.rule(histogram, **settings)
  assert rule.copies[0] == pytest.approx(copies, abs=5e-6)
  assert rule.kept.tolist() == [kept, 0]
  once = pseudo_labels.rule(histogram, **settings, upsample=False)
  assert once.copies[0] == pytest.approx(min(copies, 1.0), abs=5e-6)
  assert pseudo_labels.rule(histogram, **settings, use_all=True).copies.tolist() == [1, 1]
  # On average so many of each; here of as many draws as there are pictures.
  answers = pseudo_labels.Answers(np.zeros(kept, np.int32), np.full(kept, 0.425, np.float32))
  drawn = rule.counts(answers, start=0, seed=1)
  assert set(drawn) <= {int(copies), int(copies) + 1}
  assert drawn.sum() == pytest.approx(per_class, abs=3 * np.sqrt(kept / 4))


def test_thresholds_against_the_loop_of_the_paper():
  rng = np.random.default_rng(0)
  rows = rng.dirichlet(np.full(4, 0.3), 400)
  rule, _ = _select(rows, per_class=40, cuts=(130, 131, 300))
  for c in range(4):
    confident = rows.max(1)[rows.argmax(1) == c]
    count, j = 0, 100
    while True:
      inside = (confident >= j / 100) & ((confident < (j + 1) / 100) | (j == 100))
      count += int(inside.sum())
      if count >= 40 or j == 30:
        break
      j -= 1
    assert rule.thresholds[c] == pytest.approx(j / 100)
    assert rule.kept[c] == count


def test_classes_are_flat_in_expectation():
  rng = np.random.default_rng(1)
  label = rng.choice(4, 4000, p=[0.6, 0.3, 0.08, 0.02])
  rows = np.full((4000, 4), 0.02)
  rows[np.arange(4000), label] = rng.uniform(0.5, 0.94, 4000)
  rows /= rows.sum(1, keepdims=True)
  counts = [
    np.bincount(label, weights=_select(rows, per_class=500, seed=seed)[1], minlength=4)
    for seed in range(20)
  ]
  # A kept example's copies vary by at most 1/4 (Bernoulli), at most 2400 are kept: 25 at 1 sigma.
  assert np.abs(np.mean(counts, 0) - 500).max() < 3 * 25 / np.sqrt(20)


def test_without_upsampling_nothing_is_taken_twice_and_all_is_all():
  rows = _all_of_class_0([0.9] * 10)
  assert _select(rows, per_class=100, upsample=False)[1].tolist() == [1] * 10
  assert _select(rows, per_class=5, use_all=True)[1].tolist() == [1] * 10
  assert set(_select(rows, per_class=25)[1]) == {2, 3}


def test_the_choice_depends_on_the_seed_and_not_on_the_shards():
  rows = np.random.default_rng(2).dirichlet(np.ones(3), 100)
  rows[7] = 0  # unreadable
  once, again, other = (_select(rows, per_class=20, seed=s)[1] for s in (1, 1, 2))
  np.testing.assert_array_equal(once, again)
  assert not np.array_equal(once, other) and once[7] == 0
  for cuts in ((50,), (1, 2, 99), tuple(range(10, 100, 10))):
    np.testing.assert_array_equal(_select(rows, per_class=20, seed=1, cuts=cuts)[1], once)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"min_confidence": 0.305, "per_class": 3}, r"min_confidence=0.305 .* multiple of 0.01"),
    ({"min_confidence": 0.3, "per_class": 0}, r"per_class=0 is below 1"),
    ({"min_confidence": 0.99, "per_class": 3}, r"sure of none of the 2 .*largest is 0.50 or"),
  ],
)
def test_mistakes(settings, message):
  with pytest.raises(errors.UserError, match=message):
    _select(_all_of_class_0([0.505, 0.4]), **settings)
