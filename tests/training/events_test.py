"""events.jsonl: what is written, and its sums."""

import json
import time

import pytest

from effnets.training import events


def test_adds_times_and_sums(tmp_path):
  with events.Events(tmp_path) as log:
    log.add("compile", 2.0, step=1)
    log.add("step", 0.5, steps=10)
    with log.span("eval", step=10) as fields:
      time.sleep(0.02)
      fields["examples"] = 7
    with pytest.raises(KeyError):
      with log.span("checkpoint", step=10):
        raise KeyError("x")
  with events.Events(tmp_path) as log:  # a restart appends
    log.add("step", 1.0)
  lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
  assert [x["kind"] for x in lines] == ["compile", "step", "eval", "checkpoint", "step"]
  assert lines[0].items() >= {"seconds": 2.0, "step": 1}.items()
  assert lines[2]["examples"] == 7 and 0.02 <= lines[2]["seconds"] < 5
  assert lines[3]["error"] == "KeyError"
  assert all(abs(x["time"] - time.time()) < 60 for x in lines)
  totals = events.summary(tmp_path)
  assert totals["compile"] == 2.0 and totals["step"] == 1.5
  assert list(totals)[:2] == ["compile", "step"]
  assert events.summary(tmp_path / "events.jsonl") == totals


def test_a_torn_line_and_an_inactive_one(tmp_path):
  (tmp_path / "events.jsonl").write_text('{"kind": "step", "seconds": 1.0}\n{"kind": "st')
  assert events.summary(tmp_path) == {"step": 1.0}
  with events.Events(tmp_path) as log:
    log.add("step", 2.0)
  assert events.summary(tmp_path) == {"step": 3.0}
  with events.Events(tmp_path / "other", active=False) as log:
    log.add("step", 2.0)
  assert not (tmp_path / "other").exists()
  assert events.summary(tmp_path / "other" / "events.jsonl") == {}


def test_what_a_restart_did_again_is_lost():
  first = [
    {"kind": "setup", "seconds": 3.0},
    {"kind": "compile", "seconds": 5.0, "devices": 4, "batch": 64},
    {"kind": "step", "seconds": 10.0, "step": 100, "steps": 100},
    {"kind": "input_wait", "seconds": 1.0, "step": 100},
    {"kind": "checkpoint", "seconds": 2.0, "step": 100},
    {"kind": "step", "seconds": 6.0, "step": 160, "steps": 60},
    {"kind": "input_wait", "seconds": 0.5, "step": 160},
  ]
  again = [
    {"kind": "restore", "seconds": 1.5},
    {"kind": "restart", "seconds": 0.0, "step": 100},
    {"kind": "setup", "seconds": 2.0},
    {"kind": "compile", "seconds": 4.0, "devices": 8, "batch": 64},
    {"kind": "step", "seconds": 8.0, "step": 200, "steps": 100},
    {"kind": "eval", "seconds": 4.0, "step": 200},
  ]
  whole = events.account(first)
  assert whole.steps == 160 and "lost" not in whole.seconds and whole.first_step == 8.0
  # 16 s of updates in 27.5 s; 160 steps of 64 images on four devices.
  assert whole.total == 27.5 and whole.goodput == pytest.approx(16 / 27.5)
  assert whole.images_per_second == pytest.approx(160 * 64 / 16 / 4)
  resumed = events.account(first + again)
  # Lost: 60 steps with their waiting, the second set-up and compilation. Restoring came before the
  # restart was noted and is told by its own name.
  assert resumed.seconds["lost"] == pytest.approx(6.5 + 2.0 + 4.0)
  assert resumed.steps == 200 and resumed.images == 200 * 64 and resumed.devices == 8
  assert resumed.seconds["step"] == 18.0 and resumed.first_step == 6.0
  assert resumed.total == pytest.approx(sum(x["seconds"] for x in first + again))


def test_the_first_step_is_that_of_the_newest_start(tmp_path):
  with events.Events(tmp_path) as log:
    log.add("setup", 3.0)
    log.add("compile", 5.0, devices=4, batch=64)
    log.first_step("training", 1, after=9.25)
    log.add("step", 10.0, step=100, steps=100)
  lines = events.read(tmp_path)
  spent = events.account(lines)
  assert spent.first_step == 9.25 and spent.total == 18.0 and "first_step" not in spent.seconds
  again = [
    {"kind": "restart", "seconds": 0.0, "step": 100},
    {"kind": "setup", "seconds": 2.0},
    {"kind": "compile", "seconds": 4.0, "devices": 4, "batch": 64},
  ]
  assert events.account(lines + again).first_step == 6.0  # that start got no further
  done = [{"kind": "first_step", "seconds": 0.0, "step": 101, "after": 7.5}]
  assert events.account(lines + again + done).first_step == 7.5


def test_nothing_happened():
  spent = events.account([])
  assert (spent.total, spent.goodput, spent.images_per_second, spent.first_step) == (0, 0, 0, 0)
