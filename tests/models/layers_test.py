"""Single layers against NumPy loops and closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import ops
from effnets.models import initialize, layers


def _numpy_conv(x, kernel, stride, pads):
  """Ungrouped convolution as five loops; pads: (low, high) of both dimensions."""
  x = np.pad(x, ((0, 0), pads, pads, (0, 0)))
  taps = kernel.shape[0]
  side = (x.shape[1] - taps) // stride + 1
  out = np.zeros((x.shape[0], side, side, kernel.shape[3]))
  for i in range(side):
    for j in range(side):
      patch = x[:, i * stride : i * stride + taps, j * stride : j * stride + taps]
      out[:, i, j] = np.tensordot(patch, kernel, 3)
  return out


@pytest.mark.parametrize(
  "padding,size,pads",
  # TensorFlow puts the odd pixel at the end; PyTorch pads both sides alike.
  [("SAME", 6, (0, 1)), ("SAME", 7, (1, 1)), ("SYMMETRIC", 6, (1, 1)), ("SYMMETRIC", 7, (1, 1))],
)
def test_conv_pads_as_asked(getkey, padding, size, pads):
  x = np.asarray(jax.random.normal(getkey("x"), (2, size, size, 3)))
  layer = layers.Conv(4, 3, 2, bias=True, settings=layers.Settings(padding=padding))
  params = initialize.init(layer, 1, inputs=(x,))["params"]
  params["bias"] = np.arange(4, dtype=np.float32)
  want = _numpy_conv(x, params["kernel"], 2, pads) + params["bias"]
  np.testing.assert_allclose(layer.apply({"params": params}, x), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  "channels,parts,how,sizes",
  [
    (144, 3, "equal", (48, 48, 48)),
    (624, 5, "equal", (128, 124, 124, 124, 124)),
    (96, 5, "equal", (20, 19, 19, 19, 19)),
    (576, 5, "equal", (116, 115, 115, 115, 115)),
    (30, 4, "equal", (9, 7, 7, 7)),
    (32, 4, "exponential", (16, 8, 4, 4)),
    (96, 4, "exponential", (48, 24, 12, 12)),
    (960, 4, "exponential", (480, 240, 120, 120)),
    (144, 4, "exponential", (72, 36, 18, 18)),
    (7, 1, "exponential", (7,)),
  ],
)
def test_partition(channels, parts, how, sizes):
  assert layers.partition(channels, parts, how) == sizes


@pytest.mark.parametrize("arguments,words", [((8, 2, "even"), "'even'"), ((4, 5), "do not make 5")])
def test_impossible_partition(arguments, words):
  with pytest.raises(ValueError, match=words):
    layers.partition(*arguments)


@pytest.mark.parametrize(
  "stride,size,padding", [(1, 7, "SAME"), (2, 8, "SAME"), (2, 7, "SYMMETRIC")]
)
def test_mixed_convolution_is_one_with_embedded_kernels(stride, size, padding):
  # Zeros around the small kernels make one depthwise convolution of the largest size.
  kernels, channels = (3, 5, 7), 10
  x = np.random.default_rng(0).standard_normal((2, size, size, channels)).astype(np.float32)
  settings = layers.Settings(padding=padding, plain=True)
  layer = layers.SplitConv(channels, kernels, stride, settings=settings)
  params = initialize.init(layer, 1, inputs=(x,))["params"]
  embedded = np.zeros((7, 7, 1, channels), np.float32)
  start = 0
  for index, taps in enumerate(kernels):
    kernel, low = params[str(index)]["kernel"], (7 - taps) // 2
    stop = start + kernel.shape[3]
    embedded[low : low + taps, low : low + taps, :, start:stop] = kernel
    start = stop
  assert start == channels

  @jax.jit
  def both(params, embedded, x):
    whole = ops.conv(x, embedded, stride=stride, groups=channels, padding=padding, plain=True)
    return layer.apply({"params": params}, x), whole

  np.testing.assert_allclose(*both(params, embedded, x), rtol=1e-4, atol=1e-5)


def test_grouped_pointwise_convolution():
  x = np.random.default_rng(0).standard_normal((2, 3, 3, 9)).astype(np.float32)
  layer = layers.SplitConv(6, (1, 1), depthwise=False)
  params = initialize.init(layer, 1, inputs=(x,))["params"]
  assert [params[i]["kernel"].shape for i in ("0", "1")] == [(1, 1, 5, 3), (1, 1, 4, 3)]
  want = [x[..., :5] @ params["0"]["kernel"][0, 0], x[..., 5:] @ params["1"]["kernel"][0, 0]]
  got = jax.jit(layer.apply)({"params": params}, x)
  np.testing.assert_allclose(got, np.concatenate(want, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride,taps", [(1, (3, 3, 3)), (2, (3, 5, 7))])
def test_dilated_form_keeps_the_span(stride, taps):
  layer = layers.SplitConv(6, (3, 5, 7), stride, dilated=True)
  x = jax.ShapeDtypeStruct((1, 9, 9, 6), jnp.float32)
  params = initialize.abstract(layer, inputs=(x,))["params"]
  assert tuple(params[str(i)]["kernel"].shape[0] for i in range(3)) == taps
  assert [layers.spread(k, 1) for k in (3, 5, 11)] == [(3, 1), (3, 2), (3, 5)]


@pytest.mark.parametrize("images,momentum", [(None, 0.9), (2, 0.9), (1, 0.0)])
def test_batch_norm_in_training(getkey, images, momentum):
  x = 3 * np.asarray(jax.random.normal(getkey("x"), (4, 3, 3, 5))) + 1
  settings = layers.Settings(momentum=momentum, epsilon=1e-2, group=ops.Group(images=images))
  layer = layers.BatchNorm("swish", settings)
  variables = initialize.init(layer, 0, inputs=(x,))
  scale, bias = np.linspace(0.5, 2, 5), np.linspace(-1, 1, 5)
  variables["params"] = {"scale": scale.astype(np.float32), "bias": bias.astype(np.float32)}
  got, new = layer.apply(variables, x, True, mutable=["batch_stats"])

  means, variances, want = [], [], []
  for part in np.split(x.astype(np.float64), 4 // (images or 4)):
    means.append(part.mean((0, 1, 2)))
    variances.append(part.var((0, 1, 2)))
    y = (part - means[-1]) / np.sqrt(variances[-1] + 1e-2) * scale + bias
    want.append(y / (1 + np.exp(-y)))
  np.testing.assert_allclose(got, np.concatenate(want), rtol=1e-4, atol=1e-5)
  m = momentum
  stats = new["batch_stats"]
  np.testing.assert_allclose(stats["mean"], (1 - m) * np.mean(means, 0), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(stats["var"], m + (1 - m) * np.mean(variances, 0), rtol=1e-5)
  # Without leave to write, the moments stay and the output is the same.
  np.testing.assert_array_equal(layer.apply(variables, x, True), got)


def test_batch_norm_in_inference():
  x = np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 2, 2, 3)
  mean, var = np.array([0.1, -0.2, 0.3], np.float32), np.array([0.5, 1.0, 2.0], np.float32)
  variables = {
    "params": {"scale": np.full(3, 2, np.float32), "bias": np.ones(3, np.float32)},
    "batch_stats": {"mean": mean, "var": var},
  }
  want = 2 * (x - mean) / np.sqrt(var + 1e-3) + 1
  np.testing.assert_allclose(layers.BatchNorm().apply(variables, x), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  "activation,gate", [("swish", "sigmoid"), ("relu", "hard_sigmoid"), ("relu", "sigmoid")]
)
def test_squeeze_excite(getkey, activation, gate):
  x = np.asarray(jax.random.normal(getkey("x"), (2, 3, 4, 6)))
  layer = layers.SqueezeExcite(2, activation, gate)
  params = initialize.init(layer, 3, inputs=(x,))["params"]
  assert {k: v["kernel"].shape for k, v in params.items()} == {
    "reduce": (1, 1, 6, 2),
    "expand": (1, 1, 2, 6),
  }
  params["reduce"]["bias"] += 0.5
  params["expand"]["bias"] -= 0.5

  def sigmoid(y):
    return 1 / (1 + np.exp(-y))

  y = x.mean((1, 2)) @ params["reduce"]["kernel"][0, 0] + 0.5
  y = y * sigmoid(y) if activation == "swish" else np.maximum(y, 0)
  y = y @ params["expand"]["kernel"][0, 0] - 0.5
  y = sigmoid(y) if gate == "sigmoid" else np.clip(y + 3, 0, 6) / 6
  want = x * y[:, None, None, :]
  gated = x * layer.apply({"params": params}, x)
  np.testing.assert_allclose(gated, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  "squeeze,inputs,expanded,width",
  [
    (layers.Squeeze(0.25), 32, 32, 8),
    (layers.Squeeze(0.25), 24, 144, 6),
    (layers.Squeeze(0.25), 2, 12, 1),
    (layers.Squeeze(0.25, of="expanded", divisor=8), 80, 480, 120),
    (layers.Squeeze(0.25, of="expanded", divisor=8), 24, 72, 24),
  ],
)
def test_squeeze_width(squeeze, inputs, expanded, width):
  assert squeeze.width(inputs, expanded) == width


def test_squeeze_of_nothing():
  with pytest.raises(ValueError, match="'input' nor 'expanded'"):
    layers.Squeeze(of="output").width(8, 8)


def test_activations():
  x = np.linspace(-8, 8, 65, dtype=np.float32)
  sigmoid = 1 / (1 + np.exp(-x))
  hard = np.clip(x + 3, 0, 6) / 6
  want = {
    "identity": x,
    "relu": np.maximum(x, 0),
    "relu6": np.clip(x, 0, 6),
    "swish": x * sigmoid,
    "hard_swish": x * hard,
    "sigmoid": sigmoid,
    "hard_sigmoid": hard,
    "leaky_relu": np.where(x < 0, 0.2 * x, x),
  }
  assert want.keys() == layers.ACTIVATIONS.keys()
  for name, function in layers.ACTIVATIONS.items():
    np.testing.assert_allclose(function(x), want[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_dense_sums_in_float32(getkey):
  # 4,096 products of 1 and 1 + 2**-7 in bfloat16: a bfloat16 sum would stop growing at 256.
  layer = layers.Dense(2, layers.Settings(dtype=jnp.bfloat16))
  params = {"kernel": np.full((4096, 2), 1 + 2**-7, np.float32), "bias": np.zeros(2, np.float32)}
  logits = layer.apply({"params": params}, np.ones((1, 4096), np.float32))
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(logits, 4096 * (1 + 2**-7), rtol=1e-6)


def test_noise_of_an_example_is_its_own(getkey):
  keys = jax.random.split(getkey("examples"), 6)
  x = np.ones((6, 32), np.float32)
  path, units = layers.path_noise(keys, 5), layers.dropout(x, keys, 0.5)
  chosen = np.array([5, 0, 2])
  # A network with more blocks draws the same for the first ones.
  np.testing.assert_array_equal(layers.path_noise(keys[chosen], 9)[:, :5], path[chosen])
  np.testing.assert_array_equal(layers.dropout(x[:3], keys[chosen], 0.5), units[chosen])
  assert len(np.unique(path)) == path.size


def test_stochastic_depth_keeps_the_mean(getkey):
  count, rate = 4000, 0.3
  noise = jax.random.uniform(getkey("noise"), (count,))
  x = np.ones((count, 2, 2, 3), np.float32)
  y = np.asarray(layers.stochastic_depth(x, noise, rate))
  each = y.reshape(count, -1)
  assert (each.min(1) == each.max(1)).all()
  np.testing.assert_allclose(np.unique(each), [0, 1 / (1 - rate)], rtol=1e-6)
  # Five standard errors of a Bernoulli mean, over 1 - rate.
  error = 5 * math.sqrt(rate * (1 - rate) / count) / (1 - rate)
  assert abs(each.mean() - 1) < error
  np.testing.assert_array_equal(layers.stochastic_depth(x, noise, 0.0), x)


def test_dropout_keeps_the_mean(getkey):
  rate, shape = 0.4, (8, 2000)
  keys = jax.random.split(getkey("examples"), shape[0])
  y = np.asarray(layers.dropout(np.ones(shape, np.float32), keys, rate))
  np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - rate)], rtol=1e-6)
  assert abs(y.mean() - 1) < 5 * math.sqrt(rate * (1 - rate) / y.size) / (1 - rate)
