"""What learns from which half of the batch, and mistakes."""

import jax
import numpy as np
import pytest

from effnets import configuration, errors, parallel, tasks
from tests.training import tiny

_BATCH = 16


def _config(**settings):
  config = configuration.load("configs/randaugment.py:policy=learned")
  config.model = {"name": "tests_nano", "dropout_rate": 0.0, "drop_path_rate": 0.0}
  config.model.dtype = "float32"
  config.data.image_size = 32
  config.batch_size = _BATCH // 2
  # Few operations, since all of them are compiled.
  with config.ignore_type():
    config.augment.randaugment.operations = ("identity", "invert", "solarize")
  for key, value in settings.items():
    configuration.override(config, key.replace("__", "."), str(value))
  return config


def _task(config, devices=1):
  placement = parallel.create({"data": devices}, devices=jax.devices()[:devices])
  return tasks.create(config, placement, num_classes=10, step_batch=_BATCH)


def _batch(seed=0):
  rng = np.random.default_rng(seed)
  return {
    "image": rng.integers(0, 256, (_BATCH, 32, 32, 3), np.uint8),
    "label": rng.integers(0, 10, _BATCH).astype(np.int32),
    "position": np.stack([np.zeros(_BATCH), np.arange(_BATCH)], 1).astype(np.uint32),
    "weight": np.full(_BATCH, 2, np.float32),
  }


@pytest.mark.slow
def test_each_half_teaches_its_own():
  config = _config(batch_norm__group=4)
  task = _task(config)
  variables = tiny.perturbed(task.init(0))
  assert variables["params"]["operations"]["weights"].shape == (2, 3)

  def gradients_of(task):
    def loss(params, batch):
      return task.loss({**variables, "params": params}, (), batch, jax.random.key(1), 0)

    # Compiled without effort: it runs a few times only.
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(jax.grad(loss, has_aux=True), compiler_options=options)

  gradients = gradients_of(task)
  params, first, second = variables["params"], _batch(0), _batch(1)

  def mixed(held, own):
    """Returns a batch of the held-out rows of one and the training rows of another."""
    rows = {name: np.array(value) for name, value in own.items()}
    for name in ("image", "label"):
      rows[name][0::2] = held[name][0::2]
    return rows

  (base, aux), (other_held, _), (other_own, _) = (
    gradients(params, batch) for batch in (first, mixed(second, first), mixed(first, second))
  )

  def same(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: np.allclose(x, y, rtol=1e-4, atol=1e-6), a, b))

  for name in params:
    if name == "operations":
      assert same(base[name], other_own[name]) and not same(base[name], other_held[name])
      # Of a softmax, so adding to all weights of a layer changes nothing.
      np.testing.assert_allclose(base[name]["weights"].sum(1), 0, atol=1e-5)
    else:
      assert same(base[name], other_held[name])
  assert not same(base["classifier"], other_own["classifier"])
  shares = [float(s / c) for n, (s, c) in aux.metrics.items() if n.startswith("probability_")]
  assert len(shares) == 3 and sum(shares) == pytest.approx(1)

  # The rate multiplies that gradient alone; two devices compute what one does.
  halves, _ = gradients_of(_task(_config(batch_norm__group=4, learning__rate=5.0), 2))(
    params, first
  )
  halves["operations"]["weights"] *= 2
  tiny.assert_close(halves, base, tolerance=1e-4)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"data__unlabelled__source": ""}, "unlabelled.source='' with ratio=1.0: .*as many held-out"),
    ({"data__unlabelled__ratio": 2.0}, "with ratio=2.0: .*set ratio to 1"),
    ({"accumulate": 2}, "config.accumulate=2 .*whole batches"),
    ({"augment__randaugment__layers": 0}, "randaugment.layers=0 does not go .*set it to 2"),
    ({"augment__randaugment__magnitude": 40}, "randaugment.magnitude=40.0 is not a number"),
    ({"augment__operations_first": True}, "operations_first=True does not go .*set it to False"),
    ({"task__mixup": 0.2}, "task.mixup=0.2 does not go with config.task.name='learned_op"),
    ({"learning__rate": 0.0}, "config.learning.rate=0.0 is not a number above 0"),
    ({"learning__rat": 2.0}, "config.learning='rat' is not a setting.*Nearest: 'rate'"),
  ],
)
def test_mistakes(settings, message):
  with pytest.raises(errors.UserError, match=message):
    _task(_config(**settings))


def test_they_start_equal_and_nothing_is_computed_for_their_shape():
  task = _task(_config())
  assert not task.init(0)["params"]["operations"]["weights"].any()
  shapes = task.abstract()["params"]["operations"]["weights"]
  assert (shapes.shape, shapes.dtype) == ((2, 3), np.float32)
