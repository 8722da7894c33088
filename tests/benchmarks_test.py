"""What the benchmarks print, from given timings; nothing here is timed."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def _load(name):
  spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope="module")
def report():
  return _load("report")


_SECONDS = {
  ("effnets", "train"): [0.4, 0.5, 9.0],
  ("timm", "train"): [1.0, 1.0, 0.9],
  ("keras", "train"): [2.0, 2.0, 2.0],
  ("effnets", "forward"): [0.2],
  ("timm", "forward"): [0.1],
}
_NAMES = ("effnets", "timm", "keras", "keras jax")


def test_rates_are_of_medians_and_ratios_over_the_best_peer(report):
  table = report.table(
    "title", _SECONDS, _NAMES, kinds=("train", "forward"), batch=8, notes={"keras jax": "not run"}
  ).splitlines()
  assert table[0] == "title" and table[1].split() == ["train", "forward"]
  # 8 / 0.5, 8 / 0.4, 1.0 / 0.5; 8 / 0.2 twice, 0.1 / 0.2
  words = [line.replace("(", " ").replace(")", " ").split() for line in table]
  assert words[2] == ["effnets", "16.0", "20.0", "2.00x", "40.0", "40.0", "0.50x"]
  assert words[4] == ["keras", "4.0", "4.0", "0.50x", "-"]
  assert words[5] == ["keras", "jax", "not", "run"]


def test_chart_is_a_picture_and_leaves_nothing_else(report, tmp_path):
  path = tmp_path / "chart.png"
  measured = {("a", 8): _SECONDS, ("b", 8): {}, ("a", 1): _SECONDS}
  report.chart(measured, _NAMES, path, kinds=("train", "forward"), heading="heading")
  assert path.read_bytes().startswith(b"\x89PNG") and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
  "argument, message",
  [
    ("--contestants=timm,tim", "--contestants: 'tim' is none of effnets, effnets folded"),
    ("--kinds=backward", "--kinds: 'backward' is none of train, forward."),
  ],
)
def test_unknown_choices_are_one_message(argument, message):
  command = [sys.executable, str(ROOT / "benchmarks" / "classification.py"), argument]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_help_of_the_latency_benchmark_names_the_source():
  command = [sys.executable, str(ROOT / "benchmarks" / "latency.py"), "--help"]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0 and "--large" in done.stdout


def test_suppression_keeps_what_the_programs_keep_that_it_is_measured_against(monkeypatch, capsys):
  sizes = ["--boxes", "70", "--classes", "4", "--batch", "2", "--rounds", "1"]
  monkeypatch.setattr(sys, "argv", ["detection.py", *sizes])
  _load("detection").main()
  rows = capsys.readouterr().out.splitlines()[2:]
  assert len(rows) == 4 and all(row.endswith("100.0%") for row in rows)


@pytest.mark.slow
def test_more_glimpses_beside_more_passes(monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["saccader.py", "--batch", "1", "--rounds", "1"])
  _load("saccader").main()
  head, *rows = capsys.readouterr().out.splitlines()
  assert head.startswith("saccader_mini, batch 1") and rows[0].endswith("1.00x")
  assert [row.split("  ")[0] for row in rows] == [
    *("1 glimpses", "2 glimpses", "6 glimpses", "12 glimpses", "all patches"),
    *("2 patches, one by one", "6 patches, one by one", "12 patches, one by one"),
  ]
