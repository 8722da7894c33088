"""Predictions over a whole set: each readable example once, on any mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import errors, evaluation, parallel
from effnets.training import evaluator
from tests.data import fakes

MESHES = [{"data": 1}, {"data": 8}, {"data": 4, "fsdp": 2}, {"data": 2, "fsdp": 2, "space": 2}]


@dataclasses.dataclass
class Linear:
  """Logits are linear in the mean of the picture. traces: how often it was traced."""

  placement: parallel.Placement
  traces: int = 0

  def predict(self, variables, batch):
    self.traces += 1
    images = self.placement.split_images(batch["image"].astype(jnp.float32))
    return {"logits": images.mean((1, 2)) @ variables["params"]["kernel"]}

  def evaluate(self, outputs, examples, source):
    assert len(source) >= len(examples["label"])
    return evaluation.classification(outputs["logits"], examples["label"])


def make(mesh, batch_size=16, **reading):
  devices = jax.devices()[: int(np.prod(list(mesh.values())))]
  placement = parallel.create(mesh, devices=devices, min_size=1)
  kernel = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
  variables = {"params": {"kernel": kernel}}
  task = Linear(placement)
  placed = placement.put(variables, placement.state(variables))
  predictor = evaluator.Predictor(task, placement, batch_size=batch_size, **reading)
  return task, predictor, placed, kernel


def plain(source, kernel, indices):
  """Returns logits and labels of the source by a loop over it."""
  examples = [source[i] for i in indices]
  logits = np.stack([e["image"].astype(np.float32).mean((0, 1)) @ kernel for e in examples])
  return logits, np.array([e["label"] for e in examples])


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("count", [1, 16, 37])
def test_figures_are_those_of_a_plain_loop(mesh, count):
  source = fakes.Numbered(count, classes=6)
  task, predictor, variables, kernel = make(mesh)
  outputs, examples = predictor.all(variables, source)
  logits, labels = plain(source, kernel, range(count))
  np.testing.assert_array_equal(examples["index"], np.arange(count))
  np.testing.assert_array_equal(examples["label"], labels)
  np.testing.assert_allclose(outputs["logits"], logits, rtol=1e-6)
  figures = predictor.evaluate(variables, source)
  expected = evaluation.classification(logits, labels)
  assert figures.keys() == expected.keys()
  np.testing.assert_allclose([*figures.values()], [*expected.values()], rtol=1e-5)
  assert task.traces == 1  # for both calls and all batches


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_what_is_compiled_ahead_is_what_batches_take(mesh):
  source = fakes.Numbered(37, classes=6)
  task, predictor, variables, kernel = make(mesh)
  predictor.compile_ahead(variables, source)
  outputs, _ = predictor.all(variables, source)
  np.testing.assert_allclose(outputs["logits"], plain(source, kernel, range(37))[0], rtol=1e-6)
  assert task.traces == 1


@pytest.mark.parametrize("mesh", MESHES[:2], ids=str)
def test_unreadable_examples_count_for_nothing_and_shift_no_other(mesh):
  source = fakes.Numbered(37, classes=6, broken=(3, 36))
  _, predictor, variables, kernel = make(mesh, max_unreadable=0.1)
  outputs, examples = predictor.all(variables, source)
  readable = [i for i in range(37) if i not in (3, 36)]
  logits, labels = plain(source, kernel, readable)
  np.testing.assert_array_equal(examples["index"], readable)
  np.testing.assert_allclose(outputs["logits"], logits, rtol=1e-6)
  figures = predictor.evaluate(variables, source)
  assert figures["top1"] == evaluation.classification(logits, labels)["top1"]


def test_many_unreadable_examples_stop_an_evaluation():
  source = fakes.Numbered(37, broken=range(0, 37, 2))
  _, predictor, variables, _ = make({"data": 8}, max_unreadable=0.1)
  with pytest.raises(errors.UserError, match=r"config.data.max_unreadable=0.1"):
    predictor.evaluate(variables, source)


def test_sets_of_another_size_use_the_same_program():
  task, predictor, variables, _ = make({"data": 8})
  for count in (5, 16, 40):
    assert len(predictor.all(variables, fakes.Numbered(count))[1]["index"]) == count
  assert task.traces == 1
