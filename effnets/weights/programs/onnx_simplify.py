"""Makes the nodes of a graph those that ONNX's runtimes are fast at."""

from collections.abc import Sequence

import numpy as np

from effnets.weights.programs.onnx_graph import Graph, Node

_AFFINE = ("Add", "Sub", "Mul", "Div")


def simplify(graph: Graph, outputs: Sequence[str]) -> None:
  """Names activations, folds scales and offsets into products, drops what nothing reads.

  outputs: the tensors that the graph is for; they keep their names.
  """
  for rule in (_limits, _hard_sigmoid, _hard_swish, _split, _fold):
    _drop_unread(graph, outputs)
    rule(_Index(graph, outputs))
  _drop_unread(graph, outputs)


def _drop_unread(graph: Graph, outputs: Sequence[str]) -> None:
  read, kept = set(outputs), []
  for node in reversed(graph.nodes):
    if node.output in read:
      read.update(node.inputs)
      kept.append(node)
  graph.nodes[:] = reversed(kept)


class _Index:
  """Who makes and who reads each tensor of a graph."""

  def __init__(self, graph: Graph, outputs: Sequence[str]):
    self.graph = graph
    self._makers = {node.output: node for node in graph.nodes}
    self._readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
      for name in node.inputs:
        self._readers.setdefault(name, []).append(node)
    for name in outputs:
      self._readers.setdefault(name, []).append(Node("Output", [name], "", {}))

  def maker(self, name: str, *ops: str) -> Node | None:
    """Returns the node that makes `name`, if it is one of `ops`."""
    node = self._makers.get(name)
    return node if node is not None and node.op in ops else None

  def reader(self, name: str) -> Node | None:
    """Returns the node that reads `name`, if there is one alone."""
    readers = self._readers.get(name, [])
    return readers[0] if len(readers) == 1 else None

  def parts(self, node: Node) -> tuple[str, np.ndarray] | None:
    """Returns the tensor and the constant that a node of two inputs takes, if these they are."""
    constants = self.graph.constants
    known = [name in constants for name in node.inputs]
    if node.op in ("Sub", "Div") and known == [False, True]:
      return node.inputs[0], constants[node.inputs[1]]
    if node.op in ("Add", "Mul", "Max", "Min") and sorted(known) == [False, True]:
      return node.inputs[known.index(False)], constants[node.inputs[known.index(True)]]
    return None

  def scalar(self, name: str, *ops: str) -> tuple[str, str, float] | None:
    """Returns (op, x, c) if `name` is `op` of a tensor x and a single number c, else None."""
    node = self.maker(name, *ops)
    parts = node and self.parts(node)
    if not parts or parts[1].size != 1:
      return None
    return node.op, parts[0], float(parts[1].reshape(()))


def _limits(index: _Index) -> None:
  """Max and Min with numbers become Clip, or Relu."""
  for node in index.graph.nodes:
    upper = index.scalar(node.output, "Min")
    lower = index.scalar(upper[1] if upper else node.output, "Max")
    if upper and lower:
      limits = [index.graph.constant(value, np.float32) for value in (lower[2], upper[2])]
      node.op, node.inputs = "Clip", [lower[1], *limits]
  for node in index.graph.nodes:
    lower = index.scalar(node.output, "Max")
    if lower and lower[2] == 0:
      node.op, node.inputs = "Relu", [lower[1]]


def _clip(index: _Index, name: str) -> tuple[str, float, float] | None:
  """Returns (x, low, high) if `name` is a Clip of x."""
  node = index.maker(name, "Clip")
  if node is None:
    return None
  return node.inputs[0], *(float(index.graph.constants[limit]) for limit in node.inputs[1:])


def _hard_sigmoid(index: _Index) -> None:
  """clip(x / 6 + 1/2, 0, 1) and clip(x + 3, 0, 6) / 6 become HardSigmoid."""
  for node in index.graph.nodes:
    outer = index.scalar(node.output, "Mul", "Div")
    clip = _clip(index, outer[1] if outer else node.output)
    shift = clip and index.scalar(clip[0], "Add")
    if not shift:
      continue
    inner = None if outer else index.scalar(shift[1], "Mul", "Div")
    scale = outer or inner
    factor = scale and (scale[2] if scale[0] == "Mul" else 1 / scale[2])
    top, offset = (6, 3) if outer else (1, 0.5)
    if factor and np.allclose((factor, *clip[1:], shift[2]), (1 / 6, 0, top, offset)):
      node.op, node.inputs = "HardSigmoid", [shift[1] if outer else inner[1]]
      node.attributes = {"alpha": 1 / 6, "beta": 0.5}


def _hard_swish(index: _Index) -> None:
  """x * HardSigmoid(x) becomes HardSwish(x)."""
  for node in index.graph.nodes:
    if node.op == "Mul":
      for x, gate in (node.inputs, node.inputs[::-1]):
        maker = index.maker(gate, "HardSigmoid")
        if maker is not None and maker.inputs == [x]:
          node.op, node.inputs = "HardSwish", [x]
          break


def _split(index: _Index) -> None:
  """What follows joined convolutions per channel is done to each of them before they are joined."""
  graph, nodes = index.graph, []
  for node in graph.nodes:
    nodes.append(node)
    makers = [index.maker(name, "Conv") for name in node.inputs] if node.op == "Concat" else [None]
    if None in makers or any(index.reader(maker.output) is not node for maker in makers):
      continue
    sizes = [graph.constants[maker.inputs[1]].shape[0] for maker in makers]
    while (follower := index.reader(node.output)) is not None:
      found = index.parts(follower) if follower.op in _AFFINE else None
      if found is None or found[1].shape != (1, sum(sizes), 1, 1):
        break
      values = np.split(found[1], np.cumsum(sizes)[:-1], axis=1)
      parts = [
        Node(follower.op, [name, graph.constant(value)], f"{follower.output}_{i}", {})
        for i, (name, value) in enumerate(zip(node.inputs, values, strict=True))
      ]
      nodes[-1:] = [*parts, node]
      node.inputs = [part.output for part in parts]
      node.output, follower.output = follower.output, f"{follower.output}_split"
  graph.nodes[:] = nodes


def _fold(index: _Index) -> None:
  """What follows a convolution or matrix product per channel goes into its weights."""
  graph = index.graph
  for node in graph.nodes:
    if node.op not in ("Conv", "Gemm"):
      continue
    kernel = graph.constants[node.inputs[1]].astype(np.float64)
    # The output channels of Conv's kernels come first, of Gemm's matrices last.
    if node.op == "Conv":
      channels, along, shapes = kernel.shape[0], (-1, 1, 1, 1), [(1, kernel.shape[0], 1, 1)]
    else:
      channels, along = kernel.shape[1], (1, -1)
      shapes = [(1, channels), (channels,)]
    bias, changed = np.zeros(channels), False
    while (follower := index.reader(node.output)) is not None:
      found = index.parts(follower) if follower.op in _AFFINE else None
      if found is None or (found[1].size != 1 and found[1].shape not in shapes):
        break
      value = np.broadcast_to(found[1].astype(np.float64).reshape(-1), channels)
      if follower.op in ("Add", "Sub"):
        bias = bias + (value if follower.op == "Add" else -value)
      else:
        factor = value if follower.op == "Mul" else 1 / value
        kernel, bias = kernel * factor.reshape(along), bias * factor
      node.output, follower.output, changed = follower.output, f"{follower.output}_folded", True
    if changed:
      weights = [graph.constant(array, np.float32) for array in (kernel, bias)]
      node.inputs = [node.inputs[0], *weights]
