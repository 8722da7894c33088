"""Exported programs in their own runtimes: the same numbers as the module, by whole operations."""

import collections
import json
import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from effnets import configuration, errors, models, weights
from effnets.models import families, layers, stage_tables
from effnets.weights import programs
from effnets.weights.programs import onnx_file
from tests.oracle import recipe

ORACLE = pathlib.Path(__file__).parent.parent / "oracle"

# The order of sums differs, and weights are multiplied out: what is left is rounding of float32.
_TOLERANCE = 1e-5
_SIZE = 32
_V3_SQUEEZE = layers.Squeeze(0.25, of="expanded", divisor=8, activation="relu", gate="hard_sigmoid")


def _mixnet():
  rows = (
    stage_tables.Row("mbconv", (3, 5), 2, 2, 8, 1, layers.Squeeze(0.5), expand_parts=2),
    stage_tables.Row("mbconv", (3, 5, 7), 1, 3, 8, 1, project_parts=2, partition="exponential"),
  )
  return families.build(stage_tables.Table(8, rows, 16), num_classes=10)


def _mobilenetv3():
  rows = (
    stage_tables.Row("separable", 3, 1, 1, 8, 1, None, "relu6"),
    stage_tables.Row("mbconv", 5, 2, 2, 8, 1, _V3_SQUEEZE, "relu"),
    stage_tables.Row("mbconv", (5, 7), 1, 2, 8, 1, _V3_SQUEEZE, "hard_swish", dilated=True),
  )
  table = stage_tables.Table(8, rows, 16, "hard_swish", hidden=12)
  return families.build(table, num_classes=10, padding="SYMMETRIC")


def _resnet():
  rows = tuple(stage_tables.Row("bottleneck", 3, s, 0.25, 32, 2, None, "relu") for s in (1, 2))
  table = stage_tables.Table(8, rows, 0, "relu", stem_kernel=7, stem_pool=True)
  return families.build(table, num_classes=10, padding="SYMMETRIC", epsilon=1e-5)


def _saccader():
  small = {"repeats": (1, 1), "planes": (2, 4), "strides": (2, 2), "kernel3": (1, 1), "stem": 4}
  return models.create("saccader_mini", **small, groups=1, glimpses=3, image_size=_SIZE)


NETWORKS = {
  "efficientnet_tiny": lambda: models.create("efficientnet_tiny", num_classes=10),
  "mixnet": _mixnet,
  "mobilenetv3": _mobilenetv3,
  "resnet": _resnet,
  "saccader": _saccader,
}


def _filled(module):
  """Returns variables none of which is a neutral zero or one."""
  rng = np.random.default_rng(0)
  low, high = {"var": (0.5, 1.5), "scale": (0.5, 1.5)}, (-0.5, 0.5)

  def fill(path, leaf):
    name = path[-1].key
    if name == "kernel":
      return leaf
    return rng.uniform(*low.get(name, high), leaf.shape).astype(np.float32)

  variables = models.init(module, 0, image_size=_SIZE)
  return jax.tree_util.tree_map_with_path(fill, variables)


def _program(module, variables=None):
  variables = _filled(module) if variables is None else variables
  return programs.Program(module, variables, _SIZE, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _images(count):
  return np.random.default_rng(1).integers(0, 256, (count, _SIZE, _SIZE, 3), np.uint8)


def _by_hand(program, images):
  """Returns logits and probabilities; normalisation and softmax in NumPy."""
  pixels = (images / 255 - np.array(program.mean)) / np.array(program.std)
  apply = jax.jit(lambda x: program.module.apply(program.variables, x, train=False))
  logits = np.asarray(apply(pixels.astype(np.float32)), np.float64)
  shares = np.exp(logits - logits.max(1, keepdims=True))
  return {"logits": logits, "probabilities": shares / shares.sum(1, keepdims=True)}


def _assert_close(actual, expected):
  assert sorted(actual) == sorted(programs.OUTPUTS)
  for name, value in expected.items():
    assert actual[name].dtype == np.float32 and actual[name].shape == value.shape
    off = np.abs(actual[name] - value).max()
    assert off <= _TOLERANCE * np.abs(expected["logits"]).max(), (name, off)


@pytest.fixture(scope="module")
def cases():
  """Returns a function from a network's name to its program and what it should give."""
  made = {}

  def case(name):
    if name not in made:
      program = _program(NETWORKS[name]())
      made[name] = program, _by_hand(program, _images(5))
    return made[name]

  return case


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", programs.FORMATS)
def test_a_program_gives_what_the_module_does(cases, tmp_path, kind, network):
  program, expected = cases(network)
  chosen = programs.FORMATS[kind]
  chosen.check()
  chosen.write(program, tmp_path / chosen.file)
  run = chosen.read(tmp_path / chosen.file)
  _assert_close(run(_images(5)), expected)
  # Another batch size, of the same file.
  _assert_close(run(_images(5)[:2]), {name: value[:2] for name, value in expected.items()})


@pytest.mark.parametrize("network", ["efficientnet_tiny", "mobilenetv3"])
def test_the_reference_is_the_module_in_float32(cases, network):
  program, expected = cases(network)
  half = _program(program.module.clone(dtype="bfloat16"), program.variables)
  _assert_close(half.reference()(_images(5)), expected)


def test_a_litert_file_for_larger_batches(cases, tmp_path):
  program, expected = cases("mobilenetv3")
  chosen = programs.FORMATS["tflite"]
  chosen.write(program, tmp_path / chosen.file, batch_size=3)
  _assert_close(chosen.read(tmp_path / chosen.file)(_images(5)), expected)


@pytest.mark.parametrize(
  "name",
  [
    "tf_mobilenetv3_large_100",
    pytest.param("tf_efficientnet_b0", marks=pytest.mark.slow),
    pytest.param("semnasnet_100", marks=pytest.mark.slow),
    pytest.param("tf_mixnet_s", marks=pytest.mark.slow),
  ],
)
def test_onnx_runtime_gives_what_timm_does(name):
  import onnxruntime

  with np.load(ORACLE / f"timm_{name}.npz") as stored:
    reference = {key: stored[key] for key in stored.files}
  tensors, gain = json.loads(str(reference["names"])), float(reference["gain"])
  loaded = weights.from_timm(name, {k: recipe.tensor(k, tuple(s), gain) for k, s in tensors})
  module, images = loaded.module.clone(plain=True), recipe.images(2, int(reference["size"]))
  model = onnx_file.build(
    lambda x: module.apply(loaded.variables, x, train=False),
    {"x": jax.ShapeDtypeStruct(images.shape, images.dtype)},
    "logits",
  )
  session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
  (logits,) = session.run(None, {"x": images})
  off = np.linalg.norm(logits - reference["logits"]) / np.linalg.norm(reference["logits"])
  assert off < _TOLERANCE


# What a network of these blocks is made of, in the words of each format.
_CONVOLUTIONS = {"efficientnet_tiny": (25, 6), "mixnet": (10, 5), "mobilenetv3": (12, 4)}


def _onnx_nodes(program, path):
  import onnx

  onnx_file.write(program, path)
  model = onnx.load(path)
  (batch,) = [i.type.tensor_type.shape.dim[0].dim_param for i in model.graph.input]
  assert batch == "batch"
  return model.graph.node


@pytest.mark.parametrize("network", _CONVOLUTIONS)
def test_onnx_nodes_are_whole_operations(cases, tmp_path, network):
  nodes = _onnx_nodes(cases(network)[0], tmp_path / "model.onnx")
  dense, depthwise = _CONVOLUTIONS[network]
  groups = [a.i for n in nodes if n.op_type == "Conv" for a in n.attribute if a.name == "group"]
  assert (groups.count(1), sum(group > 1 for group in groups)) == (dense, depthwise)
  # Every norm went into a convolution, and the channels are put in front once.
  assert all(len(node.input) == 3 for node in nodes if node.op_type == "Conv")
  count = collections.Counter(node.op_type for node in nodes)
  assert count["Transpose"] == 1 and count["Gemm"] == 1
  assert not {"Sub", "Div", "Sqrt", "Max", "Min", "Tanh", "ReduceSum"} & set(count)
  if network == "mobilenetv3":
    # Stem, head, hidden layer, and the expansion and taps of the last block.
    assert count["HardSwish"] == 5 and count["HardSigmoid"] == 2
    assert count["Relu"] == 4 and count["Clip"] == 2


@pytest.mark.parametrize("network", _CONVOLUTIONS)
def test_litert_operations_are_whole(cases, tmp_path, network):
  from ai_edge_litert import interpreter

  chosen = programs.FORMATS["tflite"]
  chosen.write(cases(network)[0], tmp_path / chosen.file)
  loaded = interpreter.Interpreter(str(tmp_path / chosen.file))
  loaded.allocate_tensors()
  count = collections.Counter(op["op_name"] for op in loaded._get_ops_details())
  assert (count["CONV_2D"], count["DEPTHWISE_CONV_2D"]) == _CONVOLUTIONS[network]
  assert not {"TANH", "TRANSPOSE", "DIV"} & set(count)


def test_int8_is_integer_throughout(cases, tmp_path):
  from ai_edge_litert import interpreter

  program, expected = cases("efficientnet_tiny")
  chosen, path = programs.FORMATS["tflite"], tmp_path / "model.tflite"
  images = _images(5)
  chosen.write(program, path, calibration=lambda: (image[None] for image in images))
  loaded = interpreter.Interpreter(str(path))
  (details,) = loaded.get_input_details()
  assert details["dtype"] == np.uint8 and details["quantization"] == (1.0, 0)
  loaded.allocate_tensors()
  floats = [t["name"] for t in loaded.get_tensor_details() if t["dtype"] == np.float32]
  assert len(floats) == 2  # the outputs
  logits = chosen.read(path)(images)["logits"]
  # Eight bits over some 30 layers; another network's logits are 100 % away.
  off = np.linalg.norm(logits - expected["logits"]) / np.linalg.norm(expected["logits"])
  assert 0 < off < 0.2


# ---- What cannot be exported ---------------------------------------------------------------------


class _Odd(nn.Module):
  """A network with an operation that no image network has."""

  @nn.compact
  def __call__(self, images, train=False):
    kernel = self.param("kernel", nn.initializers.ones, (3, 10))
    return jnp.sort(images.mean((1, 2)) @ kernel, axis=-1)


def test_an_operation_that_onnx_is_not_given(tmp_path):
  program = _program(_Odd(), {"params": {"kernel": np.ones((3, 10), np.float32)}})
  message = r"config.export.format='onnx': unsupported op in export: sort\. .*stablehlo"
  with pytest.raises(errors.UserError, match=message):
    programs.FORMATS["onnx"].write(program, tmp_path / "model.onnx")
  assert not list(tmp_path.iterdir())


class _Callback(nn.Module):
  """A network that needs Python when it runs."""

  @nn.compact
  def __call__(self, images, train=False):
    logits = images.mean((1, 2)) @ self.param("kernel", nn.initializers.ones, (3, 10))
    same = jax.ShapeDtypeStruct(logits.shape, logits.dtype)
    return jax.pure_callback(np.sin, same, logits, vmap_method="sequential")


@pytest.mark.parametrize("kind", programs.FORMATS)
def test_a_network_that_is_not_all_a_program(tmp_path, kind):
  program = _program(_Callback(), {"params": {"kernel": np.ones((3, 10), np.float32)}})
  message = rf"config.export.format='{kind}': unsupported op in export: .*callback"
  with pytest.raises(errors.UserError, match=message) as caught:
    programs.FORMATS[kind].write(program, tmp_path / "program")
  assert "\n" not in str(caught.value)
  assert not list(tmp_path.iterdir())


class _Eigen(nn.Module):
  """A network with an operation that LiteRT has not."""

  @nn.compact
  def __call__(self, images, train=False):
    kernel = self.param("kernel", nn.initializers.ones, (3, 10))
    means = images.mean((1, 2))
    return jnp.linalg.eigh(means[:, :, None] * means[:, None])[0] @ kernel


def test_an_operation_that_litert_has_not(tmp_path):
  program = _program(_Eigen(), {"params": {"kernel": np.ones((3, 10), np.float32)}})
  message = r"config.export.format='tflite': unsupported op in export: .*stablehlo"
  with pytest.raises(errors.UserError, match=message) as caught:
    programs.FORMATS["tflite"].write(program, tmp_path / "model.tflite")
  assert "\n" not in str(caught.value)
  assert not list(tmp_path.iterdir())


def test_weights_beyond_the_limit_of_onnx(cases, tmp_path, monkeypatch):
  monkeypatch.setattr(onnx_file, "_LIMIT", 1000)
  with pytest.raises(errors.UserError, match="of weights exceed the 2 GB of an ONNX file"):
    onnx_file.write(cases("mixnet")[0], tmp_path / "model.onnx")
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("kind", "module", "extra"),
  [
    (kind, name, chosen.extra)
    for kind, chosen in programs.FORMATS.items()
    for name in chosen.packages
  ],
)
def test_a_package_that_is_not_installed(monkeypatch, kind, module, extra):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(errors.UserError, match=rf"pip install 'effnets\[{extra}\]'") as caught:
    programs.FORMATS[kind].check()
  package = {"tensorflow": "tensorflow-cpu", "ai_edge_litert.interpreter": "ai-edge-litert"}
  assert package.get(module, module.partition(".")[0]) in str(caught.value)


def test_the_config_knows_every_format():
  config = configuration.base()
  config.train.steps = 1
  for kind in programs.FORMATS:
    config.export.format = kind
    configuration.check(config)
  assert set(configuration._CHOICES["export.format"]) == set(programs.FORMATS)


# ---- Operations of ONNX, one by one --------------------------------------------------------------

_WEIGHTS = np.random.default_rng(2).normal(size=(3, 3, 4, 6)).astype(np.float32)
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def _convolve(x, **settings):
  given = {"window_strides": (1, 1), "padding": "SAME", **settings}
  return lax.conv_general_dilated(x, _WEIGHTS, dimension_numbers=_DIMENSIONS, **given)


def _channels(x):
  return lax.slice_in_dim(x, 0, 4, axis=3)


def _part(x, axis):
  return lax.slice_in_dim(x, 2, 3, axis=axis)


def _rounds(x):
  round_ = lambda y, row: (jnp.tanh(y + row), jnp.max(y, 3))  # noqa: E731
  last, largest = lax.scan(round_, x, np.arange(3, dtype=np.float32))
  return last + jnp.max(largest, 0)[..., None]


_FUNCTIONS = {
  "arithmetic": lambda x: abs(-x * 2 + 3) / 4 - 1,
  "functions": lambda x: jnp.exp(jnp.tanh(x)) + jnp.log(1 + x * x) + jnp.sqrt(abs(x)),
  "powers": lambda x: x**3 + lax.rsqrt(1 + jnp.square(x)),
  "limits": lambda x: jnp.clip(x, -0.5, 0.5) + jnp.maximum(x, 0.25) + lax.clamp(-1.0, x, 0.1),
  "computed limits": lambda x: jnp.maximum(x, -x) + jnp.minimum(x, x * x),
  "hard sigmoid": lambda x: jax.nn.hard_sigmoid(x) + jnp.clip(x / 6 + 0.5, 0, 1),
  "not a hard sigmoid": lambda x: jnp.clip(x + 2, 0, 6) / 6 + jnp.clip(x / 5 + 0.5, 0, 1),
  "convolution": lambda x: _convolve(x, window_strides=(2, 1), padding=((0, 1), (2, 0))),
  "dilation": lambda x: _convolve(x, rhs_dilation=(2, 3)),
  "folded": lambda x: (_convolve(x) * np.arange(1.0, 7, dtype=np.float32) - 2) / 3 + 0.5,
  "read twice": lambda x: (lambda y: y * 2 + y)(_convolve(x)),
  "along height": lambda x: _convolve(x) * np.linspace(1, 2, 6, dtype=np.float32)[:, None, None],
  "layouts": lambda x: _convolve(x) + jnp.concatenate([x, lax.slice_in_dim(x, 0, 2, axis=3)], -1),
  "slices": lambda x: lax.slice_in_dim(_convolve(x), 1, 5, 2, axis=3) + _part(x, 3),
  "joined": lambda x: (
    jnp.concatenate([_convolve(x), _convolve(-x)], 3) * np.arange(12, dtype=np.float32)
  ),
  "joined rows": lambda x: jnp.concatenate([_convolve(x), _convolve(-x)], 1),
  "pooling": lambda x: nn.max_pool(_convolve(x), (3, 2), (2, 1), ((1, 0), (0, 1))),
  "mean of what is inside": lambda x: nn.avg_pool(
    _convolve(x), (3, 2), (2, 3), "SAME", count_include_pad=False
  ),
  "means": lambda x: _convolve(x).mean((1, 2)),
  "kept means": lambda x: _convolve(x) * _convolve(x).mean((1, 2), keepdims=True),
  "sums": lambda x: _convolve(x).sum((1, 2)) / 7,
  "channel maximum": lambda x: jnp.max(_convolve(x), 3),
  "padding": lambda x: jnp.pad(_convolve(x), ((0, 0), (1, 2), (0, 3), (0, 1)), constant_values=2),
  "rows": lambda x: x.mean((1, 2)) @ _WEIGHTS[0, 0] + np.arange(6, dtype=np.float32),
  "scaled rows": lambda x: (x.mean((1, 2)) @ _WEIGHTS[0, 0]) * 3,
  "reshape": lambda x: _convolve(x).reshape(-1, 36, 6),
  "transpose": lambda x: _convolve(x).transpose(0, 3, 2, 1),
  "squeeze": lambda x: _part(_part(_convolve(x), 1), 2).squeeze((1, 2)),
  "products": lambda x: _convolve(x) @ jnp.swapaxes(_convolve(x), 2, 3),
  "pixels": lambda x: _convolve(x) @ _WEIGHTS[0, 0].T + x @ _WEIGHTS[0, 0, :, :4],
  "choices": lambda x: jnp.where((x >= 0.5) & (x != 1), _channels(_convolve(x)), -x) + (x < 0) * x,
  "repeated": lambda x: jnp.broadcast_to(_part(_convolve(x), 3), (*x.shape[:3], 5)) * 2,
  "error functions": lambda x: jax.nn.gelu(x, approximate=False) - lax.erf(_channels(_convolve(x))),
  "places": lambda x: (
    lambda rows: jnp.take_along_axis(rows, jnp.argmax(rows, 1).astype(jnp.int32)[..., None], 1)
  )(_convolve(x).reshape(-1, 36, 6)),
  "rounds": _rounds,
  "squeezed height": lambda x: jnp.max(_convolve(x), 1, keepdims=True).squeeze(1),
}


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_onnx_computes(name, tmp_path):
  import onnxruntime

  function = _FUNCTIONS[name]
  (batch,) = export.symbolic_shape("b")
  x = np.random.default_rng(3).normal(size=(2, 6, 6, 4)).astype(np.float32) * 2
  model = onnx_file.build(
    function, {"x": jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)}, "y"
  )
  session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
  (actual,) = session.run(None, {"x": x})
  expected = function(x)
  # Terms of one sum may be larger than the sum.
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6 * abs(expected).max())


@pytest.mark.parametrize(
  ("function", "what"),
  [
    (lambda x: jnp.cumsum(x, 1), "cumsum"),
    (lambda x: lax.conv(x, _WEIGHTS[:, :, :, :4].transpose(3, 2, 0, 1), (1, 1), "SAME"), "NHWC"),
    (lambda x: x[0, 0][jnp.argmax(x[0], -1)], "gather of computed values other"),
    (lambda x: lax.scan(lambda y, z: (y + z, None), x, x)[0], "scan backwards or over computed"),
    (lambda x: jnp.einsum("bhwc,bhwd->bcd", x, x), "dot_general over several axes"),
    (lambda x: lax.rev(x, (1,)), "rev"),
    (lambda x: jnp.matmul(_WEIGHTS[0, 0].T, x), "dot_general other than of rows"),
    (lambda x: jnp.floor(x), "floor"),
    (lambda x: x.astype(jnp.int32), "int32"),
    (lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 1, 1, 1), (1,) * 4, "VALID"), "window"),
  ],
)
def test_onnx_refuses(function, what):
  struct = jax.ShapeDtypeStruct((2, 4, 4, 4), np.float32)
  with pytest.raises(errors.UserError, match=rf"unsupported op in export: .*{what}"):
    onnx_file.build(function, {"x": struct}, "y")
