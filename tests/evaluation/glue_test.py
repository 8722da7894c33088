"""The metrics against scikit-learn and SciPy, and the sheet's own case."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from effnets.evaluation import glue

Y, P = np.array([1, 1, 1, 0, 0, 1, 0, 1]), np.array([1, 0, 1, 0, 1, 1, 0, 1])


def test_the_sheets_case():
  assert glue.matthews(P, Y) == pytest.approx(0.466667, abs=1e-6)
  assert glue.f1(P, Y) == pytest.approx(0.8)
  assert glue.accuracy(P, Y) == 0.75


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_classes(seed, classes):
  rng = np.random.default_rng(seed)
  truth, found = rng.integers(0, classes, (2, 40))
  found = np.where(rng.random(40) < 0.5, truth, found)
  expected = sklearn.metrics.matthews_corrcoef(truth, found)
  assert glue.matthews(found, truth) == pytest.approx(expected, abs=1e-12)
  assert glue.accuracy(found, truth) == sklearn.metrics.accuracy_score(truth, found)
  if classes == 2:
    assert glue.f1(found, truth) == pytest.approx(sklearn.metrics.f1_score(truth, found), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_values(seed):
  rng = np.random.default_rng(seed)
  # Rounded, so that there are ties; far from 0, where a naive formula loses digits.
  truth = np.round(rng.random(50) * 5, 1) + 1000
  found = truth / 5 + rng.random(50)
  assert glue.pearson(found, truth) == pytest.approx(scipy.stats.pearsonr(found, truth)[0])
  assert glue.spearman(found, truth) == pytest.approx(scipy.stats.spearmanr(found, truth)[0])
  np.testing.assert_array_equal(glue.ranks(truth), scipy.stats.rankdata(truth))


def test_constant_predictions_give_zero():
  same = np.zeros(8, int)
  assert glue.matthews(same, Y) == glue.matthews(same + 1, Y) == 0
  assert glue.f1(same, Y) == 0
  assert glue.pearson(np.full(8, 0.3), Y) == glue.spearman(np.full(8, 0.1), Y) == 0


def test_the_average_takes_means_within_tasks_first():
  # BERT-large's dev row in the sheet, whose average is printed as 84.0.
  row = {"cola": 60.6, "sst": 93.2, "mrpc": 88.0, "sts": 90.0, "qqp": 91.3, "mnli": 86.6}
  row |= {"qnli": 92.3, "rte": 70.4}
  single = {f"{name}_x": value for name, value in row.items()}
  assert glue.average(single, {name: ["x"] for name in row}) == pytest.approx(84.05)
  double = {**single, "sts_y": 80.0}
  tasks = {name: ["x"] for name in row} | {"sts": ["x", "y"]}
  assert glue.average(double, tasks) == pytest.approx(84.05 - 5 / 8)
