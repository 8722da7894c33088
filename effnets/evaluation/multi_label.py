"""Figures of a classifier whose examples can be of several classes each."""

import numpy as np
from jaxtyping import Float

MULTI_LABEL_FIGURES = ("map", "weighted_map", "cross_entropy", "examples")


def average_precisions(
  scores: Float[np.ndarray, "n k"], targets: Float[np.ndarray, "n k"]
) -> Float[np.ndarray, " k"]:
  """Returns each class's average precision, NaN where no example is of it.

  The mean, over a class's examples, of the precision at each one's place in the order of falling
  scores; equal scores keep their order. An example of no class at all comes last.
  Source: the official scorer of Charades.

  >>> s, t = np.array([[0.9], [0.8], [0.7], [0.6]]), np.array([[1], [1], [1], [1]])
  >>> average_precisions(s, t).tolist()
  [1.0]
  """
  targets = np.asarray(targets) > 0
  scores = np.where(targets.any(1, keepdims=True), np.asarray(scores, np.float64), -np.inf)
  order = np.argsort(-scores, 0, kind="stable")
  hits = np.take_along_axis(targets, order, 0)
  precisions = np.cumsum(hits, 0) / np.arange(1, len(hits) + 1)[:, None]
  counts = hits.sum(0)
  with np.errstate(invalid="ignore"):
    return np.where(counts > 0, (precisions * hits).sum(0) / counts, np.nan)


def multi_label(
  logits: Float[np.ndarray, "n k"], targets: Float[np.ndarray, "n k"]
) -> dict[str, float]:
  """Returns figures over all n examples.

  map: mean average precision over the classes that occur; the official scorer gives NaN if one does
    not. weighted_map: that mean weighted by how often they do.
  cross_entropy: sum over classes, mean over examples, in nats. examples: n.
  """
  logits, targets = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
  found, counts = average_precisions(logits, targets), (targets > 0).sum(0)
  there = counts > 0
  # log(1 + exp(z)) - y z
  entropy = np.logaddexp(0, logits) - targets * logits
  return {
    "map": float(found[there].mean()) if there.any() else float("nan"),
    "weighted_map": float(np.average(found[there], weights=counts[there]))
    if there.any()
    else float("nan"),
    "cross_entropy": float(entropy.sum(1).mean()),
    "examples": len(logits),
  }
