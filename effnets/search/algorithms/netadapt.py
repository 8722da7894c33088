"""NetAdapt: shrink the network a little at a time, wherever that costs the least accuracy.

Source: Yang et al. 2018 (1804.03230: the most accurate proposal wins, steps decay); Howard et al.
2019 (MobileNetV3: least accuracy lost per millisecond).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from effnets import errors
from effnets.search.algorithms.base import Exhausted, Proposal, Result
from effnets.search.space import Decision, Space

Cost = Callable[[tuple[int, ...]], float]


def widths(seed: Mapping[str, int], multiple: int = 8, least: int | None = None) -> Space:
  """Returns the space of all widths up to those of a seed, of which every last token is the seed.

  seed: channels by name; channels that residual shortcuts tie together are one name. multiple: what
  widths are multiples of, the seed's own aside. least: the smallest, by default `multiple`.
  """
  decisions = []
  for name, full in seed.items():
    smaller = range(least or multiple, full, multiple)
    decisions.append(Decision(name, (*smaller, full), name))
  return Space("widths", decisions, settings={"multiple": multiple})


@dataclasses.dataclass(frozen=True)
class Shrink:
  """A network with one decision smaller. cost: of the whole, in the unit of the target."""

  place: int
  tokens: tuple[int, ...]
  cost: float


def shrinks(tokens: Sequence[int], cost: Cost, least: float) -> list[Shrink]:
  """Returns the smallest shrink of every decision that saves at least `least`.

  A decision for which even its smallest choice does not is left out.
  """
  before, found = cost(tuple(tokens)), []
  for place, token in enumerate(tokens):
    for smaller in range(token - 1, -1, -1):
      changed = (*tokens[:place], smaller, *tokens[place + 1 :])
      after = cost(changed)
      # Equality up to rounding counts: .6272 is reached by 62.72 - 62.0928.
      if before - after >= least * (1 - 1e-9):
        found.append(Shrink(place, changed, after))
        break
  return found


@dataclasses.dataclass(frozen=True)
class Settings:
  """target: cost to get to, in the unit of the cost. delta: share of the seed's cost that a step
  saves at least. decay: by which that shrinks with every step; 1 keeps it.
  choice: `ratio` takes the least accuracy lost per cost saved, `accuracy` the most accurate.
  """

  target: float
  delta: float = 0.01
  decay: float = 1.0
  choice: Literal["ratio", "accuracy"] = "ratio"

  def __post_init__(self):
    if self.choice not in ("ratio", "accuracy"):
      raise errors.unknown("choice", self.choice, "a rule", ("ratio", "accuracy"))
    if not (0 < self.delta < 1 and 0 < self.decay <= 1):
      raise errors.UserError(
        f"delta={self.delta} has to be between 0 and 1, decay={self.decay} above 0 up to 1."
      )


class NetAdapt:
  """Steps of proposals, all told before the next ones are made; step 0 is the seed itself.

  The reward of a result is its accuracy after a short fine-tuning, or a proxy of it. The choices of
  every decision grow in cost. A proposal's info: `step`, `place` among the step's proposals,
  `parent` (the tokens it shrinks) and `cost`.
  """

  def __init__(
    self,
    space: Any,
    seed: int = 0,
    *,
    cost: Cost,
    start: Sequence[int] | None = None,
    **settings: Any,
  ):
    """start: tokens of the seed, by default the last choice of every decision."""
    self.space, self.cost = space, cost
    self.settings = Settings(**settings)
    self.current = tuple(start or (int(arity) - 1 for arity in space.arities))
    self.accuracy: float | None = None
    self.first_cost = self.current_cost = cost(self.current)
    self.path: list[Shrink] = []
    self._step, self._first, self._next = 0, 0, 0
    self._offers = [Shrink(-1, self.current, self.current_cost)]
    self._told: dict[int, float | None] = {}

  @property
  def done(self) -> bool:
    """Whether the target is reached."""
    return self.accuracy is not None and self.current_cost <= self.settings.target

  def propose(self, number: int) -> Proposal:
    """Returns one of the step's proposals.

    Raises: Exhausted at the target, or until the step's other results are told; UserError if
      nothing can shrink any further.
    """
    if self.done:
      raise Exhausted(f"the cost is {self.current_cost}, at or below {self.settings.target}.")
    if not self._offers:
      raise errors.UserError(
        f"nothing saves {self._least():.6g} of {self.current_cost:.6g} any more, and the target is "
        f"{self.settings.target:.6g}: it is out of reach, or delta is too large."
      )
    place = number - self._first
    if not 0 <= place < len(self._offers):
      raise Exhausted("the results of this step are still out.", waiting=True)
    offer = self._offers[place]
    info = {"step": self._step, "place": place, "parent": list(self.current), "cost": offer.cost}
    return Proposal(offer.tokens, info)

  def tell(self, result: Result) -> None:
    """Takes in a result; with the step's last one the best proposal becomes the network.

    Raises: UserError if all proposals of a step failed.
    """
    self._next = max(self._next, result.number + 1)
    info = result.proposal.info
    if info["step"] != self._step:
      return
    # A proposal that failed and was tried again has two results.
    if self._told.get(info["place"]) is None:
      self._told[info["place"]] = result.reward
    if len(self._told) == len(self._offers):
      self._advance()

  def _advance(self) -> None:
    accuracies = {place: reward for place, reward in self._told.items() if reward is not None}
    if not accuracies:
      raise errors.UserError(f"all {len(self._offers)} proposals of step {self._step} failed.")
    chosen = self._offers[min(accuracies, key=lambda place: self._order(place, accuracies[place]))]
    if self._step:
      self.path.append(chosen)
    self.accuracy = accuracies[self._offers.index(chosen)]
    self.current, self.current_cost = chosen.tokens, chosen.cost
    self._step += 1
    self._first, self._told = self._next, {}
    self._offers = [] if self.done else shrinks(self.current, self.cost, self._least())

  def _least(self) -> float:
    """Returns what a proposal of the present step saves at least."""
    return self.settings.delta * self.first_cost * self.settings.decay ** max(self._step - 1, 0)

  def _order(self, place: int, accuracy: float) -> tuple[float, float, int]:
    """Returns what the best proposal has the least of; of equals the cheaper, then the first."""
    offer = self._offers[place]
    if self.settings.choice == "accuracy" or self.accuracy is None:
      return -accuracy, offer.cost, place
    gain = (accuracy - self.accuracy) / (self.current_cost - offer.cost)
    return -gain, offer.cost, place

  def summary(self) -> dict[str, float]:
    """Returns the step, and the present network's cost and accuracy."""
    accuracy = math.nan if self.accuracy is None else self.accuracy
    return {"step": self._step, "cost": self.current_cost, "accuracy": accuracy}


def adapt(
  space: Any, cost: Cost, accuracy: Callable[[tuple[int, ...]], float], **settings: Any
) -> NetAdapt:
  """Returns NetAdapt at its target, every proposal judged by `accuracy` one after another."""
  found, number = NetAdapt(space, cost=cost, **settings), 0
  while True:
    try:
      proposal = found.propose(number)
    except Exhausted:
      return found
    found.tell(Result(number, proposal, accuracy(proposal.tokens)))
    number += 1
