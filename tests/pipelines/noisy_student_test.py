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

from effnets import commands, configuration, data, errors, models, pipelines, training, workdirs
from effnets.models import efficientnet, registry, stage_tables
from effnets.pipelines import noisy_student, stages

ROWS = (stage_tables.Row("mbconv", 3, 2, 1, 8, 1), stage_tables.Row("mbconv", 3, 2, 1, 8, 1))
STUDENTS = ["student_1", "student_2"]
EVERYONE = ["teacher", *STUDENTS, "no_noise", "no_unlabelled", "finetune"]


@pytest.fixture(scope="module", autouse=True)
def nano():
  """A registered model that compiles in a second or two."""
  build = functools.partial(efficientnet.efficientnet, stage_tables.Table(8, ROWS, 16))
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
  # The second student is larger than its teacher, and looks at more pixels.
  configuration.override(config, "pipeline.students.student_2.model.width", "2.0")
  configuration.override(config, "pipeline.students.student_2.data.image_size", "36")
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
  rows = [result["teacher"], *result["students"], *result["controls"].values()]
  rows.append(result["finetuned"])
  assert [row["stage"] for row in rows] == EVERYONE
  for stage in rows:
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
  figures = json.loads((workdir / "student_1/result.json").read_text())["figures"]
  assert told["teachers"] == {"student_1": figures} and told["chosen_by"] == ["student_1"]
  assert (told["source"], told["seed"]) == ("digits/unlabelled", 3)
  assert told["settings"]["per_class"] == config.pipeline.labels.per_class
  assert told["figures"] == result["students"][1]["labels"]
  assert len(source) == told["figures"]["entries"]


def check_soft_labels_are_the_teachers_probabilities(finished, config):
  workdir, _, _ = finished
  source = data.open_source(f"records:{workdir / 'labels_student_1'}", "all")
  unlabelled = data.open_source("digits", "unlabelled")
  stage = stages.configs(config)["teacher"]
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
  summary = noisy_student._summary(stages.Stage("teacher", changed, figures, None))
  assert (summary["validation_top1"], summary["test_top1"]) == (0.5, 0.25)


def test_students_follow_one_another_in_the_order_of_their_numbers(config):
  changed = ml_collections.ConfigDict(config.to_dict())
  changed.pipeline.students = {f"student_{n}": {} for n in (1, 2, 10)}
  names = [name for name in stages.configs(changed) if name.startswith("student")]
  assert names == ["student_1", "student_2", "student_10"]


def test_stages_differ_as_the_method_says(config):
  made = stages.configs(config)
  assert list(made) == ["teacher", *STUDENTS, "no_noise", "no_unlabelled", "finetune"]
  for name in (*STUDENTS, "no_noise"):
    assert made[name].data.unlabelled.source == stages.PSEUDO_LABELS
  for name in ("teacher", "no_unlabelled", "finetune"):
    assert made[name].data.unlabelled.source == ""
  for name in ("no_noise", "finetune"):
    assert made[name].model.dropout_rate == made[name].model.drop_path_rate == 0
    assert made[name].augment.shift == 0
  assert made["student_1"].model.dropout_rate == 0.2
  assert (made["student_1"].data.threads, made["student_2"].data.threads) == (4, 2)
  assert made["no_noise"].data == made["student_1"].data
  sizes = [made[name].data.image_size for name in ("finetune", "student_2", "student_1")]
  assert sizes == [40, 36, 32]
  # Everything that nobody overrides is the same in all.
  assert {stage.optimizer.learning_rate for stage in made.values()} == {0.016}


def check_finetuning_leaves_the_frozen_part_alone(finished, config):
  workdir, _, _ = finished
  configs = stages.configs(config)
  student = training.results.restore(configs["student_2"], workdir / "student_2").variables
  tuned = training.results.restore(configs["finetune"], workdir / "finetune").variables
  # The sheet's check 12: averaged weights and moments of the stem and the first blocks, bit by bit.
  for kind, name in ((kind, name) for kind, tree in student.items() for name in tree):
    moved = any(
      np.asarray(a).tobytes() != np.asarray(b).tobytes()
      for a, b in zip(*(jax.tree.leaves(v[kind][name]) for v in (student, tuned)), strict=True)
    )
    assert moved == (name not in ("stem", "block_0")), (kind, name)


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
  # A finished pipeline may get another control.
  more = ml_collections.ConfigDict(config.to_dict())
  more.pipeline.controls.hard_labels = True
  trained.clear()
  again, _ = run(more.lock(), workdir)
  assert trained == ["hard_labels"] and again["controls"].keys() > result["controls"].keys()


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
  assert stage == stages.configs(config)["student_1"]


@pytest.fixture
def untrained(monkeypatch):
  """Trainings that take no time and give fresh weights; returns what each was asked for."""
  asked = {}

  def train(config, folder, *, name, initial=None, sources):
    ready = training.prepare(config, sources)
    variables = ready.task.init(config.seed)
    asked[name] = {"initial": initial, "sources": dict(sources), "made": variables}
    figures = {split: {"top1": 0.5, "cross_entropy": 1.0} for split in ready.splits}
    return training.Result(figures, 1, 0.1, variables)

  monkeypatch.setattr(training, "train", train)
  monkeypatch.setattr(training.plots, "curves", lambda *_: None)
  return asked


def test_several_teachers_a_filter_and_separate_trainings(tmp_path, untrained):
  config = nano_config(select="first", shards=3)
  config.pipeline.controls.update({"no_noise": False, "no_unlabelled": True})
  config.pipeline.controls.update({"hard_labels": True, "noisy_teacher": True})
  config.pipeline.training = "separate"
  config.pipeline.from_teacher = "student_2"
  for name, text in (("more_teachers.twin.seed", "8"), ("filter.seed", "9")):
    configuration.override(config, f"pipeline.{name}", text)
  configuration.override(config, "pipeline.tune.train.steps", "1")
  result, _ = run(config.lock(), tmp_path / "run")
  assert list(untrained) == [
    *("filter", "teacher", "twin"),
    *("student_1_pretrained", "student_1", "student_2_pretrained", "student_2"),
    *("noisy_teacher_pretrained", "noisy_teacher", "hard_labels_pretrained", "hard_labels"),
    "no_unlabelled",
  ]
  assert result["others"].keys() == {
    *("filter", "twin"),
    *(f"{s}_pretrained" for s in (*STUDENTS, "noisy_teacher", "hard_labels")),
  }
  labels = {
    path.name: data.records.read_manifest(path) for path in (tmp_path / "run").glob("labels_*")
  }
  assert {name: list(made["provenance"]["teachers"]) for name, made in labels.items()} == {
    "labels_student_1": ["teacher", "twin"],
    "labels_student_2": ["student_1"],
    "labels_noisy_teacher": ["teacher", "twin"],
  }
  chosen = {name: made["provenance"]["chosen_by"] for name, made in labels.items()}
  assert chosen.pop("labels_student_1") == ["filter"]
  assert set(chosen.values()) == {"labels_student_1"}
  assert len({made["count"] for made in labels.values()}) == 1
  # A first half reads nothing but pseudo-labels; what follows, nothing but true ones.
  for name, training_asked in untrained.items():
    sources = training_asked["sources"]
    assert list(sources) == (["digits"] if name.endswith("pretrained") else [])
    soft = "probabilities" in sources["digits"][0] if sources else None
    assert soft == (None if not sources else not name.startswith("hard_labels"))
  starts = {name: asked["initial"] for name, asked in untrained.items()}
  assert starts["student_1_pretrained"] is None
  assert starts["student_2_pretrained"] is untrained["student_1"]["made"]
  assert starts["student_2"] is untrained["student_2_pretrained"]["made"]


def test_a_teacher_that_is_there_already(tmp_path, untrained):
  config = nano_config(kind="hard")
  config.pipeline.controls.update({"no_noise": False, "no_unlabelled": False})
  config.pipeline.students = {"only": {}}
  other = stages.configs(config)["teacher"]
  folder = tmp_path / "other"
  workdirs.claim(folder, other)
  workdirs.write_class_names(folder, tuple("0123456789"))
  task, placement = training.results.model(other, 10)
  variables = task.init(5)
  optimizer = training.inputs.optimizer(other, lambda step: 0.0, task)
  fresh = training.state.create(variables, optimizer, seed=5, average=True)
  with training.checkpoints.Checkpoints(folder / "checkpoints") as saver:
    saver.save(7, placement.put(fresh, placement.state(fresh)))
  config.pipeline.teacher = {"weights": f"run:{folder}"}
  config.pipeline.given = config.pipeline.from_teacher = "teacher"
  with pytest.raises(errors.UserError, match="from_teacher='teacher' is not a student"):
    run(config, tmp_path / "run")
  config.pipeline.from_teacher = "only"
  result, _ = run(config.lock(), tmp_path / "run")
  assert list(untrained) == ["only"]
  for ours, theirs in zip(
    *(jax.tree.leaves(v) for v in (untrained["only"]["initial"], variables)), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)
  source = data.open_source("digits", "test")
  pictures = np.stack([source[i]["image"] for i in range(len(source))])
  answers = np.asarray(jax.jit(task.logits)(variables, pictures)).argmax(-1)
  correct = np.mean(answers == [source[i]["label"] for i in range(len(source))])
  assert result["teacher"]["test_top1"] == pytest.approx(correct)
  assert result["teacher"]["model"] == "efficientnet_nano"
  (tmp_path / "run" / "only" / "result.json").unlink()  # a fake: there is nothing to restore
  again, _ = run(config, tmp_path / "run")
  assert again["teacher"] == result["teacher"]


def test_separate_trainings_in_their_config():
  config = nano_config()
  config.data.unlabelled.ratio = 3.0
  config.pipeline.controls.separate = True
  for name, text in (("pretrain.train.steps", "9"), ("tune.optimizer.learning_rate", "0.5")):
    configuration.override(config, f"pipeline.{name}", text)
  made = stages.configs(config.lock())
  first, second = made["separate_pretrained"], made["separate"]
  # As many pseudo-labelled pictures a step as in the joint training.
  assert (first.batch_size, second.batch_size) == (48, 16)
  assert (first.train.steps, second.train.steps) == (9, 4)
  assert (first.optimizer.learning_rate, second.optimizer.learning_rate) == (0.016, 0.5)
  assert {stage.data.unlabelled.source for stage in (first, second)} == {""}
  assert first.model.dropout_rate == second.model.dropout_rate == 0.2


def test_controls_without_one_kind_of_noise():
  config = nano_config()
  config.pipeline.controls.update({"no_model_noise": True, "no_input_noise": True})
  made = stages.configs(config.lock())
  rates = {name: (c.model.drop_path_rate, c.augment.shift) for name, c in made.items()}
  assert rates["student_1"] == (0.2, 2) and rates["no_noise"] == (0.0, 0)
  assert (rates["no_model_noise"], rates["no_input_noise"]) == ((0.0, 2), (0.2, 0))


def test_all_label_together(tmp_path, untrained):
  config = nano_config(by="all")
  config.pipeline.controls.update({"no_noise": False, "no_unlabelled": False})
  run(config.lock(), tmp_path / "run")
  told = data.records.read_manifest(tmp_path / "run" / "labels_student_2")["provenance"]
  assert sorted(told["teachers"]) == sorted(told["chosen_by"]) == ["student_1", "teacher"]


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
    ("pipeline.students", {"a_pretrained": {}}, r"a_pretrained: a stage's name is a word"),
    ("pipeline.more_teachers", {"student_1": {}}, r"students.student_1: a stage's name"),
    ("pipeline.more_teachers", {"b": {"sed": 1}}, r"more_teachers.b.sed=1.*more_teachers.b.seed"),
    ("pipeline.filter", {"model": {"name": "b0"}}, r"stage filter: config.model.name='b0'"),
    ("pipeline.given", "techer", r"pipeline.given='techer' is not a teacher.*Nearest: 'teacher'"),
    ("pipeline.given", "teacher", r"given='teacher': the section of teacher names no weights; set"),
    ("pipeline.teacher", {"weights": "b0"}, r"pipeline.teacher: config.weights: weights name='b0'"),
    ("pipeline.training", "jiont", r"pipeline.training='jiont'.*Nearest: 'joint'"),
    ("pipeline.from_teacher", "student_3", r"from_teacher='student_3' is not a student"),
    ("pipeline.labels.noise", True, r"controls.noisy_teacher=True compares nothing.*labels.noise"),
    ("pipeline.students", {"a": 5}, r"pipeline.students.a=5 is not a section"),
    ("pipeline.teacher", {"train": {"stps": 3}}, r"teacher.train.stps=3.*teacher.train.steps"),
    ("pipeline.teacher", {"train": {"epochs": 3.0}}, r"stage teacher: .*steps=4.*are both given"),
    ("pipeline.teacher", {"batch_size": -1}, r"stage teacher: config.batch_size=-1 should be"),
    ("pipeline.teacher", {"model": {"name": "b0"}}, r"stage teacher: config.model.name='b0'"),
    ("pipeline.teacher", {"optimizer": {"nme": 1}}, r"stage teacher: config.optimizer.nme=1"),
    ("pipeline.finetune", {"data": {"imagesize": 9}}, r"finetune.data.imagesize=9.*image_size"),
    ("pipeline.controls", {"no_nois": True}, r"pipeline.controls='no_nois'.*Nearest: 'no_noise'"),
    ("pipeline.controls", {"no_noise": True}, r"pipeline.controls.\w+ is missing; see"),
    ("pipeline.name", "noisy_studnt", r"pipeline.name='noisy_studnt'.*Nearest: 'noisy_student'"),
  ],
)
def test_mistakes_are_told_before_the_teacher_trains(tmp_path, monkeypatch, key, value, message):
  monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("trained"))
  config = nano_config()
  config.pipeline.controls.noisy_teacher = True
  section, _, last = key.rpartition(".")
  with config.ignore_type():
    config.pipeline[last] = value
    if section.count("."):
      del config.pipeline[last]
      config.pipeline.labels[last] = value
  with pytest.raises(errors.UserError, match=message):
    pipelines.run(config, str(tmp_path / "run"), rich_console.Console(file=io.StringIO()))
  assert not (tmp_path / "run").exists()


def test_another_network_cannot_start_from_its_teacher(tmp_path):
  config = nano_config()
  configuration.override(config, "pipeline.students.student_2.model.width", "2.0")
  config.pipeline.from_teacher = "student_1, student_2"
  with pytest.raises(errors.UserError, match="student_2 is another network than student_1, whose"):
    run(config.lock(), tmp_path / "run")
  assert not (tmp_path / "run").exists()
