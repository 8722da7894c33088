"""GLUE's metrics, and the average of tasks that its leaderboard shows.

Source: Wang et al. 2019 (arXiv 1804.07461), section 3.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int


def accuracy(found: Int[np.ndarray, " n"], truth: Int[np.ndarray, " n"]) -> float:
  """Returns the share of equal ones."""
  return float(np.mean(np.asarray(found) == np.asarray(truth)))


def f1(found: Int[np.ndarray, " n"], truth: Int[np.ndarray, " n"]) -> float:
  """Returns the harmonic mean of precision and recall of class 1; 0 without any hit.

  The scorer in BAM's code counts recall otherwise, wrongly.

  >>> y, p = np.array([1, 1, 1, 0, 0, 1, 0, 1]), np.array([1, 0, 1, 0, 1, 1, 0, 1])
  >>> f1(p, y)
  0.8
  """
  found, truth = np.asarray(found) == 1, np.asarray(truth) == 1
  both = 2.0 * np.sum(found & truth)
  total = np.sum(found) + np.sum(truth)
  return float(both / total) if total else 0.0


def matthews(found: Int[np.ndarray, " n"], truth: Int[np.ndarray, " n"]) -> float:
  """Returns the Matthews correlation of classes, of more than two as Gorodkin has it.

  0 if predictions or truth are all of one class.

  >>> y, p = np.array([1, 1, 1, 0, 0, 1, 0, 1]), np.array([1, 0, 1, 0, 1, 1, 0, 1])
  >>> round(matthews(p, y), 6)
  0.466667
  """
  classes = np.union1d(found, truth)
  ours = (np.asarray(found)[:, None] == classes).astype(np.float64)
  theirs = (np.asarray(truth)[:, None] == classes).astype(np.float64)
  return _correlation(ours - ours.mean(0), theirs - theirs.mean(0))


def pearson(found: Float[np.ndarray, " n"], truth: Float[np.ndarray, " n"]) -> float:
  """Returns the linear correlation; 0 if one of them is constant."""
  found, truth = np.asarray(found, np.float64), np.asarray(truth, np.float64)
  return _correlation(found - found.mean(), truth - truth.mean())


def spearman(found: Float[np.ndarray, " n"], truth: Float[np.ndarray, " n"]) -> float:
  """Returns the correlation of ranks, equal values sharing the mean of theirs."""
  return pearson(ranks(found), ranks(truth))


def ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
  """Returns the rank of every value from 1, the mean rank of equal ones.

  >>> ranks(np.array([0.5, 2.0, 0.5])).tolist()
  [1.5, 3.0, 1.5]
  """
  _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
  last = np.cumsum(counts)
  return (last - (counts - 1) / 2)[place.reshape(-1)]


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
  scale = math.sqrt(float(np.sum(one * one)) * float(np.sum(other * other)))
  # Deviations of a constant are rounding errors, not zeros.
  size = 1e-12 * max(1, one.size)
  return float(np.sum(one * other) / scale) if scale > size * size else 0.0


METRICS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
  "accuracy": accuracy,
  "f1": f1,
  "matthews": matthews,
  "pearson": pearson,
  "spearman": spearman,
}
OF_VALUES = ("pearson", "spearman")
"""Metrics of regression; the others are of classes."""


def average(figures: Mapping[str, float], tasks: Mapping[str, Sequence[str]]) -> float:
  """Returns the mean over tasks of the mean of each one's metrics.

  Args: figures: `TASK_METRIC` -> value. tasks: name -> metrics.

  >>> average({"a_accuracy": 0.8, "b_pearson": 0.5, "b_spearman": 0.7}, {"a": ["accuracy"],
  ...   "b": ["pearson", "spearman"]})
  0.7
  """
  means = [
    np.mean([figures[f"{name}_{metric}"] for metric in metrics]) for name, metrics in tasks.items()
  ]
  return float(np.mean(means))
