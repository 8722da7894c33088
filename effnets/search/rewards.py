"""One number per architecture out of its accuracy and its costs, and the fronts of several.

With one exponent on both sides the target of the soft reward moves no ranking: (cost / T)^w is
cost^w times a constant. Only the exponent then moves the operating point; to hit a budget use the
hard, the absolute or the two-sided form.

Source: Tan et al. 2019 (soft, hard), Bender et al. 2020 (absolute), Deb et al. 2002 (ranks).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float, Int

from effnets import errors

EXPONENT = -0.07
"""Doubling the cost is worth 5 % of relative accuracy: -log2(1.05) is -0.0704."""
SLOPE = -0.1
LOWEST, HIGHEST = 0.001, 10.0
"""What a controller is ever told lies between these."""


def soft(
  accuracy: float,
  cost: float,
  target: float,
  exponent: float = EXPONENT,
  over: float | None = None,
) -> float:
  """Returns `accuracy * (cost / target) ** w`.

  w is `exponent` up to the target, and `over` (by default the same) above it.

  >>> round(soft(0.5, 160, 80), 6)
  0.476319
  """
  w = exponent if over is None or cost <= target else over
  return accuracy * (cost / target) ** w


def hard(accuracy: float, cost: float, target: float) -> float:
  """Returns the accuracy, times `target / cost` where the cost is above the target.

  >>> hard(0.5, 160, 80), hard(0.5, 40, 80)
  (0.25, 0.5)
  """
  return accuracy * min(1.0, target / cost)


def absolute(accuracy: float, cost: float, target: float, slope: float = SLOPE) -> float:
  """Returns `accuracy + slope * |cost / target - 1|`; being too cheap costs as well.

  >>> round(absolute(0.5, 160, 80), 6)
  0.4
  """
  return accuracy + slope * abs(cost / target - 1)


def two_sided(accuracy: float, cost: float, target: float, exponent: float = EXPONENT) -> float:
  """Returns `accuracy * max(cost / target, target / cost) ** exponent`.

  Half and twice the target lose the same factor.

  >>> two_sided(0.5, 40, 80) == two_sided(0.5, 160, 80) == soft(0.5, 160, 80)
  True
  """
  return accuracy * max(cost / target, target / cost) ** exponent


FORMS: Mapping[str, Callable[..., float]] = MappingProxyType(
  {"soft": soft, "hard": hard, "absolute": absolute, "two_sided": two_sided}
)
# What a form may be given besides accuracy, cost and target.
_SETTINGS = {
  "soft": {"exponent", "over"},
  "hard": set(),
  "absolute": {"slope"},
  "two_sided": {"exponent"},
}


def clipped(reward: float) -> float:
  """Returns the reward, held between 0.001 and 10.

  Raises: ValueError for what is not a finite number: such a trial has failed.

  >>> clipped(-3), clipped(11)
  (0.001, 10.0)
  """
  reward = float(reward)
  if not math.isfinite(reward):
    raise ValueError(f"a reward of {reward} is no reward; the trial has failed.")
  return min(max(reward, LOWEST), HIGHEST)


@dataclasses.dataclass(frozen=True)
class Reward:
  """A reward of what an evaluator measured.

  form: one of `FORMS`. targets: of each cost, by its name among the values, in its unit; none at
    all leaves the accuracy alone. accuracy: its name among the values; `kd_accuracy`, that of a
    network trained with a teacher, makes the reward guided by distillation (AKD).
  settings: of the form, such as `exponent`.

  Several costs multiply their factors, or add their penalties.
  Source: several costs as in Google's public search service; AKD: Liu et al. 2020.

  >>> Reward("hard", {"latency": 80.0})({"accuracy": 0.5, "latency": 160.0})
  0.25
  """

  form: str = "soft"
  targets: Mapping[str, float] = dataclasses.field(default_factory=dict)
  accuracy: str = "accuracy"
  settings: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if self.form not in FORMS:
      raise errors.unknown("reward.form", self.form, "a form of reward", FORMS)
    for name in self.settings:
      if name not in _SETTINGS[self.form]:
        raise errors.unknown(
          "reward.settings", name, f"a setting of {self.form!r}", _SETTINGS[self.form]
        )
    for name, target in self.targets.items():
      if not (math.isfinite(target) and target > 0):
        raise errors.UserError(f"reward.targets.{name}={target!r} has to be above 0.")

  def __call__(self, values: Mapping[str, float]) -> float:
    """Returns the clipped reward.

    Raises: UserError if a value is missing, or a cost is not above 0; ValueError if one is not
      finite.
    """
    for name in (self.accuracy, *self.targets):
      if name not in values:
        raise errors.unknown("reward", name, "among the measured values", values)
    reward = float(values[self.accuracy])
    for name, target in self.targets.items():
      cost = float(values[name])
      if not math.isfinite(cost):
        raise ValueError(f"{name}={cost} is no cost; the trial has failed.")
      if cost <= 0:
        raise errors.UserError(f"{name}={cost} has to be above 0 for a reward.")
      # Each form is a factor on, or a summand to, what the accuracy has become so far.
      reward = FORMS[self.form](reward, cost, target, **self.settings)
    return clipped(reward)


def dominated(points: Float[np.ndarray, "n d"]) -> Bool[np.ndarray, "n n"]:
  """Returns whether point i is dominated by point j; every objective is to be maximised."""
  points = np.asarray(points, np.float64)
  at_least = (points[None] >= points[:, None]).all(-1)
  return at_least & (points[None] > points[:, None]).any(-1)


def pareto_front(points: Float[np.ndarray, "n d"]) -> list[int]:
  """Returns the indices of the points that nothing dominates, in their order; maximised.

  >>> pareto_front(np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]]))
  [0, 1]
  """
  if not len(points):
    return []
  return np.flatnonzero(~dominated(points).any(1)).tolist()


def ranks(points: Float[np.ndarray, "n d"]) -> Int[np.ndarray, " n"]:
  """Returns the front that each point is in: 0 for the Pareto front, 1 for that of the rest...

  >>> ranks(np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0], [0.0, 0.0]])).tolist()
  [0, 0, 1, 2]
  """
  below = dominated(points)
  found = np.full(len(points), -1, np.int64)
  rank = 0
  while (found < 0).any():
    left = found < 0
    found[left & ~(below & left[None]).any(1)] = rank
    rank += 1
  return found


def crowding(points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
  """Returns how far each point's neighbours on either side are, summed over objectives.

  Of one front. Ends are infinitely far, so that they stay.
  """
  points = np.asarray(points, np.float64)
  distance = np.zeros(len(points))
  for column in points.T:
    order = np.argsort(column, kind="stable")
    distance[order[[0, -1]]] = np.inf
    extent = column[order[-1]] - column[order[0]]
    if extent > 0 and len(order) > 2:
      distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / extent
  return distance


def ranking(points: Float[np.ndarray, "n d"]) -> list[int]:
  """Returns the points' indices, best first: by front, then by crowding, then by their order.

  Source: Deb et al. 2002 (NSGA-II).
  """
  points = np.asarray(points, np.float64)
  front = ranks(points)
  order: list[int] = []
  for rank in range(int(front.max(initial=-1)) + 1):
    members = np.flatnonzero(front == rank)
    order += members[np.argsort(-crowding(points[members]), kind="stable")].tolist()
  return order


def hypervolume(points: Float[np.ndarray, "n d"], reference: Sequence[float]) -> float:
  """Returns the volume that the points dominate above the reference; all maximised.

  >>> hypervolume(np.array([[2.0, 1.0], [1.0, 3.0]]), (0.0, 0.0))
  4.0
  """
  points = np.asarray(points, np.float64) - np.asarray(reference, np.float64)
  points = points[(points > 0).all(1)]
  if not len(points):
    return 0.0
  if points.shape[1] == 1:
    return float(points.max())
  # Slices between consecutive heights of the last objective, each of one dimension less.
  order = np.argsort(-points[:, -1], kind="stable")
  points = points[order]
  below = np.append(points[1:, -1], 0.0)
  zero = np.zeros(points.shape[1] - 1)
  return float(
    sum(
      (height - floor) * hypervolume(points[: i + 1, :-1], zero)
      for i, (height, floor) in enumerate(zip(points[:, -1], below, strict=True))
      if height > floor
    )
  )


def kendall(a: Sequence[float], b: Sequence[float]) -> float:
  """Returns Kendall's rank correlation of two lists, tau-b; 0 if one of them is all ties.

  >>> round(kendall((1, 2, 3, 4, 5), (2, 1, 4, 3, 5)), 12)
  0.6
  """
  from scipy import stats

  found = float(stats.kendalltau(a, b).statistic)
  return 0.0 if math.isnan(found) else found
