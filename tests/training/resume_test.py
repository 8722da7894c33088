"""Runs that are killed or told to stop, in processes of their own, and what follows them."""

import random
import signal
import time

import numpy as np
import pytest

from effnets import training
from tests.training import tiny

# Checkpoints and evaluations after every step: the run lasts long enough to be met anywhere.
OFTEN = "save_every=1"
EVALUATE_OFTEN = "--config.evaluation.every_percent=8"


def config():
  """Returns the config of the child process."""
  made = tiny.get_config(OFTEN)
  made.evaluation.every_percent = 8.0
  return made


def wait_for(child, condition, seconds=240):
  """Returns once `condition()` is true; fails if the child ends before."""
  end = time.monotonic() + seconds
  while not condition():
    if child.poll() is not None or time.monotonic() > end:
      child.kill()
      pytest.fail(f"status {child.wait()}: {child.stdout.read()}")
    time.sleep(0.002)


def saved(workdir, number):
  return lambda: (workdir / "checkpoints" / str(number)).is_dir()


def writing(workdir, number):
  """Returns whether a checkpoint of step `number` or later is being written."""

  def condition():
    torn = (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")
    return any(int(p.name.split(".")[0]) >= number for p in torn)

  return condition


def check_equal_to(unbroken, workdir, result):
  tiny.assert_same_bits(tiny.stored(workdir, 12), tiny.stored(unbroken.workdir, 12))
  assert result.figures == unbroken.result.figures
  lines = tiny.lines(workdir / "metrics.jsonl")
  assert [x["step"] for x in lines if "train/loss" in x] == [2, 4, 6, 8, 10, 12]
  assert [x["step"] for x in lines if "validation/top1" in x] == [*range(1, 13)]
  assert [x["step"] for x in lines if "test/top1" in x] == [12]


def kill(workdir, moment):
  """Runs a child on `workdir` until `moment` and kills it there; returns whether it still ran."""
  child = tiny.start(workdir, EVALUATE_OFTEN, arg=OFTEN)
  try:
    moment(child)
    ran = child.poll() is None
  finally:
    child.send_signal(signal.SIGKILL)
    child.communicate()
  return ran


@pytest.mark.slow
def test_killed_while_writing_a_checkpoint_and_resumed_is_unbroken(unbroken, tmp_path):
  assert kill(tmp_path, lambda child: wait_for(child, writing(tmp_path, 3)))
  assert not saved(tmp_path, 12)()
  check_equal_to(unbroken, tmp_path, training.train(config(), tmp_path))


@pytest.mark.slow
def test_killed_again_and_again_is_unbroken(unbroken, tmp_path):
  rng, kills = random.Random(), 0
  for _ in range(4):

    def moment(child):
      # The first is met in its first seconds, before or after anything was written.
      wait_for(child, lambda: (tmp_path / "checkpoints").is_dir())
      time.sleep(rng.uniform(0.0, 4.0))

    kills += kill(tmp_path, moment)
  assert kills
  check_equal_to(unbroken, tmp_path, training.train(config(), tmp_path))


@pytest.mark.slow
def test_sigterm_saves_and_exits_cleanly_and_the_run_resumes(unbroken, tmp_path):
  child = tiny.start(tmp_path, EVALUATE_OFTEN, arg=OFTEN)
  wait_for(child, saved(tmp_path, 2))
  child.send_signal(signal.SIGTERM)
  output = child.communicate(timeout=120)[0]
  assert child.returncode == 0, output
  assert "Traceback" not in output
  newest = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
  said = " ".join(output.split())
  assert f"training stopped at step {newest} of 12; the same command resumes it." in said
  assert not (tmp_path / "result.json").exists()
  check_equal_to(unbroken, tmp_path, training.train(config(), tmp_path))


@pytest.mark.slow
def test_killed_and_resumed_on_fewer_devices(unbroken, tmp_path):
  assert kill(tmp_path, lambda child: wait_for(child, saved(tmp_path, 4)))
  child = tiny.start(tmp_path, EVALUATE_OFTEN, arg=OFTEN, devices=2)
  output = child.communicate(timeout=300)[0]
  assert child.returncode == 0, output
  losses = [
    [x["train/loss"] for x in tiny.lines(folder / "metrics.jsonl") if "train/loss" in x]
    for folder in (tmp_path, unbroken.workdir)
  ]
  np.testing.assert_allclose(losses[0], losses[1], rtol=2e-5)
  ours, theirs = (tiny.stored(folder, 12) for folder in (tmp_path, unbroken.workdir))
  np.testing.assert_array_equal(ours["position"], theirs["position"])
  tiny.assert_close(ours["ema"], theirs["ema"], tolerance=1e-4)


@pytest.mark.slow
def test_an_absurd_learning_rate_is_one_message_and_status_2(tmp_path):
  child = tiny.start(tmp_path, "--config.optimizer.learning_rate=1e30", arg="save_every=1")
  output = child.communicate(timeout=300)[0]
  assert child.returncode == 2, output
  error = output[output.index("Error: ") :]
  assert "Traceback" not in output
  assert "the loss or its gradient is not finite at step" in error
  assert "first tensor that is not: the " in error and "config.optimizer.learning_rate" in error
  assert (tmp_path / "non_finite_batch.npz").exists()
  # What was saved before is whole.
  number = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
  state = tiny.stored(tmp_path, number)
  assert state["healthy"] and np.isfinite(state["params"]["classifier"]["kernel"]).all()
