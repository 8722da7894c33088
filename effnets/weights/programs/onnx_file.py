"""ONNX: the network's operations as nodes of ONNX, for any batch size."""

import pathlib

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
  onnx = base.package("onnx", "export")
  graph, logits = trace(program)
  constants = {n for node in graph.nodes for n in node.inputs} & graph.constants.keys()
  size = sum(graph.constants[name].nbytes for name in constants)
  if size > _LIMIT:
    raise errors.UserError(
      f"config.export.format='onnx': {size / 1e9:.1f} GB of weights exceed the 2 GB of an ONNX "
      "file; export this network as savedmodel."
    )
  types, helper = onnx.TensorProto, onnx.helper
  nodes = []
  for node in graph.nodes:
    attributes = dict(node.attributes)
    if node.op == "Cast":
      attributes["to"] = helper.np_dtype_to_tensor_dtype(attributes["to"])
    nodes.append(helper.make_node(node.op, node.inputs, [node.output], node.output, **attributes))
  nodes.append(helper.make_node("Identity", [logits.name], ["logits"], "logits"))
  nodes.append(
    helper.make_node("Softmax", [logits.name], ["probabilities"], "probabilities", axis=-1)
  )
  classes = logits.shape[-1]
  model = helper.make_model(
    helper.make_graph(
      nodes,
      "effnets",
      [helper.make_tensor_value_info(base.INPUT, types.UINT8, ["batch", *program.shape])],
      [
        helper.make_tensor_value_info(name, types.FLOAT, ["batch", classes])
        for name in base.OUTPUTS
      ],
      [onnx.numpy_helper.from_array(graph.constants[name], name) for name in sorted(constants)],
    ),
    producer_name="effnets",
    opset_imports=[helper.make_opsetid("", OPSET)],
    # The oldest form that has this operator set, so that older runtimes read it.
    ir_version=8,
  )
  onnx.checker.check_model(model, full_check=True)
  path.write_bytes(model.SerializeToString())


def trace(program: base.Program) -> tuple[onnx_graph.Graph, onnx_graph.Tensor]:
  """Returns the simplified graph of a program, and its logits."""
  (batch,) = export.symbolic_shape("b")
  images = jax.ShapeDtypeStruct((batch, *program.shape), np.uint8)

  def portable(images):
    return program.portable(program.variables, images)["logits"]

  closed = jax.make_jaxpr(portable)(images)
  graph = onnx_graph.Graph()
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    (logits,) = graph.trace(closed, [onnx_graph.Tensor(base.INPUT, images.shape)])
  onnx_simplify.simplify(graph, logits.name)
  return graph, logits


def read(path: pathlib.Path) -> base.Run:
  """Returns the program in `path` as a function of uint8 images, run by ONNX Runtime on the CPU."""
  runtime = base.package("onnxruntime", "export")
  session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

  def run(images):
    values = session.run(list(base.OUTPUTS), {base.INPUT: images})
    return dict(zip(base.OUTPUTS, values, strict=True))

  return run
