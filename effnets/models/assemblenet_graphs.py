"""AssembleNet's graphs as data: stems that read RGB or flow, then groups of residual blocks.

Source: Ryoo et al. 2020 (arXiv 1905.13209) and its code.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from effnets import errors

STEMS = {"rgb": -1, "flow": -2}
"""Kinds of stems, and their numbers in the official lists."""

Edge = tuple[int, int]
Weights = tuple[tuple[float, ...], ...]


@dataclasses.dataclass(frozen=True)
class Node:
  """A stem (level -1, kind `rgb` or `flow`) or a group of residual blocks (kind `block`).

  dilation: in time. inputs: numbers of earlier nodes. filters: a quarter of the output channels.
  """

  level: int
  kind: str
  dilation: int
  inputs: tuple[int, ...] = ()
  filters: int = 0


@dataclasses.dataclass(frozen=True)
class Assembly:
  """A graph of nodes, in topological order."""

  nodes: tuple[Node, ...]

  @property
  def edges(self) -> tuple[Edge, ...]:
    """All (from, to) pairs."""
    return tuple((i, target) for target, node in enumerate(self.nodes) for i in node.inputs)

  @property
  def weighted(self) -> tuple[Edge, ...]:
    """The edges into nodes of two inputs or more; the others have no weight."""
    return tuple(edge for edge in self.edges if len(self.nodes[edge[1]].inputs) > 1)

  @property
  def last(self) -> tuple[int, ...]:
    """Numbers of the nodes of the highest level, which the classifier reads."""
    level = max(node.level for node in self.nodes)
    return tuple(i for i, node in enumerate(self.nodes) if node.level == level)

  def reads(self, kind: str) -> bool:
    """Returns whether any stem is of that kind."""
    return any(node.kind == kind for node in self.nodes)

  def structure(self) -> list[list[Any]]:
    """Returns the list that the official code reads: `[type, dilation]` of stems, then blocks."""
    return [
      [node.level, list(node.inputs), node.filters, node.dilation, min(node.level, 1) + 1, 0]
      if node.kind == "block"
      else [STEMS[node.kind], node.dilation]
      for node in self.nodes
    ]


def parse(structure: Sequence[Sequence[Any]]) -> Assembly:
  """Returns the graph of a list as in `Assembly.structure`."""
  kinds = {number: kind for kind, number in STEMS.items()}
  found = []
  for fields in structure:
    if len(fields) == 2:
      found.append(Node(-1, kinds[fields[0]], fields[1]))
    else:
      level, inputs, filters, dilation, *_ = fields
      found.append(Node(level, "block", dilation, tuple(inputs), filters))
  return Assembly(tuple(found))


def _published(filters: Sequence[int]) -> Assembly:
  blocks = (
    "0:1:1 0:0:4 0:0,1,2,3:1 0:2,3:2 1:0,4,5,6,7:2 1:0,2,4,7:1 1:0,5,7:4 1:0,5:1 "
    "2:4,8,10,11:1 2:8,9:4 3:12,13:2"
  )
  nodes = [Node(-1, "rgb", 4), Node(-1, "rgb", 4), Node(-1, "flow", 1), Node(-1, "flow", 1)]
  for word in blocks.split():
    level, inputs, dilation = word.split(":")
    numbers = tuple(map(int, inputs.split(",")))
    nodes.append(Node(int(level), "block", int(dilation), numbers, filters[int(level)]))
  return Assembly(tuple(nodes))


ASSEMBLENET_50 = _published((32, 64, 256, 512))
"""The published graph, found on Moments in Time, with the filters of AssembleNet-50."""

ASSEMBLENET_101 = _published((32, 64, 192, 256))
"""The same with the filters of AssembleNet-101."""

PUBLISHED_WEIGHTS: Weights = (
  *((),) * 6,
  (0.13810564577579498, 0.8465337157249451, 0.3072969317436218, 0.2867436408996582),
  (0.5846117734909058, 0.6066334843635559),
  (
    0.16382087767124176,
    0.8852924704551697,
    0.4039595425128937,
    0.6823437809944153,
    0.5331538319587708,
  ),
  (0.028569204732775688, 0.10333596915006638, 0.7517264485359192, 0.9260114431381226),
  (0.28832191228866577, 0.7627848982810974, 0.404977947473526),
  (0.23474831879138947, 0.7841425538063049),
  (0.27616503834724426, 0.9514784812927246, 0.6568767428398132, 0.9547983407974243),
  (0.5047007203102112, 0.8876819610595703),
  (0.9892204403877258, 0.8454614877700806),
)
"""Of both, by node: weights of its edges, behind the sigmoid; none into a node of one input."""


def chain(filters: Sequence[int], kind: str = "rgb", *, start: int = 0) -> list[Node]:
  """Returns a stem and one block group a level in a row. start: number of the stem."""
  nodes = [Node(-1, kind, 1)]
  for level, width in enumerate(filters):
    nodes.append(Node(level, "block", 1, (start + level,), width))
  return nodes


def two_stream(filters: Sequence[int]) -> Assembly:
  """Returns a chain over RGB and one over flow, which meet in the classifier alone."""
  rgb, flow = Node(-1, "rgb", 1), Node(-1, "flow", 1)
  nodes = [rgb, flow]
  for level, width in enumerate(filters):
    nodes += [Node(level, "block", 1, (2 * level + side,), width) for side in (0, 1)]
  return Assembly(tuple(nodes))


def full(
  stems: Sequence[str], counts: Sequence[int], filters: Sequence[int], dilations: Sequence[int]
) -> Assembly:
  """Returns the graph with every admissible edge, of whose weights one may learn which to keep.

  counts, filters: of levels 0 and up. dilations: of the nodes of a kind of stem or level in turn.
  """
  nodes: list[Node] = []
  for kind in dict.fromkeys(stems):
    own = [stem for stem in stems if stem == kind]
    turns = (dilations[i % len(dilations)] if kind == "rgb" else 1 for i in range(len(own)))
    nodes += [Node(-1, kind, dilation) for dilation in turns]
  for level, (count, width) in enumerate(zip(counts, filters, strict=True)):
    inputs = tuple(range(len(nodes)))
    nodes += [
      Node(level, "block", dilations[i % len(dilations)], inputs, width) for i in range(count)
    ]
  return Assembly(tuple(nodes))


_FILTERS = (64, 128, 256, 512)
_TINY = (4, 8, 16)

KNOWN: Mapping[str, Assembly] = {
  "assemblenet_50": ASSEMBLENET_50,
  "assemblenet_101": ASSEMBLENET_101,
  # All 86 edges of the published nodes.
  "assemblenet_full": full(
    ("rgb", "rgb", "flow", "flow"), (4, 4, 2, 1), (32, 64, 256, 512), (1, 2, 4)
  ),
  "chain": Assembly(tuple(chain(_FILTERS))),
  "flow_chain": Assembly(tuple(chain(_FILTERS, "flow"))),
  "two_stream": two_stream(_FILTERS),
  "tiny": full(("rgb", "flow"), (2, 2, 1), _TINY, (1, 2)),
  "tiny_chain": Assembly(tuple(chain(_TINY))),
  "tiny_flow_chain": Assembly(tuple(chain(_TINY, "flow"))),
  "tiny_two_stream": two_stream(_TINY),
}
"""Graphs by the names that `config.model.graph` may give; `tiny` ones are for a CPU."""


def read(text: str, *, key: str = "config.model.graph") -> tuple[Assembly, Weights | None]:
  """Returns a graph and the weights of its edges by node, or None.

  text: one of `KNOWN`; the path of a JSON file, see `write`; or such JSON itself.
  Raises: UserError if it is none of these, or no possible graph.
  """
  if text in KNOWN:
    return KNOWN[text], PUBLISHED_WEIGHTS if text in ("assemblenet_50", "assemblenet_101") else None
  source = text
  if not text.lstrip().startswith(("[", "{")):
    path = pathlib.Path(text)
    if not text.endswith(".json"):
      raise errors.unknown(key, text, "a graph or a JSON file of one", KNOWN)
    try:
      source = path.read_text()
    except OSError as error:
      raise errors.UserError(f"{key}={text!r} cannot be read: {error.strerror}.") from error
  try:
    found = json.loads(source)
    if isinstance(found, list):
      found = {"structure": found}
    graph = parse(found["structure"])
    weights = found.get("edge_weights")
    # The official lists have one list of weights inside another.
    given = weights and tuple(tuple(map(float, _flat(own))) for own in weights)
  except (ValueError, KeyError, TypeError) as error:
    raise errors.UserError(
      f"{key}={text!r} is no graph: it should be a list of [type, dilation] for stems (type -1 for "
      "RGB, -2 for flow) and [level, [inputs], filters, dilation, stride, 0] for blocks, or "
      f'{{"structure": that, "edge_weights": [...]}} ({type(error).__name__}: {error}).'
    ) from error
  check(graph, key=key)
  if given:
    check_weights(graph, given, key=key)
  return graph, given or None


def _flat(values: Sequence[Any]) -> Sequence[float]:
  return values[0] if len(values) == 1 and isinstance(values[0], list) else values


def write(path: str | pathlib.Path, graph: Assembly, weights: Weights | None = None) -> None:
  """Writes a graph, and the weights of its edges, as JSON that `read` takes."""
  pathlib.Path(path).write_text(text(graph, weights) + "\n")


def text(graph: Assembly, weights: Weights | None = None) -> str:
  """Returns a graph, and the weights of its edges, as one line of JSON that `read` takes."""
  found: dict[str, Any] = {"structure": graph.structure()}
  if weights is not None:
    found["edge_weights"] = [list(own) for own in weights]
  return json.dumps(found, separators=(",", ":"))


def check(graph: Assembly, *, levels: int = 4, key: str = "config.model.graph") -> None:
  """Checks that a graph can be built. levels: how many there are.

  Raises: UserError that names the node.
  """
  if not any(node.kind == "block" for node in graph.nodes):
    raise errors.UserError(f"{key}: there is no block.")
  for number, node in enumerate(graph.nodes):
    where = f"{key}: node {number}"
    if node.kind not in (*STEMS, "block"):
      raise errors.unknown(where, node.kind, "a kind of node", (*STEMS, "block"))
    if not isinstance(node.dilation, int) or node.dilation < 1:
      raise errors.UserError(f"{where} has dilation {node.dilation!r}; it should be 1 or more.")
    if node.kind != "block":
      if node.inputs:
        raise errors.UserError(f"{where} is a stem and has inputs {node.inputs}; it takes none.")
      continue
    if not 0 <= node.level < levels:
      raise errors.UserError(f"{where} is on level {node.level}; there are 0 to {levels - 1}.")
    if not isinstance(node.filters, int) or node.filters < 1:
      raise errors.UserError(f"{where} has {node.filters!r} filters; it should be 1 or more.")
    before = [i for i in range(number) if graph.nodes[i].level < node.level]
    wrong = [i for i in node.inputs if i not in before]
    if wrong or not node.inputs or len(set(node.inputs)) != len(node.inputs):
      raise errors.UserError(
        f"{where} has inputs {node.inputs}; it takes one or more of {tuple(before)}, each once: "
        "earlier nodes of lower levels."
      )
  used = {source for source, _ in graph.edges} | set(graph.last)
  idle = [number for number in range(len(graph.nodes)) if number not in used]
  if idle:
    raise errors.UserError(f"{key}: node {idle[0]} leads nowhere; every node needs an output.")


def check_weights(graph: Assembly, weights: Weights, *, key: str = "config.model.graph") -> None:
  """Checks that there is a weight in (0, 1) for every edge that has one. Raises: UserError."""
  if len(weights) != len(graph.nodes):
    raise errors.UserError(
      f"{key}: edge_weights has {len(weights)} lists for {len(graph.nodes)} nodes."
    )
  for number, (node, own) in enumerate(zip(graph.nodes, weights, strict=True)):
    count = len(node.inputs) if len(node.inputs) > 1 else 0
    if len(own) != count:
      raise errors.UserError(
        f"{key}: node {number} has {len(own)} edge_weights; its {len(node.inputs)} input(s) take "
        f"{count}."
      )
    wrong = [weight for weight in own if not 0 < weight < 1]
    if wrong:
      raise errors.UserError(
        f"{key}: node {number} has the edge weight {wrong[0]!r}; they are above 0 and below 1."
      )


def dot(graph: Assembly, weights: Weights | None = None) -> str:
  """Returns the graph in Graphviz's language, levels as ranks, edges as wide as their weights."""
  lines = ["digraph assemblenet {", "  rankdir=BT; node [shape=box];"]
  for number, node in enumerate(graph.nodes):
    what = f"{4 * node.filters} ch" if node.kind == "block" else node.kind
    lines.append(f'  n{number} [label="{number}: {what}, dilation {node.dilation}"];')
  for level in sorted({node.level for node in graph.nodes}):
    same = " ".join(f"n{i};" for i, node in enumerate(graph.nodes) if node.level == level)
    lines.append(f"  {{ rank=same; {same} }}")
  for target, node in enumerate(graph.nodes):
    own = weights[target] if weights and weights[target] else (1.0,) * len(node.inputs)
    for source, weight in zip(node.inputs, own, strict=True):
      lines.append(f'  n{source} -> n{target} [penwidth={3 * weight:.2f}, label="{weight:.2f}"];')
  return "\n".join([*lines, "}"])
