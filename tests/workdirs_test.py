"""The claim on a workdir, and what it refuses."""

import json

import pytest

from effnets import configuration, errors, workdirs


def test_a_workdir_is_claimed_and_claimed_again(tmp_path):
  config = configuration.base()
  path = workdirs.claim(tmp_path / "a" / "b", config)
  assert json.loads((path / "config.json").read_text())["batch_size"] == config.batch_size
  config.mesh.data = 4  # where it runs may change
  workdirs.claim(path, config)
  assert json.loads((path / "config.json").read_text())["mesh"]["data"] == 4


def test_another_run_is_refused_and_named(tmp_path):
  config = configuration.base()
  workdirs.claim(tmp_path, config)
  (tmp_path / "metrics.jsonl").write_text("{}\n")
  config.batch_size = 7
  with pytest.raises(errors.UserError, match=r"config.batch_size: 64 there, 7 now"):
    workdirs.claim(tmp_path, config)
  assert json.loads((tmp_path / "config.json").read_text())["batch_size"] == 64


def test_a_run_that_has_not_begun_may_change(tmp_path):
  config = configuration.base()
  config.train.steps = -3  # refused after the workdir was made
  workdirs.claim(tmp_path, config)
  for name in ("events.jsonl", "metrics.jsonl", "parameters.txt"):
    (tmp_path / name).write_text("")
  (tmp_path / "checkpoints").mkdir()  # killed while it compiled
  config.train.steps = 3
  workdirs.claim(tmp_path, config)
  assert json.loads((tmp_path / "config.json").read_text())["train"]["steps"] == 3
  (tmp_path / "checkpoints" / "4").mkdir()
  config.train.steps = 4
  with pytest.raises(errors.UserError, match="config.train.steps: 3 there, 4 now"):
    workdirs.claim(tmp_path, config)


def test_a_run_of_an_earlier_version_has_had_the_defaults_of_what_came_later(tmp_path):
  config = configuration.base()
  path = workdirs.claim(tmp_path / "run", config)
  (path / "metrics.jsonl").write_text("{}\n")
  old = json.loads((path / "config.json").read_text())
  del old["data"]["interpolation"], old["new_head"]
  (path / "config.json").write_text(json.dumps(old))
  assert workdirs.saved(path).data.interpolation == "" and workdirs.saved(path).new_head is False
  workdirs.claim(path, config)
  (path / "config.json").write_text(json.dumps(old))
  config.new_head = True
  with pytest.raises(errors.UserError, match="config.new_head: False there, True now"):
    workdirs.claim(path, config)


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path):
  (tmp_path / "thesis.tex").write_text("years of work")
  with pytest.raises(errors.UserError, match=r"not empty and holds no run.*thesis.tex"):
    workdirs.claim(tmp_path, configuration.base())
  assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_workdir_that_cannot_be_made_is_refused(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.UserError, match=r"--workdir=.*file.* cannot be written"):
    workdirs.claim(tmp_path / "file", configuration.base())


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("{ not json", r"config.json cannot be read"),
    ("[1, 2]", r"config.json cannot be read"),
    ('{"hidden_size": 768}', r"config.json is none of effnets"),
  ],
)
def test_a_config_that_is_none_is_refused(tmp_path, text, message):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(errors.UserError, match=message):
    workdirs.claim(tmp_path, configuration.base())
  assert (tmp_path / "config.json").read_text() == text


def test_tuples_come_back_as_tuples(tmp_path):
  # A model's `kernels`, a sharding rule and a sweep's seeds are tuples; JSON knows lists alone.
  config = configuration.base()
  config.model.kernels = (3, 5)
  config.sharding.rules = ((".*", "fsdp"),)
  workdirs.claim(tmp_path / "run", config)
  saved = workdirs.saved(tmp_path / "run")
  assert (saved.model.kernels, saved.sharding.rules) == ((3, 5), ((".*", "fsdp"),))
