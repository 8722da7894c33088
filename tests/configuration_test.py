"""Config arguments, the workdir's claim, and what they refuse."""

import json

import pytest

from effnets import configuration, errors


def test_arguments_are_words_and_typed_values():
  parsed = configuration.arguments(
    "b7,seed=3,rate=0.5,on=false", words=["b7", "imagenet"], seed=0, rate=1.0, on=True, other="x"
  )
  assert parsed.words == ("b7",)
  assert (parsed.seed, parsed.rate, parsed.on, parsed.other) == (3, 0.5, False, "x")


@pytest.mark.parametrize(
  ("arg", "message"),
  [
    ("imagnet", r"argument='imagnet' is not a word.*Nearest: 'imagenet'"),
    ("sed=1", r"argument='sed' is not a key.*Nearest: 'seed'"),
    ("seed=x", r"seed='x' is not of type int"),
  ],
)
def test_wrong_arguments(arg, message):
  with pytest.raises(errors.UserError, match=message):
    configuration.arguments(arg, words=["imagenet"], seed=0)


def test_a_step_draws_labelled_and_unlabelled_examples():
  config = configuration.base()
  config.batch_size = 128
  assert configuration.step_batch(config) == (128, 0)
  config.data.unlabelled.update({"source": "x", "ratio": 5.0})
  assert configuration.step_batch(config) == (128, 640)
  config.data.unlabelled.ratio = 0.3
  assert configuration.step_batch(config) == (128, 39)


def test_a_workdir_is_claimed_and_claimed_again(tmp_path):
  config = configuration.base()
  path = configuration.claim_workdir(tmp_path / "a" / "b", config)
  assert json.loads((path / "config.json").read_text())["batch_size"] == config.batch_size
  config.mesh.data = 4  # where it runs may change
  configuration.claim_workdir(path, config)
  assert json.loads((path / "config.json").read_text())["mesh"]["data"] == 4


def test_another_run_is_refused_and_named(tmp_path):
  config = configuration.base()
  configuration.claim_workdir(tmp_path, config)
  (tmp_path / "metrics.jsonl").write_text("{}\n")
  config.batch_size = 7
  with pytest.raises(errors.UserError, match=r"config.batch_size: 64 there, 7 now"):
    configuration.claim_workdir(tmp_path, config)
  assert json.loads((tmp_path / "config.json").read_text())["batch_size"] == 64


def test_a_run_that_has_not_begun_may_change(tmp_path):
  config = configuration.base()
  config.train.steps = -3  # refused after the workdir was made
  configuration.claim_workdir(tmp_path, config)
  (tmp_path / "events.jsonl").write_text("")
  config.train.steps = 3
  configuration.claim_workdir(tmp_path, config)
  assert json.loads((tmp_path / "config.json").read_text())["train"]["steps"] == 3


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path):
  (tmp_path / "thesis.tex").write_text("years of work")
  with pytest.raises(errors.UserError, match=r"not empty and holds no run.*thesis.tex"):
    configuration.claim_workdir(tmp_path, configuration.base())
  assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_workdir_that_cannot_be_made_is_refused(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.UserError, match=r"--workdir=.*file.* cannot be written"):
    configuration.claim_workdir(tmp_path / "file", configuration.base())


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
    configuration.claim_workdir(tmp_path, configuration.base())
  assert (tmp_path / "config.json").read_text() == text


@pytest.mark.parametrize(
  ("batch", "ratio", "count"), [(30, 0.1, 3), (128, 5.0, 640), (10, 0.25, 3), (32, 0.0, 0)]
)
def test_unlabelled_examples_are_rounded_up(batch, ratio, count):
  config = configuration.base()
  config.batch_size = batch
  config.data.unlabelled.update({"source": "digits", "ratio": ratio})
  assert configuration.step_batch(config) == (batch, count)
