"""Splitting and merging: what stays, what is inherited, and how many graphs there are."""

import collections

import numpy as np
import pytest

from effnets import configuration, errors, models
from effnets.models import assemblenet_graphs as graphs
from effnets.models import counting
from effnets.search import algorithms, proxy, spaces
from effnets.search.algorithms.base import Result
from effnets.search.spaces import growing

PUBLISHED = graphs.ASSEMBLENET_50


def filters(graph):
  """Returns the filters of every level, and the kinds of stems."""
  found = collections.Counter()
  for node in graph.nodes:
    found[node.level if node.kind == "block" else node.kind] += node.filters
  return dict(found)


def test_a_split_node_has_two_halves_with_all_edges():
  made, origins = growing.split(PUBLISHED, 8)
  graphs.check(made)
  assert [made.nodes[i].filters for i in (8, 9)] == [32, 32]
  assert made.nodes[8].inputs == made.nodes[9].inputs == PUBLISHED.nodes[8].inputs
  # What read node 8 reads both; numbers above it moved on by one.
  for before, after in ((12, 13), (13, 14)):
    assert {8, 9} <= set(made.nodes[after].inputs)
    moved = {i if i < 8 else i + 1 for i in PUBLISHED.nodes[before].inputs}
    assert set(made.nodes[after].inputs) == moved | {8}
  assert filters(made) == filters(PUBLISHED)
  assert origins[8, 13] == origins[9, 13] == ((8, 12),)
  assert len(made.edges) == len(PUBLISHED.edges) + len(PUBLISHED.nodes[8].inputs) + 2


@pytest.mark.parametrize("number", range(15))
def test_halves_that_merge_are_what_was_split(number):
  made, _ = growing.split(PUBLISHED, number)
  again, origins = growing.merge(made, number, number + 1)
  assert again == PUBLISHED
  assert set(origins) == set(PUBLISHED.edges)


def test_merged_nodes_have_the_edges_of_both():
  made, origins = growing.merge(PUBLISHED, 4, 6)
  graphs.check(made)
  assert made.nodes[4].inputs == (0, 1, 2, 3) and made.nodes[4].filters == 64
  assert filters(made) == filters(PUBLISHED)
  # Node 8 read both, as it now reads the one; it moved back by one.
  assert origins[4, 7] == ((4, 8), (6, 8))
  with pytest.raises(errors.UserError, match="nodes 4 and 8 do not merge"):
    growing.merge(PUBLISHED, 4, 8)
  with pytest.raises(errors.UserError, match="nodes 0 and 2 do not merge"):
    growing.merge(PUBLISHED, 0, 2)


def test_the_published_graph_is_in_the_space():
  made = spaces.create("assemblenet_growing")
  assert made.decode(made.published["assemblenet_50"]) == PUBLISHED
  module = spaces.network(made, made.published["assemblenet_50"])
  assert counting.count(module).params == models.entry("assemblenet_50").params + 28


def test_counts_by_brute_force():
  # Stems, blocks and their sizes vary; every point is another one.
  made = spaces.create(
    "assemblenet_growing_tiny",
    stems=("rgb", "rgb"),
    most=(3, 1),
    budgets=(8, 8),
    halvings=2,
    dilations=(1, 2),
  )
  points = list(made.points())
  assert len(points) == len(set(points)) == made.count_raw()
  graph = {made.decode(tokens) for tokens in points}
  assert len(graph) == len(points)
  for one in list(graph)[::97]:
    graphs.check(one)
    assert made.decode(made.encode(one)) == one


def test_random_points_split_and_merge_within_the_space():
  made = spaces.create("assemblenet_growing")
  rng = np.random.default_rng(0)
  nodes = collections.Counter()
  tokens = made.published["assemblenet_50"]
  for _ in range(60):
    names = [made._edge_name(*edge) for edge in made.edges if tokens[made.edges[edge]]]
    weights = {name: float(rng.random()) for name in names}
    tokens, found = made.regrouped(tokens, rng, weights)
    graph = made.decode(tokens)
    graphs.check(graph)
    budgets = {level: n for level, n in filters(graph).items() if isinstance(level, int)}
    assert budgets == {0: 128, 1: 256, 2: 512, 3: 512}
    # Every edge has a weight, a mean of old ones.
    assert set(found) == {made._edge_name(*e) for e in made.edges if tokens[made.edges[e]]}
    assert min(weights.values()) <= min(found.values())
    assert max(found.values()) <= max(weights.values())
    nodes[len(graph.nodes)] += 1
  assert len(nodes) > 3
  for seed in range(3):
    sampled = made.sample(np.random.default_rng(seed))
    graphs.check(made.decode(sampled))
    mutated = made.mutate(sampled, rng)
    assert mutated != sampled
    graphs.check(made.decode(mutated))


def test_guided_evolution_splits_and_merges():
  made = spaces.create("assemblenet_growing")
  search = algorithms.create("guided_evolution", made, 0, population=4, tournament=2, regroup=1.0)
  rng, sizes = np.random.default_rng(1), set()
  for number in range(16):
    proposal = search.propose(number)
    graph = made.decode(proposal.tokens)
    graphs.check(graph)
    sizes.add(len(graph.nodes))
    names = {made._edge_name(*e) for e in made.edges if proposal.tokens[made.edges[e]]}
    assert set(proposal.info.get("edges", {})) <= names
    edges = {name: float(rng.random()) for name in names}
    search.tell(Result(number, proposal, float(rng.random()), {"edges": edges}))
  assert len(sizes) > 2


def test_a_child_begins_where_its_parents_edges_ended():
  made = spaces.create("assemblenet_growing_tiny")
  tokens = made.sample(np.random.default_rng(3))
  graph = made.decode(tokens)
  names = [made._edge_name(*edge) for edge in made.edges if tokens[made.edges[edge]]]
  weights = {name: 0.1 + 0.8 * place / len(names) for place, name in enumerate(names)}
  start = made.started(tokens, weights)
  module = spaces.network(made, tokens, model="assemblenet_tiny", edge_start=start, frames=2)
  learned = made.learned(module, models.init(module, 0)["params"])["edges"]
  assert set(learned) == set(weights)
  alone = {e for e in graph.edges if len(graph.nodes[e[1]].inputs) == 1}
  slots = made._slots(graph.nodes)
  for source, target in graph.edges:
    name = made._edge_name(slots[source], slots[target])
    expected = 1.0 if (source, target) in alone else weights[name]
    assert learned[name] == pytest.approx(expected, abs=1e-6)


def test_settings_are_checked():
  with pytest.raises(errors.UserError, match="do not halve 2 times"):
    spaces.create("assemblenet_growing", budgets=(6, 8, 8, 8), halvings=2)
  made = spaces.create("assemblenet_growing_tiny")
  with pytest.raises(errors.UserError, match="too many nodes like"):
    made.encode(
      growing.split(growing.split(made.decode(made.sample(np.random.default_rng(0))), 0)[0], 0)[0]
    )


@pytest.mark.parametrize("masked", [False, True])
def test_a_childs_config_has_its_parents_weights(masked):
  config = configuration.load("configs/search_assemblenet.py")
  config.model.masked = masked
  made = spaces.create("assemblenet_tiny", dilations=(1,))
  tokens = made.sample(np.random.default_rng(2))
  names = [made._edge_name(*edge) for edge in made.edges_of(tokens)]
  weights = {name: 0.2 + place / 100 for place, name in enumerate(names)}
  child = proxy.child(config, made, tokens, 0, weights)
  settings = {key: value for key, value in child.model.items() if key != "name"}
  module = models.create(child.model.name, 8, **settings)
  learned = made.learned(module, models.init(module, 0)["params"])["edges"]
  assert set(learned) == set(names)
  # In the graph of all edges every node has several.
  several = {t for t, n in enumerate(module.graph.nodes) if len(n.inputs) > 1}
  for edge in made.edges_of(tokens):
    name = made._edge_name(*edge)
    assert learned[name] == pytest.approx(weights[name] if edge[1] in several else 1.0, abs=1e-6)
  # Without a parent everything begins alike, at the code's start.
  assert "edge_start" not in proxy.child(config, made, tokens, 0).model
