"""From a config to what the loop takes, and what is refused on the way."""

import jax
import numpy as np
import optax
import pytest

from effnets import configuration, errors, parallel, tasks, training
from effnets.training import inputs
from tests.data import fakes
from tests.training import tiny


def test_the_shapes_of_a_batch_are_those_of_the_batches():
  config = tiny.get_config()
  config.batch_size = 4
  config.data.unlabelled.update({"source": "soft", "ratio": 3.0})
  examples = inputs.training(config, {"soft": tiny.Soft()})
  assert (examples.batch_size, examples.labelled, examples.epoch) == (16, 4, 1197)
  placement = parallel.create({"data": 4, "fsdp": 2})
  with inputs.batches(config, placement, examples, start=32) as batches:
    batch = next(batches)
  shapes = examples.abstract_batch(placement)
  assert shapes.keys() == batch.keys()
  for name, shape in shapes.items():
    assert (shape.shape, shape.dtype) == (batch[name].shape, batch[name].dtype), name
    assert shape.sharding == batch[name].sharding
  np.testing.assert_array_equal(batch["position"][:, 1], np.arange(32, 48))
  # The loss is the labelled mean plus ratio times the unlabelled mean.
  soft = np.asarray(batch["soft"])
  assert soft.sum() == 12
  np.testing.assert_allclose(np.asarray(batch["weight"])[soft], 3.0 * 16 / 12)
  np.testing.assert_allclose(np.asarray(batch["weight"])[~soft], 16 / 4)


class Alike(fakes.Numbered):
  """Pictures of class 0 of four; with soft labels if they are asked for."""

  def __getitem__(self, index):
    example = {**super().__getitem__(index), "label": np.int32(0)}
    if self._soft:
      example["probabilities"] = np.array([0.7, 0.2, 0.05, 0.05], np.float32)
    return example


@pytest.mark.parametrize(
  ("ratio", "total", "mean"),
  # The sheet's check 3: as the official code adds up, and the mean over the whole batch.
  [(1.0, 1.480379, 0.740190), (3.0, 3.260759, 0.815190), (14.0, 13.052845, 0.870190)],
)
def test_the_loss_of_a_mixture(ratio, total, mean):
  config = tiny.get_config()
  config.batch_size = 2
  config.data.source = "true"
  config.data.unlabelled.update({"source": "soft", "ratio": ratio})
  sources = {name: Alike(9, size=32, classes=4, soft=name == "soft") for name in ("true", "soft")}
  placement = parallel.create({"data": 1}, devices=jax.devices()[:1])
  config.batch_norm.group = "local"
  for average, expected in ((False, total), (True, mean)):
    config.data.unlabelled.average = average
    examples = inputs.training(config, sources)
    size = examples.batch_size
    assert size == 2 + 2 * ratio
    batch = [examples.stream[i] for i in range(size)]
    batch = {name: np.stack([e[name] for e in batch]) for name in batch[0]}
    task = tasks.create(config, placement, num_classes=4, step_batch=size)
    logits = np.tile(np.array([2.0, 1.0, 0.0, -1.0], np.float32), (size, 1))
    entropy = optax.softmax_cross_entropy(logits, task.targets(batch))
    np.testing.assert_allclose(np.mean(batch["weight"] * entropy), expected, rtol=1e-5)


def test_durations():
  config = tiny.get_config()
  examples = inputs.training(config, {})
  assert inputs.total_steps(config, examples) == 12
  assert inputs.every(config.checkpoint, "config.checkpoint", examples, 12) == 4
  config.train.update({"steps": 0, "epochs": 2.0})
  assert inputs.total_steps(config, examples) == 149  # 2 * 1197 / 16, rounded down


def test_pictures_of_the_right_size_are_left_as_they_are():
  config = tiny.get_config()
  assert inputs.evaluation_transform(config, fakes.Numbered(3, size=32)) is None
  made = inputs.evaluation_transform(config, fakes.Numbered(3, size=48))
  example = made({"image": np.zeros((48, 48, 3), np.uint8), "label": 0}, None)
  assert example["image"].shape == (32, 32, 3)


@pytest.mark.parametrize(
  ("name", "given", "kept"), [("tiny", -1, 1), ("b0", -1, 1 / 2), ("tiny", 32, 1 / 2)]
)
def test_the_evaluation_crop_is_the_models_own(name, given, kept):
  config = configuration.base()
  config.model.name = f"efficientnet_{name}"
  config.data.crop_padding = given
  made = inputs.evaluation_transform(config, fakes.Numbered(3, size=None))
  # A picture with a white square in its middle half.
  image = np.zeros((64, 64, 3), np.uint8)
  image[16:48, 16:48] = 255
  shown = made({"image": image, "label": 0}, None)["image"]
  assert (shown > 127).mean() == pytest.approx((0.5 / kept) ** 2, abs=0.02)


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("batch_size", 12, r"config.batch_size=12 does not divide over .*=8 device.*nearest: 8 or 16"),
    ("eval_batch_size", 20, r"config.eval_batch_size=20 does not divide .*nearest: 16 or 24"),
    ("batch_size", 0, r"config.batch_size=0 should be at least 1"),
    ("accumulate", 4, r"config.batch_size=16 .* x 4 accumulation steps; nearest: 32"),
    ("accumulate", 0, r"config.accumulate=0 should be at least 1"),
    ("log_every_steps", 0, r"config.log_every_steps=0 should be"),
    ("seed", -1, r"config.seed=-1 should be from 0 to"),
    ("seed", 2**32, r"config.seed=4294967296 should be"),
    ("ema.decay", 1.0, r"config.ema.decay=1.0 should be at least 0 and below 1"),
    ("checkpoint.keep", 0, r"config.checkpoint.keep=0 should be"),
    ("checkpoint.best_mode", "maximum", r"config.checkpoint.best_mode='maximum' is not .*'max'"),
    ("data.image_size", 0, r"config.data.image_size=0 should be"),
    ("data.source", "digts", r"config.data.source='digts'.*digits"),
    ("data.split.train", "trian", r"config.data.split.*'trian'.*'train'"),
    ("model.name", "tests_nona", r"config.model.name='tests_nona'.*'tests_nano'"),
    ("train.steps", 0, r"config.train"),
    ("optimizer.learning_rate", -0.1, r"config.optimizer.learning_rate=-0.1 is not a positive"),
    ("mesh.data", 3, r"config.mesh=.* there are 8"),
  ],
)
def test_mistakes_are_found_before_anything_is_compiled(key, value, message, monkeypatch):
  def fail(*args, **kwargs):
    pytest.fail("compiled")

  monkeypatch.setattr(jax, "jit", fail)
  config = tiny.get_config()
  *sections, name = key.split(".")
  section = config
  for part in sections:
    section = section[part]
  section[name] = value
  with pytest.raises(errors.UserError, match=message):
    training.prepare(config)
