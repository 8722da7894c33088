"""The launch scripts against stand-ins of the programs they call, which record and can fail."""

import os
import pathlib
import subprocess
import sys

import pytest
import yaml

from effnets.parallel import watch

LAUNCH = pathlib.Path(__file__).parent.parent / "launch"
SCRIPTS = sorted(LAUNCH.rglob("*.sh"))
TPU, SLURM, GKE = (str(LAUNCH / name) for name in ("tpu_vm.sh", "slurm/train.sh", "gke/jobset.sh"))
SLICE = ["--name=b0", "--zone=us-central1-a", "--type=v5litepod-16", "--bucket=gs://mine"]
RUN = ["--", "--config=configs/efficientnet.py:b0", "--config.seed=3"]

# Answers come from files, line by line; the last one stays.
STAND_IN = r"""#!/usr/bin/env bash
echo "$(basename "$0") $*" >> "$HERE/calls"
[ -t 0 ] || cat >> "$HERE/input" 2> /dev/null
if [ -n "${FAIL:-}" ] && [[ "$*" == *"$FAIL"* ]]; then exit 9; fi
answer() {
  head -n 1 "$HERE/$1"
  if [ "$(wc -l < "$HERE/$1")" -gt 1 ]; then sed -i 1d "$HERE/$1"; fi
}
case "$*" in
  *"value(state)"*) answer state ;;
  *networkEndpoints*) echo "10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4" ;;
  *"cat effnets/ended"*) answer ended ;;
esac
"""


@pytest.fixture
def call(tmp_path):
  """Returns a function from a command line to (status, output, error output, calls)."""
  for name in ("gcloud", "sbatch", "kubectl"):
    (tmp_path / name).write_text(STAND_IN)
    (tmp_path / name).chmod(0o755)

  def run(*arguments, state="READY", ended="0", fail=""):
    (tmp_path / "state").write_text(state.replace(" ", "\n") + "\n")
    (tmp_path / "ended").write_text(ended.replace(" ", "\n") + "\n")
    (tmp_path / "calls").write_text("")
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
      arguments,
      env={"PATH": path, "HERE": str(tmp_path), "FAIL": fail},
      cwd=tmp_path,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      timeout=60,
    )
    return done.returncode, done.stdout, done.stderr, (tmp_path / "calls").read_text().splitlines()

  run.path = tmp_path
  return run


def _steps(calls):
  """Returns what the calls were for, without looks at the state."""
  words = {
    " create ": "create",
    "mkdir -p effnets": "folder",
    " scp ": "copy",
    "pip install": "packages",
    "gcsfuse": "bucket",
    "nohup": "run",
    "storage cp": "fetch",
    " delete ": "delete",
  }
  return [next(step for word, step in words.items() if word in c) for c in calls if _changes(c)]


def _changes(call):
  return not any(word in call for word in ("describe", "cat effnets/ended"))


ALL = ["create", "folder", "copy", "packages", "bucket", "run", "fetch", "delete"]


def test_up_does_every_step_in_order(call):
  status, _, _, calls = call(
    TPU, "up", *SLICE, "--poll=0", "--spot", *RUN, state="CREATING READY", ended="running running 0"
  )
  assert status == 0 and _steps(calls) == ALL
  assert "--accelerator-type=v5litepod-16" in calls[0] and "--spot" in calls[0]
  (run,) = (c for c in calls if "nohup" in c)
  # Four workers, which have to be told that they are several.
  assert "--worker=all" in run and "--config.processes.count=4" in run
  assert "--config.seed=3" in run and "bucket/runs/b0" in run
  assert [c for c in calls if "storage cp" in c] == [
    "gcloud storage cp --recursive gs://mine/runs/b0 runs/"
  ]


def test_dry_run_prints_everything_and_calls_nothing(call):
  status, out, _, calls = call(TPU, "up", *SLICE, "--queued", "--dry_run", *RUN)
  assert status == 0 and calls == []
  lines = [line for line in out.splitlines() if line.startswith("gcloud")]
  assert _steps([line.replace("\\", "") for line in lines]) == ALL
  assert "queued-resources create" in lines[0] and "queued-resources delete" in lines[-1]


@pytest.mark.parametrize(
  ("fail", "step", "done"),
  [
    ("tpu-vm create", "create", 1),
    ("mkdir -p effnets", "install (folder)", 2),
    ("scp", "install (copy)", 3),
    ("pip install", "install (packages)", 4),
    ("gcsfuse", "install (bucket)", 5),
    ("nohup", "run", 6),
  ],
)
def test_a_step_that_fails_is_named_and_the_slice_is_left(call, fail, step, done):
  status, _, err, calls = call(TPU, "up", *SLICE, *RUN, fail=fail)
  assert status == 1 and f"Error: {step} failed (exit status 9): gcloud" in err
  assert _steps(calls) == ALL[:done] and "is still there" in err


def test_a_run_that_fails_keeps_its_slice(call):
  status, _, err, calls = call(TPU, "up", *SLICE, *RUN, ended="2")
  assert status == 1 and "ended with exit status 2" in err and "delete" not in _steps(calls)


def test_a_copy_that_fails_does_not_keep_the_slice(call):
  status, _, err, calls = call(TPU, "up", *SLICE, *RUN, fail="storage cp")
  assert status == 1 and "fetch failed" in err and _steps(calls)[-1] == "delete"


def test_a_slice_that_is_taken_away_is_created_again_and_the_run_resumes(call):
  # Ready when created and at the first look; then gone, and ready again.
  states = "READY READY PREEMPTED READY"
  status, _, err, calls = call(
    TPU, "up", *SLICE, "--poll=0", "--spot", *RUN, state=states, ended="running 0"
  )
  assert status == 0 and "was lost; creating it again (1 of 20)" in err
  assert _steps(calls) == [*ALL[:6], "delete", *ALL]
  runs = [c for c in calls if "nohup" in c]
  assert len(runs) == 2 and runs[0] == runs[1]  # the same command, which resumes


def test_a_slice_with_a_worker_that_no_longer_answers_is_created_again(call):
  status, _, err, calls = call(TPU, "up", *SLICE, "--poll=0", *RUN, ended=f"{watch.LOST_STATUS} 0")
  assert status == 0 and "was lost; creating it again (1 of 20)" in err
  assert _steps(calls) == [*ALL[:6], "delete", *ALL]


def test_a_slice_that_never_lasts(call):
  status, _, err, calls = call(
    TPU, "up", *SLICE, "--retries=2", "--poll=0", *RUN, state="PREEMPTED"
  )
  assert status == 1 and "was lost 3 times; the workdir is gs://mine/runs/b0" in err
  assert _steps(calls) == ["create", "delete"] * 3


@pytest.mark.parametrize(
  ("command", "words"),
  [
    ("create", "--accelerator-type=v5litepod-16"),
    ("logs", "tail -n 50 -F effnets/run.log"),
    ("delete", "tpu-vm delete b0 --zone=us-central1-a --quiet"),
  ],
)
def test_single_commands(call, command, words):
  status, _, _, calls = call(TPU, command, *SLICE)
  assert status == 0 and any(words in c for c in calls)


def test_status(call):
  _, out, _, _ = call(TPU, "status", *SLICE, ended="running")
  assert out == "slice: READY, run: running\n"


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ([TPU], "COMMAND is missing"),
    ([TPU, "upp"], "'upp' is not a command"),
    ([TPU, "up", *SLICE[1:], *RUN], "--name= is missing"),
    ([TPU, "up", *SLICE[:3], *RUN], "--bucket= is missing"),
    ([TPU, "up", *SLICE], "arguments are missing"),
    ([TPU, "up", *SLICE, "--spott", *RUN], "'--spott' is not an option"),
    ([TPU, "wait", *SLICE, "--poll=often"], "--poll='often' should be"),
    ([SLURM, "--nodes=2", "--gpus=x", "--", "--workdir=w"], "--gpus='x' should be"),
    ([SLURM, "--nodes=2", "--gpus=8", *RUN], "need --workdir=DIR"),
    ([GKE, "--name=Big_One"], "--image= is missing"),
  ],
)
def test_mistakes(call, arguments, words):
  status, out, err, calls = call(*arguments)
  assert status == 2 and out == "" and calls == []
  assert err.startswith("Error: ") and words in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_is_the_comment_at_the_top(call, script):
  status, out, _, _ = call(str(script), "--help")
  first = script.read_text().splitlines()[1].removeprefix("# ")
  assert status == 0 and out.splitlines()[0] == first and "set -euo" not in out


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
  shellcheck = pathlib.Path(sys.executable).parent / "shellcheck"
  if not shellcheck.exists():
    pytest.skip("shellcheck comes with effnets[test]")
  done = subprocess.run([shellcheck, script], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


def test_slurm_starts_a_process_for_each_gpu(call):
  arguments = ["--nodes=2", "--gpus=8", "--sbatch=--partition=gpu", *RUN, "--workdir=/shared/b0"]
  status, _, _, calls = call(SLURM, *arguments)
  assert status == 0
  assert calls[0].startswith("sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-task=1")
  assert "--partition=gpu" in calls[0] and "--requeue" in calls[0]
  job = (call.path / "input").read_text()
  assert "--config.processes.count=16" in job and "scontrol requeue" in job
  status, out, _, calls = call(SLURM, *arguments, "--dry_run")
  assert status == 0  # after --, everything is the run's
  status, out, _, calls = call(SLURM, "--dry_run", *arguments)
  assert calls == [] and job.strip() in out


def test_the_jobset_is_what_kubernetes_expects(call):
  arguments = ["--name=b0", "--image=x/effnets", "--accelerator=tpu-v5-lite-podslice"]
  arguments += ["--topology=4x4", "--hosts=4", "--slices=2", "--claim=runs"]
  say = '--config.class_names=a "b" c'
  status, out, _, calls = call(GKE, "--dry_run", *arguments, *RUN, say)
  assert status == 0 and calls == []
  jobset = yaml.safe_load(out)
  (job,) = jobset["spec"]["replicatedJobs"]
  spec = job["template"]["spec"]
  assert (job["replicas"], spec["parallelism"], spec["completions"]) == (2, 4, 4)
  (container,) = spec["template"]["spec"]["containers"]
  assert container["command"][:5] == ["python", "-m", "effnets.main", RUN[1], RUN[2]]
  assert say in container["command"] and "--config.processes.count=8" in container["command"]
  assert container["resources"]["limits"] == {"google.com/tpu": 4}
  status, _, _, calls = call(GKE, *arguments, *RUN)
  assert status == 0 and calls == ["kubectl apply -f -"]
  assert yaml.safe_load((call.path / "input").read_text())["metadata"]["name"] == "b0"
