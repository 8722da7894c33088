"""AssembleNet's space over a fixed set of nodes: dilations, and which edges there are.

Every admissible edge is a decision of its own, so that learned weights of edges can guide its
mutation: `Assembly.edges`, `AssemblySpace.edges` and `AssemblySpace.with_edges` are for that.
Source: Ryoo et al. 2020 (arXiv 1905.13209) and its code.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn

from effnets import errors, models
from effnets.models import assemblenet_graphs
from effnets.models.assemblenet_graphs import ASSEMBLENET_50, Assembly, Node
from effnets.search import space
from effnets.search.spaces import registry


class AssemblySpace(space.Space):
  """Stems and blocks of given numbers; edges from lower to higher levels.

  stems: kinds. counts, filters: blocks of levels 0 to 3, and their filters. dilations: choices; a
  flow stem has none. Every block has an input, and every node but those of the last level an
  output. Nodes keep their numbers: graphs that differ only in the order of a level's nodes count as
  different.
  """

  kind: ClassVar[str] = "assemblenet"

  def __init__(
    self,
    *,
    stems: Sequence[str],
    counts: Sequence[int],
    filters: Sequence[int],
    dilations: Sequence[int],
  ):
    wrong = [stem for stem in stems if stem not in assemblenet_graphs.STEMS]
    if wrong:
      raise errors.unknown(
        "config.search.settings.stems", wrong[0], "a kind of stem", assemblenet_graphs.STEMS
      )
    self._nodes = [Node(-1, stem, 1) for stem in stems]
    for level, (count, width) in enumerate(zip(counts, filters, strict=True)):
      self._nodes += [Node(level, "block", 1, (), width)] * count
    self._counts = (len(stems), *counts)
    decisions = [
      space.Decision(f"node{i}.dilation", tuple(dilations), "dilation")
      for i, node in enumerate(self._nodes)
      if node.kind != "flow"
    ]
    pairs = [
      (source, target)
      for target, node in enumerate(self._nodes)
      for source, other in enumerate(self._nodes)
      if other.level < node.level
    ]
    names = {pair: "edge{}_{}.edge".format(*pair) for pair in pairs}
    self.edges = {pair: len(decisions) + index for index, pair in enumerate(pairs)}
    """The place of the decision about every admissible edge, (from, to)."""
    decisions += [space.Decision(name, (False, True), "edge") for name in names.values()]
    rules = []
    for number in range(len(self._nodes)):
      for end in (0, 1):
        ends = tuple(name for pair, name in names.items() if pair[end] == number)
        if ends:
          rules.append(space.AnyOf(ends))
    super().__init__("", decisions, rules)

  def decode(self, tokens: Sequence[int]) -> Assembly:
    """Returns the graph. Raises: UserError if `tokens` are no point."""
    self.validate(tokens)
    chosen = self.values(tokens)
    found = []
    for number, node in enumerate(self._nodes):
      inputs = tuple(s for (s, t), place in self.edges.items() if t == number and tokens[place])
      dilation = chosen.get(f"node{number}.dilation", 1)
      found.append(dataclasses.replace(node, dilation=dilation, inputs=inputs))
    return Assembly(tuple(found))

  def encode(self, spec: Assembly) -> tuple[int, ...]:
    """Returns tokens of a graph. Raises: UserError if it is outside."""
    bare = [dataclasses.replace(node, dilation=1, inputs=()) for node in spec.nodes]
    wrong = [edge for edge in spec.edges if edge not in self.edges]
    if bare != self._nodes or wrong:
      reason = f"it has the edges {wrong}" if wrong else "it has other nodes"
      raise errors.UserError(f"this graph is not in the space {self.name!r}: {reason}.")
    values: dict[str, Any] = {
      f"node{i}.dilation": node.dilation for i, node in enumerate(spec.nodes) if node.kind != "flow"
    }
    have = set(spec.edges)
    values |= {self.decisions[place].name: edge in have for edge, place in self.edges.items()}
    return self.tokens(values)

  def build(
    self, spec: Assembly, *, model: str = "assemblenet_50", masked: bool = False, **overrides: Any
  ) -> nn.Module:
    """Returns the network of a graph, whose edges learn weights; in all else the zoo's `model`.

    masked: whether it is cut from the graph of all edges by variables. That costs what all edges
    cost, and graphs of the same dilations then are one program.
    """
    if masked:
      overrides.update(masked=True, kept=spec.edges)
      spec = Assembly(self._whole(spec.nodes))
    graph = assemblenet_graphs.text(spec)
    return models.create(model, **{"graph": graph, "edges": "learned", **overrides})

  def started(
    self, tokens: Sequence[int], edges: Mapping[str, float], *, masked: bool = False
  ) -> assemblenet_graphs.Weights:
    """Returns the weights that a graph's edges begin at, by node, as `build` takes `edge_start`.

    edges: as `learned` gives them; others begin at 0.5. masked: as of `build`.
    """
    # The sigmoid reaches neither end; a weight of 1 is that of an only input.
    inside = lambda weight: min(max(weight, 1e-3), 1 - 1e-3)  # noqa: E731
    graph, found = self.decode(tokens), []
    nodes = self._whole(graph.nodes) if masked else graph.nodes
    numbers = self._slots(nodes)
    for target, node in enumerate(nodes):
      names = [self._edge_name(numbers[source], numbers[target]) for source in node.inputs]
      own = tuple(inside(float(edges.get(name, 0.5))) for name in names)
      found.append(own if len(own) > 1 else ())
    return tuple(found)

  def _edge_name(self, source: int, target: int) -> str:
    return self.decisions[self.edges[source, target]].name

  def _slots(self, nodes: Sequence[Node]) -> Sequence[int]:
    """Returns the space's number of every node of a graph."""
    return range(len(nodes))

  def _whole(self, nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Returns the nodes of a graph with all edges that there may be between them."""
    lower = [[i for i, other in enumerate(nodes) if other.level < node.level] for node in nodes]
    return tuple(
      dataclasses.replace(node, inputs=tuple(inputs))
      for node, inputs in zip(nodes, lower, strict=True)
    )

  def whole(self, tokens: Sequence[int]) -> tuple[Node, ...]:
    """Returns the nodes with all edges that a masked graph is cut from: its program."""
    return self._whole(self.decode(tokens).nodes)

  def learned(self, module: nn.Module, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what trained parameters say of a graph: `edges`, the weights of those there are.

    In (0, 1), by the name of the decision; one into a node of one input has none and counts as 1.
    """
    weights = module.edge_weights(params)
    kept = set(module.kept or module.graph.edges)
    found, numbers = {}, self._slots(module.graph.nodes)
    for target, node in enumerate(module.graph.nodes):
      own = weights[target] or (1.0,) * len(node.inputs)
      for source, weight in zip(node.inputs, own, strict=True):
        if (source, target) in kept:
          found[self._edge_name(numbers[source], numbers[target])] = weight
    return {"edges": found}

  def edges_of(self, tokens: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Returns the edges of a graph, by target and source."""
    return tuple(edge for edge, place in self.edges.items() if tokens[place])

  def with_edges(
    self,
    tokens: Sequence[int],
    edges: Iterable[tuple[int, int]],
    strength: Mapping[tuple[int, int], float] | None = None,
  ) -> tuple[int, ...]:
    """Returns `tokens` with other edges; a node left without input or output gets one back.

    strength: of edges, such as their learned weights; the strongest admissible one comes back,
    among equal ones the first. None: that of `tokens`' own edges is 1, of others 0.

    Raises: UserError for an edge that is not admissible.
    """
    if strength is None:
      strength = dict.fromkeys(self.edges_of(tokens), 1.0)
    kept = set(edges)
    open_to = self.admissible(tokens)
    wrong = sorted(edge for edge in kept if self.edges.get(edge) not in open_to)
    if wrong:
      raise errors.UserError(f"edges {wrong} are not admissible in {self.name!r}.")
    for places in self.needed(tokens):
      group = [edge for edge, place in self.edges.items() if place in places]
      if not kept & set(group):
        kept.add(max(group, key=lambda edge: strength.get(edge, 0.0)))
    found = list(tokens)
    for edge, place in self.edges.items():
      found[place] = int(edge in kept)
    return tuple(found)

  def needed(self, tokens: Sequence[int]) -> list[list[int]]:
    """Returns places of edges in groups, of each of which a graph needs one."""
    del tokens
    return [[self.index[name] for name in rule.names] for rule in self.rules]

  def admissible(self, tokens: Sequence[int]) -> set[int]:
    """Returns places of edges between nodes that are there."""
    del tokens
    return set(self.edges.values())

  def count_raw(self) -> int:
    """Returns how many points there are."""
    free = len(self) - len(self.edges)
    return connected(self._counts) * math.prod(int(arity) for arity in self.arities[:free])

  count_unique = count_raw


def connected(counts: Sequence[int]) -> int:
  """Returns how many sets of edges there are between so many stems and nodes of each level.

  Every node has an input and, below the last level, an output. By inclusion and exclusion over
  nodes without output.

  >>> connected((1, 1)), connected((2, 1)), connected((1, 2, 1))
  (1, 1, 2)
  """
  total = 0
  for idle in _below(counts[:-1]):
    ways, lower = 1, 0
    for level, count in enumerate(counts):
      if level:
        ways *= (2**lower - 1) ** count
      if level < len(idle):
        ways *= math.comb(count, idle[level]) * (-1) ** idle[level]
        lower += count - idle[level]
    total += ways
  return total


def _below(counts: Sequence[int]) -> Iterable[tuple[int, ...]]:
  if not counts:
    yield ()
    return
  for first in range(counts[0] + 1):
    for rest in _below(counts[1:]):
      yield (first, *rest)


@registry.register("assemblenet")
@registry.register(
  "assemblenet_tiny",
  stems=("rgb", "flow"),
  counts=(2, 2, 1),
  filters=(4, 8, 16),
  dilations=(1, 2),
)
def assemblenet(
  *,
  stems: tuple[str, ...] = ("rgb", "rgb", "flow", "flow"),
  counts: tuple[int, ...] = (4, 4, 2, 1),
  filters: tuple[int, ...] = (32, 64, 256, 512),
  dilations: tuple[int, ...] = (1, 2, 4, 8),
) -> AssemblySpace:
  """Returns the space over the nodes of the published graph. Args: of `AssemblySpace`."""
  made = AssemblySpace(stems=stems, counts=counts, filters=filters, dilations=dilations)
  made.known["assemblenet_50"] = ASSEMBLENET_50
  return made
