"""Pictures of curves: what is on them, looked for in the pixels."""

import json
import math
import sys

import numpy as np
import PIL.Image
import pytest

from effnets.training import plots


def has_colour(path, colour, tolerance=12):
  pixels = np.asarray(PIL.Image.open(path).convert("RGB"), int)
  wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
  return (np.abs(pixels - wanted).max(-1) <= tolerance).sum() > 50


def series(level):
  steps = np.arange(10, 200, 10)
  return {
    "train/loss": (steps, level + np.exp(-steps / 50)),
    "validation/top1": (steps[::4], 1 - level - 0.5 * np.exp(-steps[::4] / 50)),
    "train/learning_rate": (steps, 0.1 * 0.97**steps),
    "train/images_per_second": (steps, steps),
  }


def test_each_run_has_its_colour_and_each_kind_its_panel(tmp_path):
  runs = {"teacher": series(0.3), "student 1": series(0.1), "control": series(0.2)}
  path = plots.curves(runs, tmp_path / "new" / "curves.png", title="Noisy Student")
  assert path == tmp_path / "new" / "curves.png"
  three = PIL.Image.open(path).size
  assert [has_colour(path, c) for c in plots._COLOURS[:4]] == [True, True, True, False]
  loss_only = {"a": {"loss": series(0.1)["train/loss"]}}
  one = PIL.Image.open(plots.curves(loss_only, tmp_path / "one.png")).size
  assert three[0] == 3 * one[0] and three[1] == one[1] and one[0] >= 500


def test_reads_metrics_files_with_gaps_and_torn_ends(tmp_path):
  with open(tmp_path / "metrics.jsonl", "w", encoding="utf-8") as file:
    for step in range(1, 101):
      loss = None if 40 < step < 60 else 1 / step
      file.write(json.dumps({"step": step, "time": 1.0, "train/loss": loss}) + "\n")
    file.write('{"step": 101, "tra')
  steps, values = plots.load(tmp_path)["train/loss"]
  assert steps == list(range(1, 101)) and values[9] == 0.1 and math.isnan(values[50])
  assert list(plots.load(tmp_path / "metrics.jsonl")) == ["train/loss"]
  assert has_colour(plots.curves(tmp_path, tmp_path / "curves.png"), "#0072B2", tolerance=120)


@pytest.mark.parametrize(
  "run", [{}, {"loss": ([], [])}, {"loss": ([1.0], [math.nan])}, {"speed": ([1.0], [2.0])}]
)
def test_nothing_to_draw(tmp_path, run):
  assert plots.curves({"a": run}, tmp_path / "x.png") is None
  assert plots.curves(tmp_path / "none.jsonl", tmp_path / "x.png") is None
  assert not (tmp_path / "x.png").exists()


def test_leaves_the_global_state_of_matplotlib_alone(tmp_path):
  plots.curves({"a": series(0.2)}, tmp_path / "x.png")
  if "matplotlib.pyplot" in sys.modules:
    assert not sys.modules["matplotlib.pyplot"].get_fignums()
