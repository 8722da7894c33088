"""ONNX: the network's operations as nodes of ONNX, for any batch size."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import export

from effnets import errors
from effnets.weights.programs import base, onnx_graph, onnx_simplify, onnx_trace

OPSET = 18
_LIMIT = 2**31 - 2**20  # bytes of a protocol buffer


def write(program: base.Program | base.TextProgram, path: pathlib.Path) -> None:
  """Writes the graph, weights inside, to `path`.

  Raises: UserError for an operation that is not exported, or weights of more than 2 GB.
  """
  base.package("onnx", "export")
  (batch,) = export.symbolic_shape("b")
  inputs = program.inputs(batch)

  def named(*arrays):
    return program.outputs(program.variables, *arrays, plain=True)

  if isinstance(program, base.TextProgram):
    content = build(lambda *a: [named(*a)[name] for name in program.names], inputs, program.names)
  else:
    # The softmax by its own name.
    content = build(lambda *a: named(*a)["logits"], inputs, "logits", probabilities="probabilities")
  path.write_bytes(content)


def build(
  function: Callable[..., Any],
  inputs: Mapping[str, jax.ShapeDtypeStruct],
  output: str | Sequence[str],
  *,
  probabilities: str = "",
) -> bytes:
  """Returns an ONNX model of a function of arrays, of which one dimension may be symbolic.

  inputs: name and shape of its arguments, in order. output: name of its result, or of each.
  probabilities: name of the only result's softmax, as another output, if there shall be one.
  Raises: UserError for an operation that is not exported, or weights of more than 2 GB.
  """
  onnx = base.package("onnx", "export")
  closed = jax.make_jaxpr(function)(*inputs.values())
  graph = onnx_graph.Graph()
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    results = onnx_trace.trace(
      graph, closed, [onnx_graph.Tensor(name, struct.shape) for name, struct in inputs.items()]
    )
  results = [onnx_graph.Tensor(graph.logical(result), result.shape) for result in results]
  onnx_simplify.simplify(graph, [result.name for result in results])
  outputs = dict(zip([output] if isinstance(output, str) else output, results, strict=True))
  for name, result in outputs.items():
    graph.nodes.append(onnx_graph.Node("Identity", [result.name], name, {}))
  if probabilities:
    (result,) = results
    graph.nodes.append(onnx_graph.Node("Softmax", [result.name], probabilities, {"axis": -1}))
    outputs[probabilities] = result
  used = {n for node in graph.nodes for n in node.inputs}
  constants = {name: graph.constants[name] for name in sorted(used & graph.constants.keys())}
  size = sum(array.nbytes for array in constants.values())
  if size > _LIMIT:
    raise errors.UserError(
      f"config.export.format='onnx': {size / 1e9:.1f} GB of weights exceed the 2 GB of an ONNX "
      "file; export this network as savedmodel."
    )

  def info(name, dtype, shape):
    sizes = [size if isinstance(size, int) else "batch" for size in shape]
    return onnx.helper.make_tensor_value_info(
      name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), sizes
    )

  model = onnx.helper.make_model(
    onnx.helper.make_graph(
      [_node(onnx, node) for node in graph.nodes],
      "effnets",
      [info(name, struct.dtype, struct.shape) for name, struct in inputs.items()],
      [info(name, np.float32, result.shape) for name, result in outputs.items()],
      [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    ),
    producer_name="effnets",
    opset_imports=[onnx.helper.make_opsetid("", OPSET)],
    # The oldest form that has this operator set, so that older runtimes read it.
    ir_version=8,
  )
  onnx.checker.check_model(model, full_check=True)
  return model.SerializeToString()


def _node(onnx: Any, node: onnx_graph.Node) -> Any:
  attributes = dict(node.attributes)
  if node.op == "Cast":
    attributes["to"] = onnx.helper.np_dtype_to_tensor_dtype(attributes["to"])
  return onnx.helper.make_node(node.op, node.inputs, [node.output], node.output, **attributes)


def read(path: pathlib.Path) -> base.Run:
  """Returns the program in `path` as a function of its inputs, run by ONNX Runtime on the CPU."""
  runtime = base.package("onnxruntime", "export")
  session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

  inputs, outputs = (
    [v.name for v in found] for found in (session.get_inputs(), session.get_outputs())
  )

  def run(*arrays):
    values = session.run(outputs, dict(zip(inputs, arrays, strict=True)))
    return dict(zip(outputs, values, strict=True))

  return run
