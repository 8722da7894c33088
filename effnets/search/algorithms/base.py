"""What a search algorithm takes and gives: proposals, results, and the protocol between them.

The state of an algorithm is never stored. It is rebuilt by telling the stored results again in
their stored order, so the study's database is the only truth, and a serial search that was killed
goes on bit for bit.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol


@dataclasses.dataclass(frozen=True)
class Proposal:
  """An architecture that an algorithm wants to see evaluated.

  tokens: one choice per decision of the space.
  info: JSON values that the algorithm needs again with the result: policy version,
    log-probability, parent trials...
  """

  tokens: tuple[int, ...]
  info: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Result:
  """What became of a proposal.

  number: of the trial, the one that `propose` was called with. reward: None if it failed.
  values: JSON values that were measured: accuracy, latency, connection weights...
  """

  number: int
  proposal: Proposal
  reward: float | None
  values: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def tokens(self) -> tuple[int, ...]:
    """The architecture."""
    return self.proposal.tokens


class Exhausted(Exception):
  """There is nothing to propose: for good, or until outstanding results are told.

  waiting: whether telling the results that are still out brings more proposals.
  """

  def __init__(self, message: str, *, waiting: bool = False):
    super().__init__(message)
    self.waiting = waiting


class Algorithm(Protocol):
  """A search algorithm on one space with one seed."""

  def propose(self, number: int) -> Proposal:
    """Returns the proposal of trial `number`: of the results told so far and (seed, number) only.

    Besides that an algorithm remembers only what it proposed for earlier trials, so as not to
    propose it again.

    Raises: Exhausted if there is nothing more to propose, or not before results are told.
    """
    ...

  def tell(self, result: Result) -> None:
    """Takes in a result. Updates happen at fixed counts of results."""
    ...

  def summary(self) -> dict[str, float]:
    """Returns figures of the state: entropy, version, baseline..."""
    ...
