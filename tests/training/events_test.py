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
