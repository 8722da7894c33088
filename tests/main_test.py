"""The command line from the outside: help, what goes where, a run, its evaluation, its end."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from effnets import commands, main

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = "--config=configs/efficientnet.py"


def call(*arguments, **options):
  """Returns the finished process of the command line."""
  command = [sys.executable, "-m", "effnets.main", *arguments]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
def test_help_tells_flags_and_modes(flag, capsys):
  assert main.run(["main", flag]) == 0
  out, err = capsys.readouterr()
  assert err == ""
  for word in ("--config=FILE[:ARG]", "--config.KEY=VALUE", "--workdir=DIR", "Exit status"):
    assert word in out
  for mode in main.MODES:
    assert f"--mode={mode}" in out
  assert max(map(len, out.splitlines())) <= 100


def test_help_and_mistakes_as_a_process():
  done = call("--help")
  assert (done.returncode, done.stderr) == (0, "") and "--workdir=DIR" in done.stdout
  done = call(CONFIG, "--workdir=/dev/null/x")
  assert (done.returncode, done.stdout) == (2, "")
  assert done.stderr.startswith("Error: --workdir=/dev/null/x cannot be written")
  assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("form", ["--workdir=w", "--workdir w", "-workdir=w"])
@pytest.mark.usefixtures("process_state")
def test_flags_and_overrides_are_read(form):
  words = ["main", CONFIG, *form.split(), "--config.train.steps=7", "--config.train.steps=8"]
  words += ["--config.mesh.data=-1", "--config.data.split.test=a=b", "--config.tensorboard=false"]
  words += ["--config.optimizer.decay=None", "--config.optimizer.nesterov=True"]
  words += ["--config.data.options.data_dir=/data", "--mode=evaluate"]
  config, workdir, mode = main.parse(words)
  assert (workdir, mode) == ("w", "evaluate")
  assert (config.train.steps, config.mesh.data, config.tensorboard) == (8, -1, False)
  assert config.data.split.test == "a=b"
  assert config.optimizer.decay is None and config.optimizer.nesterov is True
  assert config.data.options.data_dir == "/data"


@pytest.mark.usefixtures("process_state")
def test_a_stage_of_a_pipeline_is_overridden():
  words = ["main", "--config=configs/noisy_student.py", "--workdir=w"]
  words += ["--config.pipeline.teacher.model.name=efficientnet_mini"]
  words += ["--config.pipeline.students.student_3.train.steps=9"]
  words += ["--config.pipeline.labels.min_confidence=0.5"]
  config, _, _ = main.parse(words)
  assert config.pipeline.teacher.to_dict() == {
    "batch_size": 64,
    "model": {"name": "efficientnet_mini"},
  }
  assert list(config.pipeline.students) == ["student_1", "student_2", "student_3"]
  assert config.pipeline.students.student_3.train.steps == 9
  assert config.pipeline.labels.min_confidence == 0.5


@pytest.mark.usefixtures("process_state")
def test_a_run_without_a_workdir_goes_to_runs(monkeypatch, capsys):
  seen = []
  monkeypatch.setattr(commands, "train", lambda _, workdir: seen.append(workdir))
  assert main.run(["main", f"{CONFIG}:b7,seed=2"]) == 0
  assert seen == ["runs/efficientnet_b7_seed_2"]
  assert capsys.readouterr().out == "--workdir=runs/efficientnet_b7_seed_2\n"


@pytest.mark.usefixtures("process_state")
def test_control_c_is_no_traceback(monkeypatch, capsys, tmp_path):
  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(commands, "train", interrupted)
  assert main.run(["main", CONFIG, f"--workdir={tmp_path / 'run'}"]) == 130
  assert capsys.readouterr().err.startswith("Interrupted; the same command continues")


@pytest.mark.usefixtures("process_state")
def test_other_errors_are_not_hidden(monkeypatch, tmp_path):
  def broken(*_):
    raise ZeroDivisionError

  monkeypatch.setattr(commands, "train", broken)
  with pytest.raises(ZeroDivisionError):
    main.run(["main", CONFIG, f"--workdir={tmp_path / 'run'}"])


SMALL = (
  CONFIG,
  "--config.model.width=0.25",
  "--config.model.depth=0.25",
  "--config.train.steps=6",
  # The rate does not depend on the number of steps: one compiled program for all tests here.
  "--config.schedule.name=constant",
  "--config.schedule.warmup_percent=None",
  "--config.augment.shift=0",
  "--config.batch_size=16",
  "--config.eval_batch_size=100",
  "--config.log_every_steps=2",
  "--config.tensorboard=False",
  "--config.evaluation.every_percent=50",
  "--config.checkpoint.every_percent=50",
)


@pytest.mark.slow
def test_a_run_and_its_evaluation(tmp_path):
  environment = {**os.environ, "XLA_FLAGS": "", "COLUMNS": "80"}
  workdir = tmp_path / "run"
  done = call(*SMALL, f"--workdir={workdir}", env=environment)
  assert done.returncode == 0, done.stderr
  # Results and progress on one stream; nothing but warnings on the other, and there are none.
  assert done.stderr == ""
  lines = done.stdout.splitlines()
  assert lines[0].startswith("training: step 2/6 (33%)") and "loss" in lines[0]
  assert max(map(len, lines[-10:])) <= 80
  result = json.loads((workdir / "result.json").read_text())
  assert f"{result['test']['top1']:.4f}" in done.stdout
  assert (result["seed"], result["steps"]) == (0, 6)
  present = {p.name for p in workdir.iterdir()}
  assert present == {
    "checkpoints",
    "classes.txt",
    "config.json",
    "events.jsonl",
    "metrics.jsonl",
    "parameters.txt",
    "plots",
    "result.json",
  }

  done = call(*SMALL, f"--workdir={workdir}", "--mode=evaluate", env=environment)
  assert (done.returncode, done.stderr) == (0, ""), done.stderr
  figures = json.loads((workdir / "evaluation.json").read_text())
  assert figures["test"] == pytest.approx(result["test"], abs=1e-9)
  assert (figures["step"], figures["checkpoint"]) == (6, "last")
  assert f"{result['test']['top1']:.4f}" in done.stdout

  done = call(*SMALL, f"--workdir={workdir}", "--config.seed=1", env=environment)
  assert done.returncode == 2 and "config.seed: 0 there, 1 now" in done.stderr
  assert json.loads((workdir / "result.json").read_text()) == result


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_continues(tmp_path):
  environment = {**os.environ, "XLA_FLAGS": "", "PYTHONUNBUFFERED": "1"}
  arguments = [*SMALL, f"--workdir={tmp_path / 'run'}"]
  arguments[3] = "--config.train.steps=100000"
  process = subprocess.Popen(
    [sys.executable, "-m", "effnets.main", *arguments],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    assert process.stdout.readline().startswith("training: step 2/")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
  finally:
    process.kill()
  assert process.returncode == 0, err
  assert "stopped at step" in out and "the same command resumes it" in out
  assert not (tmp_path / "run" / "result.json").exists()
  steps = [p.name for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit()]
  assert steps


def test_orbaxs_warnings_are_not_shown_and_ours_are():
  code = (
    "import logging as l\nfrom absl import flags, logging\nfrom effnets import main\n"
    "main.run(['main', '--help'])\nflags.FLAGS(['main'])\n"
    "for path in ('/x/orbax/checkpoint/manager.py', '/x/effnets/training/checkpoints.py'):\n"
    "  for level in (l.WARNING, l.ERROR):\n"
    "    r = logging.get_absl_logger().makeRecord('absl', level, path, 1, 'said', (), None)\n"
    "    logging.get_absl_handler().handle(r)\n"
  )
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
  lines = [line[0] + line.split("] ")[0].split()[-1] for line in done.stderr.splitlines()]
  assert lines == ["Emanager.py:1", "Wcheckpoints.py:1", "Echeckpoints.py:1"]
