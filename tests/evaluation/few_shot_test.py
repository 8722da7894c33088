"""Few-shot classification against scikit-learn's ridge regression and by construction."""

import numpy as np
import pytest
from sklearn import linear_model

from effnets import evaluation
from effnets.evaluation import few_shot


def clouds(count, *, classes=4, dims=6, noise=1.0, seed=0):
  """Returns features around one fixed centre a class, on very different scales, and labels."""
  rng = np.random.default_rng(seed)
  centres = np.random.default_rng(9).normal(size=(classes, dims))
  labels = np.arange(count, dtype=np.int32) % classes
  features = centres[labels] + noise * rng.normal(size=(count, dims))
  return (features * 10.0 ** np.arange(dims) + 3).astype(np.float32), labels


# More examples than features, and fewer.
@pytest.mark.parametrize("count", [40, 5])
def test_ridge_is_scikit_learns(count):
  features, labels = clouds(count)
  queries, _ = clouds(30, seed=1)
  penalties = (1e-3, 1.0, 100.0)
  (scores,) = few_shot.ridge(features, labels, [queries], 4, l2=penalties)
  mean, deviation = features.astype(np.float64).mean(0), features.astype(np.float64).std(0)
  for penalty, found in zip(penalties, scores, strict=True):
    model = linear_model.RidgeClassifier(alpha=penalty)
    model.fit((features - mean) / deviation, labels)
    expected = model.decision_function((queries - mean) / deviation)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_a_feature_that_never_changes_says_nothing():
  features, labels = clouds(20)
  queries, _ = clouds(10, seed=1)
  constant = np.full((30, 1), 7, np.float32)
  (without,) = few_shot.ridge(features, labels, [queries], 4)
  (found,) = few_shot.ridge(
    np.hstack([features, constant[:20]]), labels, [np.hstack([queries, constant[:10]])], 4
  )
  np.testing.assert_allclose(found, without, atol=1e-9)


def test_draws_are_of_every_class_none_twice_and_fixed():
  labels = np.random.default_rng(0).permutation(np.repeat(np.arange(3), 10))
  rows = few_shot.draw(labels, 4, 3, rng=np.random.default_rng(5))
  np.testing.assert_array_equal(labels[rows], np.repeat(np.arange(3), 4))
  assert len(set(rows)) == 12
  np.testing.assert_array_equal(rows, few_shot.draw(labels, 4, 3, rng=np.random.default_rng(5)))
  with pytest.raises(ValueError, match="class 0 has 10 examples, fewer than 11"):
    few_shot.draw(labels, 11, 3, rng=np.random.default_rng(5))


def test_more_examples_help_and_draws_differ():
  train, validation, test = clouds(400), clouds(200, seed=1), clouds(400, seed=2)
  found = [
    evaluation.few_shot_accuracy(train, validation, test, 4, shots=k, draws=8, seed=3)
    for k in (1, 10, 50)
  ]
  assert found[0].mean < found[1].mean < found[2].mean
  assert len(set(found[0].test)) > 1 and found[0].spread == pytest.approx(
    np.std(found[0].test, ddof=1)
  )
  again = evaluation.few_shot_accuracy(train, validation, test, 4, shots=10, draws=8, seed=3)
  assert again == found[1]
  # The class means are the best there is here: a linear rule near theirs is nearly as good.
  centres = np.stack([train[0][train[1] == c].mean(0) for c in range(4)]) / train[0].std(0)
  distance = ((test[0] / train[0].std(0))[:, None] - centres) ** 2
  best = (distance.sum(-1).argmin(1) == test[1]).mean()
  assert found[2].mean > best - 0.05


def test_the_penalty_is_chosen_on_validation_and_the_largest_of_equals():
  train, test = clouds(40), clouds(40, seed=1)
  wrong = (test[0], (test[1] + 1) % 4)
  right = evaluation.few_shot_accuracy(train, test, test, 4, shots=2, draws=4, l2=(0.01, 1e12))
  other = evaluation.few_shot_accuracy(train, wrong, test, 4, shots=2, draws=4, l2=(0.01, 1e12))
  assert right.validation == right.test
  assert np.mean(other.validation) != np.mean(right.validation)
  easy = clouds(40, noise=0.0)
  assert (
    evaluation.few_shot_accuracy(easy, easy, easy, 4, shots=1, draws=2, l2=(1.0, 2.0, 0.5)).l2
    == 2.0
  )
