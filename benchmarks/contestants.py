"""The networks that `classification.py` times, each in a framework of its own.

Every builder returns {kind: function that runs one step}, kinds `train` and `forward`. On a CPU all
compute in float32; on a GPU in bfloat16, where PyTorch runs compiled and channels-last.
"""

import functools
import importlib.machinery
import os
import pathlib
import sys
import types
from collections.abc import Callable

_ROOT = pathlib.Path(__file__).resolve().parent.parent
CLASSES, RATE = 1000, 0.01

Steps = dict[str, Callable[[], object]]


def cores() -> int:
  """Returns how many processor cores this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _inputs(batch: int, size: int):
  import numpy as np

  numbers = np.random.default_rng(0)
  images = numbers.standard_normal((batch, size, size, 3)).astype(np.float32)
  return images, numbers.integers(0, CLASSES, batch)


# ---- This project --------------------------------------------------------------------------------


def prepare() -> None:
  """Makes the package importable and does what `effnets.parallel.initialize` does for speed."""
  sys.path.insert(0, str(_ROOT))
  from effnets.parallel import host, memory, slices

  slices.without_tpu()
  host.prefer_wide_vectors()
  memory.keep_freed_pages()


def effnets(
  name: str, batch: int, size: int, *, plain: bool = False, folded: bool = False, **settings
) -> Steps:
  """Returns the steps of a model of this package. plain: see `ops.conv`. folded: `models.fold`."""
  prepare()
  import jax
  import jax.numpy as jnp

  from effnets import models

  on_gpu = jax.default_backend() == "gpu"
  settings.setdefault("dtype", "bfloat16" if on_gpu else "float32")
  classifies = models.entry(name).task == "classification"
  if classifies:
    settings["num_classes"] = CLASSES
  module = models.create(name, plain=plain, **settings)
  variables = models.init(module, 0, image_size=size)
  if folded:
    module, variables = models.fold(module, variables)
  variables = jax.tree.map(jnp.asarray, variables)
  images, labels = (jnp.asarray(a) for a in _inputs(batch, size))

  @jax.jit
  def forward(variables, images):
    return module.apply(variables, images, train=False)

  @functools.partial(jax.jit, donate_argnums=0)
  def train(variables, images, labels):
    def loss(params):
      logits, new = module.apply(
        {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
      )
      picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
      return -picked.mean(), new

    (value, new), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    params = jax.tree.map(lambda p, g: p - RATE * g, variables["params"], grads)
    return {**variables, **new, "params": params}, value

  def run_forward():
    jax.block_until_ready(forward(variables, images))

  if folded or not classifies:
    return {"forward": run_forward}
  state = [jax.tree.map(jnp.copy, variables)]

  def run_train():
    state[0], value = train(state[0], images, labels)
    jax.block_until_ready((state[0], value))

  return {"train": run_train, "forward": run_forward}


# ---- timm on PyTorch -----------------------------------------------------------------------------


class _Anything(type):
  """Classes whose every attribute is another such class: enough to be imported from."""

  def __getattr__(cls, name):
    if name.startswith("__"):
      raise AttributeError(name)
    return _Anything(name, (), {})


class _StandIn(types.ModuleType):
  """A module with every name in it."""

  __path__: list[str] = []
  __version__ = "99.0.0"

  def __getattr__(self, name):
    if name.startswith("__"):
      raise AttributeError(name)
    return _Anything(name, (), {})


class _Finder:
  """Gives stand-ins for what timm imports for its data sets, which are not used here."""

  @staticmethod
  def find_spec(name, path=None, target=None):
    if name.split(".")[0] in ("torchvision", "PIL"):
      return importlib.machinery.ModuleSpec(name, _Finder, is_package=True)
    return None

  @staticmethod
  def create_module(spec):
    return _StandIn(spec.name)

  @staticmethod
  def exec_module(module):
    pass


def _timm_name(name: str) -> str:
  """Returns timm's spelling of a model's name."""
  if name.startswith("mobilenetv3") and name.count("_") == 1:
    return f"{name}_100"
  return name


def timm(name: str, batch: int, size: int) -> Steps:
  """Returns the steps of timm's model of the same name."""
  import torch

  sys.meta_path.append(_Finder)  # last, so it is asked only for what is not installed
  import timm as library

  torch.set_num_threads(cores())
  on_gpu = torch.cuda.is_available()
  device = torch.device("cuda" if on_gpu else "cpu")
  images, labels = _inputs(batch, size)
  images = torch.from_numpy(images).permute(0, 3, 1, 2).to(device)
  images = images.contiguous(memory_format=torch.channels_last)
  labels = torch.from_numpy(labels).to(device)
  trained, fixed = (
    library.create_model(_timm_name(name), num_classes=CLASSES, drop_rate=0.0).to(
      device, memory_format=torch.channels_last
    )
    for _ in range(2)
  )
  trained.train()
  fixed.eval()
  optimizer = torch.optim.SGD(trained.parameters(), lr=RATE)
  if on_gpu:
    trained, fixed = torch.compile(trained), torch.compile(fixed)
  half = functools.partial(torch.autocast, "cuda", torch.bfloat16, enabled=on_gpu)

  def train():
    optimizer.zero_grad(set_to_none=True)
    with half():
      loss = torch.nn.functional.cross_entropy(trained(images), labels)
    loss.backward()
    optimizer.step()
    if on_gpu:
      torch.cuda.synchronize()

  def forward():
    with torch.inference_mode(), half():
      fixed(images)
    if on_gpu:
      torch.cuda.synchronize()

  return {"train": train, "forward": forward}


def _detector(network: Callable, batch: int, size: int) -> Steps:
  """Returns the step of a detector of PyTorch up to its class and box predictions, on the CPU."""
  import torch

  torch.set_num_threads(cores())
  images = torch.from_numpy(_inputs(batch, size)[0]).permute(0, 3, 1, 2)
  images = images.contiguous(memory_format=torch.channels_last)

  def forward():
    with torch.inference_mode():
      network(images)

  return {"forward": forward}


def effdet(name: str, batch: int, size: int) -> Steps:
  """Returns the forward step of effdet's detector of the same name."""
  import torch

  sys.meta_path.append(_Finder)
  import effdet as library

  network = library.create_model(f"tf_{name}", pretrained=False, pretrained_backbone=False)
  return _detector(network.eval().to(memory_format=torch.channels_last), batch, size)


def torchvision(name: str, batch: int, size: int) -> Steps:
  """Returns the forward step of torchvision's SSDLite on MobileNetV3-Large."""
  import torch
  from torchvision.models import detection

  if name != "ssdlite_mobilenetv3_large":
    raise ValueError(f"torchvision has no {name}")
  whole = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
  whole = whole.eval().to(memory_format=torch.channels_last)
  return _detector(lambda x: whole.head(list(whole.backbone(x).values())), batch, size)


# ---- Keras ---------------------------------------------------------------------------------------


def _keras_model(keras, name: str, size: int):
  spelled = {"mobilenetv3_large": "MobileNetV3Large", "mobilenetv3_small": "MobileNetV3Small"}
  if name.startswith("efficientnet_"):
    spelled[name] = "EfficientNet" + name.removeprefix("efficientnet_").upper()
  if not hasattr(keras.applications, spelled.get(name, "")):
    raise ValueError(f"keras.applications has no {name}")
  build = getattr(keras.applications, spelled[name])
  shape = (size, size, 3)
  return build(weights=None, classes=CLASSES, input_shape=shape, classifier_activation=None)


def keras(name: str, batch: int, size: int, *, backend: str) -> Steps:
  """Returns the steps of the model in keras.applications. backend: `tensorflow` or `jax`."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ["KERAS_BACKEND"] = backend
  import keras as library

  return (_keras_tensorflow if backend == "tensorflow" else _keras_jax)(library, name, batch, size)


def _keras_tensorflow(library, name: str, batch: int, size: int) -> Steps:
  import tensorflow as tf

  if tf.config.list_physical_devices("GPU"):
    library.mixed_precision.set_global_policy("mixed_bfloat16")
  model = _keras_model(library, name, size)
  images, labels = (tf.constant(a) for a in _inputs(batch, size))
  optimizer = library.optimizers.SGD(RATE)
  optimizer.build(model.trainable_variables)

  @tf.function
  def forward():
    return model(images, training=False)

  @tf.function
  def train():
    with tf.GradientTape() as tape:
      logits = tf.cast(model(images, training=True), tf.float32)
      loss = tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
      )
    grads = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(grads, model.trainable_variables, strict=True))
    return loss

  return {"train": lambda: train().numpy(), "forward": lambda: forward().numpy()}


def _keras_jax(library, name: str, batch: int, size: int) -> Steps:
  import jax
  import jax.numpy as jnp

  if jax.default_backend() == "gpu":
    library.mixed_precision.set_global_policy("mixed_bfloat16")
  model = _keras_model(library, name, size)
  images, labels = (jnp.asarray(a) for a in _inputs(batch, size))
  values = lambda variables: [v.value for v in variables]  # noqa: E731
  fixed, moving = values(model.trainable_variables), values(model.non_trainable_variables)

  @jax.jit
  def forward(weights, moving):
    return model.stateless_call(weights, moving, images, training=False)[0]

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def train(weights, moving):
    def loss(weights):
      logits, moved = model.stateless_call(weights, moving, images, training=True)
      picked = jnp.take_along_axis(
        jax.nn.log_softmax(logits.astype(jnp.float32)), labels[:, None], 1
      )
      return -picked.mean(), moved

    (value, moved), grads = jax.value_and_grad(loss, has_aux=True)(weights)
    return [w - RATE * g for w, g in zip(weights, grads, strict=True)], moved, value

  state = [[jnp.copy(w) for w in fixed], [jnp.copy(m) for m in moving]]

  def run_train():
    *state[:], value = train(*state)
    jax.block_until_ready((state, value))

  return {
    "train": run_train,
    "forward": lambda: jax.block_until_ready(forward(fixed, moving)),
  }


ALL: dict[str, Callable[[str, int, int], Steps]] = {
  "effnets": effnets,
  "effnets folded": functools.partial(effnets, folded=True),
  "effnets plain": functools.partial(effnets, plain=True),
  "timm": timm,
  "effdet": effdet,
  "torchvision": torchvision,
  "keras": functools.partial(keras, backend="tensorflow"),
  "keras jax": functools.partial(keras, backend="jax"),
}
"""Name -> builder from (model, images, pixels); those of this project start with `effnets`."""
USUAL = ("effnets", "effnets folded", "timm", "keras", "keras jax")


def versions() -> str:
  """Returns the versions of what this process has loaded, and the device's kind."""
  found = [
    f"{name} {module.__version__}"
    for name, module in sys.modules.items()
    if name in ("jax", "torch", "timm", "effdet", "torchvision", "keras", "tensorflow")
    and hasattr(module, "__version__")
  ]
  return ", ".join(sorted(found))


def platform() -> str:
  """Returns `gpu` if a framework that this process has loaded sees one, else `cpu`."""
  torch, jax, tf = (sys.modules.get(name) for name in ("torch", "jax", "tensorflow"))
  sees = (
    torch is not None and torch.cuda.is_available(),
    jax is not None and jax.default_backend() == "gpu",
    tf is not None and bool(tf.config.list_physical_devices("GPU")),
  )
  return "gpu" if any(sees) else "cpu"
