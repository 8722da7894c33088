"""The multi-task loss against the sheet's values and a slow NumPy computation."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from effnets import (
  commands,
  configuration,
  data,
  errors,
  models,
  parallel,
  recipes,
  tasks,
  training,
)
from effnets.data import glue
from effnets.data.toy_glue import SIZES
from effnets.tasks import text

PLACEMENT = parallel.create({"data": 1}, devices=jax.devices()[:1])


def _task(names="rte,mnli,sts", **settings):
  problems = glue.tasks(names.split(","))
  encoder = models.create(
    "bert_tiny", vocab_size=70, depth=1, width=8, heads=2, hidden=8, positions=24
  )
  module = models.bert.WithHeads(encoder, tuple((p.name, p.units) for p in problems))
  return text.Text(module, PLACEMENT, problems, 24, **settings)


def _losses(made, outputs, step=0, **batch):
  """Returns the losses of texts of the first task."""
  count = len(outputs)
  whole = {
    "task": np.zeros(count, int),
    "label": np.full(count, -1),
    "value": np.zeros(count),
    **batch,
  }
  losses, _ = made.losses(jnp.asarray(outputs), jax.tree.map(jnp.asarray, whole), step)
  return np.asarray(losses)


@pytest.mark.parametrize("progress,loss", [(0.0, 0.851835), (0.25, 0.909869), (1.0, 1.083969)])
def test_annealed_cross_entropy(progress, loss):
  # Sheet, check 7.
  batch = {
    "label": np.array([1]),
    "targets": np.array([[2.0, 0.0, -1.0]]),
    "taught": np.array([True]),
  }
  outputs = np.array([[0.5, 0.2, -0.3]])
  annealed = _task("mnli", total_steps=400)
  found = _losses(annealed, outputs, int(400 * progress), **batch)
  assert found[0] == pytest.approx(loss, abs=1e-6)
  fixed = _task("mnli", distillation="fixed", gold_weight=progress)
  assert _losses(fixed, outputs, 7, **batch)[0] == pytest.approx(loss, abs=1e-6)
  # Without a teacher, the gold label alone.
  alone = _losses(annealed, outputs, 0, **{**batch, "taught": np.array([False])})
  assert alone[0] == pytest.approx(1.083969, abs=1e-6)
  del batch["targets"], batch["taught"]
  assert _losses(annealed, outputs, 0, **batch)[0] == pytest.approx(1.083969, abs=1e-6)


def test_annealed_squares():
  batch = {"value": np.array([0.8]), "targets": np.array([[0.7]]), "taught": np.array([True])}
  made = _task("sts", total_steps=4)
  assert _losses(made, np.array([[0.6]]), 1, **batch)[0] == pytest.approx(0.015625)


def test_a_temperature_softens_the_teacher_alone():
  made = _task("mnli", distillation="fixed", gold_weight=0.0, temperature=2.0)
  theirs, ours = np.array([2.0, 0.0, -1.0]), np.array([0.5, 0.2, -0.3])
  soft = np.exp(theirs / 2) / np.exp(theirs / 2).sum()
  expected = -(soft * (ours - np.log(np.exp(ours).sum()))).sum()
  batch = {"label": np.array([1]), "targets": theirs[None], "taught": np.array([True])}
  assert _losses(made, ours[None], **batch)[0] == pytest.approx(expected, rel=1e-5)


def _batch(made, source, rows, weight=None):
  stream = data.Stream(source, seed=0, shuffle=False)
  examples = [stream[int(row)] for row in rows]
  batch = {name: np.stack([e[name] for e in examples]) for name in examples[0]}
  if weight is not None:
    batch["weight"] = np.asarray(weight, np.float32)
  return batch


SOURCE = data.open_source("toy_glue", "train", options={"tasks": "rte,mnli,sts"})
# Where the second and the third task begin.
MNLI = SIZES["rte"][0]
STS = MNLI + SIZES["mnli"][0]


def test_the_loss_of_a_mixed_batch():
  made = _task(reduction="mean", total_steps=10)
  rows = [0, 1, MNLI, STS, STS + 1, MNLI + 9]
  weight = [1.0, 0.5, 2.0, 1.0, 3.0, 1.0]
  batch = _batch(made, SOURCE, rows, weight)
  quiet = dataclasses.replace(
    made, module=made.module.clone(dropout_rate=0.0, backbone=_quiet(made.module.backbone))
  )
  variables = quiet.init(0)
  logits = np.asarray(quiet.predict(variables, batch)["logits"], np.float64)
  expected = []
  for row, line in zip(rows, logits, strict=True):
    example = SOURCE.example(row)
    if row >= STS:
      expected.append((line[5] - example.value / 5) ** 2)
    else:
      own = line[:2] if row < MNLI else line[2:5]
      expected.append(np.log(np.exp(own).sum()) - own[example.label])
  mean = np.mean(np.array(weight) * expected)
  value, aux = quiet.loss(variables, (), batch, jax.random.key(0), jnp.int32(3))
  assert float(value) == pytest.approx(mean, rel=1e-5)
  summed = dataclasses.replace(quiet, reduction="sum", step_texts=6)
  value, _ = summed.loss(variables, (), batch, jax.random.key(0), jnp.int32(3))
  assert float(value) == pytest.approx(6 * mean, rel=1e-5)
  counts = {name: float(count) for name, (_, count) in aux.metrics.items()}
  assert counts["rte_loss"] == counts["rte_accuracy"] == 2 and counts["sts_loss"] == 2


def _quiet(encoder):
  return encoder.clone(dropout_rate=0.0, attention_dropout_rate=0.0)


def test_heads_of_other_tasks_get_no_gradient():
  # Sheet, check 13.
  made = _task()
  batch = _batch(made, SOURCE, range(4))
  variables = made.init(0)
  loss = lambda v: made.loss(v, (), batch, jax.random.key(0), jnp.int32(0))[0]  # noqa: E731
  grads = jax.grad(loss)(variables)["params"]
  assert not np.any(grads["task_specific_mnli"]["kernel"])
  assert not np.any(grads["task_specific_sts"]["bias"])
  assert np.abs(grads["task_specific_rte"]["kernel"]).max() > 0
  assert np.abs(grads["backbone"]["layer_0"]["query"]["kernel"]).max() > 0


def test_figures_are_of_each_tasks_examples():
  made = _task("rte,sts")
  source = data.open_source("toy_glue", "dev", options={"tasks": "sts,rte"})  # another order
  batch = {
    "task": np.array([1, 1, 1, 1, 0, 0, 0]),
    "label": np.array([0, 1, 1, -1, 0, 0, 0]),
    "value": np.array([0, 0, 0, 0, 0.1, 0.5, 0.9], np.float32),
    "cut": np.array([0, 0, 3, 0, 0, 1, 0]),
  }
  logits = np.zeros((7, 3))
  logits[:4, 0] = [1, -1, 1, 1]
  logits[4:, 2] = [0.2, 0.3, 0.4]
  figures = made.evaluate({"logits": logits}, batch, source)
  assert figures["rte_accuracy"] == pytest.approx(2 / 3)
  assert figures["sts_spearman"] == pytest.approx(1) == figures["sts_pearson"]
  assert figures["average"] == pytest.approx((2 / 3 + 1) / 2)
  assert (figures["truncated"], figures["examples"]) == (2, 7)
  assert set(figures) == set(made.figures)


def _config(**changes):
  config = configuration.base()
  recipes.texts.toy_glue(config, steps=2)
  for key, value in changes.items():
    configuration.override(config, key.replace("__", "."), value)
  return ml_collections.ConfigDict(config)


@pytest.mark.parametrize(
  "changes,words",
  [
    ({"task__distillation": "on"}, "config.task.distillation='on' is not one of its values"),
    ({"task__gold_weight": "1.5"}, "config.task.gold_weight=1.5 should be a number from 0"),
    ({"task__temperature": "0"}, "config.task.temperature=0.0 should be a number above 0"),
    ({"model__name": "mixnet_s"}, "config.model.name='mixnet_s' is not an encoder of texts"),
    ({"model__positions": "20"}, "length=24 is more than the 20 positions"),
  ],
)
def test_wrong_configs(changes, words):
  with pytest.raises(errors.UserError, match=words):
    tasks.create(_config(**changes), PLACEMENT, num_classes=16, step_batch=32)


@pytest.mark.parametrize("size", [69, 134])
def test_a_vocabulary_of_another_network(size):
  config = _config(model__vocab_size=str(size))
  words = rf"has 70 entries .*config.model.vocab_size={size}, has another number"
  with pytest.raises(errors.UserError, match=words):
    training.prepare(config)
  training.prepare(_config(model__vocab_size="128"))


def test_splits_without_answers(tmp_path):
  data.toy_glue.write(tmp_path)
  for file in (tmp_path / "answers").iterdir():
    file.unlink()
  config = _config(data__source=f"glue:{tmp_path}")
  config.data.options.update({"vocabulary": str(tmp_path / "vocab.txt"), "length": 24})
  with pytest.raises(errors.UserError, match="test: the answers of cola are hidden, so nothing"):
    training.prepare(config)
  config.data.split.test = "dev"
  training.prepare(config)


def test_a_config():
  made = tasks.create(_config(), PLACEMENT, num_classes=16, step_batch=8, total_steps=2)
  assert (made.num_classes, made.step_texts, made.total_steps) == (16, 48, 2)
  assert made.figures[0] == "average" and "cola_matthews" in made.figures
  with pytest.raises(errors.UserError, match="have 16 outputs, the data or the run has 5"):
    tasks.create(_config(), PLACEMENT, num_classes=5, step_batch=8)


def test_modes_for_pictures_say_so(tmp_path):
  with pytest.raises(errors.UserError, match="--mode=show is for pictures"):
    commands.show(_config(), str(tmp_path))
