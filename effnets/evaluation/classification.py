"""Figures of a classifier over a whole evaluation set."""

import numpy as np
from jaxtyping import Bool, Float, Int

CLASSIFICATION_FIGURES = (
  "top1",
  "top5",
  "mean_per_class",
  "cross_entropy",
  "calibration_error",
  "examples",
)


def classification(
  logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], *, bins: int = 15
) -> dict[str, float]:
  """Returns figures over all n examples, all as fractions but the last three.

  top1, top5: share of examples whose label is (among) the highest logit(s); a tie counts as the
    examples before the label in class order, as a stable sort would place it.
  mean_per_class: top-1 of each class that occurs, averaged over classes.
  cross_entropy: mean, in nats.
  calibration_error: see `calibration_error`.
  examples: n, how many were judged.

  >>> f = classification(np.eye(3), np.array([0, 1, 1]))
  >>> round(f["top1"], 4), round(f["mean_per_class"], 4)
  (0.6667, 0.75)
  """
  logits = np.asarray(logits, np.float64)
  labels = np.asarray(labels)
  order = np.argsort(-logits, axis=1, kind="stable")[:, :5]
  hits = order == labels[:, None]
  correct = hits[:, 0]
  shifted = logits - logits.max(1, keepdims=True)
  log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
  confidence = np.exp(log_probabilities.max(1))
  classes = np.unique(labels)
  return {
    "top1": float(correct.mean()),
    "top5": float(hits.any(1).mean()),
    "mean_per_class": float(np.mean([correct[labels == c].mean() for c in classes])),
    "cross_entropy": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
    "calibration_error": calibration_error(confidence, correct, bins=bins),
    "examples": len(labels),
  }


def calibration_error(
  confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], *, bins: int = 15
) -> float:
  """Returns the expected calibration error: |confidence - accuracy| weighted by bin size.

  confidence: the largest probability, cut into `bins` equal bins.

  Source: Guo et al. 2017, eq. 3.
  """
  bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
  gap = sum(
    abs(confidence[bin_of == i].sum() - correct[bin_of == i].sum()) for i in np.unique(bin_of)
  )
  return float(gap / len(correct))
