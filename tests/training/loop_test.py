"""The loop in this process: what a run leaves, one trace, stopping, resuming, accidents."""

import json

import jax
import numpy as np
import pytest

from effnets import errors, evaluation, training
from effnets.training import signals
from tests.training import tiny

FIGURES = set(evaluation.CLASSIFICATION_FIGURES)


def test_a_run_leaves_its_figures(unbroken):
  workdir, result, _ = unbroken
  assert result.steps == 12 and set(result.figures) == {"validation", "test"}
  assert all(set(figures) == FIGURES for figures in result.figures.values())
  assert json.loads((workdir / "config.json").read_text())["model"]["name"] == "tests_nano"
  lines = tiny.lines(workdir / "metrics.jsonl")
  assert [x["step"] for x in lines if "train/loss" in x] == [2, 4, 6, 8, 10, 12]
  assert [x["step"] for x in lines if "validation/top1" in x] == [6, 12]
  assert [x["step"] for x in lines if "test/top1" in x] == [12]
  logged = lines[-2]
  assert {f"validation/{k}": v for k, v in result.figures["validation"].items()}.items() <= (
    logged.items()
  )
  assert all(x["unreadable"] == 0 for x in lines if "train/loss" in x)
  kinds = {x["kind"] for x in tiny.lines(workdir / "events.jsonl")}
  assert {"compile", "step", "input_wait", "eval", "checkpoint"} <= kinds
  assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["12", "8"]


def test_the_step_is_traced_once(unbroken):
  assert unbroken.traces == 1


def test_a_finished_run_trains_nothing_and_reports_nothing_twice(unbroken):
  workdir, result, _ = unbroken
  before = tiny.lines(workdir / "metrics.jsonl")
  again = training.train(tiny.get_config(), workdir)
  assert again.figures == result.figures and again.steps == 12
  assert tiny.lines(workdir / "metrics.jsonl") == before
  tiny.assert_same_bits(again.variables, result.variables)


@pytest.mark.slow
def test_stopped_and_resumed_equals_unbroken_bit_for_bit(unbroken, tmp_path, monkeypatch):
  whole, result, _ = unbroken
  asked = signals.StopSignal.requested
  for stop_at in (3, 9):  # neither at a checkpoint nor at a line of the log
    monkeypatch.setattr(signals.StopSignal, "requested", lambda self, now, at=stop_at: now == at)
    with pytest.raises(training.Stopped, match=rf"at step {stop_at} of 12; the same command"):
      training.train(tiny.get_config(), tmp_path)
    assert (tmp_path / "checkpoints" / str(stop_at)).is_dir()
  monkeypatch.setattr(signals.StopSignal, "requested", asked)
  resumed = training.train(tiny.get_config(), tmp_path)
  tiny.assert_same_bits(tiny.stored(tmp_path, 12), tiny.stored(whole, 12))
  assert resumed.figures == result.figures
  lines = tiny.lines(tmp_path / "metrics.jsonl")
  assert [x["step"] for x in lines if "train/loss" in x] == [2, 4, 6, 8, 10, 12]
  assert [x["step"] for x in lines if "validation/top1" in x] == [6, 12]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("mesh", "execution"), [({"data": 4, "fsdp": 2}, "jit"), ({"data": 8}, "shard_map")], ids=str
)
def test_a_run_resumes_on_another_mesh(unbroken, tmp_path, monkeypatch, mesh, execution):
  whole, result, _ = unbroken
  with monkeypatch.context() as patch:
    patch.setattr(signals.StopSignal, "requested", lambda self, now: now == 6)
    with pytest.raises(training.Stopped):
      training.train(tiny.get_config(), tmp_path)
  config = tiny.get_config()
  config.mesh.update(mesh)
  config.execution = execution
  config.sharding.min_size = 64
  training.train(config, tmp_path)
  losses = [
    [x["train/loss"] for x in tiny.lines(folder / "metrics.jsonl") if "train/loss" in x]
    for folder in (tmp_path, whole)
  ]
  np.testing.assert_allclose(losses[0], losses[1], rtol=2e-5)
  for name in ("params", "batch_stats"):
    ours, theirs = tiny.stored(tmp_path, 12)["ema"][name], tiny.stored(whole, 12)["ema"][name]
    tiny.assert_close(ours, theirs, tolerance=1e-4)


@pytest.mark.slow
def test_a_poisoned_weight_is_named_and_nothing_is_lost(unbroken, tmp_path):
  variables = jax.tree.map(np.array, jax.device_get(unbroken.result.variables))
  variables["params"]["block_1"]["expand"]["conv"]["kernel"][0, 0, 2, 3] = np.nan
  with pytest.raises(
    errors.UserError,
    match=r"not finite at step 1 \(examples 0 to 15 of the stream\); first tensor that is not: "
    r"the weight block_1/expand/conv/kernel\. The batch is in .*non_finite_batch.npz",
  ):
    training.train(tiny.get_config(), tmp_path, initial=variables)
  batch = np.load(tmp_path / "non_finite_batch.npz")
  assert batch["image"].shape == (16, 32, 32, 3) and batch["image"].dtype == np.uint8
  np.testing.assert_array_equal(batch["position"][:, 1], np.arange(16))


def test_a_mistake_claims_no_workdir(tmp_path):
  config = tiny.get_config()
  config.optimizer.name = "rmsprob"
  with pytest.raises(errors.UserError, match="config.optimizer.name='rmsprob'"):
    training.train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()
