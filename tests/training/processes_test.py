"""Two real processes, joined by `jax.distributed` on this machine, and one with as many devices."""

import json
import signal
import subprocess

import numpy as np
import pytest

from tests.training import resume_test, tiny

pytestmark = pytest.mark.slow

# One axis over all devices of both processes: every sharded leaf spans them.
MESH = ("--config.mesh.data=1", "--config.mesh.fsdp=4", "--config.sharding.min_size=64")


def start_both(workdir, *flags, arg=""):
  """Starts two processes of two devices each."""
  port = tiny.free_port()
  return [
    tiny.start(
      workdir,
      *MESH,
      *flags,
      f"--config.processes.coordinator=127.0.0.1:{port}",
      "--config.processes.count=2",
      f"--config.processes.index={index}",
      arg=arg,
      devices=2,
    )
    for index in range(2)
  ]


def finish(*children, seconds=300):
  """Returns statuses and outputs."""
  try:
    outputs = [child.communicate(timeout=seconds)[0] for child in children]
  except subprocess.TimeoutExpired:
    for child in children:
      child.kill()
    pytest.fail("timed out: " + "\n---\n".join(child.communicate()[0] for child in children))
  return [child.returncode for child in children], outputs


def test_two_processes_are_one_run(tmp_path):
  alone, both = tmp_path / "alone", tmp_path / "both"
  statuses, outputs = finish(tiny.start(alone, *MESH, arg=resume_test.OFTEN, devices=4))
  assert statuses == [0], outputs

  # SIGTERM on the second process alone stops both at the same step.
  children = start_both(both, arg=resume_test.OFTEN)
  resume_test.wait_for(children[0], resume_test.saved(both, 2))
  children[1].send_signal(signal.SIGTERM)
  statuses, outputs = finish(*children)
  assert statuses == [0, 0], outputs
  newest = max(int(p.name) for p in (both / "checkpoints").iterdir())
  assert newest < 12
  for output in outputs:
    said = " ".join(output.split())
    assert f"training stopped at step {newest} of 12; the same command resumes it." in said
  assert not (both / "result.json").exists()

  statuses, outputs = finish(*start_both(both, arg=resume_test.OFTEN))
  assert statuses == [0, 0], outputs
  ours, theirs = tiny.stored(both, 12), tiny.stored(alone, 12)
  np.testing.assert_array_equal(ours["position"], theirs["position"])
  tiny.assert_close(ours["params"], theirs["params"], tolerance=1e-4)
  tiny.assert_close(ours["ema"], theirs["ema"], tolerance=1e-4)
  tiny.assert_close(ours["opt"], theirs["opt"], tolerance=1e-4)

  # Written by process 0 alone, and by it as one process writes it.
  files = {p.relative_to(both) for p in both.rglob("*") if "checkpoints" not in p.parts}
  assert files == {p.relative_to(alone) for p in alone.rglob("*") if "checkpoints" not in p.parts}
  results = [json.loads((folder / "result.json").read_text()) for folder in (both, alone)]
  for split in ("validation", "test"):
    np.testing.assert_allclose(results[0][split]["top1"], results[1][split]["top1"], atol=0.01)
    np.testing.assert_allclose(
      results[0][split]["cross_entropy"], results[1][split]["cross_entropy"], rtol=1e-4
    )
  for folder in (both, alone):
    lines = tiny.lines(folder / "metrics.jsonl")
    assert [x["step"] for x in lines if "train/loss" in x] == [2, 4, 6, 8, 10, 12]

  # The other process evaluates too, and stays quiet.
  statuses, outputs = finish(*start_both(both, "--mode=evaluate"))
  assert statuses == [0, 0], outputs
  figures = json.loads((both / "evaluation.json").read_text())
  np.testing.assert_allclose(figures["test"]["top1"], results[0]["test"]["top1"])


@pytest.mark.parametrize("flag", ["--config.optimizer.learning_rate=1e30", "foreign"])
def test_a_mistake_ends_both_processes_with_status_2(tmp_path, flag):
  if flag == "foreign":  # noticed by process 0 alone
    (tmp_path / "thesis.tex").write_text("years of work")
    expected, flags = "is not empty and holds no run of effnets", ()
  else:
    expected, flags = "the loss or its gradient is not finite at step", (flag,)
  statuses, outputs = finish(*start_both(tmp_path, *flags))
  assert statuses == [2, 2], outputs
  assert all(expected in " ".join(output.split()) for output in outputs), outputs
