"""ONNX: the network's operations as nodes of ONNX, for any batch size."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import export

from effnets import errors
from effnets.weights.programs import base, onnx_graph, onnx_simplify

OPSET = 18
_LIMIT = 2**31 - 2**20  # bytes of a protocol buffer


def write(program: base.Program, path: pathlib.Path) -> None:
  """Writes the graph, weights inside, to `path`.

  Raises: UserError for an operation that is not exported, or weights of more than 2 GB.
  """
  base.package("onnx", "export")
  (batch,) = export.symbolic_shape("b")
  images = jax.ShapeDtypeStruct((batch, *program.shape), np.uint8)

  def logits(images):
    return program.outputs(program.variables, images, plain=True)["logits"]

  path.write_bytes(build(logits, {base.INPUT: images}, "logits", probabilities="probabilities"))


def build(
  function: Callable[..., jax.Array],
  inputs: Mapping[str, jax.ShapeDtypeStruct],
  output: str,
  *,
  probabilities: str = "",
) -> bytes:
  """Returns an ONNX model of a function of arrays, of which one dimension may be symbolic.

  inputs: name and shape of its arguments, in order. output: name of its result.
  probabilities: name of the result's softmax, as a second output, if there shall be one.
  Raises: UserError for an operation that is not exported, or weights of more than 2 GB.
  """
  onnx = base.package("onnx", "export")
  closed = jax.make_jaxpr(function)(*inputs.values())
  graph = onnx_graph.Graph()
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    (result,) = graph.trace(
      closed, [onnx_graph.Tensor(name, struct.shape) for name, struct in inputs.items()]
    )
  result = onnx_graph.Tensor(graph.logical(result), result.shape)
  onnx_simplify.simplify(graph, result.name)
  graph.nodes.append(onnx_graph.Node("Identity", [result.name], output, {}))
  outputs = [output]
  if probabilities:
    graph.nodes.append(onnx_graph.Node("Softmax", [result.name], probabilities, {"axis": -1}))
    outputs.append(probabilities)
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
      [info(name, np.float32, result.shape) for name in outputs],
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
  """Returns the program in `path` as a function of uint8 images, run by ONNX Runtime on the CPU."""
  runtime = base.package("onnxruntime", "export")
  session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

  def run(images):
    values = session.run(list(base.OUTPUTS), {base.INPUT: images})
    return dict(zip(base.OUTPUTS, values, strict=True))

  return run
