"""Optuna's samplers: they learn, go on where they were, and respect masks."""

import numpy as np
import pytest

from effnets import errors
from effnets.search import algorithms, landscapes
from effnets.search.algorithms.base import Result
from effnets.search.space import Decision, Different, Space

TRADE = landscapes.Trade()
SPACE = Space("few", [Decision(f"d{i}", tuple(range(4)), "d") for i in range(6)])
ORDER = Space(
  "order",
  [Decision(f"slot{i}", tuple(range(4)), "slot") for i in range(4)],
  [Different(tuple(f"slot{i}" for i in range(4)))],
)


def score(tokens):
  return sum(a == b for a, b in zip(tokens, (3, 1, 2, 0, 1, 3), strict=False)) / len(tokens)


def search(algorithm, count, first=0):
  results = []
  for number in range(first, first + count):
    proposal = algorithm.propose(number)
    results.append(Result(number, proposal, score(proposal.tokens)))
    algorithm.tell(results[-1])
  return results


SETTINGS = {"tpe": {}, "nsga2": {"population_size": 10}}


@pytest.mark.parametrize("name", SETTINGS)
def test_learns_and_goes_on_where_it_was(name):
  whole = algorithms.create(name, SPACE, 3, **SETTINGS[name])
  results = search(whole, 80)
  rewards = [result.reward for result in results]
  assert np.mean(rewards[-20:]) > np.mean(rewards[:10]) + 0.15
  again = algorithms.create(name, SPACE, 3, **SETTINGS[name])
  for result in results[:45]:
    again.tell(result)
  # Proposing twice, or for nothing, changes nothing.
  again.propose(45)
  assert search(again, 15, 45) == results[45:60]


@pytest.mark.parametrize("name", SETTINGS)
def test_masks(name):
  algorithm = algorithms.create(name, ORDER, 0, **SETTINGS[name])
  for result in search(algorithm, 30):
    ORDER.validate(result.tokens)


def test_several_objectives():
  algorithm = algorithms.create(
    *("nsga2", TRADE.space, 0),
    objectives={"accuracy": "maximize", "latency": "minimize"},
    population_size=20,
  )
  latencies = []
  for number in range(120):
    proposal = algorithm.propose(number)
    values = TRADE(TRADE.space, proposal.tokens)
    algorithm.tell(Result(number, proposal, 0.0 if number % 7 else None, values))
    latencies.append(values["latency"])
  assert algorithm.summary() == {"told": 120, "failed": 18}
  # The population spreads to both sides of the random start.
  assert min(latencies[60:]) < min(latencies[:20]) and np.std(latencies[60:]) > 2


def test_bad_settings():
  with pytest.raises(errors.UserError, match="tpe does not take"):
    algorithms.create("tpe", SPACE, 0, startup=3)
  with pytest.raises(errors.UserError, match="objectives='max'"):
    algorithms.create("nsga2", SPACE, 0, objectives={"accuracy": "max"})
