"""What a finished run leaves and how it is read again."""

import json

import pytest

from effnets import errors, training
from effnets.training import results
from tests.training import tiny


def test_a_result_is_there_whole_or_not_at_all(tmp_path):
  assert results.read(tmp_path) is None
  results.write(tmp_path, {"a": 1})
  results.write(tmp_path, {"a": 2, "b": {"c": 0.5}})
  assert results.read(tmp_path) == {"a": 2, "b": {"c": 0.5}}
  assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_finished_run_is_restored_and_evaluates_the_same(unbroken):
  config = tiny.get_config()
  trained = results.restore(config, unbroken.workdir)
  assert trained.step == 12
  tiny.assert_same_bits(trained.variables, unbroken.result.variables)
  predictor = training.evaluator.create(config, trained.task, trained.placement)
  source = training.inputs.evaluation(config, "validation")
  assert predictor.evaluate(trained.variables, source) == unbroken.result.figures["validation"]


def test_the_best_checkpoint_is_the_one_with_the_best_figure(unbroken):
  best = results.restore(tiny.get_config(), unbroken.workdir, best=True).step
  figures = {}
  for number in (8, 12):
    meta = unbroken.workdir / "checkpoints" / str(number) / "meta" / "metadata"
    figures[number] = json.loads(meta.read_text())["content"]["metrics"].get("top1", -1.0)
  assert figures[best] == max(figures.values())


@pytest.mark.parametrize("made", [False, True])
def test_a_workdir_without_checkpoints_is_refused(tmp_path, made):
  if made:
    (tmp_path / "checkpoints").mkdir()
  with pytest.raises(errors.UserError, match=r"checkpoint"):
    results.restore(tiny.get_config(), tmp_path)
