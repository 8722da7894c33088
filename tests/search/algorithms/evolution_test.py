"""Evolution: who is a parent, who goes, which edges stay."""

import dataclasses

import numpy as np
import pytest

from effnets import errors
from effnets.search import algorithms, landscapes
from effnets.search.algorithms.base import Proposal, Result
from effnets.search.space import AnyOf, Decision, Space

MATCH = landscapes.Match()
# Two inputs, two middles, one end: every middle and the end need an input.
GRAPH = Space(
  "graph",
  [
    *(Decision(name, (False, True), "edge") for name in ("a-c", "b-c", "a-d", "b-d", "c-e", "d-e")),
    Decision("dilation", (1, 2, 4, 8), "dilation"),
  ],
  [AnyOf(("a-c", "b-c")), AnyOf(("a-d", "b-d")), AnyOf(("c-e", "d-e"))],
)


def told(search, number, tokens, reward, **values):
  search.tell(Result(number, Proposal(tuple(tokens)), reward, values))


def test_members_come_and_the_oldest_goes():
  search = algorithms.create("evolution", MATCH.space, 0, population=3, tournament=3)
  points = [tuple(MATCH.space.sample(np.random.default_rng(i))) for i in range(5)]
  for number, reward in enumerate((0.9, 0.2, None, 0.4)):
    told(search, number, points[number], reward)
  assert [m.number for m in search.members] == [0, 1, 3]
  # A tournament of all: the first is the parent, and one decision of it changes.
  child = search.propose(4)
  assert child.info["parent"] == 0
  assert sum(a != b for a, b in zip(child.tokens, points[0], strict=True)) == 1
  told(search, 4, child.tokens, 0.3)
  assert [m.number for m in search.members] == [1, 3, 4]
  assert search.propose(5).info["parent"] == 3
  assert search.summary()["failed"] == 1 and search.summary()["mean"] == pytest.approx(0.3)


def test_the_worst_goes():
  search = algorithms.create("evolution", MATCH.space, 0, population=3, tournament=3, drop="worst")
  for number, reward in enumerate((0.5, 0.2, 0.4, 0.3)):
    told(search, number, MATCH.space.sample(np.random.default_rng(number)), reward)
  assert [m.number for m in search.members] == [0, 2, 3]


def test_parents_of_several_objectives():
  objectives = {"accuracy": "maximize", "latency": "minimize"}
  search = algorithms.create(
    "evolution", MATCH.space, 0, population=4, tournament=3, objectives=objectives
  )
  # The reward has no say: 0 and 1 are the front, 2 is dominated by both.
  for number, (accuracy, latency) in enumerate(((0.5, 10.0), (0.7, 20.0), (0.4, 30.0), (0.3, 40))):
    tokens = MATCH.space.sample(np.random.default_rng(number))
    told(search, number, tokens, float(number), accuracy=accuracy, latency=latency)
  parents = [search.propose(number).info["parent"] for number in range(4, 60)]
  assert set(parents) == {0, 1}


def test_no_network_twice():
  search = algorithms.create("evolution", MATCH.space, 1, population=10, tournament=5)
  keys = []
  for number in range(300):
    proposal = search.propose(number)
    assert search.propose(number) == proposal
    keys.append(MATCH.space.key(proposal.tokens))
    told(search, number, proposal.tokens, MATCH(MATCH.space, proposal.tokens)["accuracy"])
  assert len(set(keys)) == 300 and search.summary()["duplicates"] == 0


@pytest.mark.parametrize("name", ["evolution", "guided_evolution"])
def test_telling_again_rebuilds_the_state(name):
  landscape = landscapes.Edges()
  settings = {"population": 20, "tournament": 5}
  whole = algorithms.create(name, landscape.space, 5, **settings)
  results = []
  for number in range(60):
    proposal = whole.propose(number)
    values = landscape(landscape.space, proposal.tokens, number)
    results.append(Result(number, proposal, values["accuracy"], values))
    whole.tell(results[-1])
  again = algorithms.create(name, landscape.space, 5, **settings)
  for result in results[:37]:
    again.tell(result)
  for result in results[37:]:
    assert again.propose(result.number) == result.proposal
    again.tell(result)


@dataclasses.dataclass
class Fixed:
  """Random numbers as they are told; the rest is as it comes."""

  values: list
  rest: np.random.Generator

  def random(self):
    return self.values.pop(0) if self.values else self.rest.random()

  def __getattr__(self, name):
    return getattr(self.rest, name)


def parent(landscape, seed=0):
  tokens = landscape.space.sample(np.random.default_rng(seed))
  return Result(0, Proposal(tokens), 0.5, landscape(landscape.space, tokens, seed))


def test_a_bound_of_0_keeps_all_edges_and_one_of_1_none():
  landscape = landscapes.Edges()
  search = algorithms.create("guided_evolution", landscape.space, 0)
  before = parent(landscape)
  rng = np.random.default_rng(0)
  same, _ = search.child(before, Fixed([-1.0], rng))
  assert same == before.tokens
  other, info = search.child(before, Fixed([1.0], rng))
  assert not any(a and b for a, b in zip(other, before.tokens, strict=True))
  assert info["edges"] == {}


def test_edges_stay_by_their_weight_and_their_number_stays_in_expectation():
  landscape = landscapes.Edges()
  search = algorithms.create("guided_evolution", landscape.space, 0)
  # Seed 5 has 78 of 160 edges: more than half could not all be replaced.
  before = parent(landscape, 5)
  assert sum(before.tokens) < 80
  names = [decision.name for decision in landscape.space.decisions]
  counts = []
  for seed in range(300):
    tokens, info = search.child(before, np.random.default_rng(seed))
    bound = info["threshold"]
    for name, token, was in zip(names, tokens, before.tokens, strict=True):
      if was:
        assert token == (before.values["edges"][name] > bound)
    assert info["edges"] == {n: w for n, w in before.values["edges"].items() if w > bound}
    counts.append(sum(tokens))
  # Additions are binomial; 300 children leave a standard error of about .25.
  assert np.mean(counts) == pytest.approx(sum(before.tokens), abs=1.0)


def test_unguided_children_keep_as_many():
  landscape = landscapes.Edges()
  guided, free = (
    algorithms.create("guided_evolution", landscape.space, 0, threshold=threshold)
    for threshold in ("child", "none")
  )
  before = parent(landscape)
  kept = lambda tokens: sum(a and b for a, b in zip(tokens, before.tokens, strict=True))  # noqa: E731
  for seed in range(20):
    mine = guided.child(before, np.random.default_rng(seed))[0]
    theirs = free.child(before, np.random.default_rng(seed))[0]
    assert kept(mine) == kept(theirs)


def test_nodes_keep_an_input_the_strongest():
  search = algorithms.create("guided_evolution", GRAPH, 0, change=0.0)
  weights = {"a-c": 0.2, "b-c": 0.3, "a-d": 0.1, "c-e": 0.4, "d-e": 0.05}
  before = Result(0, Proposal((1, 1, 1, 0, 1, 1, 0)), 0.5, {"edges": weights})
  # Bound 1 drops all; the one free edge is added with certainty, so d has an input.
  tokens, info = search.child(before, Fixed([1.0], np.random.default_rng(0)))
  assert tokens == (0, 1, 0, 1, 1, 0, 0)
  assert info["edges"] == {"b-c": 0.3, "c-e": 0.4}
  for seed in range(100):
    GRAPH.validate(search.child(before, np.random.default_rng(seed))[0])


def test_other_decisions_change_too():
  search = algorithms.create("guided_evolution", GRAPH, 0, change=1.0)
  before = Result(0, Proposal((1, 1, 1, 0, 1, 1, 2)), 0.5, {"edges": {}})
  changed = {search.child(before, np.random.default_rng(seed))[0][-1] for seed in range(40)}
  assert changed == {0, 1, 3}


def test_bad_settings():
  with pytest.raises(errors.UserError, match="tournament=30 members of a population=20"):
    algorithms.create("evolution", MATCH.space, 0, population=20, tournament=30)
  with pytest.raises(errors.UserError, match="drop='eldest'.*Nearest: 'oldest'"):
    algorithms.create("evolution", MATCH.space, 0, drop="eldest")
  with pytest.raises(errors.UserError, match="objectives.latency='min'"):
    algorithms.create("evolution", MATCH.space, 0, objectives={"latency": "min"})
  with pytest.raises(errors.UserError, match="edges='edge' is not a kind"):
    algorithms.create("guided_evolution", MATCH.space, 0)
  with pytest.raises(errors.UserError, match="threshold='edges'"):
    algorithms.create("guided_evolution", GRAPH, 0, threshold="edges")
  with pytest.raises(errors.UserError, match=r"trial 3 brought no values\['edges'\]"):
    told(algorithms.create("guided_evolution", GRAPH, 0), 3, (1,) * 7, 0.5)
