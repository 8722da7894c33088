"""The whole method with a model of two blocks and a few steps: stages, resume, provenance."""

import functools
import io
import json
import re

import jax
import ml_collections
import numpy as np
import pytest
from PIL import Image
from rich import console as rich_console

from effnets import commands, configuration, data, errors, models, pipelines, training
from effnets.models import blocks, efficientnet, registry
from effnets.pipelines import noisy_student

ROWS = (blocks.Row("mbconv", 3, 2, 1, 8, 1), blocks.Row("mbconv", 3, 2, 1, 8, 1))
STUDENTS = ["student_1", "student_2"]
EVERYONE = ["teacher", *STUDENTS, "no_noise", "no_unlabelled", "finetune"]


@pytest.fixture(scope="module", autouse=True)
def nano():
  """A registered model that compiles in a second or two."""
  build = functools.partial(efficientnet.efficientnet, blocks.Table(8, ROWS, 16))
  entry = registry.Entry("efficientnet_nano", build, None, 32, 0.2, 0.2, params=0, madds=0)
  registry.register(entry)
  yield
  del registry._ENTRIES["efficientnet_nano"]


def nano_config(**labels):
  config = configuration.load("configs/noisy_student.py")
  settings = {
    "seed": 3,
    "batch_size": 16,
    "eval_batch_size": 400,
    "log_every_steps": 2,
    "tensorboard": False,
    "train": {"steps": 4},
    "model": {"name": "efficientnet_nano"},
    # RandAugment would take longer to compile than the rest of this file.
    "augment": {"randaugment": {"layers": 0}},
    "data": {"unlabelled": {"ratio": 1.0}},
    "evaluation": {"every_percent": 50.0},
    "checkpoint": {"every_percent": 50.0},
  }
  configuration.merge(config, settings, key="settings")
  config.pipeline.teacher.batch_size = 16
  config.pipeline.labels.update({"min_confidence": 0.0, **labels})
  return config


@pytest.fixture(scope="module")
def config():
  config = nano_config()
  configuration.override(config, "pipeline.finetune.data.image_size", "40")
  configuration.override(config, "pipeline.finetune.model.frozen_blocks", "1")
  configuration.override(config, "pipeline.finetune.train.steps", "2")
  configuration.override(config, "pipeline.students.student_2.data.threads", "2")
  return config.lock()


def run(config, workdir):
  """Returns the result and what was printed."""
  out = io.StringIO()
  console = rich_console.Console(file=out, width=80)
  pipelines.run(config, str(workdir), console)
  return json.loads((workdir / "result.json").read_text()), out.getvalue()


@pytest.mark.slow
def test_the_whole_method(config, tmp_path, monkeypatch, capsys):
  # One test, so that only one worker runs the pipeline.
  finished = (tmp_path / "run", *run(config, tmp_path / "run"))
  check_the_result_has_every_stage_and_its_figures(finished)
  check_the_table_is_whole_at_80_columns(finished)
  check_curves_are_drawn(finished)
  check_labels_are_stored_with_their_provenance(finished, config)
  check_soft_labels_are_the_teachers_probabilities(finished, config)
  check_finetuning_leaves_the_frozen_part_alone(finished, config)
  check_finished_stages_are_kept_and_a_cut_one_is_resumed(finished, config, monkeypatch)
  check_evaluate_takes_the_furthest_model(finished, config, capsys)


def check_the_result_has_every_stage_and_its_figures(finished):
  workdir, result, _ = finished
  stages = [result["teacher"], *result["students"], *result["controls"].values()]
  stages.append(result["finetuned"])
  assert [s["stage"] for s in stages] == EVERYONE
  for stage in stages:
    own = json.loads((workdir / stage["stage"] / "result.json").read_text())["figures"]
    assert stage["test_top1"] == own["test"]["top1"]
    # 400 test digits: the figure is a fraction with that denominator.
    assert 0 <= stage["test_top1"] <= 1
    assert stage["test_top1"] * 400 == pytest.approx(round(stage["test_top1"] * 400), abs=1e-6)
  assert result["controls"].keys() == {"no_noise", "no_unlabelled"}
  assert result["seed"] == 3
  assert result["seconds"] > 0


def check_the_table_is_whole_at_80_columns(finished):
  _, result, printed = finished
  assert max(map(len, printed.splitlines())) <= 80
  assert "…" not in printed
  for name in EVERYONE:
    assert re.search(rf"\b{name}\b", printed)
  gain = result["students"][1]["test_top1"] - result["teacher"]["test_top1"]
  assert f"{gain:+.2%}" in printed
  assert f"{result['students'][1]['test_top1']:.2%}" in printed


def check_curves_are_drawn(finished):
  picture = np.asarray(Image.open(finished[0] / "plots" / "curves.png").convert("RGB"))
  assert min(picture.shape[:2]) > 200
  assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 5


def check_labels_are_stored_with_their_provenance(finished, config):
  workdir, result, _ = finished
  source = data.open_source(f"records:{workdir / 'labels_student_2'}", "all")
  told = source.provenance
  assert told["teacher"] == "student_1"
  assert (
    told["teacher_figures"]
    == json.loads((workdir / "student_1/result.json").read_text())["figures"]
  )
  assert (told["source"], told["seed"]) == ("digits/unlabelled", 3)
  assert told["settings"]["per_class"] == config.pipeline.labels.per_class
  assert told["figures"] == result["students"][1]["labels"]
  assert len(source) == told["figures"]["entries"]


def check_soft_labels_are_the_teachers_probabilities(finished, config):
  workdir, _, _ = finished
  source = data.open_source(f"records:{workdir / 'labels_student_1'}", "all")
  unlabelled = data.open_source("digits", "unlabelled")
  stage = noisy_student.stage_configs(config)["teacher"]
  trained = training.results.restore(stage, workdir / "teacher")
  for index in (0, len(source) - 1):
    example = source[index]
    image = unlabelled[int(example["source_index"])]["image"]
    assert np.array_equal(example["image"], image)
    inputs = np.asarray(image, np.float32)[None] / 255
    entry = models.entry("efficientnet_nano")
    logits = trained.task.module.apply(
      trained.variables, (inputs - np.array(entry.mean)) / np.array(entry.std), train=False
    )
    expected = np.exp(logits[0]) / np.exp(logits[0]).sum()
    np.testing.assert_allclose(example["probabilities"], expected, atol=1e-5)
    assert example["label"] == expected.argmax()


def test_figures_are_named_by_the_part_a_split_plays(config):
  changed = ml_collections.ConfigDict(config.to_dict())
  changed.data.split.update({"validation": "val", "test": "train[90%:]"})
  figures = {"val": {"top1": 0.5}, "train[90%:]": {"top1": 0.25}}
  summary = noisy_student._summary(noisy_student.Stage("teacher", changed, figures, None))
  assert (summary["validation_top1"], summary["test_top1"]) == (0.5, 0.25)


def test_students_follow_one_another_in_the_order_of_their_numbers(config):
  changed = ml_collections.ConfigDict(config.to_dict())
  changed.pipeline.students = {f"student_{n}": {} for n in (1, 2, 10)}
  stages = [s for s in noisy_student.stage_configs(changed) if s.startswith("student")]
  assert stages == ["student_1", "student_2", "student_10"]


def test_stages_differ_as_the_method_says(config):
  stages = noisy_student.stage_configs(config)
  assert list(stages) == ["teacher", *STUDENTS, "no_noise", "no_unlabelled", "finetune"]
  for name in (*STUDENTS, "no_noise"):
    assert stages[name].data.unlabelled.source == noisy_student.PSEUDO_LABELS
  for name in ("teacher", "no_unlabelled", "finetune"):
    assert stages[name].data.unlabelled.source == ""
  for name in ("no_noise", "finetune"):
    assert stages[name].model.dropout_rate == stages[name].model.drop_path_rate == 0
    assert stages[name].augment.shift == 0
  assert stages["student_1"].model.dropout_rate == 0.2
  assert (stages["student_1"].data.threads, stages["student_2"].data.threads) == (4, 2)
  assert stages["no_noise"].data == stages["student_1"].data
  assert (stages["finetune"].data.image_size, stages["student_2"].data.image_size) == (40, 32)
  # Everything that nobody overrides is the same in all.
  assert {stage.optimizer.learning_rate for stage in stages.values()} == {0.016}


def check_finetuning_leaves_the_frozen_part_alone(finished, config):
  workdir, _, _ = finished
  stages = noisy_student.stage_configs(config)
  student = training.results.restore(stages["student_2"], workdir / "student_2").variables
  tuned = training.results.restore(stages["finetune"], workdir / "finetune").variables
  for name, before in student["params"].items():
    moved = any(
      not np.array_equal(a, b)
      for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(tuned["params"][name]), strict=True)
    )
    assert moved == (name not in ("stem", "block_0")), name


def check_finished_stages_are_kept_and_a_cut_one_is_resumed(finished, config, monkeypatch):
  workdir, result, _ = finished
  before = (workdir / "labels_student_2" / "records.json").read_bytes()
  (workdir / "student_2" / "result.json").unlink()
  (workdir / "finetune" / "result.json").unlink()
  (workdir / "result.json").unlink()
  trained = []
  real = training.train

  def spy(*args, name, **kwargs):
    trained.append(name)
    return real(*args, name=name, **kwargs)

  monkeypatch.setattr(training, "train", spy)
  again, _ = run(config, workdir)
  assert trained == ["student_2", "finetune"]
  assert (workdir / "labels_student_2" / "records.json").read_bytes() == before
  for key in ("teacher", "students", "controls", "finetuned"):
    assert again[key] == result[key]


def check_evaluate_takes_the_furthest_model(finished, config, capsys):
  workdir, result, _ = finished
  commands.evaluate(config, str(workdir))
  figures = json.loads((workdir / "evaluation.json").read_text())
  assert (figures["run"], figures["checkpoint"], figures["step"]) == ("finetune", "last", 2)
  assert figures["test"]["top1"] == result["finetuned"]["test_top1"]
  printed = capsys.readouterr().out
  assert f"{figures['test']['top1']:.4f}" in printed


def test_the_furthest_model_of_an_unfinished_pipeline(config, tmp_path):
  with pytest.raises(errors.UserError, match="holds no checkpoints; train there first"):
    pipelines.last_stage(config, tmp_path)
  for name in ("teacher", "student_1", "no_noise"):
    (tmp_path / name / "checkpoints" / "4").mkdir(parents=True)
  (tmp_path / "student_2" / "checkpoints").mkdir(parents=True)  # nothing saved yet
  stage, folder = pipelines.last_stage(config, tmp_path)
  assert folder == tmp_path / "student_1"
  assert stage == noisy_student.stage_configs(config)["student_1"]


@pytest.mark.slow
def test_hard_labels_have_no_probabilities(tmp_path):
  config = nano_config(kind="hard", per_class=5)
  config.train.steps = 2
  config.augment.shift = 0
  config.pipeline.students = {"only": {}}
  config.pipeline.controls.update({"no_noise": False, "no_unlabelled": False})
  result, _ = run(config, tmp_path / "run")
  assert (result["controls"], result["finetuned"]) == ({}, None)
  source = data.open_source(f"records:{tmp_path / 'run' / 'labels_only'}", "all")
  assert set(source[0]) == {"image", "label", "source_index"}
  assert max(np.bincount([source[i]["label"] for i in range(len(source))])) < 30


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("pipeline.labels.kind", "sft", r"labels.kind='sft' is not a kind.*Nearest: 'soft'"),
    ("pipeline.labels.min_confidence", 1.5, r"min_confidence=1.5 is not a multiple of 0.01 in"),
    ("pipeline.labels.min_confidence", 0.305, r"min_confidence=0.305 is not a multiple"),
    ("pipeline.labels.min_confidence", float("nan"), r"min_confidence=nan is not a multiple"),
    ("pipeline.labels.per_class", 0, r"per_class=0 is below 1"),
    ("pipeline.labels.source", "", r"pipeline.labels.source is empty"),
    ("pipeline.labels.split", "unlabeled", r"labels.split='unlabeled'.*Nearest: 'unlabelled'"),
    ("pipeline.students", {}, r"pipeline.students is empty; name at least one"),
    ("pipeline.students", {"teacher": {}}, r"pipeline.students.teacher: a stage's name"),
    ("pipeline.students", {"a": {"modle": {}}}, r"students.a.modle.*Nearest.*students.a.model"),
    ("pipeline.students", {"a": {"batch_size": "x"}}, r"students.a.batch_size='x' is not of type"),
    ("pipeline.students", {"a": 5}, r"pipeline.students.a=5 is not a section"),
    ("pipeline.teacher", {"train": {"stps": 3}}, r"teacher.train.stps=3.*teacher.train.steps"),
    ("pipeline.teacher", {"train": {"epochs": 3.0}}, r"stage teacher: .*steps=4.*are both given"),
    ("pipeline.teacher", {"batch_size": -1}, r"stage teacher: config.batch_size=-1 should be"),
    ("pipeline.teacher", {"model": {"name": "b0"}}, r"stage teacher: config.model.name='b0'"),
    ("pipeline.teacher", {"optimizer": {"nme": 1}}, r"stage teacher: config.optimizer.nme=1"),
    ("pipeline.finetune", {"data": {"imagesize": 9}}, r"finetune.data.imagesize=9.*image_size"),
    ("pipeline.controls", {"no_nois": True}, r"pipeline.controls='no_nois'.*Nearest: 'no_noise'"),
    ("pipeline.controls", {"no_noise": True}, r"pipeline.controls.no_unlabelled is missing"),
    ("pipeline.name", "noisy_studnt", r"pipeline.name='noisy_studnt'.*Nearest: 'noisy_student'"),
  ],
)
def test_mistakes_are_told_before_the_teacher_trains(tmp_path, monkeypatch, key, value, message):
  monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("trained"))
  config = nano_config()
  section, _, last = key.rpartition(".")
  with config.ignore_type():
    config.pipeline[last] = value
    if section.count("."):
      del config.pipeline[last]
      config.pipeline.labels[last] = value
  with pytest.raises(errors.UserError, match=message):
    pipelines.run(config, str(tmp_path / "run"), rich_console.Console(file=io.StringIO()))
  assert not (tmp_path / "run").exists()
