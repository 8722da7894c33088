"""The operations of JAX that have counterparts in ONNX, one function each.

It appends nodes for an equation to a graph: `(graph, values, params, aval) -> value`, with the
equation's inputs, its parameters and the shape and dtype of its only output.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from effnets.weights.programs.onnx_graph import AXIS, FIRST, Graph, Tensor, Value, computed, refused

ELEMENTWISE = {
  "abs": "Abs",
  "add": "Add",
  "and": "And",
  "div": "Div",
  "eq": "Equal",
  "erf": "Erf",
  "exp": "Exp",
  "ge": "GreaterOrEqual",
  "gt": "Greater",
  "log": "Log",
  "le": "LessOrEqual",
  "logistic": "Sigmoid",
  "lt": "Less",
  "max": "Max",
  "min": "Min",
  "mul": "Mul",
  "neg": "Neg",
  "sqrt": "Sqrt",
  "sub": "Sub",
  "tanh": "Tanh",
}


def elementwise(graph: Graph, op: str, values: list[Value], shape: tuple[Any, ...]) -> Value:
  """Appends a node of the kind `op` on one or two values, known ones among them."""
  first = any(isinstance(value, Tensor) and value.first for value in values)
  if op == "Div" and isinstance(values[0], Tensor) and values[0].mean is not None:
    mean, count = values[0].mean
    if np.all(values[1] == count):
      return mean
  names = []
  for value in values:
    if isinstance(value, Tensor):
      names.append(graph.layout(value, first=first).name)
    else:
      names.append(graph.constant(value.transpose(FIRST) if first and value.ndim == 4 else value))
  return Tensor(graph.add(op, names), shape, first)


def _convolution(graph: Graph, values: list[Value], params: dict, aval: Any) -> Tensor:
  numbers = params["dimension_numbers"]
  layouts = (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)
  images, kernel = values
  plain = layouts == ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
  plain = plain and params["lhs_dilation"] == (1, 1) and params["batch_group_count"] == 1
  if not plain or not isinstance(images, Tensor) or isinstance(kernel, Tensor):
    raise refused("conv_general_dilated other than of NHWC images and a fixed HWIO kernel")
  (top, bottom), (left, right) = params["padding"]
  x = graph.layout(images, first=True)
  name = graph.add(
    "Conv",
    [x.name, graph.constant(kernel.transpose(3, 2, 0, 1))],
    kernel_shape=kernel.shape[:2],
    strides=params["window_strides"],
    dilations=params["rhs_dilation"],
    pads=(top, left, bottom, right),
    group=params["feature_group_count"],
  )
  return Tensor(name, aval.shape, True)


def _pool(op: str) -> Callable[..., Tensor]:
  """Returns the emitter of windows' largest values (`MaxPool`) or sums (`AveragePool`)."""

  def emit(graph: Graph, values: list[Value], params: dict, aval: Any) -> Tensor:
    window, strides, pads = (params[f"window_{k}"] for k in ("dimensions", "strides", "dilation"))
    padding = params["padding"]
    ends = (window[0], window[3], strides[0], strides[3], *padding[0], *padding[3])
    if len(window) != 4 or ends != (1, 1, 1, 1, 0, 0, 0, 0) or set(pads) != {1}:
      raise refused("a window over more than height and width")
    x = graph.layout(computed(values[0], "pooling"), first=True)
    # The mean over all of a window, padding too, times its size is the sum.
    sums = {"count_include_pad": 1} if op == "AveragePool" else {}
    name = graph.add(
      op,
      [x.name],
      kernel_shape=window[1:3],
      strides=strides[1:3],
      pads=(padding[1][0], padding[2][0], padding[1][1], padding[2][1]),
      **sums,
    )
    if sums:
      name = graph.add("Mul", [name, graph.constant(window[1] * window[2], np.float32)])
    return Tensor(name, aval.shape, True)

  return emit


def _reduce(op: str) -> Callable[..., Tensor]:
  def emit(graph: Graph, values: list[Value], params: dict, aval: Any) -> Tensor:
    x, axes = computed(values[0], op), params["axes"]
    # What is left of a channels-first tensor without height and width is in order.
    if set(axes) != {1, 2}:
      x = graph.layout(x, first=False)
    where = graph.constant([AXIS[axis] if x.first else axis for axis in axes], np.int64)
    sizes = [x.shape[axis] for axis in axes]
    mean = None
    if op == "ReduceSum" and all(isinstance(size, int) for size in sizes):
      average = graph.add("ReduceMean", [x.name, where], keepdims=0)
      mean = (Tensor(average, aval.shape), int(np.prod(sizes)))
    return Tensor(graph.add(op, [x.name, where], keepdims=0), aval.shape, mean=mean)

  return emit


def _broadcast(graph: Graph, values: list[Value], params: dict, aval: Any) -> Value:
  x, dims, shape = values[0], params["broadcast_dimensions"], aval.shape
  if not isinstance(x, Tensor):
    # Unknown sizes stay 1: every operation here broadcasts by itself.
    sizes = [1] * len(shape)
    for axis, dim in enumerate(dims):
      sizes[dim] = x.shape[axis]
    return x.reshape(sizes)
  added = [dim for dim in range(len(shape)) if dim not in dims]
  repeated = {dim for dim in added if shape[dim] != 1}
  repeated |= {dim for axis, dim in enumerate(dims) if x.shape[axis] != shape[dim]}
  if repeated:
    return _repeated(graph, x, added, repeated, shape)
  images = len(shape) == 4 and dims == (0, 3)  # of one pixel: both layouts are a relabelling
  axes = graph.constant([2, 3] if images else added, np.int64)

  def spread(tensor):
    name = graph.add("Unsqueeze", [graph.logical(tensor), axes])
    return Tensor(name, shape, images)

  return dataclasses.replace(
    spread(x), mean=None if x.mean is None else (spread(x.mean[0]), x.mean[1])
  )


def _repeated(
  graph: Graph, x: Tensor, added: list[int], repeated: set[int], shape: tuple[Any, ...]
) -> Tensor:
  """Returns `x` with the axes `added`, and copies along those that are `repeated`."""
  if not all(isinstance(shape[dim], int) for dim in repeated):
    raise refused("broadcast_in_dim that repeats computed values along the batch")
  name = graph.logical(x)
  if added:
    name = graph.add("Unsqueeze", [name, graph.constant(added, np.int64)])
  # A size of 1 leaves what is there.
  sizes = [shape[dim] if dim in repeated else 1 for dim in range(len(shape))]
  return Tensor(graph.add("Expand", [name, graph.constant(sizes, np.int64)]), shape)


def _squeeze(graph: Graph, values: list[Value], params: dict, aval: Any) -> Tensor:
  x, dims = computed(values[0], "squeeze"), params["dimensions"]
  if x.first and set(dims) != {1, 2}:
    x = graph.layout(x, first=False)
  axes = [AXIS[dim] if x.first else dim for dim in dims]
  name = graph.add("Squeeze", [x.name, graph.constant(axes, np.int64)])
  return Tensor(name, aval.shape)


def _reshape(graph: Graph, values: list[Value], params: dict, aval: Any) -> Tensor:
  x = computed(values[0], "reshape")
  if params["dimensions"] is not None:
    raise refused("reshape with a change of order")
  sizes = [size if isinstance(size, int) else -1 for size in aval.shape]
  if sizes.count(-1) > 1:
    raise refused("reshape with two unknown sizes")
  name = graph.add("Reshape", [graph.logical(x), graph.constant(sizes, np.int64)])
  return Tensor(name, aval.shape)


def _transpose(graph: Graph, values: list[Value], params: dict, aval: Any) -> Tensor:
  x = computed(values[0], "transpose")
  name = graph.add("Transpose", [graph.logical(x)], perm=params["permutation"])
  return Tensor(name, aval.shape)


def _slice(graph: Graph, values: list[Value], params: dict, aval: Any) -> Tensor:
  x = computed(values[0], "slice")
  starts, limits = params["start_indices"], params["limit_indices"]
  strides = params["strides"] or (1,) * len(starts)
  cuts = []
  for axis, cut in enumerate(zip(starts, limits, strides, strict=True)):
    if cut == (0, x.shape[axis], 1):
      continue
    if not all(isinstance(part, int) for part in cut):
      raise refused("slice of the batch")
    cuts.append((*cut, AXIS[axis] if x.first else axis))
  if not cuts:
    return x
  starts, limits, strides, axes = zip(*cuts, strict=True)
  parts = (graph.constant(part, np.int64) for part in (starts, limits, axes, strides))
  return Tensor(graph.add("Slice", [x.name, *parts]), aval.shape, x.first)


def _concatenate(graph: Graph, values: list[Value], params: dict, aval: Any) -> Tensor:
  first = any(isinstance(value, Tensor) and value.first for value in values)
  names = [graph.layout(computed(value, "concatenate"), first=first).name for value in values]
  axis = params["dimension"]
  return Tensor(graph.add("Concat", names, axis=AXIS[axis] if first else axis), aval.shape, first)


def _pad(graph: Graph, values: list[Value], params: dict, aval: Any) -> Tensor:
  x, (low, high, inner) = (
    computed(values[0], "pad"),
    zip(*params["padding_config"], strict=True),
  )
  if min(*low, *high) < 0 or any(inner) or isinstance(values[1], Tensor):
    raise refused("pad by a negative number, between values or with a computed value")
  order = FIRST if x.first else range(len(low))
  widths = [low[axis] for axis in order] + [high[axis] for axis in order]
  inputs = [x.name, graph.constant(widths, np.int64), graph.constant(values[1])]
  return Tensor(graph.add("Pad", inputs), aval.shape, x.first)


def _product(graph: Graph, values: list[Value], params: dict, aval: Any) -> Tensor:
  x, matrix = values
  dims = params["dimension_numbers"]
  if isinstance(x, Tensor) and not isinstance(matrix, Tensor):
    rank = len(x.shape)
    if matrix.ndim in (1, 2) and dims == (((rank - 1,), (0,)), ((), ())):
      op = "Gemm" if rank == matrix.ndim == 2 else "MatMul"
      return Tensor(graph.add(op, [graph.logical(x), graph.constant(matrix)]), aval.shape)
  if isinstance(x, Tensor) and isinstance(matrix, Tensor):
    return _batched_product(graph, x, matrix, dims, aval)
  raise refused("dot_general other than of rows and a fixed matrix, or of two computed values")


def _batched_product(graph: Graph, x: Tensor, y: Tensor, dims: Any, aval: Any) -> Tensor:
  """Returns the products of matrices of `x` with matrices or vectors of `y`; one axis is summed."""
  (x_sum, y_sum), (x_batch, y_batch) = dims
  rest = [
    [axis for axis in range(len(t.shape)) if axis not in (*summed, *batch)]
    for t, summed, batch in ((x, x_sum, x_batch), (y, y_sum, y_batch))
  ]
  if len(x_sum) != 1 or len(rest[0]) != 1 or len(rest[1]) > 1:
    raise refused("dot_general over several axes")
  names = [
    graph.add("Transpose", [graph.logical(t)], perm=order)
    for t, order in ((x, (*x_batch, *rest[0], *x_sum)), (y, (*y_batch, *y_sum, *rest[1])))
  ]
  if rest[1]:
    return Tensor(graph.add("MatMul", names), aval.shape)
  last = graph.constant([-1], np.int64)
  names[1] = graph.add("Unsqueeze", [names[1], last])
  return Tensor(graph.add("Squeeze", [graph.add("MatMul", names), last]), aval.shape)


def _rows(graph: Graph, values: list[Value], params: dict, aval: Any) -> Tensor:
  """Returns rows of a table, or of each example's own, by their numbers."""
  table, places = values
  numbers = params["dimension_numbers"]
  if isinstance(table, Tensor) and isinstance(places, Tensor):
    own = (numbers.operand_batching_dims, numbers.start_indices_batching_dims) == ((0,), (0,))
    shape = (numbers.offset_dims, numbers.collapsed_slice_dims, numbers.start_index_map)
    whole = tuple(params["slice_sizes"]) == (1, 1, table.shape[-1])
    if not own or shape != ((2,), (1,), (1,)) or not whole or len(aval.shape) != 3:
      raise refused("gather of computed values other than of each example's rows")
    index = graph.add("Cast", [graph.logical(places)], to=np.dtype(np.int64))
    return Tensor(graph.add("GatherND", [graph.logical(table), index], batch_dims=1), aval.shape)
  width = table.shape[1] if len(table.shape) == 2 else None
  if (
    isinstance(table, Tensor)
    or width is None
    or tuple(params["slice_sizes"]) != (1, width)
    or (tuple(numbers.collapsed_slice_dims), tuple(numbers.start_index_map)) != ((0,), (0,))
    or tuple(numbers.offset_dims) != (len(aval.shape) - 1,)
  ):
    raise refused("gather other than of a fixed table's rows")
  places = computed(places, "gather")
  # The last axis of the numbers holds one coordinate.
  last = graph.constant([len(places.shape) - 1], np.int64)
  name = graph.add("Squeeze", [graph.logical(places), last])
  return Tensor(graph.add("Gather", [graph.constant(table), name], axis=0), aval.shape)


def _select(graph: Graph, values: list[Value], params: dict, aval: Any) -> Tensor:
  which, other, one = values  # the first where `which` is false
  if not isinstance(which, Tensor):
    raise refused("select_n by a constant")
  names = [
    graph.logical(value) if isinstance(value, Tensor) else graph.constant(value)
    for value in (which, one, other)
  ]
  return Tensor(graph.add("Where", names), aval.shape)


def _different(graph: Graph, values: list[Value], params: dict, aval: Any) -> Tensor:
  same = elementwise(graph, "Equal", values, aval.shape)
  return Tensor(graph.add("Not", [same.name]), aval.shape, same.first)


def _erfc(graph: Graph, values: list[Value], params: dict, aval: Any) -> Tensor:
  x = computed(values[0], "erfc")
  erf = graph.add("Erf", [x.name])
  one = graph.constant(1, np.float32)
  return Tensor(graph.add("Sub", [one, erf]), aval.shape, x.first)


def _rsqrt(graph: Graph, values: list[Value], params: dict, aval: Any) -> Tensor:
  x = computed(values[0], "rsqrt")
  root = graph.add("Sqrt", [x.name])
  return Tensor(graph.add("Reciprocal", [root]), aval.shape, x.first)


def _power(graph: Graph, values: list[Value], params: dict, aval: Any) -> Tensor:
  x = computed(values[0], "integer_pow")
  exponent = graph.constant(params["y"], np.float32)
  return Tensor(graph.add("Pow", [x.name, exponent]), aval.shape, x.first)


def _square(graph: Graph, values: list[Value], params: dict, aval: Any) -> Tensor:
  x = computed(values[0], "square")
  return Tensor(graph.add("Mul", [x.name, x.name]), aval.shape, x.first)


def _argmax(graph: Graph, values: list[Value], params: dict, aval: Any) -> Tensor:
  x, (axis,) = computed(values[0], "argmax"), params["axes"]
  name = graph.add("ArgMax", [graph.logical(x)], axis=axis, keepdims=0)
  return Tensor(graph.add("Cast", [name], to=np.dtype(params["index_dtype"])), aval.shape)


def _clamp(graph: Graph, values: list[Value], params: dict, aval: Any) -> Tensor:
  low, x, high = values
  if isinstance(low, Tensor) or isinstance(high, Tensor) or low.size != 1 or high.size != 1:
    raise refused("clamp to computed limits")
  x = computed(x, "clamp")
  limits = [graph.constant(limit.reshape(())) for limit in (low, high)]
  return Tensor(graph.add("Clip", [x.name, *limits]), aval.shape, x.first)


def _convert(graph: Graph, values: list[Value], params: dict, aval: Any) -> Tensor:
  x, dtype = computed(values[0], "convert_element_type"), np.dtype(params["new_dtype"])
  if dtype != np.float32:
    raise refused(f"convert_element_type to {dtype}")
  return Tensor(graph.add("Cast", [x.name], to=dtype), aval.shape, x.first)


EMITTERS: dict[str, Callable[..., Value]] = {
  "argmax": _argmax,
  "broadcast_in_dim": _broadcast,
  "clamp": _clamp,
  "concatenate": _concatenate,
  "conv_general_dilated": _convolution,
  "convert_element_type": _convert,
  "dot_general": _product,
  "erfc": _erfc,
  "gather": _rows,
  "integer_pow": _power,
  "ne": _different,
  "pad": _pad,
  "reduce_max": _reduce("ReduceMax"),
  "reduce_sum": _reduce("ReduceSum"),
  "reduce_window_max": _pool("MaxPool"),
  "reduce_window_sum": _pool("AveragePool"),
  "reshape": _reshape,
  "rsqrt": _rsqrt,
  "select_n": _select,
  "slice": _slice,
  "square": _square,
  "squeeze": _squeeze,
  "transpose": _transpose,
}
