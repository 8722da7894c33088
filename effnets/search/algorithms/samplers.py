"""Optuna's samplers on a space: TPE and NSGA-II through the same calls as all other searches.

The algorithm keeps a study of its own, in memory, with tokens as parameters, into which every told
result goes; samplers are seeded anew for each trial, so that their draws depend on the results and
the trial's number only.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna

from effnets import errors
from effnets.search.algorithms.base import Proposal, Result

SAMPLERS = ("tpe", "nsga2")


class Sampler:
  """One of Optuna's samplers.

  sampler: `tpe` or `nsga2`. objectives: names among a result's values, and for each whether to
  `maximize` or `minimize` it; without them the reward is maximised. settings: the sampler's own.

  A token that an earlier one rules out is replaced by the next valid one.
  """

  def __init__(
    self,
    space: Any,
    seed: int,
    *,
    sampler: str,
    objectives: Mapping[str, str] | None = None,
    **settings: Any,
  ):
    if sampler not in SAMPLERS:
      raise errors.unknown("sampler", sampler, "a sampler", SAMPLERS)
    self.space, self.seed, self.name, self.settings = space, seed, sampler, settings
    self.objectives = dict(objectives or {})
    directions = list(self.objectives.values()) or ["maximize"]
    for direction in directions:
      if direction not in ("maximize", "minimize"):
        raise errors.unknown("objectives", direction, "a direction", ("maximize", "minimize"))
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
      self._sampler(0)
      self._study = optuna.create_study(directions=directions, sampler=self._sampler(0))
    except (TypeError, ValueError) as error:
      raise errors.UserError(f"Optuna's {sampler} does not take {settings}: {error}") from error
    finally:
      optuna.logging.set_verbosity(before)
    self._distributions = {
      decision.name: optuna.distributions.CategoricalDistribution(range(len(decision.choices)))
      for decision in space.decisions
    }
    self.told = self.failed = 0

  def _sampler(self, number: int) -> Any:
    samplers = optuna.samplers
    made = {"tpe": samplers.TPESampler, "nsga2": samplers.NSGAIISampler}[self.name]
    # A large prime keeps neighbouring searches' seeds apart.
    return made(seed=(self.seed * 1_000_003 + number) % 2**32, **self.settings)

  def propose(self, number: int) -> Proposal:
    """Returns what the sampler suggests after the results told so far."""
    self._study.sampler = self._sampler(number)
    trial = self._study.ask()
    tokens: list[int] = []
    for decision in self.space.decisions:
      token = trial.suggest_categorical(decision.name, self._distributions[decision.name].choices)
      valid = np.flatnonzero(self.space.mask(tokens))
      at_or_after = valid[valid >= token]
      tokens.append(int(at_or_after[0] if len(at_or_after) else valid[0]))
    # What a sampler notes with a trial, such as its generation, it needs again with the result.
    notes = dict(self._study._storage.get_trial_system_attrs(trial._trial_id))
    # The trial itself is of no use: a result may be told to another process than proposed it.
    self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return Proposal(tuple(tokens), {"optuna": notes})

  def tell(self, result: Result) -> None:
    """Takes in a result; what failed, or has no value for an objective, teaches nothing."""
    self.told += 1
    values = None if result.reward is None else self._values(result)
    if values is None or not all(math.isfinite(value) for value in values):
      self.failed += 1
      return
    names = (decision.name for decision in self.space.decisions)
    self._study.add_trial(
      optuna.trial.create_trial(
        params=dict(zip(names, result.tokens, strict=True)),
        distributions=self._distributions,
        values=values,
        system_attrs=dict(result.proposal.info.get("optuna", {})),
      )
    )

  def _values(self, result: Result) -> list[float] | None:
    if not self.objectives:
      return [result.reward]
    if not all(name in result.values for name in self.objectives):
      return None
    return [float(result.values[name]) for name in self.objectives]

  def summary(self) -> dict[str, float]:
    """Returns how many results there were, and how many of them failed."""
    return {"told": self.told, "failed": self.failed}
