"""Which batch-norm group a setting means, and what a task's config refuses."""

import jax
import pytest

from effnets import errors, ops, parallel, tasks
from effnets.tasks import settings
from tests.training import tiny


def place(data=4, fsdp=2, execution="jit"):
  devices = jax.devices()[: data * fsdp]
  return parallel.create({"data": data, "fsdp": fsdp}, execution=execution, devices=devices)


@pytest.mark.parametrize(
  ("setting", "images"),
  [("local", 4), ("global", 32), ("tpu", 4), ("2", 2), (8, 8), ("16", 16), ("32", 32)],
)
@pytest.mark.parametrize("execution", ["jit", "shard_map"])
def test_groups(setting, images, execution):
  expected = ops.Group(images)
  if execution == "shard_map":
    expected = ops.Group(images, ("data", "fsdp"), 8)
  assert settings.norm_group(setting, place(execution=execution), 32) == expected


def test_the_papers_group_grows_with_the_number_of_devices():
  class Wide:  # 1,024 devices, which no test machine has
    batch_shards, execution = 1024, "jit"

  assert settings.norm_group("tpu", Wide, 4096) == ops.Group(4 * 128)


@pytest.mark.parametrize(
  ("setting", "message"),
  [
    ("lokal", r"config.batch_norm.group='lokal' is not a batch-norm group.*'local'"),
    ("3", r"config.batch_norm.group=3: 3 images do not tile a batch of 32 over 8 device\(s\) of 4"),
    ("0", r"config.batch_norm.group=0: 0 images"),
    ("64", r"config.batch_norm.group=64: 64 images"),
  ],
)
def test_groups_that_are_none(setting, message):
  with pytest.raises(errors.UserError, match=message):
    settings.norm_group(setting, place(), 32)


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("name", "clasification", r"config.task.name='clasification'.*'classification'"),
    ("label_smoothing", 1.0, r"config.task.label_smoothing=1.0 is outside \[0, 1\)"),
    ("temperature", 0.0, r"config.task.temperature=0.0 is not positive"),
    ("mixup_group", 3, r"config.task.mixup_group=3 does not divide the 2 images of a device"),
  ],
)
def test_settings_that_are_wrong(key, value, message):
  config = tiny.get_config()
  config.task.mixup = 0.2
  config.task[key] = value
  with pytest.raises(errors.UserError, match=message):
    tasks.create(config, place(), num_classes=10, step_batch=16)


def test_augmentation_is_left_out_when_nothing_is_switched_on():
  config = tiny.get_config()
  assert tasks.create(config, place(), num_classes=10, step_batch=16).policy is not None
  config.augment.shift = 0
  config.augment.randaugment.layers = 0
  assert tasks.create(config, place(), num_classes=10, step_batch=16).policy is None


@pytest.mark.parametrize(
  ("section", "key", "value"),
  [("autoaugment", "policy", "svhn"), ("erasing", "probability", 0.2), (None, "cutout", 4)],
)
def test_each_augmentation_is_switched_on_by_one_setting(section, key, value):
  config = tiny.get_config()
  config.augment.shift = 0
  config.augment.randaugment.layers = 0
  target = config.augment[section] if section else config.augment
  target[key] = value
  assert tasks.policy(config) is not None


def test_what_is_off_is_checked_too():
  config = tiny.get_config()
  config.augment.autoaugment.update({"policy": "", "fill": 999})
  with pytest.raises(errors.UserError, match=r"config.augment.autoaugment.fill=999"):
    tasks.policy(config)


def test_a_detector_is_no_classifier():
  config = tiny.get_config()
  config.model.name = "efficientdet_tiny"
  words = "config.model.name='efficientdet_tiny' is not a classifier. Nearest: 'efficientnet_tiny'"
  with pytest.raises(errors.UserError, match=words):
    tasks.create(config, place(), num_classes=10, step_batch=16)
