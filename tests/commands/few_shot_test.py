"""`--mode=few_shot` on fresh features of the smallest network."""

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest

from effnets import augment, commands, data, errors, evaluation, parallel, training
from tests.training import tiny


@pytest.fixture(scope="module")
def trained():
  config = tiny.get_config()
  task, placement = training.results.model(config)
  variables = tiny.perturbed(task.init(3))
  return training.results.Trained(
    config=config,
    task=task,
    placement=placement,
    variables=placement.put(variables, placement.state(variables)),
    step=0,
    about={"weights": "none"},
  )


@pytest.fixture
def call(trained, tmp_path, monkeypatch):
  """Returns a function from settings to what the command leaves in the workdir."""

  def run(split=None, **settings):
    config = tiny.get_config()
    config.few_shot.update(settings)
    config.data.split.update(split or {})
    opened = dataclasses.replace(trained, config=config)
    module = sys.modules[commands.few_shot.__module__]
    monkeypatch.setattr(module, "open_classifier", lambda *_, **__: opened)
    commands.few_shot(config, str(tmp_path / "run"))
    return json.loads((tmp_path / "run" / "few_shot.json").read_text())

  return run


def _features(trained, split):
  source = data.open_source("digits", split)
  examples = [source[i] for i in range(len(source))]
  images = np.stack([example["image"] for example in examples])
  inputs = augment.normalize(images, trained.task.mean, trained.task.std)
  apply = jax.jit(lambda v, x: trained.task.module.apply(v, x, method="features"))
  ends = apply(parallel.to_host(trained.variables), inputs)
  return np.asarray(ends["pooled_features"]), np.array([e["label"] for e in examples])


def test_figures_are_those_of_the_features(trained, call, capsys):
  found = call(shots=(1, 8), draws=2)
  parts = [_features(trained, split) for split in ("train", "validation", "test")]
  for shots, row in zip((1, 8), found["few_shot"], strict=True):
    expected = evaluation.few_shot_accuracy(*parts, 10, shots=shots, draws=2)
    assert row["shots"] == shots and row["draws"] == pytest.approx(expected.test, abs=0.006)
    assert row["test_top1"] == pytest.approx(np.mean(row["draws"]))
  # Untrained features know something of digits, and more of them more.
  assert 0.15 < found["few_shot"][0]["test_top1"] < found["few_shot"][1]["test_top1"]
  assert found["data"] == "digits" and found["weights"] == "none"
  assert f"{found['few_shot'][1]['test_top1']:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"shots": (1, 200)}, "200 examples of each class.*'0' has 118, .*6 other.*there can be: 114"),
    ({"features": "pooled"}, "few_shot.features='pooled' is not an end.*'pooled_features'"),
    ({"split": {"validation": "test"}}, r"validation='test' is the test split too.*l2=\(1.0,\)"),
  ],
)
def test_mistakes(call, tmp_path, settings, message):
  with pytest.raises(errors.UserError, match=message):
    call(**settings)
  assert not (tmp_path / "run").exists()


def test_one_penalty_needs_no_validation(call):
  found = call(shots=(2,), draws=1, l2=(4.0,), split={"validation": "test"})
  assert found["few_shot"][0]["l2"] == 4.0
