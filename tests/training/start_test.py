"""Trainings and evaluations that begin with somebody's weights."""

import flax.traverse_util
import numpy as np
import pytest

from effnets import configuration, errors, models, training, weights
from effnets.weights import catalog
from tests.training import tiny

NAME = "tf_mobilenetv3_small_minimal_100"


@pytest.fixture(scope="module")
def state_dict(tmp_path_factory):
  """Returns the path of a state dict of timm's with ten classes."""
  module = catalog.find(NAME).architecture.create(10)
  variables = tiny.perturbed(models.init(module, 7, image_size=32))
  path = tmp_path_factory.mktemp("weights") / "ten.npz"
  np.savez(path, **weights.to_timm(module, variables))
  return path


def _config(path, **data):
  config = configuration.base()
  weights.configure(config, f"{NAME}:{path}")
  config.train.steps = 1
  config.data.update({"image_size": 32, **data})
  return config


def _leaves(tree):
  return {"/".join(k): np.asarray(v) for k, v in flax.traverse_util.flatten_dict(tree).items()}


def _task(config, num_classes):
  return training.results.model(config, num_classes)[0]


def test_variables_are_those_of_the_file(state_dict):
  config = _config(state_dict)
  found = _leaves(training.start.variables(config, _task(config, 10)))
  expected = _leaves(weights.load(NAME, state_dict).variables)
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_head_of_other_classes_needs_leave(state_dict):
  config = _config(state_dict)
  task = _task(config, 7)
  with pytest.raises(errors.UserError, match="has 10 classes, 7 are needed; --config.new_head"):
    training.start.variables(config, task)
  config.new_head = True
  found = _leaves(training.start.variables(config, task))
  expected = _leaves(weights.load(NAME, state_dict).variables)
  fresh = _leaves(task.init(config.seed))
  assert found["params/classifier/kernel"].shape == (1024, 7)
  for name, value in found.items():
    kept = fresh if name.startswith("params/classifier") else expected
    np.testing.assert_array_equal(value, kept[name], err_msg=name)


def test_another_network_is_refused(state_dict):
  config = _config(state_dict)
  config.model.width = 0.5
  with pytest.raises(errors.UserError, match="another network than config.model") as caught:
    training.start.variables(config, _task(config, 10))
  assert "params/block_0/" in str(caught.value) or "batch_stats" in str(caught.value)


def test_auxiliary_norms_start_as_the_main_ones(state_dict):
  config = _config(state_dict)
  config.model.norm_sets = 2
  found = _leaves(training.start.variables(config, _task(config, 10)))
  expected = _leaves(weights.load(NAME, state_dict).variables)
  extra = [name for name in found if name.endswith("_1") and name not in expected]
  assert len(extra) == sum("/norm/" in name for name in expected)
  for name in extra:
    np.testing.assert_array_equal(found[name], expected[name.removesuffix("_1")], err_msg=name)


def test_what_a_task_learned_beside_the_network_stays_behind():
  learned = configuration.load("configs/randaugment.py:policy=learned")
  plain = configuration.load("configs/randaugment.py")
  tasks = {name: _task(c, 10) for name, c in (("learned", learned), ("plain", plain))}
  weights_of = {name: tiny.perturbed(task.init(3)) for name, task in tasks.items()}
  weights_of["learned"]["params"]["operations"]["weights"] += 1
  kept = training.start.fit(weights_of["learned"], tasks["plain"], plain)
  found, expected = _leaves(kept), _leaves(weights_of["learned"])
  assert expected.keys() - found.keys() == {"params/operations/weights"}
  assert all((found[name] == expected[name]).all() for name in found)
  anew = _leaves(training.start.fit(weights_of["plain"], tasks["learned"], learned))
  assert not anew.pop("params/operations/weights").any()
  assert all((anew[n] == leaf).all() for n, leaf in _leaves(weights_of["plain"]).items())


@pytest.mark.slow
def test_a_training_starts_from_a_run_and_needs_it_no_more(tmp_path):
  first = tiny.get_config("steps=4")
  result = training.train(first, tmp_path / "first")
  config = tiny.get_config("steps=4")
  weights.configure(config, f"run:{tmp_path / 'first'}")
  config.optimizer.learning_rate = 1e-30
  config.ema.decay = 0.0
  second = training.train(config, tmp_path / "second")
  before, after = _leaves(result.variables), _leaves(second.variables)
  for name in before:
    if name.startswith("params"):
      np.testing.assert_allclose(after[name], before[name], rtol=0, atol=1e-7, err_msg=name)
  # What is restored is the run itself; where it started from may be gone.
  (tmp_path / "first").rename(tmp_path / "gone")
  restored = training.results.restore(config, tmp_path / "second")
  assert restored.class_names == tuple("0123456789")
  again = _leaves(restored.variables)
  for name, value in after.items():
    np.testing.assert_array_equal(again[name], value, err_msg=name)
