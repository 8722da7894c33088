"""Cards: their figures against closed forms, what they show, what they say without results."""

import json
import math

import pytest

from effnets import card, errors
from effnets.evaluation import cards

RESULTS = {
  "title": "A paper",
  "claim": "New beats old.",
  "command": "python measure.py",
  "setting": "Digits.",
  "figure": "test top-1",
  "seeds": [0, 1, 2],
  "arms": {"old": [0.5, 0.6, 0.7], "new": [0.6, 0.7, 0.9]},
  "comparisons": [["new", "old"]],
  "seconds": [100.2, 120.0, 110.9],
  "machine": {"jax": "0.10.2", "cores": 2},
  "paper": {"command": "train --big", "table": [["model", "top-1"], ["L2", "88.4"]]},
  "differences": ["Everything is smaller."],
}


def test_a_card_shows_every_arm_seed_and_comparison():
  text = cards.render(RESULTS)
  assert "# A paper" in text and "**Claim.** New beats old." in text
  # old: mean 0.6, s.e. 0.1 / sqrt(3); new: mean 11/15, s.e. sqrt(7/300) / sqrt(3).
  assert "| old | 60.00% ± 5.77% | 50.00% | 60.00% | 70.00% |" in text
  assert f"| new | 73.33% ± {math.sqrt(7 / 900):.2%} | 60.00% | 70.00% | 90.00% |" in text
  # Differences 0.1, 0.1, 0.2: mean 2/15, s.e. 1/30, so four standard errors.
  assert "| new over old | +13.33% ± 3.33% | +4.0 |" in text
  assert "The claim is **reproduced**" in text
  assert "100 to 120 s a seed, on jax 0.10.2, cores 2." in text
  assert "| model | top-1 |" in text and "| L2 | 88.4 |" in text
  assert "- Everything is smaller." in text


def test_a_claim_within_two_standard_errors_is_not_reproduced():
  # Differences -0.1, 0.1, 0.2: mean 1/15, s.e. 0.088.
  results = {**RESULTS, "arms": {"old": [0.5, 0.6, 0.7], "new": [0.4, 0.7, 0.9]}}
  assert "The claim is **not reproduced**" in cards.render(results)


def test_a_claim_of_several_comparisons():
  arms = {"old": [0.5, 0.6, 0.7], "new": [0.6, 0.7, 0.9], "best": [0.7, 0.8, 0.9]}
  results = {**RESULTS, "arms": arms, "decisive": 2}
  both = {**results, "comparisons": [["best", "old"], ["new", "old"]]}
  assert "is **reproduced** at this scale (first 2 comparisons" in cards.render(both)
  # best over new: 0.1, 0.1, 0.0, so 2 standard errors; not more.
  one = {**results, "comparisons": [["new", "old"], ["best", "new"]]}
  assert "is **reproduced in part, 1 of 2** at this scale" in cards.render(one)
  none = {**results, "comparisons": [["old", "new"], ["new", "best"], ["best", "old"]]}
  assert "is **not reproduced** at this scale" in cards.render(none)


def test_columns_and_what_was_tried():
  more = {"columns": {"MAdds": {"old": "1.0M", "new": "1.1M"}}, "tried": ["Half the steps."]}
  text = cards.render({**RESULTS, **more})
  assert "| arm | MAdds | test top-1, mean ± s.e. | seed 0 |" in text
  assert "| old | 1.0M | 60.00% ± 5.77% | 50.00% |" in text
  assert "## What was tried\n\n- Half the steps.\n" in text
  assert "What was tried" not in cards.render(RESULTS)


def test_further_measures_and_sections():
  measure = {
    "title": "Robustness",
    "text": "Less is better.",
    "figure": "flips",
    "arms": {"old": [0.5, 0.6, 0.7], "new": [0.4, 0.4, 0.4]},
    "comparisons": [["old", "new"]],
  }
  sections = [
    {"title": "At scale", "text": "On paper.", "table": [["step", "hours"], ["train", 7]]},
    {"title": "Words", "text": "Alone."},
  ]
  text = cards.render({**RESULTS, "more": [measure], "sections": sections})
  assert "## Robustness\n\nLess is better.\n\n| arm | flips, mean ± s.e. | seed 0 |" in text
  # Differences 0.1, 0.2, 0.3: mean 0.2, s.e. 0.1 / sqrt(3).
  assert "| old over new | +20.00% ± 5.77% | +3.5 |" in text
  assert "## At scale\n\nOn paper.\n\n| step | hours |\n|---|---|\n| train | 7 |\n" in text
  assert "## Words\n\nAlone.\n\n## What differs" in text
  # The claim is judged by the first measure alone.
  assert text.count("The claim is") == 1


def test_a_sweeps_result_becomes_arms():
  run = {"params": 1200, "madds": 2_500_000, "test_top1": [0.5, 0.6], "seconds": [1.0, 2.0]}
  runs = {"a": run, "b": {**run, "test_top1": [0.7, 0.8], "seconds": [3.0, 5.0]}}
  taken = card.from_sweep({"seeds": [0, 1], "runs": runs}, {"b": "the new one", "a": "old"})
  assert taken["arms"] == {"the new one": [0.7, 0.8], "old": [0.5, 0.6]}
  assert list(taken["arms"]) == ["the new one", "old"] and taken["seconds"] == [4.0, 7.0]
  assert taken["columns"]["MAdds"] == {"the new one": "2.500M", "old": "2.500M"}
  assert taken["columns"]["weights"]["old"] == "1,200"


MAP = {
  "title": "Strength and width",
  "claim": "Wide wants more.",
  "setting": "Two widths.",
  "seeds": [0, 1],
  "figure": "test top-1",
  "comparisons": [["wide", "thin"]],
  "map": {
    "axes": ["network", "M"],
    "values": [2, 6],
    "cells": {
      "thin": {"M 2": [0.5, 0.6], "M 6": [0.4, 0.6]},
      "wide": {"M 2": [0.6, 0.7], "M 6": [0.7, 0.8]},
    },
  },
}


def test_a_maps_best_columns_are_compared(tmp_path, monkeypatch):
  # Thin: M 2, then both alike, so 4; wide: M 6 twice. Differences 4 and 2: 3 ± 1.
  assert cards.arms_of(MAP) == {"thin": [2.0, 4.0], "wide": [6.0, 6.0]}
  text = cards.render({**RESULTS, "more": [MAP]})
  assert text.startswith(cards.render(RESULTS).partition("Wall time")[0])
  for line in (
    "## Strength and width",
    "| test top-1: network by M | M 2 | M 6 |",
    "| thin | **55.00% ± 5.00%** | 50.00% ± 10.00% |",
    "| wide | 65.00% ± 5.00% | **75.00% ± 5.00%** |",
    "| arm | best M, mean ± s.e. | seed 0 | seed 1 |",
    "| thin | 3.0 ± 1.0 | 2.0 | 4.0 |",
    "| wide over thin | +3.0 ± 1.0 | +3.0 |",
    "![Every cell](results_1.png)",
  ):
    assert line in text.splitlines(), line
  assert text.count("The claim is **reproduced**") == 2
  folder = tmp_path / "experiments" / "a_paper"
  folder.mkdir(parents=True)
  (folder / "results.json").write_text(json.dumps({**RESULTS, "more": [MAP]}))
  monkeypatch.chdir(tmp_path)
  card.write("a_paper")
  assert {path.name for path in folder.glob("*.png")} == {"results.png", "results_1.png"}


def test_equal_differences_have_no_number_of_errors():
  results = {**RESULTS, "arms": {"old": [0.5, 0.5, 0.5], "new": [0.75, 0.75, 0.75]}}
  assert "| new over old | +25.00% ± 0.00% | all equal |" in cards.render(results)


def test_tables_are_markdown():
  lines = cards.render(RESULTS).splitlines()
  tables, rows = 0, [line for line in lines if line.startswith("|")]
  for above, line in zip(lines, lines[1:], strict=False):
    if line.startswith("|---"):
      assert above.count("|") == line.count("|")
      tables += 1
  assert tables == 3 and len(rows) == 3 * 2 + 2 + 1 + 1


def test_main_writes_the_card_beside_its_results(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  folder = tmp_path / "experiments" / "a_paper"
  folder.mkdir(parents=True)
  (folder / "results.json").write_text(json.dumps(RESULTS))
  assert card.main([]) == 0
  assert (folder / "README.md").read_text(encoding="utf-8") == cards.render(RESULTS)
  assert capsys.readouterr().out == "experiments/a_paper/README.md\n"
  assert card.main(["a_papr"]) == 2
  message = capsys.readouterr().err
  assert message.startswith("Error: ") and "'a_papr'" in message and "'a_paper'" in message


def test_nothing_measured_is_said(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert card.main([]) == 2
  assert "experiments/PAPER/results.json" in capsys.readouterr().err
  with pytest.raises(errors.UserError, match="the paper='noisy_student'"):
    card.write("noisy_student")


def test_damaged_results_are_said(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  folder = tmp_path / "experiments" / "a_paper"
  folder.mkdir(parents=True)
  (folder / "results.json").write_text(json.dumps({"title": "A paper"}))
  assert card.main(["a_paper"]) == 2
  assert "experiments/a_paper/results.json" in capsys.readouterr().err
  (folder / "results.json").write_text("{ not json")
  assert card.main(["a_paper"]) == 2
  assert "experiments/a_paper/results.json" in capsys.readouterr().err


def test_seeds_that_are_there_are_not_run_again(tmp_path, monkeypatch):
  started = []

  def run(command, check):
    assert check
    workdir = next(c for c in command if c.startswith("--workdir=")).removeprefix("--workdir=")
    started.append(command[-3:])
    seed = int(workdir.rpartition("_")[2])
    (tmp_path / f"seed_{seed}").mkdir(exist_ok=True)
    (tmp_path / f"seed_{seed}" / "result.json").write_text(json.dumps({"seed": seed}))

  monkeypatch.setattr(card.subprocess, "run", run)
  (tmp_path / "seed_1").mkdir()
  (tmp_path / "seed_1" / "result.json").write_text('{"seed": 1}')
  results = card.run_seeds("configs/x.py", [0, 1, 2], tmp_path, ["--config.a=1"])
  assert [r["seed"] for r in results] == [0, 1, 2]
  workdir = f"--workdir={tmp_path / 'seed_0'}"
  assert started[0] == ["--config=configs/x.py:seed=0", "--config.a=1", workdir]
  assert len(started) == 2
  card.run_seeds("configs/x.py", [1], tmp_path, complete=lambda result: "seed" in result)
  assert len(started) == 2
  card.run_seeds("configs/x.py", [2], tmp_path, complete=lambda result: "more" in result)
  assert len(started) == 3 and not (tmp_path / "seed_3").exists()
  (tmp_path / "seed_1" / "robustness.json").write_text('{"clean": 1}')
  assert card.run_robustness(tmp_path / "seed_1") == {"clean": 1}


def test_a_plan_beside_the_results_is_told(tmp_path, monkeypatch):
  step = {
    "stage": "",
    "model": "efficientnet_b0",
    "image_size": 224,
    "batch_norm": "local",
    "topology": "v5e-16",
    "steps": 1000,
    "memory_per_chip": {"total": 3 * 2**30, "capacity": 16 * 2**30},
    "collectives": {"all-reduce": {"count": 2, "bytes": 10}},
  }
  roof = {"images_per_second_per_chip": 2000.0, "bound": "memory"}
  hours = {"hours": 7.0, "chip_hours": 112.0, "fraction": 0.4}
  fits = {**step, "fits": True, "roofline": roof, "recipe": hours}
  not_so = {**step, "fits": False, "reason": "Used 17.1G of 15.75G hbm", "stage": "student"}
  not_so |= {"remat": "block"}
  made = {"command": "python -m effnets.main", "versions": {"jax": "1"}, "plans": [fits, not_so]}
  folder = tmp_path / "experiments" / "a_paper"
  folder.mkdir(parents=True)
  (folder / "results.json").write_text(json.dumps(RESULTS))
  (folder / "plan.json").write_text(json.dumps([made]))
  monkeypatch.chdir(tmp_path)
  text = card.write("a_paper").read_text()
  assert (
    "| efficientnet_b0, 224 px, batch norm local | v5e-16 | 3.0 of 16 GiB | 2,000 images/s/chip "
    "(memory) | 1,000 steps, 7.0 h, 112 chip-hours at 40% | 2 all-reduce |"
  ) in text
  assert "| student: efficientnet_b0, 224 px, batch norm local, remat block | v5e-16 | Used" in text
  assert "(jax 1):\n\n```\npython -m effnets.main\n```" in text
