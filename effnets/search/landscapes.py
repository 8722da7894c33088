"""Evaluators that train nothing: rewards computed from tokens, with known optima, to try searches.

Each is called as an evaluator, `(space, tokens, seed) -> values`, and carries its own space.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from effnets import errors, streams
from effnets.models.scale_permuted import SPINENET, STEM
from effnets.search.space import Decision, Different, Space

Values = dict[str, Any]

KINDS = (("op", 4), ("kernel", 2), ("se", 2), ("skip", 3), ("filters", 3), ("layers", 3))
"""Decisions of a block of the chain landscapes, with how many choices each has."""
BLOCKS = 7


@functools.cache
def chain() -> Space:
  """Returns the space of `Match` and `Trade`: 7 blocks of 6 decisions, all of them free."""
  return Space(
    "chain",
    [
      Decision(f"block{block}.{kind}", tuple(range(arity)), kind)
      for block in range(BLOCKS)
      for kind, arity in KINDS
    ],
  )


def target(arities: Sequence[int], teacher: int = 0) -> tuple[int, ...]:
  """Returns the tokens that `Match` rewards: (3 i^2 + (teacher + 1) i + 1) modulo the arity."""
  return tuple((3 * i * i + (teacher + 1) * i + 1) % int(arity) for i, arity in enumerate(arities))


@dataclasses.dataclass(frozen=True)
class Match:
  """The share of decisions that are as in a hidden target; 1 is the best.

  noise: standard deviation of what is added to the accuracy. failing: share of trials that fail,
  with a NaN for an accuracy. teacher: whose target counts for 0.7 of `kd_accuracy`, the accuracy
  that a student taught by it would reach.
  """

  noise: float = 0.0
  failing: float = 0.0
  teacher: int = 0

  @property
  def space(self) -> Space:
    """Its space."""
    return chain()

  def __call__(self, space: Space, tokens: Sequence[int], seed: int = 0) -> Values:
    """Returns `accuracy` and `kd_accuracy`."""
    accuracy = _equal(tokens, target(space.arities))
    taught = 0.3 * accuracy + 0.7 * _equal(tokens, target(space.arities, self.teacher))
    if self.noise or self.failing:
      rng = np.random.default_rng((seed, streams.name_hash("landscape")))
      fails, shift = rng.random() < self.failing, rng.normal(0, self.noise)
      accuracy, taught = (np.nan if fails else a + shift for a in (accuracy, taught))
    return {"accuracy": float(accuracy), "kd_accuracy": float(taught)}


def _equal(a: Sequence[Any], b: Sequence[Any]) -> float:
  return sum(x == y for x, y in zip(a, b, strict=True)) / len(a)


def fmix32(x: int) -> int:
  """Returns 32 well-mixed bits of 32; the last step of MurmurHash3."""
  x ^= x >> 16
  x = x * 0x85EBCA6B & 0xFFFFFFFF
  x ^= x >> 13
  x = x * 0xC2B2AE35 & 0xFFFFFFFF
  return x ^ x >> 16


def uniform(i: int, j: int, stream: int) -> float:
  """Returns a number in [0, 1) that belongs to choice j of decision i."""
  return fmix32((1000003 * i + 1009 * j + stream) & 0xFFFFFFFF) / 2**32


@functools.cache
def _tables() -> tuple[tuple[tuple[float, ...], ...], tuple[tuple[int, ...], ...]]:
  """Returns gain and cost of each choice of each decision of the chain."""
  gains, costs = [], []
  for i, arity in enumerate(chain().arities.tolist()):
    gains.append(tuple(uniform(i, j, 1) for j in range(arity)))
    costs.append(
      tuple(int(16 * (0.5 * uniform(i, j, 1) + 0.5 * uniform(i, j, 2))) for j in range(arity))
    )
  return tuple(gains), tuple(costs)


@dataclasses.dataclass(frozen=True)
class Trade:
  """Accuracy and latency add up over decisions, and better choices tend to be slower.

  accuracy = .45 + .35 * mean gain; latency (ms) = 20 + .2 * sum of costs, which are 0 to 15.
  """

  @property
  def space(self) -> Space:
    """Its space."""
    return chain()

  def __call__(self, space: Space, tokens: Sequence[int], seed: int = 0) -> Values:
    """Returns `accuracy` and `latency`."""
    gains, costs = _tables()
    gain = sum(row[token] for row, token in zip(gains, tokens, strict=True))
    cost = sum(row[token] for row, token in zip(costs, tokens, strict=True))
    return {"accuracy": 0.45 + 0.35 * gain / len(gains), "latency": 20 + 0.2 * cost}

  def optimum(
    self, reward: Callable[[Mapping[str, float]], float]
  ) -> tuple[float, tuple[int, ...]]:
    """Returns the best reward of all points, and its tokens.

    Exact: of all points of one latency the most accurate is known, by dynamic programming over the
    integer sums of costs. reward: grows with the accuracy.
    """
    gains, costs = _tables()
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for gain, cost in zip(gains, costs, strict=True):
      found: dict[int, tuple[float, tuple[int, ...]]] = {}
      for total, (value, tokens) in best.items():
        for token, (more, dearer) in enumerate(zip(gain, cost, strict=True)):
          if total + dearer not in found or value + more > found[total + dearer][0]:
            found[total + dearer] = value + more, (*tokens, token)
      best = found
    points = [tokens for _, tokens in best.values()]
    rewards = [reward(self(chain(), tokens)) for tokens in points]
    place = int(np.argmax(rewards))
    return rewards[place], points[place]


_MIDDLE = tuple(block.level for block in SPINENET if not block.output)
_OUTPUTS = tuple(block.level for block in SPINENET if block.output)
ITEMS = tuple(sorted(_MIDDLE))
LEVELS = tuple(sorted(set(ITEMS)))
WINDOW = 5


@dataclasses.dataclass(frozen=True)
class Permuted:
  """How much a scale-permuted graph is like that of SpineNet-49; 1 is the same.

  .35 for the levels of intermediate blocks and .15 for those of the outputs, by position, .5 for
  the parents. The space: two permutations, two different parents for each of 15 blocks; parents
  are written as how far back they are, at most `WINDOW` for intermediate blocks.
  """

  @property
  def space(self) -> Space:
    """Its space."""
    return _permuted()

  def __call__(self, space: Space, tokens: Sequence[int], seed: int = 0) -> Values:
    """Returns `accuracy`."""
    middle, outputs = len(_MIDDLE), len(_OUTPUTS)
    levels = [LEVELS[token] for token in tokens[:middle]]
    ends = [3 + token for token in tokens[middle : middle + outputs]]
    parents = tokens[middle + outputs :]
    shares = []
    for index, block in enumerate(SPINENET):
      mine = {index + STEM - 1 - back for back in parents[2 * index : 2 * index + 2]}
      shares.append(len(mine & set(block.parents)) / 2)
    alike = 0.35 * _equal(levels, _MIDDLE) + 0.15 * _equal(ends, _OUTPUTS)
    return {"accuracy": alike + 0.5 * float(np.mean(shares))}


class _PermutedSpace(Space):
  """A space that begins with the levels of intermediate blocks, each as often as in `ITEMS`.

  Blocks of one level are one item, unlike in a permutation of numbered ones, most of which would
  be the same network.
  """

  def mask(self, tokens):
    valid = super().mask(tokens)
    if len(tokens) >= len(ITEMS):
      return valid
    left = [ITEMS.count(level) for level in LEVELS]
    for token in tokens:
      left[token] -= 1
    return np.array(left) > 0

  def change(self, tokens, place, token, rng=None):
    if place >= len(ITEMS):
      return super().change(tokens, place, token, rng)
    # The level is still to come, or it could not be taken here: the two blocks swap.
    later = [p for p in range(place + 1, len(ITEMS)) if tokens[p] == token]
    other = later[0 if rng is None else rng.integers(len(later))]
    changed = list(tokens)
    changed[place], changed[other] = tokens[other], tokens[place]
    return tuple(changed)

  def count_raw(self):
    orders = math.factorial(len(ITEMS))
    for level in LEVELS:
      orders //= math.factorial(ITEMS.count(level))
    return super().count_raw() // len(LEVELS) ** len(ITEMS) * orders

  count_unique = count_raw


@functools.cache
def _permuted() -> Space:
  middle = [Decision(f"middle{i}", LEVELS, "middle") for i in range(len(ITEMS))]
  outputs = [Decision(f"output{i}", (3, 4, 5, 6, 7), "output") for i in range(len(_OUTPUTS))]
  decisions, rules = middle + outputs, [Different(tuple(d.name for d in outputs))]
  for index in range(len(SPINENET)):
    before = index + STEM
    reach = before if index >= len(_MIDDLE) else min(WINDOW, before)
    names = tuple(f"parent{index}.{side}" for side in "ab")
    decisions += [Decision(name, tuple(range(1, reach + 1)), "parent") for name in names]
    rules.append(Different(names, ordered=False))
  return _PermutedSpace("permuted", decisions, rules, settings={"levels": ITEMS})


@dataclasses.dataclass(frozen=True)
class Edges:
  """A hidden set of edges of a layered graph: the score is the F1 of the edges that are there.

  levels: how many nodes each has; edges go from any level to any later one. hidden: how many edges
  are right. An edge's weight is what training it would have shown:
  N(.75, .15) if it is right, N(.35, .15) if not, within [0, 1].
  """

  levels: tuple[int, ...] = (4, 4, 4, 4, 4)
  hidden: int = 48
  seed: int = 0

  @property
  def space(self) -> Space:
    """Its space: a decision of kind `edge` for every admissible edge."""
    return _edges(self.levels)

  @property
  def right(self) -> frozenset[int]:
    """Numbers of the decisions whose edge is right."""
    return _right(self)

  def __call__(self, space: Space, tokens: Sequence[int], seed: int = 0) -> Values:
    """Returns `accuracy`, and `edges`: the weight of each edge that is there, by its name."""
    rng = np.random.default_rng((seed, streams.name_hash("edges")))
    noise = rng.normal(0, 0.15, len(tokens))
    there = [i for i, token in enumerate(tokens) if token]
    weights = {
      space.decisions[i].name: float(np.clip((0.75 if i in self.right else 0.35) + noise[i], 0, 1))
      for i in there
    }
    return {"accuracy": f1(set(there), self.right), "edges": weights}


def f1(found: Set[Any], right: Set[Any]) -> float:
  """Returns the harmonic mean of precision and recall; 0 if nothing is found."""
  return 2 * len(found & right) / max(len(found) + len(right), 1)


@functools.cache
def _edges(levels: tuple[int, ...]) -> Space:
  nodes = [(level, node) for level, count in enumerate(levels) for node in range(count)]
  return Space(
    "edges",
    [
      Decision(f"{a[0]}.{a[1]}-{b[0]}.{b[1]}", (False, True), "edge")
      for a in nodes
      for b in nodes
      if a[0] < b[0]
    ],
  )


@functools.cache
def _right(landscape: Edges) -> frozenset[int]:
  rng = np.random.default_rng((landscape.seed, streams.name_hash("right")))
  edges = len(_edges(landscape.levels))
  return frozenset(rng.choice(edges, landscape.hidden, replace=False).tolist())


LANDSCAPES: Mapping[str, type] = {
  "match": Match,
  "trade": Trade,
  "permuted": Permuted,
  "edges": Edges,
}


def create(name: str, **settings: Any) -> Any:
  """Returns the landscape `name`. Raises: UserError for an unknown name or setting."""
  if name not in LANDSCAPES:
    raise errors.unknown("landscape", name, "a landscape", LANDSCAPES)
  known = [field.name for field in dataclasses.fields(LANDSCAPES[name])]
  for setting in settings:
    if setting not in known:
      raise errors.unknown(f"landscape {name}", setting, "one of its settings", known)
  return LANDSCAPES[name](**settings)
