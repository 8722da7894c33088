"""Two and four real processes of one run: one is killed, others go on with fewer or differ."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from effnets.parallel import watch
from tests.training import processes_test, resume_test, tiny

pytestmark = pytest.mark.slow


def start(workdir, count, *flags, arg=resume_test.OFTEN, root=tiny.ROOT):
  """Starts `count` processes of eight devices in all; flags of one may be a list of its own."""
  port = tiny.free_port()
  children = []
  for index in range(count):
    own = [flag for flag in flags if isinstance(flag, str)]
    for flag in flags:
      own += flag.get(index, []) if isinstance(flag, dict) else []
    if count > 1:
      own += [
        f"--config.processes.coordinator=127.0.0.1:{port}",
        f"--config.processes.count={count}",
        f"--config.processes.index={index}",
      ]
    children.append(tiny.start(workdir, *own, arg=arg, devices=8 // count))
  return children


# Little to compile, by as many processes as there are.
LIGHT = ("--config.augment.randaugment.layers=0", "--config.batch_norm.group=local")


def check_told(output, status, lost, count):
  """Checks the one message of a process that others left."""
  assert status == watch.LOST_STATUS, output
  assert f"Error: Process {lost} of {count} is lost" in output
  assert "Start all processes again by the same command" in output
  for native in ("Traceback", "stack trace", "terminate called", "Check failure"):
    assert native not in output, output


def kill(children, victim, condition):
  """Kills one process once `condition()` is true; returns (index, status, output) of the others."""
  resume_test.wait_for(children[victim], condition)
  children[victim].send_signal(signal.SIGKILL)
  killed = time.monotonic()
  others = [index for index in range(len(children)) if index != victim]
  statuses, outputs = processes_test.finish(*(children[index] for index in others), seconds=120)
  took = time.monotonic() - killed
  children[victim].communicate()
  assert took < watch.TOLD_SECONDS, took
  return list(zip(others, statuses, outputs, strict=True))


def test_killed_processes_are_told_of_and_the_run_goes_on_with_any_number(tmp_path):
  whole, broken, fewer = (tmp_path / name for name in ("whole", "broken", "fewer"))
  children = start(broken, 4, *LIGHT)
  for _, status, output in kill(children, 2, resume_test.saved(broken, 3)):
    check_told(output, status, 2, 4)
  assert not resume_test.saved(broken, 12)()
  shutil.copytree(broken, fewer)

  for folder in (whole, broken):
    statuses, outputs = processes_test.finish(*start(folder, 4, *LIGHT))
    assert statuses == [0] * 4, outputs
  assert "restart" in {line["kind"] for line in tiny.lines(broken / "events.jsonl")}
  expected = tiny.stored(whole, 12)
  tiny.assert_same_bits(tiny.stored(broken, 12), expected)
  assert (whole / "result.json").is_file()

  # On two, of which the first is killed, as it holds what the others meet in; then on one.
  before = max(int(p.name) for p in (fewer / "checkpoints").iterdir() if p.name.isdigit())
  children = start(fewer, 2, *LIGHT)
  for _, status, output in kill(children, 0, resume_test.saved(fewer, before + 2)):
    check_told(output, status, 0, 2)
  statuses, outputs = processes_test.finish(*start(fewer, 1, *LIGHT))
  assert statuses == [0], outputs
  ours = tiny.stored(fewer, 12)
  np.testing.assert_array_equal(ours["position"], expected["position"])
  tiny.assert_close(ours["params"], expected["params"], tolerance=1e-4)
  tiny.assert_close(ours["opt"], expected["opt"], tolerance=1e-4)


def test_other_settings_and_other_code_are_told_by_all_before_compiling(tmp_path):
  root = tmp_path / "root"
  for part in ("effnets", "tests/training", "configs"):
    shutil.copytree(tiny.ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
  file = root / "effnets" / "errors.py"
  file.write_text(file.read_text() + "# one line more\n")
  port, children = tiny.free_port(), []
  for index, (folder, rate) in enumerate(((tiny.ROOT, 0.01), (root, 0.02))):
    command = [sys.executable, "-m", "effnets.main", f"--config={tiny.__file__}:"]
    command += [
      f"--workdir={tmp_path / 'run'}",
      f"--config.optimizer.learning_rate={rate}",
      f"--config.processes.coordinator=127.0.0.1:{port}",
      "--config.processes.count=2",
      f"--config.processes.index={index}",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(tiny.ROOT)])}
    children.append(
      subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
      )
    )
  statuses, outputs = processes_test.finish(*children, seconds=120)
  assert statuses == [2, 2], outputs
  for output in outputs:
    said = " ".join(output.split())
    assert "Error: The 2 processes of this run differ: " in said
    assert re.search(r"sources of effnets: '\w{12}' in process 0, '\w{12}' in process 1", said)
    rate = "config.optimizer.learning_rate: 0.01 in process 0, 0.02 in process 1"
    assert rate in said and "Traceback" not in said
    assert said.count("in process 0") == 2
  assert not (tmp_path / "run").exists()
