"""Random and exhaustive search: all points, no point twice, the same again."""

import itertools

import pytest

from effnets import errors
from effnets.search import algorithms
from effnets.search.algorithms.base import Exhausted, Result
from effnets.search.space import Decision, Different, Space, When

FLAT = Space("flat", [Decision(f"d{i}", tuple(range(a)), "d") for i, a in enumerate((2, 3, 2))])
ORDER = Space(
  "order",
  [Decision(f"slot{i}", tuple(range(4)), "slot") for i in range(3)],
  [Different(tuple(f"slot{i}" for i in range(3)))],
)
# Two of the four points are one network.
SWITCH = Space(
  "switch",
  [Decision("on", (False, True), "on"), Decision("how", (0, 1), "how")],
  [When("how", "on", (True,))],
)


@pytest.mark.parametrize(
  "space, points",
  [
    (FLAT, list(itertools.product(range(2), range(3), range(2)))),
    (ORDER, list(itertools.permutations(range(4), 3))),
  ],
)
def test_exhaustive(space, points):
  search = algorithms.create("exhaustive", space, 0)
  assert [search.propose(number).tokens for number in range(len(points))] == points
  assert search.propose(5).tokens == points[5] and search.propose(2).tokens == points[2]
  with pytest.raises(Exhausted) as over:
    search.propose(len(points))
  assert not over.value.waiting
  assert search.propose(0).tokens == points[0]


def test_random_finds_every_network_before_it_repeats():
  search = algorithms.create("random", FLAT, 3)
  drawn = [search.propose(number).tokens for number in range(12)]
  assert len(set(drawn)) == 12
  # Then it has to repeat.
  assert search.propose(12).tokens in drawn
  search = algorithms.create("random", SWITCH, 0)
  assert len({SWITCH.key(search.propose(number).tokens) for number in range(3)}) == 3


def test_random_depends_on_seed_and_number():
  one, other = (algorithms.create("random", ORDER, seed) for seed in (0, 1))
  proposals = [one.propose(number) for number in range(10)]
  assert [one.propose(number) for number in range(10)] == proposals
  assert [other.propose(number) for number in range(10)] != proposals
  # Told, not proposed, results are known as well.
  again = algorithms.create("random", ORDER, 0)
  for number, proposal in enumerate(proposals):
    again.tell(Result(number, proposal, 0.5))
  assert again.propose(10) == one.propose(10)
  again.tell(Result(11, proposals[0], 0.5))
  assert again.summary() == {"duplicates": 1 / 11}


def test_bad_settings():
  with pytest.raises(errors.UserError, match="randon.*Nearest: 'random'"):
    algorithms.create("randon", FLAT, 0)
  with pytest.raises(errors.UserError, match="trys.*Nearest: 'tries'"):
    algorithms.create("random", FLAT, 0, trys=3)
  with pytest.raises(errors.UserError, match="tries=0"):
    algorithms.create("random", FLAT, 0, tries=0)
