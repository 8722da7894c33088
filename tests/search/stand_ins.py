"""A space and algorithms so small that what a study does with them can be said in advance."""

import dataclasses
import hashlib

import numpy as np

from effnets.search.algorithms import base


@dataclasses.dataclass(frozen=True)
class Space:
  """`decisions` choices out of `choices` each; only the sum of the tokens matters if `sums`."""

  decisions: int = 6
  choices: int = 4
  sums: bool = False
  name: str = "toy"
  version: str = "v1"

  def key(self, tokens):
    return str(sum(tokens) if self.sums else tuple(tokens))


class Random:
  """Draws of (seed, number)."""

  def __init__(self, space, seed=0):
    self.space, self.seed, self.told = space, seed, []

  def propose(self, number):
    rng = np.random.default_rng([self.seed, number])
    tokens = tuple(map(int, rng.integers(self.space.choices, size=self.space.decisions)))
    return base.Proposal(tokens, {"drawn": (number,)})

  def tell(self, result):
    self.told.append(result)

  def summary(self):
    return {"entropy": 1.5}


class Climber(Random):
  """Moves from the best so far, by a draw that depends on every reward told: a lost one shows."""

  def propose(self, number):
    text = repr([(r.number, r.reward, r.proposal.info) for r in self.told])
    state = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    rng = np.random.default_rng([self.seed, number, state])
    best = max((r for r in self.told if r.reward is not None), key=lambda r: r.reward, default=None)
    if best is None:
      return super().propose(number)
    tokens = list(best.tokens)
    tokens[rng.integers(len(tokens))] = int(rng.integers(self.space.choices))
    return base.Proposal(tuple(tokens), {"of": best.number, "state": state, "told": len(self.told)})


def fraction(space, tokens, seed):
  """The share of tokens that equal a target; a landscape."""
  del seed
  target = [(3 * i * i + i + 1) % space.choices for i in range(space.decisions)]
  return {"accuracy": sum(a == b for a, b in zip(tokens, target, strict=True)) / len(target)}


def accuracy(values):
  """The reward that is the accuracy itself."""
  return values["accuracy"]
