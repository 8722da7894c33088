"""A run so small that its step compiles in seconds; also a config file for child processes.

`--config=tests/training/tiny.py:steps=12` trains `tests_nano`, a network of two narrow blocks, on
the embedded digits with every kind of noise switched on.
"""

import functools
import json
import os
import pathlib
import socket
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import orbax.checkpoint as ocp

from effnets import configuration, data, parallel, tasks
from effnets.models import efficientnet, layers, registry, stage_tables
from effnets.training import inputs, optimizers, state, step

ROOT = pathlib.Path(__file__).parents[2]

_SQUEEZE = layers.Squeeze(0.25)
_TABLE = stage_tables.Table(
  8,
  (
    stage_tables.Row("mbconv", 3, 2, 1, 8, 1, _SQUEEZE),
    stage_tables.Row("mbconv", 5, 1, 2, 8, 1, _SQUEEZE),  # has a skip: its path may drop
  ),
  16,
)

if "tests_nano" not in registry.list_models():  # as a config file this module is loaded once more
  registry.register(
    registry.Entry(
      "tests_nano",
      functools.partial(efficientnet.efficientnet, _TABLE, image_size=32),
      paper=None,
      image_size=32,
      dropout_rate=0.2,
      drop_path_rate=0.2,
      # As counted: tests that go through the registry meet this entry too.
      params=18_420,
      madds=130_272.0,
    )
  )


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config of the tiny run; `arg`: `steps=`, `seed=`, `save_every=`."""
  args = configuration.arguments(arg, steps=12, seed=0, save_every=4)
  config = configuration.base()
  config.seed = args.seed
  config.augment.shift = 2
  # Three operations, one of each kind: all of them take half of the step's compilation.
  with config.ignore_type():
    config.augment.randaugment.update(
      {"layers": 2, "magnitude": 9.0, "operations": ("rotate", "equalize", "cutout")}
    )
  config.model.update({"name": "tests_nano", "drop_path_rate": 0.3})
  config.model.momentum = 0.9
  config.batch_norm.group = "4"
  config.batch_size = 16
  config.eval_batch_size = 64
  config.train.steps = args.steps
  config.optimizer.update(
    {"name": "rmsprop", "learning_rate": 0.01, "decay": 0.9, "momentum": 0.9, "eps": 1e-3}
  )
  config.optimizer.weight_decay = 1e-4
  config.schedule.update({"name": "cosine", "warmup_percent": 10.0})
  config.ema.decay = 0.9
  config.checkpoint.every_percent = 100.0 * args.save_every / args.steps
  config.evaluation.every_percent = 50.0
  config.log_every_steps = 2
  config.tensorboard = False
  return config


class Soft:
  """The first 96 unlabelled digits with made-up probabilities."""

  num_classes, class_names, image_size = 10, tuple("0123456789"), 32
  name = "soft"

  def __init__(self):
    self._digits = data.open_source("digits", "unlabelled")
    logits = np.random.default_rng(0).normal(size=(96, 10)) * 2
    self._probabilities = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)

  def __len__(self):
    return 96

  def __getitem__(self, index):
    soft = self._probabilities[index]
    return {**self._digits[index], "label": np.int32(soft.argmax()), "probabilities": soft}


def recording(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
  """Returns `optimizer` with the gradients of the last step as a part of its state."""

  def init(params):
    return {"own": optimizer.init(params), "gradients": jax.tree.map(jnp.zeros_like, params)}

  def update(grads, old, params):
    updates, own = optimizer.update(grads, old["own"], params)
    return updates, {"own": own, "gradients": grads}

  return optax.GradientTransformation(init, update)


class Trainer:
  """The pieces of a training on a part of the devices, without the loop around them.

  placement, examples, task: as in the loop. update: compiled. initial: whole state on the host.
  """

  def __init__(
    self,
    config: Any,
    mesh: dict[str, int],
    *,
    sources: dict[str, data.Source] | None = None,
    min_size: int = 64,
    record: bool = False,
  ):
    """Compiles the update of `config` for `mesh` over the first devices."""
    devices = jax.devices()[: int(np.prod(list(mesh.values())))]
    self.placement = parallel.create(
      mesh, execution=config.execution, min_size=min_size, devices=devices
    )
    self.examples = inputs.training(config, sources or {})
    self.task = tasks.create(
      config,
      self.placement,
      num_classes=10,
      step_batch=self.examples.batch_size // config.accumulate,
    )
    schedule = inputs.schedule(config, self.examples, 1000)
    optimizer = inputs.optimizer(config, schedule, self.task)
    if record:
      optimizer = recording(optimizer)
    variables = perturbed(self.task.init(config.seed))
    self.initial = state.create(
      variables, optimizer, seed=config.seed, average=config.ema.decay > 0
    )
    self.shardings = self.placement.state(self.initial)
    self.abstract = state.placed(
      jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.initial), self.shardings
    )
    self.step = step.create(
      self.task,
      optimizer,
      self.placement,
      batch_size=self.examples.batch_size,
      schedule=schedule,
      accumulate=config.accumulate,
      coupled_weight_decay=optimizers.coupled_weight_decay(config.optimizer),
      ema_decay=config.ema.decay,
    )
    lowered = step.lower_update(
      self.step, self.placement, self.abstract, (), self.examples.abstract_batch(self.placement)
    )
    self.update = lowered.compile()

  def fresh(self) -> state.TrainState:
    """Returns the initial state on the mesh."""
    return self.placement.put(self.initial, self.shardings)

  def batch(self, index: int) -> dict[str, jax.Array]:
    """Returns batch `index` of the stream on the mesh."""
    size = self.examples.batch_size
    batch = [self.examples.stream[index * size + i] for i in range(size)]
    host = {name: np.stack([example[name] for example in batch]) for name in batch[0]}
    return jax.tree.map(lambda x: jax.device_put(x, self.placement.batch), host)

  def run(self, steps: int) -> tuple[state.TrainState, list[dict[str, float]]]:
    """Returns the state after `steps` updates from the initial one, and each step's metrics."""
    current, means = self.fresh(), []
    for index in range(steps):
      current, metrics = self.update(current, (), self.batch(index))
      metrics = jax.device_get(metrics)
      means.append({k: float(total / count) for k, (total, count) in metrics.items()})
    return current, means


def perturbed(variables: Any) -> Any:
  """Returns `variables` with scales, biases and moments away from their ones and zeros."""
  rng = np.random.default_rng(1)

  def leaf(x):
    return (x + 0.1 * rng.uniform(size=x.shape)).astype(np.float32) if x.ndim == 1 else x

  return jax.tree.map(leaf, variables)


def leaves(tree: Any) -> dict[str, np.ndarray]:
  """Returns path -> host array."""
  flat = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
  return {parallel.path_name(path): np.asarray(leaf) for path, leaf in flat}


def assert_close(
  actual: Any, expected: Any, *, tolerance: float, floor: float = 0.01, start: Any = None
) -> None:
  """Checks each leaf to `tolerance` of its largest value, at least `floor` of the tree's largest.

  The floor: a bias that feeds another batch norm has a true gradient of zero, what is computed is
  rounding noise. With `start` it is the moves from there that are checked, to the same tolerance
  and two units in the last place of what moved.
  """
  actual, expected = leaves(actual), leaves(expected)
  first = leaves(start) if start is not None else {name: 0 for name in expected}
  assert actual.keys() == expected.keys() == first.keys()
  floats = [name for name, leaf in expected.items() if leaf.dtype.kind == "f"]
  size = {name: np.abs(expected[name] - first[name]).max() for name in floats}
  least = floor * max(size.values())
  wrong = {}
  for name, want in expected.items():
    if name not in size:
      np.testing.assert_array_equal(actual[name], want, err_msg=name)
      continue
    limit = tolerance * max(size[name], least)
    if start is not None:
      limit += 2 * np.finfo(np.float32).eps * np.abs(want).max()
    off = np.abs(actual[name] - want).max()
    if not off <= limit:
      wrong[name] = f"{off:.2g} > {limit:.2g}"
  assert not wrong, wrong


def assert_same_bits(actual: Any, expected: Any) -> None:
  """Checks that all leaves are equal bit for bit."""
  actual, expected = leaves(actual), leaves(expected)
  assert actual.keys() == expected.keys()
  for name, want in expected.items():
    assert actual[name].dtype == want.dtype, name
    assert actual[name].tobytes() == want.tobytes(), name


def stored(workdir: pathlib.Path, number: int) -> Any:
  """Returns the state that checkpoint `number` holds, as nested dicts of host arrays."""
  path = (workdir / "checkpoints" / str(number) / "state").absolute()
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # whatever mesh it was saved from
  with ocp.StandardCheckpointer() as reader:
    target = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
      reader.metadata(path).item_metadata.tree,
    )
    return jax.device_get(reader.restore(path, target))


def lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the lines of a JSON-lines file."""
  return [json.loads(line) for line in path.read_text().splitlines()]


def start(
  workdir: pathlib.Path, *flags: str, arg: str = "", devices: int = 8, **more: Any
) -> subprocess.Popen:
  """Starts `python -m effnets.main` on this config as a child process."""
  command = [sys.executable, "-m", "effnets.main", f"--config={__file__}:{arg}"]
  return subprocess.Popen(
    [*command, f"--workdir={workdir}", *flags],
    cwd=ROOT,
    env={
      **os.environ,
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
      "PYTHONPATH": str(ROOT),
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    **more,
  )


def free_port() -> int:
  """Returns a TCP port that is free now."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]
