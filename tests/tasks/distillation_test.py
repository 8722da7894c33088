"""The loss in the figures of a hand calculation; teachers see what students see and stay."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from effnets import configuration, errors, parallel, recipes, tasks, training, workdirs
from effnets.search import network, proxy, shared, spaces
from effnets.tasks import distillation
from tests.training import tiny

STUDENT, TEACHER = jnp.array([1.0, 2.0, 3.0]), jnp.array([3.0, 1.0, 0.2])


@pytest.mark.parametrize(
  "temperature, kl, gradient",
  [
    (1.0, 1.645049, (-0.745988, 0.131586, 0.614403)),
    (2.0, 4 * 0.492886, (-0.866144, 0.158666, 0.707479)),
    (4.0, 16 * 0.126278, None),
  ],
)
def test_divergence_is_the_hand_calculation(temperature, kl, gradient):
  soft = jax.nn.softmax(TEACHER / temperature)
  value, found = jax.value_and_grad(distillation.divergence)(STUDENT, soft, temperature)
  assert float(value) == pytest.approx(kl, rel=1e-5)
  if gradient:
    np.testing.assert_allclose(found, gradient, rtol=1e-5)
  same = jax.nn.softmax(STUDENT / temperature)
  value, found = jax.value_and_grad(distillation.divergence)(STUDENT, same, temperature)
  assert abs(value) < 1e-6 and np.abs(found).max() < 1e-6


def _config(**settings):
  config = configuration.base()
  recipes.small_images(config, steps=2, model="tests_nano")
  config.data.image_size = 16
  config.batch_size, config.eval_batch_size = 8, 200
  config.ema.decay = 0.0
  config.task.update(settings)
  return config


def _taught(folder, config, **settings):
  """Returns `config` with a run in `folder`, of 8 pixels, as its teacher."""
  teacher = _config()
  teacher.data.image_size = 8
  workdirs.claim(folder, teacher.lock())
  training.teachers.configure(config, {"one": f"run:{folder}"}, **settings)
  return config


def _batch():
  rng = np.random.default_rng(0)
  return {
    "image": rng.integers(0, 256, (8, 16, 16, 3), np.uint8),
    "label": rng.integers(0, 10, 8).astype(np.int32),
    "position": np.stack([np.zeros(8), np.arange(8)], 1).astype(np.uint32),
    "weight": np.ones(8, np.float32),
  }


def _task(config):
  placement = parallel.create({"data": 1}, devices=jax.devices()[:1])
  return tasks.create(config, placement, num_classes=10, step_batch=8)


def test_the_loss_is_both_parts_and_reaches_no_teacher(tmp_path):
  config = _taught(tmp_path / "run", _config(), weight=0.9, temperature=2.0)
  assert config.task.label_smoothing == 0
  task, batch, root = _task(config), _batch(), jax.random.key(0)
  (teacher,) = task.teachers
  assert teacher.image_size == 8
  variables, frozen = tiny.perturbed(task.init(0)), (tiny.perturbed(teacher.init(1)),)
  assert jax.tree.map(np.shape, frozen) == jax.tree.map(lambda x: x.shape, task.given)

  def loss(params, frozen):
    return task.loss({**variables, "params": params}, frozen, batch, root, 0)

  (value, aux), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
    variables["params"], frozen
  )
  assert all(not np.any(g) for g in jax.tree.leaves(gradients[1]))
  assert any(np.any(g) for g in jax.tree.leaves(gradients[0]))
  entropy, apart = (float(aux.metrics[n][0]) / 8 for n in ("cross_entropy", "divergence"))
  assert float(value) == pytest.approx(0.1 * entropy + 0.9 * apart, rel=1e-5)
  # The same, of NumPy and the two networks alone.
  images, (hard, soft), noise = task.taught(batch, root, frozen)
  np.testing.assert_array_equal(hard.argmax(-1), batch["label"])
  small = jax.image.resize(
    task._augmented(batch["image"], task._keys(batch, root, ["augment"])["augment"]).astype(float),
    (8, 8, 8, 3),
    "bilinear",
  )
  logits = np.asarray(teacher.logits(frozen[0], small), np.float64) / 2
  want = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  np.testing.assert_allclose(soft, want, rtol=1e-4)
  own, _ = task._train(task.module, variables, images, noise)
  own = np.asarray(own, np.float64) / 2
  log = own - np.log(np.exp(own).sum(-1, keepdims=True))
  assert apart == pytest.approx(4 * (want * (np.log(want) - log)).sum(-1).mean(), rel=1e-4)


def test_ensembles_average_probabilities_or_logits(tmp_path):
  config = _taught(tmp_path / "run", _config())
  config.distillation.teachers.two = config.distillation.teachers.one
  images = _batch()["image"]
  task = _task(config)
  frozen = tuple(tiny.perturbed(task.teachers[0].init(seed)) for seed in (1, 2))
  each = [_answer(task, images, (f,)) for f in frozen]
  np.testing.assert_allclose(task.answers(images, frozen), np.mean(each, 0), rtol=1e-4)
  config.distillation.ensemble = "logits"
  product = np.sqrt(each[0] * each[1])
  want = product / product.sum(-1, keepdims=True)
  np.testing.assert_allclose(_task(config).answers(images, frozen), want, rtol=1e-4)


def _answer(task, images, frozen):
  return np.asarray(task.__class__.answers(_first(task), images, frozen), np.float64)


def _first(task):
  return dataclasses.replace(task, teachers=task.teachers[:1])


@pytest.mark.parametrize(
  "key, value, words",
  [
    ("weight", 1.5, "weight=1.5 is outside"),
    ("temperature", 0.0, "temperature=0.0 is not positive"),
    ("ensemble", "mean", "ensemble='mean' is not an average"),
    ("teachers", ml_collections.ConfigDict(), "teachers is empty"),
  ],
)
def test_mistakes(tmp_path, key, value, words):
  config = _taught(tmp_path / "run", _config())
  config.distillation[key] = value
  with pytest.raises(errors.UserError, match=f"config.distillation.{words}"):
    _task(config)


@pytest.mark.slow
def test_shared_programs_distil_as_the_loop_does(tmp_path):
  """The loop and the programs of a search end at the same figures, with a teacher of the disk."""
  training.train(_config().lock(), tmp_path / "run", name="")
  space = spaces.create("mnas_tiny")
  config = _config()
  config.model = network.section("mnas_tiny")
  config.model.momentum = 0.9
  training.teachers.configure(config, {"one": f"run:{tmp_path / 'run'}"})
  child = proxy.child(config, space, (0,) * len(space), 3)
  result = training.train(child, tmp_path / "child", name="", devices=jax.devices()[:1])
  figures = shared.Shared(child).train(child)
  want = result.figures["validation"]["cross_entropy"]
  assert figures["cross_entropy"] == pytest.approx(want, rel=2e-5)
