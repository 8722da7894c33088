"""NetAdapt on a network of five widths, whose whole path was worked out apart from the code."""

import math

import pytest

from effnets import errors
from effnets.search import algorithms
from effnets.search.algorithms import netadapt
from effnets.search.algorithms.base import Exhausted, Result

FULL = (64, 64, 128, 128, 256)
MS = (0.30, 0.20, 0.10, 0.08, 0.03)
LOSS = (0.05, 0.05, 0.06, 0.06, 0.08)
SCALE = (24, 32, 48, 64, 96)
SPACE = netadapt.widths({f"layer{i}": full for i, full in enumerate(FULL)})


def channels(tokens):
  return [d.choices[t] for d, t in zip(SPACE.decisions, tokens, strict=True)]


def cost(tokens):
  return sum(ms * n for ms, n in zip(MS, channels(tokens), strict=True))


def accuracy(tokens):
  parts = zip(LOSS, SCALE, channels(tokens), strict=True)
  return 0.75 - sum(a * math.exp(-n / tau) for a, tau, n in parts)


TARGET = 0.7 * 62.72


def test_least_lost_per_millisecond():
  found = netadapt.adapt(SPACE, cost, accuracy, target=TARGET)
  assert found.first_cost == pytest.approx(62.72)
  assert [step.place for step in found.path] == [0, 0, 2, 0, 2, 1, 2, 1, 0, 2, 3, 2, 3, 1]
  assert channels(found.current) == [32, 40, 88, 112, 256]
  assert found.current_cost == pytest.approx(43.04)
  assert found.accuracy == pytest.approx(0.696917, abs=5e-7)


def test_most_accurate_proposal():
  found = netadapt.adapt(SPACE, cost, accuracy, target=TARGET, choice="accuracy")
  assert len(found.path) == 21
  assert channels(found.current) == [48, 48, 64, 72, 208]
  assert found.current_cost == pytest.approx(42.40)
  assert found.accuracy == pytest.approx(0.687617, abs=5e-7)


def test_proposals_are_the_smallest_that_save_enough():
  start = (7, 7, 15, 15, 31)
  shrunk = netadapt.shrinks(start, cost, 0.6272)
  widths = [channels(offer.tokens)[offer.place] for offer in shrunk]
  # The last layer's millisecond is cheap: three steps of 8 channels, .24 ms each.
  assert widths == [56, 56, 120, 120, 232]
  # 20 ms: the last two layers have no 20 ms to give, the third has 12.
  assert [offer.place for offer in netadapt.shrinks(start, cost, 12.8)] == [0]


def test_steps_wait_for_all_their_results():
  search = algorithms.create("netadapt", SPACE, 0, cost=cost, target=TARGET)
  search.tell(Result(0, search.propose(0), accuracy(search.propose(0).tokens)))
  offers = [search.propose(number) for number in range(1, 6)]
  assert [offer.info["step"] for offer in offers] == [1] * 5
  with pytest.raises(Exhausted) as waiting:
    search.propose(6)
  assert waiting.value.waiting
  for number in (5, 3, 1, 2):
    search.tell(Result(number, offers[number - 1], accuracy(offers[number - 1].tokens)))
  assert not search.path
  # The fourth failed, and is tried again under another number.
  search.tell(Result(4, offers[3], None))
  assert [step.place for step in search.path] == [0]
  assert search.propose(6).info["step"] == 2
  # A late second result of a step that is over changes nothing.
  search.tell(Result(6, offers[3], 0.99))
  assert [step.place for step in search.path] == [0] and search.propose(7).info["step"] == 2


def test_telling_again_rebuilds_the_state():
  whole = algorithms.create("netadapt", SPACE, 0, cost=cost, target=TARGET)
  results = []
  for number in range(30):
    proposal = whole.propose(number)
    results.append(Result(number, proposal, accuracy(proposal.tokens)))
    whole.tell(results[-1])
  again = algorithms.create("netadapt", SPACE, 0, cost=cost, target=TARGET)
  for result in results[:18]:
    again.tell(result)
  for result in results[18:]:
    assert again.propose(result.number) == result.proposal
    again.tell(result)
  assert again.summary() == whole.summary()


def test_steps_that_get_smaller():
  found = netadapt.adapt(SPACE, cost, accuracy, target=55.0, delta=0.05, decay=0.5)
  saved = [found.first_cost, *(step.cost for step in found.path)]
  steps = [before - after for before, after in zip(saved, saved[1:], strict=False)]
  assert steps[0] >= 0.05 * 62.72
  assert all(step >= 0.05 * 62.72 * 0.5**i for i, step in enumerate(steps))
  assert steps[-1] < 0.05 * 62.72


def test_what_is_out_of_reach():
  with pytest.raises(errors.UserError, match=r"target is 3: it is out of reach"):
    netadapt.adapt(SPACE, cost, accuracy, target=3.0)
  search = algorithms.create("netadapt", SPACE, 0, cost=cost, target=TARGET)
  with pytest.raises(errors.UserError, match="all 1 proposals of step 0 failed"):
    search.tell(Result(0, search.propose(0), None))
  with pytest.raises(errors.UserError, match="needs 'cost'"):
    algorithms.create("netadapt", SPACE, 0, target=3.0)
  with pytest.raises(errors.UserError, match="choice='ration'.*Nearest: 'ratio'"):
    algorithms.create("netadapt", SPACE, 0, cost=cost, target=3.0, choice="ration")
  with pytest.raises(errors.UserError, match="delta=0"):
    algorithms.create("netadapt", SPACE, 0, cost=cost, target=3.0, delta=0)
  # Nothing to do is no error.
  assert netadapt.adapt(SPACE, cost, accuracy, target=70.0).path == []
