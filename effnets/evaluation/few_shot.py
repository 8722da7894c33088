"""How good features are: a linear classifier in closed form from a few examples of each class."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

# Factors of the penalty that are tried; features are standardised, so the range is theirs alone.
L2 = tuple(4.0**power for power in range(-5, 11))


@dataclasses.dataclass(frozen=True)
class FewShot:
  """What `few_shot_accuracy` found for one number of examples per class.

  validation, test: top-1 as a fraction, one per draw. l2: the penalty that validation chose.
  """

  shots: int
  l2: float
  validation: tuple[float, ...]
  test: tuple[float, ...]

  @property
  def mean(self) -> float:
    """Mean test top-1 over draws."""
    return float(np.mean(self.test))

  @property
  def spread(self) -> float:
    """Standard deviation of the test top-1 over draws, 0 if there is one draw."""
    return float(np.std(self.test, ddof=1)) if len(self.test) > 1 else 0.0


def draw(
  labels: Int[np.ndarray, " n"], shots: int, num_classes: int, *, rng: np.random.Generator
) -> Int[np.ndarray, " m"]:
  """Returns the rows of `shots` examples of each class, class by class, none twice.

  Raises: ValueError if a class has fewer.
  """
  chosen = []
  for label in range(num_classes):
    rows = np.flatnonzero(labels == label)
    if len(rows) < shots:
      raise ValueError(f"class {label} has {len(rows)} examples, fewer than {shots}.")
    chosen.append(rng.choice(rows, shots, replace=False))
  return np.concatenate(chosen)


def ridge(
  features: Float[np.ndarray, "m d"],
  labels: Int[np.ndarray, " m"],
  queries: Sequence[Float[np.ndarray, "q d"]],
  num_classes: int,
  *,
  l2: Sequence[float] = L2,
) -> list[Float[np.ndarray, "p q k"]]:
  """Returns class scores of every set of queries, for each of the p penalties.

  Least squares to targets 1 (own class) and -1, plus `l2 * |weights|^2`; features are standardised
  by the examples' mean and deviation, the intercept is not penalised.

  Source: the few-shot evaluation of big_vision, there with the intercept as a large constant
  feature.
  """
  mean, deviation = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
  deviation = np.where(deviation > 0, deviation, 1.0)
  targets = np.where(labels[:, None] == np.arange(num_classes), 1.0, -1.0)
  intercept = targets.mean(0)
  # One decomposition serves all penalties: W = V diag(s / (s^2 + l2)) U^T targets.
  left, values, right = np.linalg.svd((features - mean) / deviation, full_matrices=False)
  projected = left.T @ (targets - intercept)
  scores = []
  for query in queries:
    inner = ((query - mean) / deviation) @ right.T
    scores.append(
      np.stack([inner @ ((values / (values**2 + p))[:, None] * projected) for p in l2]) + intercept
    )
  return scores


def few_shot_accuracy(
  train: tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"]],
  validation: tuple[Float[np.ndarray, "v d"], Int[np.ndarray, " v"]],
  test: tuple[Float[np.ndarray, "q d"], Int[np.ndarray, " q"]],
  num_classes: int,
  *,
  shots: int,
  draws: int,
  seed: int = 0,
  l2: Sequence[float] = L2,
) -> FewShot:
  """Returns the test top-1 of `draws` classifiers, each from `shots` examples of each class.

  The penalty is the one with the best mean over draws on `validation`; the largest of equals.

  Args: train, validation, test: features and labels.
  Raises: ValueError if a class has fewer examples than `shots`.
  """
  right = {"validation": np.zeros((draws, len(l2))), "test": np.zeros((draws, len(l2)))}
  for index in range(draws):
    rows = draw(train[1], shots, num_classes, rng=np.random.default_rng((seed, shots, index)))
    queries = (validation[0], test[0])
    scores = ridge(train[0][rows], train[1][rows], queries, num_classes, l2=l2)
    for name, (_, labels), found in zip(right, (validation, test), scores, strict=True):
      right[name][index] = (found.argmax(-1) == labels).mean(-1)
  means = right["validation"].mean(0)
  best = max(range(len(l2)), key=lambda i: (means[i], l2[i]))
  return FewShot(
    shots,
    float(l2[best]),
    tuple(right["validation"][:, best].tolist()),
    tuple(right["test"][:, best].tolist()),
  )
