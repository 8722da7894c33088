"""AdvProp's loss against two plain ones, and on meshes."""

import dataclasses

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import configuration, errors, models, ops, parallel, tasks
from effnets.tasks import adversarial
from tests.training import tiny

pytestmark = pytest.mark.slow  # every test compiles a network with its gradients

_BATCH = 16


def _config(**adversary):
  config = configuration.load("configs/advprop.py")
  config.model.update({"name": "tests_nano", "dropout_rate": 0.0, "drop_path_rate": 0.0})
  config.augment.shift = 0
  config.batch_size = _BATCH
  config.adversary.update(adversary)
  return config


def _task(config, mesh=None):
  mesh = mesh or {"data": 1, "fsdp": 1, "space": 1}
  devices = jax.devices()[: int(np.prod(list(mesh.values())))]
  placement = parallel.create(mesh, execution="jit", devices=devices)
  return tasks.create(config, placement, num_classes=10, step_batch=_BATCH)


def _batch():
  rng = np.random.default_rng(3)
  return {
    "image": rng.integers(0, 256, (_BATCH, 32, 32, 3), np.uint8),
    "label": rng.integers(0, 10, _BATCH).astype(np.int32),
    "position": np.stack([np.zeros(_BATCH), np.arange(_BATCH)], 1).astype(np.uint32),
    "weight": np.ones(_BATCH, np.float32),
  }


def _variables(task):
  """Returns perturbed variables whose sets are equal."""
  flat = flax.traverse_util.flatten_dict(tiny.perturbed(task.init(0)))
  same = {k: flat[(*k[:-1], k[-1].removesuffix("_1"))] for k in flat if k[-1].endswith("_1")}
  return flax.traverse_util.unflatten_dict({**flat, **same})


def _run(task, variables, batch):
  def loss(params):
    return task.loss({**variables, "params": params}, (), batch, jax.random.key(1), 0)

  (value, aux), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
  return value, aux, grads


def _paths(tree):
  return flax.traverse_util.flatten_dict(tree)


def _flat(tree):
  return {"/".join(k): np.asarray(v) for k, v in _paths(tree).items()}


@pytest.fixture(scope="module")
def plain():
  """Returns (variables, value, aux, gradients) of the same network without an adversary."""
  config = _config()
  config.task.name = "classification"
  config.model.norm_sets = 1
  task = _task(config)
  variables = models.main_set(_variables(_task(_config())))
  return variables, *_run(task, variables, _batch())


def test_without_a_perturbation_it_is_the_clean_loss_twice(plain):
  _, value, aux, grads = plain
  task = _task(_config(epsilon=0.0, step=0.0, steps=0, clean_start=1.0))
  found, found_aux, found_grads = _run(task, _variables(task), _batch())
  np.testing.assert_allclose(found, 2 * value, rtol=1e-5)
  clean, state = _flat(grads), _flat(aux.model_state)
  most = max(np.abs(v).max() for v in clean.values())
  own = _flat(found_grads)
  for name, gradient in clean.items():
    total = own[name] + own.get(f"{name}_1", 0)
    np.testing.assert_allclose(total, 2 * gradient, rtol=1e-3, atol=2e-4 * most, err_msg=name)
  for name, moment in state.items():
    for suffix in ("", "_1"):
      np.testing.assert_allclose(
        _flat(found_aux.model_state)[name + suffix], moment, rtol=1e-5, atol=1e-6, err_msg=name
      )


def test_main_norms_never_see_adversarial_images(plain):
  _, _, aux, _ = plain
  task = _task(_config())
  variables = _variables(task)
  _, found, _ = _run(task, variables, _batch())
  state = _flat(found.model_state)
  for name, moment in _flat(aux.model_state).items():
    np.testing.assert_allclose(state[name], moment, rtol=1e-5, atol=1e-6, err_msg=name)
  # The auxiliary ones see nothing else: they are those of the perturbed images, trained on alone.
  keys = task._keys(_batch(), jax.random.key(1), ("adversary", "target"))
  batch = _batch()
  aim = ops.attacks.random_targets(jnp.asarray(batch["label"]), 10, keys["target"])
  images = jax.jit(task._perturbed)(variables, batch["image"], aim, keys["adversary"])
  moved = np.abs(np.asarray(images) - batch["image"])
  assert 0 < moved.max() <= 16 + 1e-4
  metrics = {k: float(s) / float(c) for k, (s, c) in found.metrics.items()}
  assert metrics["perturbation"] == pytest.approx(moved.mean(), rel=1e-4)
  alone = task.module.clone(norm_parts=(1,))
  logits, new = jax.jit(lambda v, x: alone.apply(v, x, train=True, mutable=["batch_stats"]))(
    variables, task._inputs(images)
  )
  for name, moment in _flat(new).items():
    if name.endswith("_1"):
      np.testing.assert_allclose(state[name], moment, rtol=1e-4, atol=1e-5, err_msg=name)
  assert metrics["fooled"] == pytest.approx(
    np.mean(np.asarray(logits).argmax(-1) == np.asarray(aim)), abs=1e-6
  )
  assert metrics["passes"] == 3  # one step, and two parts


@pytest.mark.parametrize("targeted", [False, True])
def test_the_attack_works_against_the_network(targeted):
  task = _task(_config(steps=3, step=6.0, targeted=targeted))
  variables, batch = _variables(task), _batch()
  labels = jnp.asarray(batch["label"])
  keys = task._keys(batch, jax.random.key(1), ("adversary",))["adversary"]

  def entropy(images):
    logits = task.module.clone(norm_parts=(1,)).apply(variables, task._inputs(images))
    return -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), batch["label"][:, None], 1)

  images = jax.jit(task._perturbed)(variables, batch["image"], labels, keys)
  gained = entropy(images) - entropy(batch["image"])
  assert np.all(gained < 0) if targeted else np.all(gained > 0)


@pytest.mark.parametrize(
  "mesh", [{"data": 2, "fsdp": 2, "space": 1}, {"data": 2, "fsdp": 1, "space": 2}]
)
def test_meshes_give_the_same_step(mesh):
  config = _config()
  config.batch_norm.group = "4"
  one = _task(config)
  variables, batch = _variables(one), _batch()
  expected = _run(one, variables, batch)
  task = _task(config, mesh)
  placed = {k: jax.device_put(v, task.placement.batch) for k, v in batch.items()}
  whole = jax.tree.map(lambda x: jax.device_put(x, task.placement.replicated), variables)
  found = _run(task, whole, placed)
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
  most = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected[2]))
  for part in (1, 2):
    a, b = (_flat(r[part].model_state if part == 1 else r[part]) for r in (found, expected))
    for name, value in b.items():
      np.testing.assert_allclose(a[name], value, rtol=2e-3, atol=2e-3 * most, err_msg=name)


def test_explicit_collectives_give_the_same_step():
  config = _config()
  config.batch_norm.group = "8"  # reaches over two devices
  states = []
  for execution, mesh in (("jit", {"data": 1}), ("shard_map", {"data": 4})):
    config.execution = execution
    trainer = tiny.Trainer(config, {**mesh, "fsdp": 1, "space": 1})
    state, means = trainer.run(2)
    states.append((means, tiny.leaves(parallel.to_host(state.model_state))))
  (one, first), (four, second) = states
  for a, b in zip(one, four, strict=True):
    assert a == pytest.approx(b, rel=1e-3, abs=1e-4)
  for name, value in first.items():
    np.testing.assert_allclose(second[name], value, rtol=1e-2, atol=1e-4, err_msg=name)


def test_fine_grained_and_shared():
  config = configuration.load("configs/advprop.py:fine")
  config.model.name = "tests_nano"
  config.batch_size = _BATCH
  task = _task(config)
  assert task.sets == (0, 1, 2) and task.parts == ("plain", "clean", "adversarial")
  value, aux, _ = _run(task, task.init(0), _batch())
  passes, count = aux.metrics["passes"]
  assert passes / count == 4
  assert np.isfinite(float(value)) and {"clean_top1", "adversarial_top1"} <= aux.metrics.keys()
  config = _config()
  config.model.norm_sets = 1
  shared = _task(config)
  assert shared.sets == (0, 0)
  assert dataclasses.replace(shared, shared=False).sets == (0, 1)


@pytest.mark.parametrize(
  ("key", "value", "words"),
  [
    ("adversary.epsilon", 0.0314, "config.adversary.epsilon=0.0314 should be in levels"),
    ("adversary.kind", "pdg", "config.adversary.kind='pdg'.*Nearest: 'pgd'"),
    ("adversary.parts", ("clean", "adversary"), "adversary.parts='adversary'.*'adversarial'"),
    ("adversary.evaluated", 2, "evaluated=2 should be from 0 to 1"),
    ("model.norm_sets", 3, "norm_sets=3 does not go with"),
    ("task.mixup", 0.2, "config.task.mixup=0.2 does not go"),
  ],
)
def test_mistakes(key, value, words):
  config = _config()
  with config.ignore_type():
    section, _, name = key.partition(".")
    config[section][name] = value
  with pytest.raises(errors.UserError, match=words):
    _task(config)


def test_the_evaluated_set_gives_predictions_and_logits():
  main, auxiliary = (_task(_config(evaluated=index)) for index in (0, 1))
  variables = _variables(main)
  flat = flax.traverse_util.flatten_dict(variables)
  moved = {k: v + 0.3 if k[-1].endswith("_1") else v for k, v in flat.items()}
  variables = flax.traverse_util.unflatten_dict(moved)
  swapped = {(*k[:-1], k[-1].removesuffix("_1")): v for k, v in sorted(moved.items())}
  # The other set in the main one's place.
  alone = flax.traverse_util.unflatten_dict({**moved, **swapped})
  batch = _batch()
  expected = main.predict(alone, batch)["logits"]
  found = auxiliary.predict(variables, batch)["logits"]
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(found, auxiliary.logits(variables, batch["image"]))
  assert np.abs(found - main.logits(variables, batch["image"])).max() > 1e-3
  # As a plain network without auxiliary norms, to the bit.
  for task in (main, auxiliary):
    module, own = task.tested(variables)
    assert module.norm_sets == 1 and not any(k[-1].endswith("_1") for k in _paths(own))
    plain = module.apply(own, task._inputs(batch["image"]))
    np.testing.assert_array_equal(plain, task.logits(variables, batch["image"]))


def test_without_its_section():
  config = configuration.load("configs/efficientnet.py")
  config.task.name = "advprop"
  with pytest.raises(errors.UserError, match="config.adversary is missing"):
    _task(config)
  assert adversarial.PARTS


def _smallest():
  """Returns the cheapest registered model of every family."""
  names = models.list_models(task="classification")
  entries = sorted(map(models.entry, names), key=lambda entry: -entry.madds)
  return sorted(
    {entry.name.partition("_")[0].rstrip("0123456789"): entry.name for entry in entries}.values()
  )


@pytest.mark.parametrize("name", _smallest())
def test_every_family_can_be_trained(name):
  config = _config()
  config.model = {"name": name, "norm_sets": 2, "dtype": "float32"}
  task = _task(config)
  variables = task.abstract()
  value, aux = jax.eval_shape(
    lambda v, batch: task.loss(v, (), batch, jax.random.key(1), 0), variables, _batch()
  )
  assert value.shape == ()
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
  assert shapes(aux.model_state) == shapes({"batch_stats": variables["batch_stats"]})
