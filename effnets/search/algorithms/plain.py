"""Searches that learn nothing: random and exhaustive; and what keeps proposals from repeating."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from effnets import errors, streams
from effnets.search.algorithms.base import Exhausted, Proposal, Result

TRIES = 100
"""Draws before a repeated network is proposed after all."""


def generator(seed: int, name: str, number: int) -> np.random.Generator:
  """Returns the random numbers of one trial, for one use."""
  return np.random.default_rng((seed, streams.name_hash(name), number))


class Known:
  """Which networks were proposed or told, by their keys."""

  def __init__(self, space: Any, tries: int = TRIES):
    if tries < 1:
      raise errors.UserError(f"tries={tries} has to be 1 or more.")
    self.space, self.tries = space, tries
    self._first: dict[str, int] = {}
    self.told = self.repeated = 0

  def _note(self, key: str, number: int) -> None:
    self._first[key] = min(self._first.get(key, number), number)

  def fresh(self, number: int, draw: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
    """Returns a draw that no earlier trial has, or the last of `tries`.

    What later trials have is not avoided: a trial that is proposed again is the same again.
    """
    for _ in range(self.tries):
      tokens = draw()
      key = self.space.key(tokens)
      if self._first.get(key, number) >= number:
        break
    self._note(key, number)
    return tokens

  def tell(self, result: Result) -> None:
    """Takes in what a trial was."""
    key = self.space.key(result.tokens)
    self.told += 1
    self.repeated += self._first.get(key, result.number) < result.number
    self._note(key, result.number)

  def summary(self) -> dict[str, float]:
    """Returns the share of results that repeat an earlier network."""
    return {"duplicates": self.repeated / max(self.told, 1)}


class Random:
  """Samples of the space, none twice as long as new ones are found."""

  def __init__(self, space: Any, seed: int, *, tries: int = TRIES):
    self.space, self.seed = space, seed
    self.known = Known(space, tries)

  def propose(self, number: int) -> Proposal:
    """Returns a random point that no earlier trial has."""
    rng = generator(self.seed, "tokens", number)
    return Proposal(self.known.fresh(number, lambda: self.space.sample(rng)))

  def tell(self, result: Result) -> None:
    """Takes in a result: only that it was."""
    self.known.tell(result)

  def summary(self) -> dict[str, float]:
    """Returns the share of duplicates."""
    return self.known.summary()


class Exhaustive:
  """Every valid point once, in lexicographic order; trial n is point n."""

  def __init__(self, space: Any, seed: int = 0):
    self.space, self.told = space, 0
    self._rest: tuple[int, Iterator[tuple[int, ...]]] | None = None

  def propose(self, number: int) -> Proposal:
    """Returns point `number`. Raises: Exhausted after the last one."""
    if self.space.flat:
      arities = [int(arity) for arity in self.space.arities]
      size = math.prod(arities)
      if number >= size:
        raise Exhausted(f"all {size} points are proposed.")
      tokens = []
      for arity in reversed(arities):
        number, token = divmod(number, arity)
        tokens.append(token)
      return Proposal(tuple(reversed(tokens)))
    if self._rest is None or self._rest[0] > number:
      self._rest = 0, _points(self.space, ())
    place, rest = self._rest
    point = next(itertools.islice(rest, number - place, None), None)
    self._rest = number + 1, rest
    if point is None:
      self._rest = None
      raise Exhausted(f"all points of {self.space.name!r} are proposed.")
    return Proposal(point)

  def tell(self, result: Result) -> None:
    """Takes in a result: only that it was."""
    self.told += 1

  def summary(self) -> dict[str, float]:
    """Returns how many results there were."""
    return {"told": self.told}


def _points(space: Any, tokens: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
  if len(tokens) == len(space.decisions):
    yield tokens
    return
  for token in np.flatnonzero(space.mask(tokens)).tolist():
    yield from _points(space, (*tokens, token))
