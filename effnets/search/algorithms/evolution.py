"""Evolution by mutation alone: the best of a few is the parent, the oldest or the worst goes.

Source: Real et al. 2019 (regularised, or ageing, evolution); Ryoo et al. 2020 (AssembleNet), whose
code was never released: its constants are recalled, not read.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from effnets import errors
from effnets.search import rewards
from effnets.search.algorithms import plain
from effnets.search.algorithms.base import Proposal, Result
from effnets.search.space import AnyOf


@dataclasses.dataclass(frozen=True)
class Settings:
  """population: members; as many random ones come first. tournament: members drawn for a parent.

  drop: who goes when a child comes. objectives: names among a result's values and whether each is
  `maximize` or `minimize`; with them, better means nearer to the Pareto front, then lonelier on it.
  tries: draws before a repeated network is proposed.
  """

  population: int = 100
  tournament: int = 25
  drop: Literal["oldest", "worst"] = "oldest"
  objectives: Mapping[str, str] = dataclasses.field(default_factory=dict)
  tries: int = plain.TRIES

  def __post_init__(self):
    if self.population < 1 or not 1 <= self.tournament <= self.population:
      raise errors.UserError(
        f"tournament={self.tournament} members of a population={self.population}: needed is "
        "1 <= tournament <= population."
      )
    if self.drop not in ("oldest", "worst"):
      raise errors.unknown("drop", self.drop, "who goes", ("oldest", "worst"))
    for name, direction in self.objectives.items():
      if direction not in ("maximize", "minimize"):
        raise errors.unknown(
          f"objectives.{name}", direction, "a direction", ("maximize", "minimize")
        )


class Evolution:
  """Regularised evolution; its population changes whenever a result is told."""

  def __init__(self, space: Any, seed: int, settings: Settings):
    self.space, self.seed, self.settings = space, seed, settings
    self.known = plain.Known(space, settings.tries)
    self.members: list[Result] = []
    self.failed = 0

  def propose(self, number: int) -> Proposal:
    """Returns a random point at first, then a child of a tournament's winner."""
    rng = plain.generator(self.seed, "evolution", number)
    if number < self.settings.population or not self.members:
      return Proposal(self.known.fresh(number, lambda: self.space.sample(rng)))
    parent = self._parent(rng)
    info: dict[str, Any] = {}

    def draw():
      tokens, more = self.child(parent, rng)
      info.update({"parent": parent.number, **more})
      return tokens

    return Proposal(self.known.fresh(number, draw), info)

  def child(self, parent: Result, rng: np.random.Generator) -> tuple[tuple[int, ...], dict]:
    """Returns a mutated parent, and what to note of how."""
    return self.space.mutate(parent.tokens, rng), {}

  def _parent(self, rng: np.random.Generator) -> Result:
    size = min(self.settings.tournament, len(self.members))
    # In the order they came in, so that of equals the earliest wins.
    drawn = sorted(rng.choice(len(self.members), size, replace=False).tolist())
    return self.members[drawn[self._order([self.members[i] for i in drawn])[0]]]

  def _order(self, members: list[Result]) -> list[int]:
    """Returns places, best first; of equals the earliest."""
    if self.settings.objectives:
      return rewards.ranking(self._points(members))
    return np.argsort([-m.reward for m in members], kind="stable").tolist()

  def _points(self, members: list[Result]) -> Float[np.ndarray, "n d"]:
    signs = {"maximize": 1.0, "minimize": -1.0}
    columns = self.settings.objectives.items()
    return np.array([[signs[way] * m.values[name] for name, way in columns] for m in members])

  def tell(self, result: Result) -> None:
    """Takes in a result: a new member, for whom one goes. A failed one is no member.

    Raises: UserError if it lacks a value that is an objective.
    """
    self.known.tell(result)
    if result.reward is None:
      self.failed += 1
      return
    for name in self.settings.objectives:
      if name not in result.values:
        raise errors.unknown("objectives", name, "among the measured values", result.values)
    self.members.append(result)
    if len(self.members) > self.settings.population:
      worst = self._order(self.members)[-1] if self.settings.drop == "worst" else 0
      del self.members[worst]

  def summary(self) -> dict[str, float]:
    """Returns the population's size and mean reward, failures and duplicates."""
    found = {"population": len(self.members), "failed": self.failed, **self.known.summary()}
    if self.members:
      found["mean"] = float(np.mean([m.reward for m in self.members]))
    return found


@dataclasses.dataclass(frozen=True)
class GuidedSettings(Settings):
  """AssembleNet's constants, as recalled: tournaments of a quarter of 20, the weakest goes.

  threshold: `child` draws one bound from U(0, 1) for a child, above which edges of the parent stay;
    `edge` draws one for each edge; `none` keeps as many edges as `child` would, but any.
  edges: the kind of the decisions that are edges. change: how likely one of the other decisions,
  where there are any, changes too. regroup: how likely a node splits, or two merge, before that, in
  a space that knows how (a method `regrouped`). inherit: whether the edges that a child has of its
  parent start from their weights there; else all start alike.
  """

  population: int = 20
  tournament: int = 5
  drop: Literal["oldest", "worst"] = "worst"
  threshold: Literal["child", "edge", "none"] = "child"
  edges: str = "edge"
  change: float = 0.5
  regroup: float = 0.5
  inherit: bool = True

  def __post_init__(self):
    super().__post_init__()
    if self.threshold not in ("child", "edge", "none"):
      raise errors.unknown("threshold", self.threshold, "a rule", ("child", "edge", "none"))


class GuidedEvolution(Evolution):
  """Evolution of a graph whose trained edge weights say which edges a child keeps.

  Results carry them in `values["edges"]`: a weight in [0, 1] for the name of every edge there is;
  a proposal's `info["edges"]` has those of the edges that a child keeps, to start from.
  """

  settings: GuidedSettings

  def __init__(self, space: Any, seed: int, settings: GuidedSettings):
    super().__init__(space, seed, settings)
    kinds = [decision.kind for decision in space.decisions]
    self.edges = [place for place, kind in enumerate(kinds) if kind == settings.edges]
    sizes = getattr(space, "sizes", ())
    self.others = [
      place for place, kind in enumerate(kinds) if kind != settings.edges and place not in sizes
    ]
    # A space may know which edges there can be, which depends on its nodes.
    self._knowing = hasattr(space, "admissible") and hasattr(space, "needed")
    if not self.edges:
      raise errors.unknown("edges", settings.edges, "a kind of this space's decisions", set(kinds))
    index = {decision.name: place for place, decision in enumerate(space.decisions)}
    self._needed = [
      [index[name] for name in rule.names]
      for rule in getattr(space, "rules", ())
      if isinstance(rule, AnyOf)
    ]

  def tell(self, result: Result) -> None:
    """Takes in a result. Raises: UserError if it has no edge weights."""
    guided = self.settings.threshold != "none" and result.reward is not None
    if guided and "edges" not in result.values:
      raise errors.UserError(
        f"trial {result.number} brought no values['edges']; guided evolution needs the trained "
        "weight of every edge: take an evaluator that gives them, or threshold='none'."
      )
    super().tell(result)

  def child(self, parent: Result, rng: np.random.Generator) -> tuple[tuple[int, ...], dict]:
    """Returns the parent with weak edges replaced by random ones, as many in expectation."""
    names = [decision.name for decision in self.space.decisions]
    weights = {
      place: float(parent.values.get("edges", {}).get(names[place], 0.5))
      for place in self.edges
      if parent.tokens[place]
    }
    bound = float(rng.random())
    kept = self._kept(weights, bound, rng)
    open_to = self.space.admissible(parent.tokens) if self._knowing else self.edges
    free = [place for place in self.edges if place not in weights and place in open_to]
    chance = (len(weights) - len(kept)) / max(len(free), 1)
    added = {place for place in free if rng.random() < chance}
    tokens = list(parent.tokens)
    for place in self.edges:
      tokens[place] = int(place in kept or place in added)
    self._mend(tokens, weights, rng)
    told = parent.values.get("edges", {})
    own = {names[p]: w for p, w in weights.items() if tokens[p] and names[p] in told}
    found = tuple(tokens)
    if hasattr(self.space, "regrouped") and rng.random() < self.settings.regroup:
      found, own = self.space.regrouped(found, rng, own)
    info = {"threshold": bound, "edges": own if self.settings.inherit else {}}
    return self._changed(found, rng), info

  def _kept(self, weights: Mapping[int, float], bound: float, rng: np.random.Generator) -> set[int]:
    """Returns the parent's edges that stay."""
    if self.settings.threshold == "edge":
      return {place for place, weight in weights.items() if weight > rng.random()}
    kept = {place for place, weight in weights.items() if weight > bound}
    if self.settings.threshold == "none":
      kept = set(rng.choice(list(weights) or [0], len(kept), replace=False).tolist())
    return kept

  def _mend(
    self, tokens: list[int], weights: Mapping[int, float], rng: np.random.Generator
  ) -> None:
    """Puts back, where one of several edges is needed, the strongest that was dropped."""
    for places in self.space.needed(tokens) if self._knowing else self._needed:
      if not any(tokens[place] for place in places):
        dropped = [place for place in places if place in weights]
        if dropped:
          tokens[max(dropped, key=lambda place: weights[place])] = 1
        else:
          tokens[places[rng.integers(len(places))]] = 1

  def _changed(self, tokens: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
    """Returns the tokens, perhaps with one decision changed that is no edge."""
    if not self.others or rng.random() >= self.settings.change:
      return tokens
    active = self.space.active(tokens)
    options = [
      (place, token)
      for place in self.others
      if active[place]
      for token in np.flatnonzero(self.space.mask(tokens[:place])).tolist()
      if token != tokens[place]
    ]
    if not options:
      return tokens
    places = sorted({place for place, _ in options})
    place = places[rng.integers(len(places))]
    choices = [token for where, token in options if where == place]
    return self.space.change(tokens, place, choices[rng.integers(len(choices))], rng)
