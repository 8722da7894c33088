"""Losses and predictions of clips against NumPy, and what is refused."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from effnets import configuration, data, errors, ops, parallel, tasks


def config(labels="one", **overrides):
  made = configuration.load(
    "configs/assemblenet.py" + (":digit_actions_several" if labels == "several" else "")
  )
  configuration.merge(made, {"batch_size": 4}, key="test")
  small = {"frames": 4, "views": 2}
  made.data.clips.update(small)
  graph = "[[-1,1],[-2,1],[0,[0,1],2,1,1,0]]"
  made.model.update({"graph": graph, "inner": (4,), "stem_channels": 4, "flow_iterations": 2})
  made.data.image_size = 16
  for key, value in overrides.items():
    configuration.override(made, key, str(value))
  return made


def create(made):
  placement = parallel.create({"data": 1}, devices=jax.devices()[:1])
  return tasks.create(made, placement, num_classes=8, step_batch=made.batch_size)


def batch(several=False, flow=False, views=0, seed=0):
  rng = np.random.default_rng(seed)
  shape = (4, *((views,) if views else ()), 4, 16, 16)
  made = {
    "clip": rng.integers(0, 256, (*shape, 3)).astype(np.uint8),
    "label": np.array([0, 3, 7, 3], np.int32),
    "position": np.stack([np.zeros(4), np.arange(4)], 1).astype(np.uint32),
    "weight": np.ones(4, np.float32),
  }
  if flow:
    made["flow"] = rng.integers(1, 256, (*shape, 2)).astype(np.uint8)
  if several:
    made["targets"] = (rng.random((4, 8)) < 0.3).astype(np.float32)
    made["targets"][2] = 0
  return {name: jnp.asarray(value) for name, value in made.items()}


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def test_one_class():
  task = create(config())
  variables, given = task.init(0), batch()
  loss, aux = task.loss(variables, (), given, jax.random.key(0), jnp.int32(0))
  # The same module on the same pixels, by moments of the batch.
  logits, _ = task.module.apply(
    variables, given["clip"] / 255.0, train=True, mutable=["batch_stats"]
  )
  p = softmax(np.asarray(logits, np.float64))
  labels = np.asarray(given["label"])
  assert float(loss) == pytest.approx(-np.log(p[range(4), labels]).mean(), rel=1e-5)
  total, count = aux.metrics["top1"]
  assert (float(total), float(count)) == ((p.argmax(-1) == labels).sum(), 4)
  assert aux.model_state["batch_stats"].keys() == variables["batch_stats"].keys()


def test_views_come_together():
  given, made = batch(views=3), config()
  task = create(made)
  variables = task.init(0)
  variables["params"]["classifier"]["kernel"] *= 50
  apart = [
    np.asarray(task.predict(variables, {"clip": given["clip"][:, v]})["logits"], np.float64)
    for v in range(3)
  ]
  together = task.predict(variables, given)["logits"]
  np.testing.assert_allclose(
    softmax(np.asarray(together, np.float64)), np.mean([softmax(x) for x in apart], 0), atol=1e-5
  )
  most = create(config(**{"task.views": "max"})).predict(variables, given)["logits"]
  highest = np.max([softmax(x) for x in apart], 0)
  np.testing.assert_array_equal(np.argmax(most, -1), highest.argmax(-1))
  several = create(config("several")).predict(variables, given)["logits"]
  sigmoid = lambda x: 1 / (1 + np.exp(-np.asarray(x, np.float64)))  # noqa: E731
  np.testing.assert_allclose(sigmoid(several), np.mean([sigmoid(x) for x in apart], 0), atol=1e-5)


def test_several_classes():
  task, given = create(config("several")), batch(several=True)
  variables = task.init(0)
  loss, aux = task.loss(variables, (), given, jax.random.key(0), jnp.int32(0))
  logits, _ = task.module.apply(
    variables, given["clip"] / 255.0, train=True, mutable=["batch_stats"]
  )
  p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
  y = np.asarray(given["targets"])
  entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(1)
  assert float(loss) == pytest.approx(entropy.mean(), rel=1e-5)
  total, count = aux.metrics["hit1"]
  best = p.argmax(1)
  some = y.sum(1) > 0
  assert (float(total), float(count)) == (y[range(4), best][some].sum(), some.sum())
  assert "map" in task.figures
  figures = task.evaluate({"logits": np.asarray(logits)}, {"targets": y})
  assert 0 < figures["map"] <= 1


def test_a_mirrored_clip_flows_the_other_way():
  made = config(**{"data.clips.flow": "stored", "augment.flip": 1.0})
  task, given = create(made), batch(flow=True)
  clip, flow = task._augmented(given, None, jax.random.split(jax.random.key(0), 4))
  np.testing.assert_array_equal(clip, given["clip"][..., ::-1, :])
  before, after = ops.flow.from_levels(given["flow"]), ops.flow.from_levels(flow)
  np.testing.assert_allclose(after[..., 0], -before[..., ::-1, 0], atol=1e-6)
  np.testing.assert_allclose(after[..., 1], before[..., ::-1, 1], atol=1e-6)


def test_augmentation_is_alike_over_time():
  task = create(config(**{"augment.shift": 3}))
  still = batch()
  still["clip"] = jnp.repeat(still["clip"][:, :1], 4, 1)
  keys = jax.random.split(jax.random.key(1), 4)
  clip, _ = task._augmented(still, keys, keys)
  np.testing.assert_array_equal(clip, jnp.repeat(clip[:, :1], 4, 1))
  assert np.any(clip != still["clip"])


def test_films_reach_the_task():
  made = config("several", **{"data.clips.flow": "stored"})
  source = data.open_source("digit_actions", "train", options={"examples": 8, "actions": 2})
  example = data.Stream(source, seed=0, transform=tasks.transform(made, training=True))[0]
  assert example["clip"].shape == (4, 16, 16, 3) and example["flow"].shape == (4, 16, 16, 2)
  assert example["targets"].shape == (8,)
  shapes = data.eval_shapes(source, 4, tasks.transform(made, training=False))
  assert shapes["clip"].shape == (4, 2, 4, 16, 16, 3)


@pytest.mark.parametrize(
  ("overrides", "words"),
  [
    ({"task.labels": "two"}, "config.task.labels='two'.*Valid: 'one', 'several'"),
    ({"task.views": "sum"}, "config.task.views='sum'"),
    ({"data.clips.frames": 0}, "config.data.clips.frames=0 should be a whole number"),
    ({"data.clips.crops": 2}, "config.data.clips.crops=2.*'1', '3'"),
    ({"data.clips.area": "(0.5, 2.0)"}, "config.data.clips.area=.*at most 1"),
    ({"data.clips.short": "drop"}, "config.data.clips.short='drop'"),
    ({"data.clips.bound": 0.0}, "config.data.clips.bound=0.0 should be above 0"),
    ({"augment.flip": 2.0}, "config.augment.flip=2.0 should be a probability"),
    ({"model.flow": "given"}, "config.model.flow='given' does not go with"),
    ({"model.frames": 9}, "config.model.frames=9 differs from config.data.clips.frames=4"),
    ({"data.clips.flow": "stored", "augment.shift": 2}, "config.augment.shift moves"),
    ({"model.name": "resnet50"}, "config.model.name='resnet50' is not a model for clips"),
    (
      {"data.clips.flow": "stored", "model.graph": "[[-1,1],[0,[0],2,1,1,0]]"},
      "no stem that reads flow",
    ),
  ],
)
def test_what_is_refused(overrides, words):
  with pytest.raises(errors.UserError, match=words):
    create(config(**overrides))


def test_unknown_settings():
  for section, key in (("task", "mixup"), ("data.clips", "stridee")):
    made = config()
    with made.unlocked():
      target = made
      for name in section.split("."):
        target = target[name]
      target[key] = 1
    with pytest.raises(errors.UserError, match=f"config.{section}='{key}'"):
      create(ml_collections.ConfigDict(made.to_dict()))
