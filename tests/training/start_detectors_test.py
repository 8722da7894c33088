"""Detectors that start from weights: their own, with other classes, or a classifier's as body."""

import jax
import numpy as np
import pytest

from effnets import configuration, errors, models, parallel, recipes, tasks, weights
from effnets.training import start
from tests.training import tiny


def config_of(name="efficientdet_d0", **model):
  config = configuration.base()
  recipes.digit_scenes(config, name, steps=1)
  config.model.update(model)
  return config


def task_of(config, classes=10):
  placement = parallel.create({"data": 1}, devices=jax.devices()[:1])
  return tasks.create(config, placement, num_classes=classes, step_batch=4)


def leaves(tree):
  return {
    jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(tree)
  }


def test_a_classifier_becomes_the_body_and_the_rest_is_fresh():
  config = config_of("efficientdet_tiny")
  config.weights = "a classifier"
  task = task_of(config)
  body = tiny.perturbed(models.init(models.create("efficientnet_tiny", 10), 3, image_size=64))
  found, fresh, given = leaves(start.fit(body, task, config)), leaves(task.init(0)), leaves(body)
  assert found.keys() == fresh.keys()
  for path, value in found.items():
    own = path.replace("['backbone']", "")
    expected = given[own] if "['backbone']" in path else fresh[path]
    np.testing.assert_array_equal(value, expected)


def test_another_body_is_told():
  config = config_of("efficientdet_tiny")
  config.weights = "another"
  other = models.init(models.create("mobilenetv3_tiny", 10), 0, image_size=64)
  with pytest.raises(errors.UserError, match="not those of the body of 'efficientdet_tiny'"):
    start.fit(other, task_of(config), config)


def test_a_detector_of_other_classes_keeps_all_but_their_prediction():
  config = config_of("efficientdet_tiny")
  config.weights = "another"
  theirs = tiny.perturbed(task_of(config, 4).init(1))
  task = task_of(config, 10)
  with pytest.raises(errors.UserError, match="config.new_head=True"):
    start.fit(theirs, task, config)
  config.new_head = True
  found, given, fresh = (
    leaves(start.fit(theirs, task, config)),
    leaves(theirs),
    leaves(task.init(0)),
  )
  new = {p for p in found if found[p].shape != given[p].shape}
  assert new and all("class_head" in path and "predict" in path for path in new)
  for path, value in found.items():
    np.testing.assert_array_equal(value, (fresh if path in new else given)[path])


def test_a_config_takes_the_network_of_published_detectors():
  config = config_of()
  weights.configure(config, "efficientdet_d1:somewhere.safetensors")
  assert config.model.name == "efficientdet_d1" and config.data.image_size == 640
  assert config.model.padding == "SYMMETRIC" and config.data.scenes.fill == "mean"
  weights.configure(config, "tf_efficientdet_d0_ap:somewhere.safetensors")
  assert config.data.scenes.fill == "black" and tuple(config.data.mean) == (0.5, 0.5, 0.5)
  assert not task_of(config).exact_padding
  with pytest.raises(errors.UserError, match="write 'tf_efficientdet_d0:PATH'"):
    weights.configure(config, "tf_efficientdet_d0")
  with pytest.raises(errors.UserError, match="start from a detector's config"):
    weights.configure(configuration.base(), "tf_efficientdet_d0:x.npz")
