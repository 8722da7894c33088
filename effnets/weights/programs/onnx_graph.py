"""An ONNX graph while it is made: nodes, the arrays they use, and in which layout tensors are.

A tensor of the graph is in the layout of the jaxpr, or, behind a convolution, has its channels in
front; whoever reads it says which it needs.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from effnets import errors
from effnets.weights.programs import base

FIRST = (0, 3, 1, 2)
"""Order of axes that takes channels-last to channels-first."""
LAST = (0, 2, 3, 1)
AXIS = {0: 0, 1: 2, 2: 3, 3: 1}
"""Where a channels-last axis is in channels-first."""


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A value that is known only when the program runs.

  name: of the graph. shape: in the jaxpr; a batch dimension is no int.
  first: whether the graph's tensor has its channels in front.
  mean: for a sum, the mean over the same values, and their count.
  """

  name: str
  shape: tuple[Any, ...]
  first: bool = False
  mean: "tuple[Tensor, int] | None" = None


@dataclasses.dataclass
class Node:
  """One operation. inputs: names of tensors or constants. output: name of its only result."""

  op: str
  inputs: list[str]
  output: str
  attributes: dict[str, Any]


Value = np.ndarray | Tensor


class Graph:
  """Nodes in order, and the arrays they use by name."""

  def __init__(self):
    """Starts an empty graph."""
    self.nodes: list[Node] = []
    self.constants: dict[str, np.ndarray] = {}
    self._turned: dict[str, Tensor] = {}

  def add(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
    """Appends a node and returns its output's name."""
    name = f"{op.lower()}_{len(self.nodes)}"
    self.nodes.append(Node(op, list(inputs), name, attributes))
    return name

  def constant(self, array: Any, dtype: Any = None) -> str:
    """Adds an array and returns its name."""
    name = f"constant_{len(self.constants)}"
    self.constants[name] = np.asarray(array, dtype)
    return name

  def layout(self, tensor: Tensor, *, first: bool) -> Tensor:
    """Returns `tensor` with its channels in front or behind, by a transposition if need be."""
    if tensor.first == first:
      return tensor
    if tensor.name not in self._turned:
      name = self.add("Transpose", [tensor.name], perm=FIRST if first else LAST)
      self._turned[tensor.name] = Tensor(name, tensor.shape, first)
    return self._turned[tensor.name]

  def logical(self, tensor: Tensor) -> str:
    """Returns the name of `tensor` in the jaxpr's layout."""
    return self.layout(tensor, first=False).name


def refused(what: str) -> errors.UserError:
  """Returns the error for something in a network that is not exported."""
  return base.refused("onnx", what)


def computed(value: Value, what: str) -> Tensor:
  """Returns `value` if the program computes it. Raises: UserError for a known array."""
  if not isinstance(value, Tensor):
    raise refused(f"{what} of a constant")
  return value
