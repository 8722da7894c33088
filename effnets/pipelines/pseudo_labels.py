"""From a teacher's probabilities to the balanced set a student trains on."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from effnets import errors, streams


@dataclasses.dataclass(frozen=True)
class Selection:
  """Which unlabelled examples a student sees.

  indices: into the unlabelled set, one entry per copy, in a fixed random order.
  labels: the teacher's class of each entry.   thresholds: confidence each class had to reach.
  kept: distinct examples of each class.   copies: expected copies of a kept example, per class.
  """

  indices: Int[np.ndarray, "m"]
  labels: Int[np.ndarray, "m"]
  thresholds: Float[np.ndarray, "k"]
  kept: Int[np.ndarray, "k"]
  copies: Float[np.ndarray, "k"]


def check(*, min_confidence: float, per_class: int) -> None:
  """Raises UserError if a setting of `thresholds` is out of range."""
  # `not ... <= ...` is also true of nan.
  if not 0 <= min_confidence <= 1 or abs(min_confidence * 100 - round(min_confidence * 100)) > 1e-6:
    raise errors.UserError(
      f"config.pipeline.labels.min_confidence={min_confidence} is not a multiple of 0.01 in "
      "[0, 1]; the paper has 0.3."
    )
  if per_class < 1:
    raise errors.UserError(
      f"config.pipeline.labels.per_class={per_class} is below 1; the paper has 130000."
    )


def thresholds(
  probabilities: Float[np.ndarray, "n k"], *, min_confidence: float, per_class: int
) -> tuple[Float[np.ndarray, "k"], Int[np.ndarray, "k"]]:
  """Returns the confidence that each class must reach, and how many of it do.

  Walks down a grid of hundredths from 1.00 until a class has `per_class` examples, and stops at
  `min_confidence` for a class that never has.

  Args:
    probabilities: rows sum to 1, or are zero: such an example is never taken.
    min_confidence: in [0, 1], a multiple of 0.01.
    per_class: examples wanted of each class, >= 1.
  Raises: UserError if a setting is out of range.
  Source: Xie et al. 2020, section 3.1, as its official `filter_unlabel` does it.
  """
  check(min_confidence=min_confidence, per_class=per_class)
  lowest = round(min_confidence * 100)
  probabilities = np.asarray(probabilities)
  confidence, label = probabilities.max(1), probabilities.argmax(1)
  classes = probabilities.shape[1]
  # The histogram over g_j <= confidence < g_(j+1); rounding errors above 1 belong to the last bin.
  grid = np.arange(101) / 100
  bins = np.clip(np.searchsorted(grid, confidence, side="right") - 1, 0, 100)
  histogram = np.zeros((classes, 101), np.int64)
  np.add.at(histogram, (label, bins), confidence > 0)
  # above[c, j]: examples of class c with confidence >= g_j.
  above = histogram[:, ::-1].cumsum(1)[:, ::-1]
  enough = above >= per_class
  enough[:, :lowest] = False
  highest = 100 - np.argmax(enough[:, ::-1], axis=1)
  chosen = np.where(enough.any(1), highest, lowest)
  return grid[chosen], above[np.arange(classes), chosen]


def select(
  probabilities: Float[np.ndarray, "n k"],
  *,
  min_confidence: float,
  per_class: int,
  upsample: bool = True,
  seed: int = 0,
) -> Selection:
  """Returns the examples to train on: confident ones, the same expected number of every class.

  A class with more than `per_class` confident examples is thinned at random, one with fewer is
  duplicated: each example gets floor(copies) copies and one more with probability frac(copies).

  Args:
    upsample: duplicate rare classes; otherwise an example is never taken twice.
    seed: of the draws; each example's draw depends on the seed and its index only.
  Raises: UserError as `thresholds`, or if nothing is confident enough.
  """
  probabilities = np.asarray(probabilities)
  limit, total = thresholds(probabilities, min_confidence=min_confidence, per_class=per_class)
  confidence, label = probabilities.max(1), probabilities.argmax(1)
  copies = per_class / np.maximum(total, 1)
  if not upsample:
    copies = np.minimum(copies, 1.0)
  rng = np.random.default_rng([seed, streams.name_hash("pseudo_labels")])
  uniform = rng.random(len(probabilities))
  wanted = copies[label]
  count = np.floor(wanted) + (uniform < wanted - np.floor(wanted))
  taken = (confidence >= limit[label]) & (confidence > 0)
  count = np.where(taken, count, 0).astype(np.int64)
  indices = np.repeat(np.arange(len(probabilities)), count)
  if not len(indices):
    raise errors.UserError(
      f"config.pipeline.labels.min_confidence={min_confidence}: the teacher is that sure of none "
      f"of the {len(probabilities)} unlabelled examples (largest: {confidence.max():.2f})."
    )
  rng.shuffle(indices)
  return Selection(indices, label[indices].astype(np.int32), limit, total, copies)


def figures(selection: Selection) -> dict[str, Any]:
  """Returns what to say of a selection: entries, distinct examples, and the same by class."""
  return {
    "entries": len(selection.indices),
    "distinct": len(np.unique(selection.indices)),
    "thresholds": [round(float(t), 2) for t in selection.thresholds],
    "kept": selection.kept.tolist(),
    "copies": [round(float(c), 4) for c in selection.copies],
  }


def examples(
  probabilities: Float[np.ndarray, "n k"], selection: Selection, *, soft: bool
) -> Iterator[dict[str, Any]]:
  """Yields the labels of the selected examples, ready to be stored.

  The pictures stay where they are, named by `source_index`: a copy costs no space.

  soft: with the teacher's probabilities; otherwise with its class alone.
  """
  for index, label in zip(selection.indices, selection.labels, strict=True):
    example = {"label": np.int32(label), "source_index": np.int64(index)}
    if soft:
      example["probabilities"] = np.asarray(probabilities[index], np.float32)
    yield example
