"""A jaxpr to the nodes of an ONNX graph, images in ONNX's channels-first layout inside.

Equations whose inputs are all known are computed here: weights that were folded into others leave
no nodes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from effnets.weights.programs.onnx_graph import Graph, Tensor, Value, computed, refused
from effnets.weights.programs.onnx_operations import ELEMENTWISE, EMITTERS, elementwise

_CALLS = ("jit", "closed_call", "custom_jvp_call", "custom_vjp_call")


def trace(graph: Graph, closed: Any, inputs: Sequence[Value]) -> list[Value]:
  """Appends the nodes of a closed jaxpr to `graph` and returns its outputs.

  Raises: UserError for an operation that has no counterpart here.
  """
  jaxpr = closed.jaxpr
  known: dict[Any, Value] = {}

  def read(atom) -> Value:
    return np.asarray(atom.val, atom.aval.dtype) if hasattr(atom, "val") else known[atom]

  consts = [np.asarray(c) for c in closed.consts]
  known.update(zip(jaxpr.constvars, consts, strict=True))
  known.update(zip(jaxpr.invars, inputs, strict=True))
  for equation in _read(jaxpr):
    values = [read(atom) for atom in equation.invars]
    outputs = _equation(graph, equation, values)
    known.update(zip(equation.outvars, outputs, strict=True))
  return [read(atom) for atom in jaxpr.outvars]


def _equation(graph: Graph, equation: Any, values: list[Value]) -> list[Value]:
  primitive, params = equation.primitive.name, equation.params
  inner = params.get("jaxpr", params.get("call_jaxpr"))
  if primitive in _CALLS and inner is not None:
    return trace(graph, inner, values)
  if primitive in ("stop_gradient", "copy", "copy_p", "optimization_barrier"):
    return values
  if primitive == "scan":
    return _unrolled(graph, values, params)
  shape = equation.outvars[0].aval.shape
  whole = all(isinstance(size, int) for size in shape)
  if whole and not any(isinstance(value, Tensor) for value in values):
    outputs = equation.primitive.bind(*values, **params)
    outputs = outputs if equation.primitive.multiple_results else [outputs]
    return [np.asarray(output) for output in outputs]
  if primitive in ELEMENTWISE and len(values) <= 2:
    return [elementwise(graph, ELEMENTWISE[primitive], values, shape)]
  if primitive not in EMITTERS:
    raise refused(primitive)
  return [EMITTERS[primitive](graph, values, params, equation.outvars[0].aval)]


def _unrolled(graph: Graph, values: list[Value], params: dict) -> list[Value]:
  """Returns what a loop gives whose rounds read rows that are known, one round after another."""
  first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
  fixed, carried, rows = values[:first], values[first:last], values[last:]
  if params["reverse"] or any(isinstance(row, Tensor) for row in rows):
    raise refused("scan backwards or over computed values")
  rounds = []
  for index in range(params["length"]):
    found = trace(graph, params["jaxpr"], [*fixed, *carried, *(row[index] for row in rows)])
    carried, made = found[: len(carried)], found[len(carried) :]
    rounds.append([computed(value, "scan") for value in made])
  axis = graph.constant([0], np.int64)
  stacked = []
  for parts in zip(*rounds, strict=True):
    names = [graph.add("Unsqueeze", [graph.logical(part), axis]) for part in parts]
    shape = (len(parts), *parts[0].shape)
    stacked.append(Tensor(graph.add("Concat", names, axis=0), shape))
  return [*carried, *stacked]


def _read(jaxpr: Any) -> list[Any]:
  """Returns the equations that its outputs come from."""
  read, kept = {atom for atom in jaxpr.outvars if not hasattr(atom, "val")}, []
  for equation in reversed(jaxpr.eqns):
    if not read.isdisjoint(equation.outvars):
      read.update(atom for atom in equation.invars if not hasattr(atom, "val"))
      kept.append(equation)
  return kept[::-1]
