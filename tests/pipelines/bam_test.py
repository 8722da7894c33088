"""The matrix of born-again networks: what trains in which order on which targets, and resumes."""

import io
import json

import jax
import numpy as np
import pytest
from rich import console as rich_console

from effnets import commands, configuration, data, errors, pipelines, recipes, training, workdirs
from effnets.data import targets
from effnets.pipelines import bam


def nano(**settings):
  config = configuration.load("configs/bam.py")
  changes = {
    "model": {"depth": 1, "width": 8, "heads": 2, "hidden": 8},
    "batch_size": 16,
    "log_every_steps": 2,
    "train": {"steps": 2},
    "data": {"options": {"tasks": "rte,sts"}},
  }
  configuration.merge(config, changes, key="changes")
  config.pipeline = recipes.bam(**{"runs": "single,single_multi", **settings})
  return config.lock()


def run(config, workdir):
  out = io.StringIO()
  pipelines.run(config, str(workdir), rich_console.Console(file=out, width=80))
  return json.loads((workdir / "result.json").read_text()), out.getvalue()


class Fake:
  """Stands for training and restoring: remembers what was trained, on which source."""

  def __init__(self, monkeypatch):
    self.trained = []
    monkeypatch.setattr(training, "train", self.train)
    monkeypatch.setattr(training.results, "restore", self.restore)
    monkeypatch.setattr(training.evaluator, "create", lambda *_: self)

  def train(self, config, folder, *, name, sources):
    workdirs.claim(folder, config)
    (source,) = sources.values()
    self.trained.append((name, config, source))
    names = [task.name for task in source.tasks]
    score = 0.5 if "targets" in source.inputs else 0.4
    figures = {
      f"{t.name}_{metric}": score + 0.1 * (t.name == "sts")
      for t in source.tasks
      for metric in t.metrics
    }
    figures |= {"average": 0.0, "truncated": 0, "examples": 100 * len(names)}
    made = {config.data.split[part]: dict(figures) for part in ("validation", "test")}
    return training.Result(made, 2, 1.0, None)

  def restore(self, config, folder):
    made = training.prepare(config)
    return training.results.Trained(config, made.task, made.placement, None, 2, {})

  def all(self, variables, source):
    numbers = np.asarray(source.numbers)
    count = sum(task.units for task in source.tasks)
    # The row number, so that it is seen where a target comes from.
    logits = np.repeat(np.arange(len(source), dtype=np.float32)[:, None], count, 1)
    return {"logits": logits}, {"task": numbers}


def test_students_learn_from_their_teachers(tmp_path, monkeypatch):
  fake = Fake(monkeypatch)
  config = nano(seeds=(3, 4), runs="multi,single_multi,single_multi_teacher")
  result, out = run(config, tmp_path)
  names = [name for name, *_ in fake.trained]
  assert names == [
    text.format(seed)
    for seed in (3, 4)
    for text in (
      "multi seed {}",
      "single rte seed {}",
      "single sts seed {}",
      "single_multi seed {}",
      "single_multi_teacher seed {}",
    )
  ]
  by_name = {name: (config, source) for name, config, source in fake.trained}
  assert "targets" not in by_name["multi seed 3"][1].inputs
  assert by_name["single sts seed 4"][0].data.options.tasks == "sts"
  assert by_name["single sts seed 4"][0].seed == 4
  teacher_only, student = by_name["single_multi_teacher seed 3"]
  assert (teacher_only.task.distillation, teacher_only.task.gold_weight) == ("fixed", 0.0)
  assert by_name["single_multi seed 3"][0].task.distillation == "annealed"
  rte = data.toy_glue.SIZES["rte"][0]
  # The teacher of sts numbered its own examples from 0, swapped ones after all others.
  assert student[rte + 7]["targets"][0] == 7 and student[rte + 7]["taught"]
  assert student[rte + 120 + 7]["targets"][0] == 127
  stored = targets.read(tmp_path / "targets" / "single" / "seed_3" / "sts")
  assert stored.provenance["teacher"] == "single/seed_3/sts" and len(stored.logits) == 240
  assert stored.provenance["step"] == 2 and stored.provenance["model"]["width"] == 8
  row = result["runs"]["single_multi"]
  assert row["test_average"] == pytest.approx([0.55, 0.55])
  assert row["validation_rte_accuracy"] == [0.5, 0.5] and result["seeds"] == [3, 4]
  assert result["seconds"] == 10.0
  assert "single_multi_teacher" in out and "55.0" in out and max(map(len, out.split("\n"))) <= 80
  assert (tmp_path / "plots" / "bam.png").stat().st_size > 0
  # The same again trains nothing; another run takes what is there.
  count = len(fake.trained)
  run(config, tmp_path)
  assert len(fake.trained) == count
  run(nano(seeds=(3, 4), runs="multi,single,single_multi"), tmp_path)
  assert len(fake.trained) == count


def test_a_teacher_of_all_tasks_labels_them_all_at_once(tmp_path, monkeypatch):
  fake = Fake(monkeypatch)
  run(nano(runs="multi_multi", student={"model": {"depth": 3}}), tmp_path)
  assert [name for name, *_ in fake.trained] == ["multi seed 0", "multi_multi seed 0"]
  (_, teacher, _), (_, student, source) = fake.trained
  assert (teacher.model.depth, student.model.depth) == (1, 3)
  rte = data.toy_glue.SIZES["rte"][0]
  assert source[rte]["targets"][0] == rte and source[0]["targets"].tolist() == [0, 0]


def test_the_configs_of_all_trainings():
  planned = pipelines.planned(nano(single={"batch_size": 8}, student={"model": {"depth": 2}}))
  assert list(planned) == ["single_rte", "single_sts", "single_multi"]
  assert planned["single_rte"].config.batch_size == 8
  student = planned["single_multi"].config
  assert (student.batch_size, student.model.depth) == (16, 2)


def test_a_students_own_weights_bring_its_network(tmp_path):
  pieces = "".join(f"{piece}\n" for piece in data.toy_glue.vocabulary())
  (tmp_path / "vocab.txt").write_text(pieces)
  network = {"vocab_size": 70, "hidden_size": 16, "num_hidden_layers": 3}
  network |= {"num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 32}
  (tmp_path / "config.json").write_text(json.dumps(network))
  planned = pipelines.planned(nano(student={"weights": f"bert:{tmp_path}"}))
  teacher, student = planned["single_rte"].config, planned["single_multi"].config
  assert (teacher.model.depth, student.model.depth, student.model.width) == (1, 3, 16)
  assert not teacher.weights and student.weights == f"bert:{tmp_path}"
  assert student.data.options.vocabulary == str(tmp_path / "vocab.txt")


@pytest.mark.parametrize(
  "settings,words",
  [
    ({"runs": "single,mutli"}, "config.pipeline.runs='mutli' is not a run. Nearest: 'multi'"),
    ({"runs": "multi,multi"}, "should name each run once"),
    ({"seeds": ()}, r"config.pipeline.seeds=\(\) should be whole numbers"),
    ({"student": {"model": {"depht": 3}}}, "run single_multi: config.model.depht=3: .*'depth'"),
    ({"multi": {"batch": 3}}, "config.pipeline.multi.batch=3 is not a setting"),
  ],
)
def test_wrong_settings(settings, words, tmp_path):
  with pytest.raises(errors.UserError, match=words):
    run(nano(**settings), tmp_path)
  assert not list(tmp_path.iterdir())


def test_nothing_to_evaluate_yet(tmp_path):
  with pytest.raises(errors.UserError, match="holds no checkpoints"):
    bam.last_stage(nano(), tmp_path)


@pytest.mark.slow
def test_a_real_matrix_goes_on_where_it_was(tmp_path):
  config = nano(runs="single_multi")
  first, _ = run(config, tmp_path)
  stamp = (tmp_path / "single" / "seed_0" / "rte" / "result.json").stat().st_mtime_ns
  stored = targets.read(tmp_path / "targets" / "single" / "seed_0" / "rte")
  assert len(stored.logits) == data.toy_glue.SIZES["rte"][0]
  # Targets are what the teacher says without noise.
  trained = training.results.restore(
    bam._Pipeline(config, tmp_path).config("single", 0, "rte"),
    tmp_path / "single" / "seed_0" / "rte",
  )
  source = data.open_source("toy_glue", "train", options={"tasks": "rte"})
  batch = {name: np.stack([source[i][name] for i in range(4)]) for name in source[0]}
  logits = trained.task.predict(jax.device_get(trained.variables), batch)["logits"]
  np.testing.assert_allclose(stored.logits[:4], logits, atol=1e-5)
  (tmp_path / "result.json").unlink()
  (tmp_path / "single_multi" / "seed_0" / "result.json").unlink()
  second, _ = run(config, tmp_path)
  assert (tmp_path / "single" / "seed_0" / "rte" / "result.json").stat().st_mtime_ns == stamp
  drop = lambda runs: {k: v for k, v in runs["single_multi"].items() if k != "seconds"}  # noqa: E731
  assert drop(first["runs"]) == drop(second["runs"])
  _, folder = bam.last_stage(config, tmp_path)
  assert folder == tmp_path / "single_multi" / "seed_0"
  # Answers to the hidden test sets; the most common one for the task that is left out.
  commands.predict(config, str(tmp_path))
  answers = {path.name: path.read_text() for path in (tmp_path / "submission").iterdir()}
  assert sorted(answers) == ["RTE.tsv", "STS-B.tsv", "WNLI.tsv"]
  for name, text in answers.items():
    head, *lines = text.splitlines()
    expected = data.toy_glue.files()[f"answers/{name}"].splitlines()
    assert head == "index\tprediction" and len(lines) == len(expected) - 1
    assert [line.split("\t")[0] for line in lines] == [e.split("\t")[0] for e in expected[1:]]
  assert len({line.split("\t")[1] for line in answers["WNLI.tsv"].splitlines()[1:]}) == 1
