"""AssembleNet's space with blocks that split and merge and share the filters of their level.

Source: Ryoo et al. 2020 (arXiv 1905.13209), section 3.2, whose code was never released.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool

from effnets import errors
from effnets.models.assemblenet_graphs import ASSEMBLENET_50, Assembly, Edge, Node
from effnets.search import space
from effnets.search.spaces import assembly, registry

Origins = dict[Edge, tuple[Edge, ...]]
"""What an edge of a changed graph was before: edges of the graph that was changed."""


def split(graph: Assembly, number: int) -> tuple[Assembly, Origins]:
  """Returns the graph with two nodes in place of one, each with all its edges and half its filters.

  Of an odd number of filters the first gets one more. A stem becomes two of them.
  """
  node = graph.nodes[number]
  half = node.filters // 2
  halves = [dataclasses.replace(node, filters=f) for f in (node.filters - half, half)]
  parts = [(own, (place,)) for place, own in enumerate(graph.nodes)]
  return _of(graph, [*parts[:number], *((h, (number,)) for h in halves), *parts[number + 1 :]])


def merge(graph: Assembly, first: int, second: int) -> tuple[Assembly, Origins]:
  """Returns the graph with one node in place of two, with the edges and filters of both.

  The dilation is that of the first. Raises: UserError if they are of other kinds or levels.
  """
  one, other = graph.nodes[first], graph.nodes[second]
  if first == second or (one.level, one.kind) != (other.level, other.kind):
    raise errors.UserError(
      f"nodes {first} and {second} do not merge: they should be two of one kind and level."
    )
  both = dataclasses.replace(one, filters=one.filters + other.filters)
  parts = [(node, (place,)) for place, node in enumerate(graph.nodes)]
  parts[first] = (both, (first, second))
  del parts[second]
  return _of(graph, parts)


def _of(graph: Assembly, parts: Sequence[tuple[Node, tuple[int, ...]]]) -> tuple[Assembly, Origins]:
  """Returns the graph of nodes that each stand for some of `graph`, with the edges of these."""
  edges = set(graph.edges)
  origins: Origins = {}
  for (u, (_, before)), (v, (_, after)) in itertools.product(enumerate(parts), repeat=2):
    found = tuple(edge for edge in itertools.product(before, after) if edge in edges)
    if found:
      origins[u, v] = found
  nodes = [
    dataclasses.replace(node, inputs=tuple(u for u in range(len(parts)) if (u, v) in origins))
    for v, (node, _) in enumerate(parts)
  ]
  return Assembly(tuple(nodes)), origins


class GrowingSpace(assembly.AssemblySpace):
  """Graphs whose levels have a number of filters each, shared out among any number of blocks.

  stems: kinds, the most of each; there is one or more of each kind, which share the channels of all
  stems. most: blocks of levels 0 to 3. budgets: their filters together; a block has all of them, or
  a half, a fourth, … after so many `halvings`. dilations: choices.
  Blocks of a level are in the order of their filters. Decisions about nodes that are not there have
  their first choice, so that two points are the same graph only if nodes of equal size differ in
  their order.
  """

  kind: ClassVar[str] = "assemblenet_growing"

  def __init__(
    self,
    *,
    stems: Sequence[str],
    most: Sequence[int],
    budgets: Sequence[int],
    halvings: int,
    dilations: Sequence[int],
  ):
    super().__init__(stems=stems, counts=most, filters=budgets, dilations=dilations)
    if any(budget % 2**halvings for budget in budgets) or halvings < 0:
      raise errors.UserError(
        f"config.search.settings.budgets={tuple(budgets)!r} do not halve {halvings} times."
      )
    self._budgets = tuple(budgets)
    sizes = [
      space.Decision(f"node{i}.there", (False, True), "stem")
      if node.kind != "block"
      else space.Decision(
        f"node{i}.filters",
        (0, *(self._budgets[node.level] // 2**h for h in reversed(range(halvings + 1)))),
        "filters",
      )
      for i, node in enumerate(self._nodes)
    ]
    self.sizes = range(len(sizes))
    """The places of decisions about which nodes there are, which `regrouped` changes."""
    others, nodes, edges = self.decisions, self._nodes, list(self.edges)
    # Rules of a fixed set of nodes are none here: `mask` knows which there are.
    space.Space.__init__(self, "", [*sizes, *others], ())
    self.flat = False
    first = len(self.decisions) - len(edges)
    self.edges = {edge: first + place for place, edge in enumerate(edges)}
    self._edge_at = {place: edge for edge, place in self.edges.items()}
    dilated = [i for i, node in enumerate(nodes) if node.kind != "flow"]
    self._node_at = {self.index[f"node{i}.dilation"]: i for i in dilated}
    self._last_level = max(node.level for node in nodes)

  # ---- Which tokens are points -------------------------------------------------------------------

  def _there(self, tokens: Sequence[int]) -> list[int]:
    return [number for number in self.sizes if tokens[number]]

  def _alike(self, number: int) -> range:
    """Returns the places for nodes of the kind and level of one."""
    own = [
      i
      for i, node in enumerate(self._nodes)
      if (node.level, node.kind) == (self._nodes[number].level, self._nodes[number].kind)
    ]
    return range(own[0], own[-1] + 1)

  def mask(self, tokens: Sequence[int]) -> Bool[np.ndarray, " k"]:
    """Returns which choices of decision number `len(tokens)` are valid after `tokens`."""
    place = len(tokens)
    valid = np.ones(int(self.arities[place]), bool)
    if place < len(self.sizes):
      return self._sizes_left(tokens)
    if place in self._node_at:
      valid[1:] = bool(tokens[self._node_at[place]])
      return valid
    edge = self._edge_at[place]
    if not all(tokens[number] for number in edge):
      return valid & np.array([True, False])
    for group in self._groups_of(tokens, edge):
      if group[-1] == place and not any(tokens[other] for other in group[:-1]):
        valid[0] = False
    return valid

  def _sizes_left(self, tokens: Sequence[int]) -> Bool[np.ndarray, " k"]:
    number = len(tokens)
    alike = self._alike(number)
    before = [tokens[i] for i in range(alike.start, number)]
    if self._nodes[number].kind != "block":
      return np.array([bool(before), not before or bool(before[-1])])
    choices = self.decisions[number].choices
    left = self._budgets[self._nodes[number].level] - sum(choices[token] for token in before)
    top = before[-1] if before else len(choices) - 1
    slots = alike.stop - number - 1
    return np.array(
      [t <= top and _ways(choices[1:], left - c, slots, t) > 0 for t, c in enumerate(choices)]
    )

  def _groups_of(self, tokens: Sequence[int], edge: Edge) -> Iterator[list[int]]:
    """Yields places of edges, of which the nodes of `edge` each need one."""
    for number, end in ((edge[1], 1), (edge[0], 0)):
      if end or self._nodes[number].level < self._last_level:
        yield [
          place
          for other, place in self.edges.items()
          if other[end] == number and all(tokens[i] for i in other)
        ]

  def needed(self, tokens: Sequence[int]) -> list[list[int]]:
    """Returns places of edges in groups, of each of which a graph needs one."""
    found = {}
    for edge, place in self.edges.items():
      if place in self.admissible(tokens):
        found |= {tuple(group): None for group in self._groups_of(tokens, edge)}
    return [list(group) for group in found]

  def admissible(self, tokens: Sequence[int]) -> set[int]:
    """Returns places of edges between nodes that are there."""
    return {p for edge, p in self.edges.items() if all(tokens[number] for number in edge)}

  def change(
    self,
    tokens: Sequence[int],
    place: int,
    token: int,
    rng: np.random.Generator | None = None,
  ) -> tuple[int, ...]:
    """Returns `tokens` with decision number `place` at `token`, and later ones repaired."""
    changed = list(tokens)
    changed[place] = int(token)
    for later in range(place + 1, len(changed)):
      valid = self.mask(changed[:later])
      if not valid[changed[later]]:
        options = np.flatnonzero(valid)
        changed[later] = int(options[0 if rng is None else rng.integers(len(options))])
    return tuple(changed)

  # ---- What they mean ----------------------------------------------------------------------------

  def decode(self, tokens: Sequence[int]) -> Assembly:
    """Returns the graph. Raises: UserError if `tokens` are no point."""
    self.validate(tokens)
    chosen, there = self.values(tokens), self._there(tokens)
    nodes = []
    for number in there:
      node = self._nodes[number]
      inputs = tuple(
        i
        for i, source in enumerate(there)
        if (source, number) in self.edges and tokens[self.edges[source, number]]
      )
      nodes.append(
        dataclasses.replace(
          node,
          dilation=chosen.get(f"node{number}.dilation", 1),
          inputs=inputs,
          filters=chosen.get(f"node{number}.filters", 0),
        )
      )
    return Assembly(tuple(nodes))

  def _slots(self, nodes: Sequence[Node]) -> list[int]:
    """Returns the space's number of every node of a graph, the larger ones of a level first.

    Raises: UserError if there are too many of a level.
    """
    found, taken = [0] * len(nodes), set()
    for place in sorted(range(len(nodes)), key=lambda i: -nodes[i].filters):
      node = nodes[place]
      free = [
        i
        for i, own in enumerate(self._nodes)
        if (own.level, own.kind) == (node.level, node.kind) and i not in taken
      ]
      if not free:
        raise errors.UserError(
          f"this graph is not in the space {self.name!r}: it has too many nodes like {node}."
        )
      taken.add(free[0])
      found[place] = free[0]
    return found

  def encode(self, spec: Assembly) -> tuple[int, ...]:
    """Returns tokens of a graph. Raises: UserError if it is outside."""
    slots = self._slots(spec.nodes)
    values: dict[str, Any] = {}
    for slot, node in zip(slots, spec.nodes, strict=True):
      block = node.kind == "block"
      values[f"node{slot}.filters" if block else f"node{slot}.there"] = node.filters or True
      if node.kind != "flow":
        values[f"node{slot}.dilation"] = node.dilation
    for number in set(self.sizes) - set(slots):
      block = self._nodes[number].kind == "block"
      values[f"node{number}.filters" if block else f"node{number}.there"] = 0 if block else False
    have = {(slots[source], slots[target]) for source, target in spec.edges}
    values |= {self.decisions[place].name: edge in have for edge, place in self.edges.items()}
    return self.tokens(values)

  # ---- Splitting and merging ---------------------------------------------------------------------

  def regrouped(
    self, tokens: Sequence[int], rng: np.random.Generator, weights: Mapping[str, float]
  ) -> tuple[tuple[int, ...], dict[str, float]]:
    """Returns `tokens` with a node split, or two merged, and the weights of their edges.

    Every split and every merge that the space has room for is equally likely; without any, nothing
    changes. weights: of edges, by their decisions' names; a new edge has the mean of what it was.
    """
    graph = self.decode(tokens)
    options = [*self._splits(graph), *self._merges(graph)]
    if not options:
      return tuple(tokens), dict(weights)
    made, origins = options[rng.integers(len(options))]
    before, after = self._slots(graph.nodes), self._slots(made.nodes)
    found = {}
    for (source, target), olds in origins.items():
      names = [self._edge_name(before[u], before[v]) for u, v in olds]
      known = [weights[name] for name in names if name in weights]
      if known:
        found[self._edge_name(after[source], after[target])] = float(np.mean(known))
    return self.encode(made), found

  def _splits(self, graph: Assembly) -> Iterator[tuple[Assembly, Origins]]:
    for slot, number in zip(self._slots(graph.nodes), range(len(graph.nodes)), strict=True):
      node, alike = graph.nodes[number], self._alike(slot)
      count = sum((n.level, n.kind) == (node.level, node.kind) for n in graph.nodes)
      fits = node.kind != "block" or node.filters / 2 in self.decisions[slot].choices
      if count < len(alike) and fits:
        yield split(graph, number)

  def _merges(self, graph: Assembly) -> Iterator[tuple[Assembly, Origins]]:
    slots = self._slots(graph.nodes)
    for one, other in itertools.combinations(range(len(graph.nodes)), 2):
      a, b = graph.nodes[one], graph.nodes[other]
      if (a.level, a.kind) != (b.level, b.kind):
        continue
      if a.kind != "block" or a.filters + b.filters in self.decisions[slots[one]].choices:
        yield merge(graph, one, other)

  def mutate(self, tokens: Sequence[int], rng: np.random.Generator) -> tuple[int, ...]:
    """Returns `tokens` with a node split, two merged, or a dilation or an edge changed."""
    if rng.random() < 0.25:
      changed, _ = self.regrouped(tokens, rng, {})
      if changed != tuple(tokens):
        return changed
    options = [
      place
      for place in range(len(self.sizes), len(self))
      if len(np.flatnonzero(self.mask(tokens[:place]))) > 1
    ]
    if not options:
      return self.regrouped(tokens, rng, {})[0]
    place = options[rng.integers(len(options))]
    choices = [t for t in np.flatnonzero(self.mask(tokens[:place])) if t != tokens[place]]
    return self.change(tokens, place, choices[rng.integers(len(choices))], rng)

  # ---- How many there are ------------------------------------------------------------------------

  def count_raw(self) -> int:
    """Returns how many points there are: of every number of nodes, sizes, dilations and edges."""
    dilations = max((len(d.choices) for d in self.decisions if d.kind == "dilation"), default=1)
    groups = sorted({self._alike(number) for number in self.sizes}, key=lambda g: g.start)
    total = 0
    for counts in itertools.product(*(range(1, len(group) + 1) for group in groups)):
      ways, timed, levels = 1, 0, {}
      for group, count in zip(groups, counts, strict=True):
        node = self._nodes[group.start]
        levels[node.level] = levels.get(node.level, 0) + count
        timed += count if node.kind != "flow" else 0
        if node.kind == "block":
          choices = self.decisions[group.start].choices[1:]
          ways *= _exactly(choices, self._budgets[node.level], count, len(choices))
      total += ways * dilations**timed * assembly.connected([levels[i] for i in sorted(levels)])
    return total

  count_unique = count_raw


@functools.cache
def _exactly(choices: tuple[int, ...], total: int, count: int, top: int) -> int:
  """Returns how many ways `count` of the first `top` choices, not ascending, sum to `total`."""
  if not count or total <= 0:
    return int(total == 0 and count == 0)
  return sum(_exactly(choices, total - choices[t], count - 1, t + 1) for t in range(top))


def _ways(choices: tuple[int, ...], total: int, most: int, top: int) -> int:
  """Returns the same for `most` or fewer of them."""
  return sum(_exactly(choices, total, count, top) for count in range(most + 1))


@registry.register("assemblenet_growing")
@registry.register(
  "assemblenet_growing_tiny",
  stems=("rgb", "flow"),
  most=(2, 2, 2),
  budgets=(8, 16, 16),
  halvings=1,
  dilations=(1, 2),
)
def growing(
  *,
  stems: tuple[str, ...] = ("rgb", "rgb", "flow", "flow"),
  most: tuple[int, ...] = (6, 6, 4, 2),
  budgets: tuple[int, ...] = (128, 256, 512, 512),
  halvings: int = 3,
  dilations: tuple[int, ...] = (1, 2, 4, 8),
) -> GrowingSpace:
  """Returns the space of graphs with the filters of the published one. Args: of `GrowingSpace`."""
  made = GrowingSpace(
    stems=stems, most=most, budgets=budgets, halvings=halvings, dilations=dilations
  )
  made.known["assemblenet_50"] = ASSEMBLENET_50
  return made
