"""From a network's confidences to the balanced set a student trains on, one shard at a time.

First a histogram of every shard, summed; from it a threshold and a number of copies for each class;
then which pictures of a shard are taken, and how often.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from effnets import errors, streams

BINS = 101
"""Of a histogram: g_j <= confidence < g_(j+1) with g_j = j / 100; the last one is from 1 on."""


@dataclasses.dataclass(frozen=True)
class Answers:
  """What a network says of a shard's pictures: its likeliest class, and how sure it is.

  An unreadable picture has confidence 0, and is never taken.
  """

  label: Int[np.ndarray, " n"]
  confidence: Float32[np.ndarray, " n"]

  @classmethod
  def of(cls, probabilities: Float[np.ndarray, "n k"]) -> "Answers":
    """Returns the answers in `probabilities`, whose rows sum to 1, or are zero if unreadable."""
    confidence = probabilities.max(1, initial=0.0).astype(np.float32)
    return cls(probabilities.argmax(1).astype(np.int32), confidence)

  def histogram(self, classes: int) -> Int[np.ndarray, "k 101"]:
    """Returns how many pictures of each class fall into each of the `BINS`."""
    # In doubles, so that a confidence of 0.3 is below the grid's 0.3 only if it is; rounding errors
    # above 1 belong to the last bin.
    confidence = self.confidence.astype(np.float64)
    bins = np.clip(np.searchsorted(_GRID, confidence, side="right") - 1, 0, BINS - 1)
    histogram = np.zeros((classes, BINS), np.int64)
    np.add.at(histogram, (self.label, bins), self.confidence > 0)
    return histogram


_GRID = np.arange(BINS) / 100


@dataclasses.dataclass(frozen=True)
class Rule:
  """What a picture has to be to be taken, and how often it then is.

  thresholds: confidence each class has to reach. kept: how many pictures of each class do.
  copies: expected copies of a picture that does, by class.
  """

  thresholds: Float[np.ndarray, " k"]
  kept: Int[np.ndarray, " k"]
  copies: Float[np.ndarray, " k"]

  def counts(self, answers: Answers, *, start: int, seed: int) -> Int[np.ndarray, " n"]:
    """Returns how often each picture of a shard is taken.

    Each one that reaches its class's threshold gets floor(copies) copies and one more with
    probability frac(copies).

    Args:
      start: number of the shard's first picture. seed: of the draws, which depend on it and on a
        picture's number only, not on the cut into shards.
    """
    generator = np.random.PCG64([seed, streams.name_hash("pseudo_labels")])
    uniform = np.random.Generator(generator.advance(start)).random(len(answers.label))
    wanted = self.copies[answers.label]
    count = np.floor(wanted) + (uniform < wanted - np.floor(wanted))
    taken = (answers.confidence >= self.thresholds[answers.label]) & (answers.confidence > 0)
    return np.where(taken, count, 0).astype(np.int64)

  def figures(self) -> dict[str, Any]:
    """Returns what to say of it, by class."""
    return {
      "thresholds": [round(float(t), 2) for t in self.thresholds],
      "kept": self.kept.tolist(),
      "copies": [round(float(c), 4) for c in self.copies],
    }


def rule(
  histogram: Int[np.ndarray, "k 101"],
  *,
  min_confidence: float,
  per_class: int,
  upsample: bool = True,
  use_all: bool = False,
) -> Rule:
  """Returns the rule that takes confident pictures, the same expected number of every class.

  Walks down the grid of hundredths from 1.00 until a class has `per_class` pictures, and stops at
  `min_confidence` for a class that never has. A class with more is thinned at random, one with
  fewer is duplicated.

  Args:
    histogram: of all pictures, see `Answers`. min_confidence: in [0, 1], a multiple of 0.01.
    per_class: pictures wanted of each class, >= 1.
    upsample: duplicate rare classes; otherwise no picture is taken twice.
    use_all: one copy of each picture that reaches its threshold; nothing is balanced.
  Raises: UserError if a setting is out of range, or nothing is confident enough.
  Source: Xie et al. 2020, section 3.1, as its official `filter_unlabel` does it.
  """
  check(min_confidence=min_confidence, per_class=per_class)
  lowest = round(min_confidence * 100)
  # above[c, j]: pictures of class c with confidence >= g_j.
  above = histogram[:, ::-1].cumsum(1)[:, ::-1]
  enough = above >= per_class
  enough[:, :lowest] = False
  highest = BINS - 1 - np.argmax(enough[:, ::-1], axis=1)
  chosen = np.where(enough.any(1), highest, lowest)
  kept = above[np.arange(len(above)), chosen]
  if not kept.any():
    largest = _GRID[np.nonzero(histogram.any(0))[0].max(initial=0)]
    raise errors.UserError(
      f"config.pipeline.labels.min_confidence={min_confidence}: the teacher is that sure of none "
      f"of the {histogram.sum()} unlabelled examples (the largest is {largest:.2f} or a little "
      "above)."
    )
  copies = per_class / np.maximum(kept, 1)
  if use_all:
    copies = np.ones(len(above))
  elif not upsample:
    copies = np.minimum(copies, 1.0)
  return Rule(_GRID[chosen], kept, copies)


def check(*, min_confidence: float, per_class: int) -> None:
  """Raises UserError if a setting of `rule` is out of range."""
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


def examples(
  indices: Int[np.ndarray, " m"],
  labels: Int[np.ndarray, " m"],
  probabilities: Float[np.ndarray, "m k"] | None,
) -> Iterator[dict[str, Any]]:
  """Yields labelled entries, ready to be stored.

  The pictures stay where they are, named by `source_index`: a copy costs no space. Entries stay in
  the order of the pictures: a training stream shuffles all of them by itself.

  probabilities: in the type in which they are stored; None stores the class alone.
  """
  for row, (index, label) in enumerate(zip(indices, labels, strict=True)):
    example = {"label": np.int32(label), "source_index": np.int64(index)}
    if probabilities is not None:
      example["probabilities"] = probabilities[row]
    yield example
