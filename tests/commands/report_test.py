"""`--mode=report`: hand-made events, and a hand-made plan beside them."""

import json

import pytest

from effnets import main
from effnets.training import events
from tests.training import tiny

pytestmark = pytest.mark.usefixtures("process_state")


def test_a_stage_with_a_plan_beside_it(tmp_path, capsys):
  with events.Events(tmp_path / "stage") as log:
    log.add("setup", 1.0)
    log.add("compile", 4.0, devices=8, batch=64)
    log.first_step("stage", 1, after=5.0625)
    log.add("step", 10.0, step=100, steps=100)
    log.add("input_wait", 5.0, step=100)
  roof = {"stage": "stage", "roofline": {"images_per_second_per_chip": 800.0}}
  (tmp_path / "plan.json").write_text(json.dumps({"plans": [roof, {"stage": "other"}]}))
  config = f"--config={tiny.__file__}"
  assert main.run(["main", config, "--mode=report", f"--workdir={tmp_path}"]) == 0
  (row,) = json.loads((tmp_path / "report.json").read_text()).values()
  # 6,400 images in 10 of 20 seconds on eight devices: 80 a second each, a tenth of the roofline.
  assert row == {
    "seconds": {"step": 10.0, "input_wait": 5.0, "compile": 4.0, "setup": 1.0},
    "total_seconds": 20.0,
    "goodput": 0.5,
    "steps": 100,
    "devices": 8,
    "images_per_second_per_device": 80.0,
    "seconds_to_first_step": 5.062,
    "share_of_roofline": 0.1,
  }
  assert (tmp_path / "plots" / "report.png").read_bytes()[1:4] == b"PNG"
  said = " ".join(capsys.readouterr().out.split())
  assert "5.1 s to the first step, 10.0% of the planned roofline" in said


def test_a_folder_without_events(tmp_path, capsys):
  config = f"--config={tiny.__file__}"
  assert main.run(["main", config, "--mode=report", f"--workdir={tmp_path}"]) == 2
  assert "holds no events.jsonl" in capsys.readouterr().err
