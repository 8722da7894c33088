"""Cards: their figures against closed forms, what they show, what they say without results."""

import json
import math

import numpy as np
import pytest

from effnets import card, errors

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


@pytest.mark.parametrize("count", [2, 3, 5, 40])
def test_mean_and_error_of_an_arithmetic_series(count):
  # 1, 2, ..., n: mean (n + 1) / 2; variance over n - 1 is n (n + 1) / 12.
  mean, error = card.mean_and_error(range(1, count + 1))
  assert mean == pytest.approx((count + 1) / 2)
  assert error == pytest.approx(math.sqrt((count + 1) / 12))


def test_one_seed_has_no_error():
  mean, error = card.mean_and_error([0.25])
  assert mean == 0.25 and math.isnan(error)


def test_a_card_shows_every_arm_seed_and_comparison():
  text = card.render(RESULTS)
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
  assert "The claim is **not reproduced**" in card.render(results)


def test_equal_differences_have_no_number_of_errors():
  results = {**RESULTS, "arms": {"old": [0.5, 0.5, 0.5], "new": [0.75, 0.75, 0.75]}}
  assert "| new over old | +25.00% ± 0.00% | all equal |" in card.render(results)


def test_tables_are_markdown():
  lines = card.render(RESULTS).splitlines()
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
  assert (folder / "README.md").read_text(encoding="utf-8") == card.render(RESULTS)
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
    (tmp_path / f"seed_{seed}").mkdir()
    (tmp_path / f"seed_{seed}" / "result.json").write_text(json.dumps({"seed": seed}))

  monkeypatch.setattr(card.subprocess, "run", run)
  (tmp_path / "seed_1").mkdir()
  (tmp_path / "seed_1" / "result.json").write_text('{"seed": 1}')
  results = card.run_seeds("configs/x.py", [0, 1, 2], tmp_path, ["--config.a=1"])
  assert [r["seed"] for r in results] == [0, 1, 2]
  workdir = f"--workdir={tmp_path / 'seed_0'}"
  assert started[0] == ["--config=configs/x.py:seed=0", workdir, "--config.a=1"]
  assert len(started) == 2


def test_the_error_is_that_of_repeated_draws():
  # The standard error of a mean of n draws is the spread of such means, here over 4,000 repeats.
  draws = np.random.default_rng(0).normal(size=(4000, 5))
  errors_squared = [card.mean_and_error(row)[1] ** 2 for row in draws]
  assert np.mean(errors_squared) == pytest.approx(draws.mean(1).var(), rel=0.06)
