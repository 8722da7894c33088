"""Networks of the papers' code, written from the papers, that TensorFlow runs and saves.

A module of its own, because importing TensorFlow takes seconds: only tests that run ask for it.
"""

import collections
import zlib

import numpy as np
import tensorflow as tf

from tests.oracle import recipe

tf1 = tf.compat.v1

# kernels, stride, expansion, channels, repeats, squeeze ratio, activation, parts of the 1x1s
_MNASNET_SMALL = (
  ((3,), 1, 1, 8, 1, 0, "relu", 1, 1),
  ((3,), 2, 3, 16, 1, 0, "relu", 1, 1),
  ((3,), 2, 6, 16, 2, 0, "relu", 1, 1),
  ((5,), 2, 6, 32, 4, 0.25, "relu", 1, 1),
  ((3,), 1, 6, 32, 3, 0.25, "relu", 1, 1),
  ((5,), 2, 6, 88, 3, 0.25, "relu", 1, 1),
  ((3,), 1, 6, 144, 1, 0, "relu", 1, 1),
)
_EFFICIENTNET_B0 = (
  ((3,), 1, 1, 16, 1, 0.25, "silu", 1, 1),
  ((3,), 2, 6, 24, 2, 0.25, "silu", 1, 1),
  ((5,), 2, 6, 40, 2, 0.25, "silu", 1, 1),
  ((3,), 2, 6, 80, 3, 0.25, "silu", 1, 1),
  ((5,), 1, 6, 112, 3, 0.25, "silu", 1, 1),
  ((5,), 2, 6, 192, 4, 0.25, "silu", 1, 1),
  ((3,), 1, 6, 320, 1, 0.25, "silu", 1, 1),
)
_MIXNET_S = (
  ((3,), 1, 1, 16, 1, 0, "relu", 1, 1),
  ((3,), 2, 6, 24, 1, 0, "relu", 2, 2),
  ((3,), 1, 3, 24, 1, 0, "relu", 2, 2),
  ((3, 5, 7), 2, 6, 40, 1, 0.5, "silu", 1, 1),
  ((3, 5), 1, 6, 40, 3, 0.5, "silu", 2, 2),
  ((3, 5, 7), 2, 6, 80, 1, 0.25, "silu", 1, 2),
  ((3, 5), 1, 6, 80, 2, 0.25, "silu", 1, 2),
  ((3, 5, 7), 1, 6, 120, 1, 0.5, "silu", 2, 2),
  ((3, 5, 7, 9), 1, 3, 120, 2, 0.5, "silu", 2, 2),
  ((3, 5, 7, 9, 11), 2, 6, 200, 1, 0.5, "silu", 1, 1),
  ((3, 5, 7, 9), 1, 6, 200, 2, 0.5, "silu", 1, 2),
)
# kernel, stride, inner channels, channels, squeeze width, whether hard
_V3_SMALL = (
  (3, 2, 16, 16, 8, False),
  (3, 2, 72, 24, 0, False),
  (3, 1, 88, 24, 0, False),
  (5, 2, 96, 40, 24, True),
  (5, 1, 240, 40, 64, True),
  (5, 1, 240, 40, 64, True),
  (5, 1, 120, 48, 32, True),
  (5, 1, 144, 48, 40, True),
  (5, 2, 288, 96, 72, True),
  (5, 1, 576, 96, 144, True),
  (5, 1, 576, 96, 144, True),
)
SIZE = 49  # odd at several strides, where SAME padding is not symmetric


def _hard_swish(x):
  return x * tf.nn.relu6(x + 3) / 6


_ACTIVATIONS = {"relu": tf.nn.relu, "silu": tf.nn.silu, "none": lambda x: x, "hard": _hard_swish}


class _Variables:
  """Makes TensorFlow variables, whose values follow from their names."""

  def __init__(self):
    self.made, self.values = {}, {}

  def __call__(self, name, *shape, mean=0.0, std=0.1):
    values = mean + std * np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    self.values[name] = values.astype(np.float32)
    self.made[name] = tf1.get_variable(name, initializer=self.values[name])
    return self.made[name]

  def kernel(self, name, *shape, fan_in):
    return self(name, *shape, std=np.sqrt(1.5 / fan_in))

  def norm(self, name, channels):
    gamma = self(f"{name}/gamma", channels, mean=1)
    beta, mean = self(f"{name}/beta", channels), self(f"{name}/moving_mean", channels)
    variance = self(f"{name}/moving_variance", channels, mean=1)
    return lambda x: tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3)


def _same(x, kernel, stride=1):
  return tf.nn.conv2d(x, kernel, stride, "SAME")


def _deep(x, kernel, stride):
  return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "SAME")


def _split(count, parts):
  sizes = [count // parts] * parts
  return [sizes[0] + count - sum(sizes), *sizes[1:]]


def _pool(x):
  return tf.reduce_mean(x, [1, 2], keepdims=True)


class _Google:
  """A network of tensorflow/tpu: first its layers in the order of construction, then the pass."""

  def __init__(self, rows, *, scope, stem, head, activation, prefix="", keras="", declared=None):
    self.variables, self.counts = _Variables(), collections.Counter()
    self.scope, self.prefix, self.keras = scope, prefix, keras
    self.blocks, inputs, index = [], stem, 0
    for kernels, stride, expand, channels, repeats, ratio, act, a, p in rows:
      for repeat in range(repeats):
        # MnasNet's skip rule, and only it, reads the channels that the table declares.
        skip = stride == 1 or repeat > 0
        skip = skip and channels == (declared if declared and not index else inputs)
        block = self._block(f"blocks_{index}", inputs, kernels, expand, channels, ratio, a, p)
        step = stride if repeat == 0 else 1
        self.blocks.append((*block, step, _ACTIVATIONS[act], skip))
        inputs, index = channels, index + 1
    self.activation = _ACTIVATIONS[activation]
    self.stem = self._conv("stem", 3, 3, stem), self._norm("stem", stem)
    self.head = self._conv("head", 1, inputs, head), self._norm("head", head)
    name = self._name("head", "dense")
    self.dense = self.variables.kernel(f"{name}/kernel", head, 1000, fan_in=head)
    self.bias = self.variables(f"{name}/bias", 1000)

  def _name(self, scope, kind):
    scope = f"{self.prefix}{scope}"
    normalizes = kind.endswith("normalization")
    key = kind if self.keras and not normalizes else (scope, kind)
    number, outer = self.counts[key], self.scope
    self.counts[key] += 1
    if self.keras and not normalizes:
      outer += f"/{self.keras}"
    return f"{outer}/{scope}/{kind}" + (f"_{number}" if number else "")

  def _conv(self, scope, size, inputs, channels, *, parts=1):
    return [
      self.variables.kernel(
        f"{self._name(scope, 'conv2d')}/kernel", size, size, i, o, fan_in=size * size * i
      )
      for i, o in zip(_split(inputs, parts), _split(channels, parts), strict=True)
    ]

  def _biased(self, scope, inputs, channels):
    name = self._name(scope, "conv2d")
    kernel = self.variables.kernel(f"{name}/kernel", 1, 1, inputs, channels, fan_in=inputs)
    return kernel, self.variables(f"{name}/bias", channels)

  def _norm(self, scope, channels):
    kind = "batch_normalization" if self.keras else "tpu_batch_normalization"
    return self.variables.norm(self._name(scope, kind), channels)

  def _block(self, scope, inputs, kernels, expand, channels, ratio, a, p):
    inner, widen, squeeze = inputs * expand, None, None
    if expand != 1:
      widen = self._conv(scope, 1, inputs, inner, parts=a), self._norm(scope, inner)
    deep = [
      self.variables.kernel(
        f"{self._name(scope, 'depthwise_conv2d')}/depthwise_kernel", k, k, size, 1, fan_in=k * k
      )
      for k, size in zip(kernels, _split(inner, len(kernels)), strict=True)
    ]
    deep = deep, self._norm(scope, inner)
    if ratio:
      width = max(1, int(inputs * ratio))
      squeeze = [self._biased(f"{scope}/se", *ends) for ends in ((inner, width), (width, inner))]
    project = self._conv(scope, 1, inner, channels, parts=p), self._norm(scope, channels)
    return widen, deep, squeeze, project

  def __call__(self, x):
    def convolve(x, kernels, operation=_same, stride=1):
      parts = tf.split(x, [k.shape[2] for k in kernels], -1)
      return tf.concat([operation(y, k, stride) for y, k in zip(parts, kernels, strict=True)], -1)

    kernels, norm = self.stem
    x = self.activation(norm(_same(x, kernels[0], 2)))
    for widen, (deep, deep_norm), squeeze, (project, norm), stride, act, skip in self.blocks:
      y = act(widen[1](convolve(x, widen[0]))) if widen else x
      y = act(deep_norm(convolve(y, deep, _deep, stride)))
      if squeeze:
        (reduce, reduce_bias), (expand, expand_bias) = squeeze
        gate = act(_same(_pool(y), reduce) + reduce_bias)
        y *= tf.sigmoid(_same(gate, expand) + expand_bias)
      y = norm(convolve(y, project))
      x = x + y if skip else y
    kernels, norm = self.head
    x = self.activation(norm(_same(x, kernels[0])))
    return _pool(x)[:, 0, 0] @ self.dense + self.bias


class _Slim:
  """MobileNetV3-Small as slim names it, with 1,001 classes."""

  def __init__(self):
    self.variables = _Variables()

  def _conv(self, x, name, size, channels, stride=1, activation="none"):
    shape = size, size, x.shape[-1], channels
    kernel = self.variables.kernel(f"{name}/weights", *shape, fan_in=size * size * shape[2])
    norm = self.variables.norm(f"{name}/BatchNorm", channels)
    return _ACTIVATIONS[activation](norm(_same(x, kernel, stride)))

  def _biased(self, x, name, channels):
    fan_in = x.shape[-1]
    kernel = self.variables.kernel(f"{name}/weights", 1, 1, fan_in, channels, fan_in=fan_in)
    return _same(x, kernel) + self.variables(f"{name}/biases", channels)

  def __call__(self, x):
    x = self._conv(x, "MobilenetV3/Conv", 3, 16, 2, "hard")
    for index, (size, stride, inner, channels, width, hard) in enumerate(_V3_SMALL):
      name = "MobilenetV3/expanded_conv" + (f"_{index}" if index else "")
      act, y = "hard" if hard else "relu", x
      if inner > x.shape[-1]:
        y = self._conv(y, f"{name}/expand", 1, inner, 1, act)
      deep = self.variables.kernel(
        f"{name}/depthwise/depthwise_weights", size, size, inner, 1, fan_in=size * size
      )
      norm = self.variables.norm(f"{name}/depthwise/BatchNorm", inner)
      y = _ACTIVATIONS[act](norm(_deep(y, deep, stride)))
      if width:
        gate = tf.nn.relu(self._biased(_pool(y), f"{name}/squeeze_excite/Conv", width))
        gate = self._biased(gate, f"{name}/squeeze_excite/Conv_1", inner)
        y *= tf.nn.relu6(gate + 3) / 6
      y = self._conv(y, f"{name}/project", 1, channels)
      x = x + y if stride == 1 and channels == x.shape[-1] else y
    x = _pool(self._conv(x, "MobilenetV3/Conv_1", 1, 576, 1, "hard"))
    x = _hard_swish(self._biased(x, "MobilenetV3/Conv_2", 1024))
    return self._biased(x, "MobilenetV3/Logits/Conv2d_1c_1x1", 1001)[:, 0, 0]


_NETWORKS = {
  "mnasnet-small": lambda: _Google(
    _MNASNET_SMALL,
    scope="mnasnet-small",
    stem=8,
    head=1280,
    activation="relu",
    prefix="mnas_",
    keras="mnas_net_model",
    declared=16,
  ),
  "efficientnet-b0": lambda: _Google(
    _EFFICIENTNET_B0, scope="efficientnet-b0", stem=32, head=1280, activation="silu"
  ),
  "mixnet-s": lambda: _Google(
    _MIXNET_S, scope="mixnet-s", stem=16, head=1536, activation="relu", keras="mixnet_model"
  ),
  "v3-small_224_1.0_float": _Slim,
}


def save(folder, name, *, trained=False):
  """Saves the network `name` as `folder/model.ckpt-7`; returns its outputs and variables.

  trained: with moving averages, which hold the values, and slots of an optimizer; the variables
    themselves are zero then.
  """
  with tf1.Graph().as_default(), tf1.Session() as session:
    network = _NETWORKS[name]()
    logits = network(tf.constant(recipe.images(2, SIZE)))
    made = network.variables.made
    tf1.train.get_or_create_global_step()
    forget = tf.no_op()
    if trained:
      # TensorFlow names what it keeps beside some; its averages of all would take a minute to make.
      some = dict(list(made.items())[:9])
      tf1.train.ExponentialMovingAverage(0.9999).apply(list(some.values()))
      for name in made.keys() - some.keys():
        tf1.get_variable(
          f"{name}/ExponentialMovingAverage", initializer=network.variables.values[name]
        )
      optimizer = tf1.train.RMSPropOptimizer(0.1, momentum=0.9)
      optimizer.apply_gradients([(tf.zeros_like(v), v) for v in some.values()])
      forget = tf.group(*(tf1.assign(v, tf.zeros_like(v)) for v in made.values()))
    session.run(tf1.global_variables_initializer())
    outputs, values = session.run((logits, made))
    session.run(forget)
    tf1.train.Saver().save(session, str(folder / "model.ckpt"), global_step=7)
  return outputs, values
