"""Sweeps of a model of two blocks and a few steps: runs, ranking, resume, and what they refuse."""

import functools
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from rich import console as rich_console

from effnets import commands, configuration, errors, pipelines, recipes, training
from effnets.models import efficientnet, registry, stage_tables
from effnets.pipelines import sweep

ROWS = (stage_tables.Row("mbconv", 3, 2, 1, 8, 1), stage_tables.Row("mbconv", 3, 2, 1, 8, 1))


@pytest.fixture(scope="module", autouse=True)
def nano():
  """A registered model that compiles in a second or two."""
  build = functools.partial(efficientnet.efficientnet, stage_tables.Table(8, ROWS, 16))
  registry.register(registry.Entry("efficientnet_nano", build, None, 32, 0.2, 0.2, 0, 0))
  yield
  del registry._ENTRIES["efficientnet_nano"]


def nano_config(**settings):
  config = configuration.load("configs/efficientnet.py")
  changes = {
    "batch_size": 16,
    "eval_batch_size": 400,
    "log_every_steps": 2,
    "tensorboard": False,
    "train": {"steps": 2},
    "model": {"name": "efficientnet_nano"},
    "augment": {"shift": 0},
    "evaluation": {"every_percent": 100.0},
    "checkpoint": {"every_percent": 100.0},
  }
  configuration.merge(config, changes, key="changes")
  config.pipeline = recipes.sweep(**settings)
  return config.lock()


TWO = {"plain": {}, "fast": {"optimizer": {"learning_rate": 0.1}}}


def run(config, workdir):
  """Returns the result and what was printed at 80 columns."""
  out = io.StringIO()
  pipelines.run(config, str(workdir), rich_console.Console(file=out, width=80))
  return json.loads((workdir / "result.json").read_text()), out.getvalue()


def spy(monkeypatch, figures=None):
  """Replaces training: returns the list of what was trained; figures(name, seed) -> top-1."""
  trained, real = [], training.train

  def train(config, workdir, *, name):
    trained.append(name)
    if figures is None:
      return real(config, workdir, name=name)
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(configuration.to_json(config))
    top1 = figures(workdir.parent.name, config.seed)
    splits = {"validation": {"top1": top1}, "test": {"top1": top1 / 2}}
    return training.Result(splits, config.train.steps, 3.0, None)

  monkeypatch.setattr(training, "train", train)
  return trained


@pytest.mark.slow
def test_every_run_is_trained_at_every_seed_and_kept(tmp_path, monkeypatch, capsys):
  config, workdir = nano_config(runs=TWO, seeds=(0, 1)), tmp_path / "run"
  trained = spy(monkeypatch)
  result, printed = run(config, workdir)
  assert trained == ["fast, seed 0", "plain, seed 0", "fast, seed 1", "plain, seed 1"]
  for name in TWO:
    tops = []
    for seed in (0, 1):
      saved = json.loads((workdir / name / f"seed_{seed}" / "config.json").read_text())
      assert saved["seed"] == seed and saved["pipeline"] == {"name": ""}
      assert saved["optimizer"]["learning_rate"] == {"plain": 0.016, "fast": 0.1}[name]
      own = json.loads((workdir / name / f"seed_{seed}" / "result.json").read_text())
      tops.append(own["figures"]["test"]["top1"])
    assert result["runs"][name]["test_top1"] == tops
    mean, error = np.mean(tops), np.std(tops, ddof=1) / np.sqrt(2)
    assert f"{mean:.2%} ± {error:.2%}" in printed
  check_a_cut_run_alone_is_trained_again(config, workdir, result, trained)
  check_evaluate_takes_the_best_run(config, workdir, result, capsys)


def check_a_cut_run_alone_is_trained_again(config, workdir, result, trained):
  del trained[:]
  first = (workdir / "result.json").read_bytes()
  again, _ = run(config, workdir)
  assert not trained and again == result and (workdir / "result.json").read_bytes() == first
  (workdir / "plain" / "seed_1" / "result.json").unlink()
  again, _ = run(config, workdir)
  assert trained == ["plain, seed 1"]
  for name in TWO:
    assert again["runs"][name]["test_top1"] == result["runs"][name]["test_top1"]


def check_evaluate_takes_the_best_run(config, workdir, result, capsys):
  commands.evaluate(config, str(workdir))
  figures = json.loads((workdir / "evaluation.json").read_text())
  best = result["best"]
  assert figures["run"] == f"{best}/seed_0"
  assert figures["test"]["top1"] == result["runs"][best]["test_top1"][0]
  capsys.readouterr()


def test_the_table_ranks_by_the_mean(tmp_path, monkeypatch):
  values = {"plain": (0.5, 0.6, 0.7), "fast": (0.9, 0.1, 0.2), "third": (0.6, 0.7, 0.8)}
  trained = spy(monkeypatch, lambda name, seed: values[name][seed])
  config = nano_config(runs={**TWO, "third": {"model": {"width": 2.0}}}, seeds=(0, 1, 2))
  result, printed = run(config, tmp_path / "run")
  assert len(trained) == 9
  # Means 0.6, 0.4 and 0.7; an arithmetic series of step 0.1 has the standard error 0.1 / sqrt(3).
  assert list(result["runs"]) == ["third", "plain", "fast"] and result["best"] == "third"
  lines = [line.split() for line in printed.splitlines()]
  ranked = [line for line in lines if line and line[0] in values]
  assert [line[0] for line in ranked] == ["third", "plain", "fast"]
  assert ranked[0][3:6] == ["70.00%", "±", "5.77%"] and ranked[0][6:] == ["35.00%", "±", "2.89%"]
  assert max(map(len, printed.splitlines())) <= 80
  assert result["seconds"] == 27.0
  # Two 3x3 depthwise kernels of 8 (16) channels and so on: the wider model has more of all.
  for figure in ("params", "madds"):
    assert result["runs"]["third"][figure] > result["runs"]["plain"][figure] > 0
  picture = np.asarray(Image.open(tmp_path / "run" / "plots" / "sweep.png").convert("RGB"))
  assert min(picture.shape[:2]) > 200


def test_counts_are_those_of_the_layers(tmp_path, monkeypatch):
  spy(monkeypatch, lambda name, seed: 0.5)
  result, _ = run(nano_config(runs={"one": {}}), tmp_path / "run")
  # 32 px: stem 3x3x3x8 to 16 px; depthwise 3x3x8 to 8 and to 4 px, projections 8x8; head 8x16;
  # 10 classes. Norms have two numbers a channel.
  weights = 216 + 2 * (72 + 64) + 128 + 170 + 2 * (8 + 2 * 16 + 16)
  assert result["runs"]["one"]["params"] == weights
  layers = 216 * 256 + (72 + 64) * 64 + (72 + 64) * 16 + 128 * 16 + 160
  assert result["runs"]["one"]["madds"] == layers


def test_axes_make_every_combination(tmp_path, monkeypatch):
  axes = {
    "rate": {"r1": {}, "r2": {"optimizer": {"learning_rate": 0.1}}},
    "batch": {f"b{n}": {"batch_size": n} for n in (8, 16)},
  }
  spy(monkeypatch, lambda name, seed: {"b8": 0.4, "b16": 0.6}[name.split("_")[0]])
  config = nano_config(axes=axes, seeds=(5,))
  members = sweep.members_of(config)
  assert list(members) == ["b8_r1", "b8_r2", "b16_r1", "b16_r2"]
  assert members["b8_r2"].values == {"batch": "b8", "rate": "r2"}
  stage = members["b8_r2"].configs[5]
  assert (stage.batch_size, stage.optimizer.learning_rate, stage.seed) == (8, 0.1, 5)
  result, printed = run(config, tmp_path / "run")
  assert result["runs"]["b16_r1"]["values"] == {"batch": "b16", "rate": "r1"}
  assert result["best"] in ("b16_r1", "b16_r2") and "seed 5" in printed
  assert "60.00%" in printed and "±" not in printed
  assert (tmp_path / "run" / "plots" / "sweep.png").stat().st_size > 1000


def test_runs_and_seeds_may_be_added_but_not_changed(tmp_path, monkeypatch):
  trained = spy(monkeypatch, lambda name, seed: 0.5)
  run(nano_config(runs={"plain": {}}), tmp_path / "run")
  run(nano_config(runs=TWO, seeds=(0, 1)), tmp_path / "run")
  assert trained == ["plain, seed 0", "fast, seed 0", "fast, seed 1", "plain, seed 1"]
  other = {**TWO, "plain": {"model": {"width": 2.0}}}
  with pytest.raises(errors.UserError, match=r"plain/seed_0 holds a run of another config.*width"):
    run(nano_config(runs=other, seeds=(0, 1)), tmp_path / "run")


def test_the_best_so_far(tmp_path):
  config = nano_config(runs=TWO, seeds=(0, 1))
  with pytest.raises(errors.UserError, match="holds no finished run; train there first"):
    pipelines.last_stage(config, tmp_path)
  for name, seed, top1 in (("plain", 0, 0.9), ("plain", 1, 0.1), ("fast", 1, 0.6)):
    folder = tmp_path / name / f"seed_{seed}"
    folder.mkdir(parents=True)
    figures = {"validation": {"top1": top1}, "test": {"top1": 0.0}}
    (folder / "result.json").write_text(json.dumps({"figures": figures, "seconds": 1.0}))
  stage, folder = pipelines.last_stage(config, tmp_path)
  assert folder == tmp_path / "fast" / "seed_1"
  assert stage == sweep.members_of(config)["fast"].configs[1]


def test_a_runs_settings_can_be_given_on_the_command_line():
  config = configuration.load("configs/efficientnet.py")
  config.pipeline = recipes.sweep(runs={"a": {}})
  configuration.override(config, "pipeline.runs.a.optimizer.learning_rate", "0.5")
  configuration.override(config, "pipeline.seeds", "(3, 4)")
  members = sweep.members_of(config)
  assert list(members["a"].configs) == [3, 4]
  assert members["a"].configs[3].optimizer.learning_rate == 0.5
  with pytest.raises(errors.UserError, match=r"pipeline.runs.a.optimizer_='1'.* not a setting"):
    configuration.override(config, "pipeline.runs.a.optimizer_", "1")


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({}, r"config.pipeline.runs and config.pipeline.axes are both empty; name runs, such as"),
    ({"runs": {"a": {}}, "axes": {"b": {"c": {}}}}, r"pipeline.axes are both given"),
    ({"runs": {"a": 5}}, r"config.pipeline.runs.a=5 is not a section"),
    ({"runs": {"a b": {}}}, r"config.pipeline.runs.a b: a run's name is a word, such as 'wide'"),
    ({"axes": {"a": {}}}, r"config.pipeline.axes.a is empty; name at least one value"),
    ({"axes": {"a": 5}}, r"config.pipeline.axes.a=5 is not a section"),
    ({"axes": {"a": {"x_y": {}, "x": {}}, "b": {"z": {}, "y_z": {}}}}, r"two .* called 'x_y_z'"),
    ({"runs": {"a": {"modle": {}}}}, r"pipeline.runs.a.modle.*Nearest: config.pipeline.runs.a.mod"),
    ({"runs": {"a": {"batch_size": "x"}}}, r"runs.a.batch_size='x' is not of type int"),
    ({"runs": {"a": {"seed": 3}}}, r"runs.a.seed cannot be set by a run; .*config.pipeline.seeds"),
    ({"runs": {"a": {"pipeline": {"name": "x"}}}}, r"runs.a.pipeline cannot be set by a run"),
    ({"runs": {"a": {}, "b": {"batch_size": -1}}}, r"run b: config.batch_size=-1 should be"),
    ({"runs": {"a": {}, "b": {"model": {"name": "b0"}}}}, r"run b: config.model.name='b0'"),
    ({"runs": {"a": {}}, "seeds": ()}, r"config.pipeline.seeds=\(\) should be different whole"),
    ({"runs": {"a": {}}, "seeds": (1, 1)}, r"config.pipeline.seeds=\(1, 1\) should be different"),
    ({"runs": {"a": {}}, "seeds": (-1,)}, r"config.pipeline.seeds=\(-1,\) should be"),
    (
      {"runs": {"a": {}}, "metric": "top2"},
      r"pipeline.metric='top2' is not a figure.*Nearest: .*'top1'",
    ),
  ],
)
def test_mistakes_are_told_before_the_first_run_starts(tmp_path, monkeypatch, settings, message):
  monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("trained"))
  with pytest.raises(errors.UserError, match=message):
    run(nano_config(**settings), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_settings_are_these(tmp_path):
  config = nano_config(runs={"a": {}})
  with config.unlocked():
    config.pipeline.sead = 3
  with pytest.raises(errors.UserError, match=r"pipeline='sead' is not a setting.*'seeds'"):
    run(config, tmp_path / "run")
  with config.unlocked():
    del config.pipeline.sead
    del config.pipeline.seeds
  with pytest.raises(errors.UserError, match=re.escape("config.pipeline.seeds is missing")):
    run(config, tmp_path / "run")
