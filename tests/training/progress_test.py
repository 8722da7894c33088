"""Progress on a recorded console with a clock of the test's own."""

import io
import re

import pytest
import rich.console
from absl import logging

from effnets.training import progress


class Clock:
  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


def recorded(terminal=False, width=120):
  return rich.console.Console(
    file=io.StringIO(), width=width, force_terminal=terminal, record=False, color_system=None
  )


def test_rate_leaves_out_compilation_and_pauses():
  clock, console = Clock(), recorded()
  with progress.Progress(10, "teacher", console=console, clock=clock) as bar:
    clock.now += 60  # compilation
    bar.update(1, images=64, values={"loss": 2.5})
    assert bar.images_per_second is None and bar.seconds_left is None
    for step in (2, 3, 4, 5):
      clock.now += 2
      bar.update(step, images=64, input_wait=0.5)
    assert bar.images_per_second == 32
    assert bar.input_wait_share == 0.25
    assert bar.seconds_left == 5 * 2
    with bar.paused("eval"):
      clock.now += 10
    clock.now += 2
    bar.update(6, images=64, input_wait=0.5, values={"loss": 1.25})
    assert bar.images_per_second == 32
    # Four steps of 2 s, and an evaluation of 10 s every six steps.
    assert bar.seconds_left == pytest.approx(4 * (2 + 10 / 6))
  lines = console.file.getvalue().splitlines()
  assert lines == [
    "teacher: step 1/10 (10%), loss 2.500",
    "teacher: step 6/10 (60%), 32 examples/s, loss 1.250, input wait 25%, eval 12%, 0:00:14 left",
  ]


def test_resumed_run_counts_from_its_start():
  clock = Clock()
  with progress.Progress(100, console=recorded(), start=90, clock=clock) as bar:
    for step in (91, 92, 93):
      clock.now += 3
      bar.update(step, images=10)
    assert bar.seconds_left == 7 * 3


def test_lines_are_limited_but_the_last_is_written():
  clock, console = Clock(), recorded()
  with progress.Progress(9, console=console, clock=clock, line_seconds=5) as bar:
    for step in range(1, 10):
      clock.now += 2
      bar.update(step, images=8, values={"loss": 1.0})
  steps = re.findall(r"step (\d)/9", console.file.getvalue())
  assert steps == ["1", "4", "7", "9"]


@pytest.mark.parametrize("width", [72, 120])
def test_live_bar_on_a_terminal(width):
  clock, console = Clock(), recorded(terminal=True, width=width)
  handler = logging.get_absl_handler().python_handler
  before = handler.stream
  with progress.Progress(10, "student [1]", console=console, clock=clock) as bar:
    for step in (1, 2, 3):
      clock.now += 0.5
      bar.update(step, images=700, values={"loss": 0.1234})
    bar.write("a line [above] it")
  assert handler.stream is before
  text = console.file.getvalue()
  assert "student [1]" in text and "a line [above] it" in text
  # The figures have a line of their own, uncut whatever the width.
  figures = "1,400 examples/s, loss 0.123, input wait 0%, 0:00:03 left"
  assert re.search(rf"student \[1\] \S+ +3/10 30%\s*\n  {figures}", text)


def test_inactive_says_nothing():
  console = recorded()
  with progress.Progress(3, console=console, active=False) as bar:
    bar.update(1, values={"loss": 1.0})
    bar.write("text")
  assert console.file.getvalue() == ""


def test_table():
  console = recorded(width=80)
  rows = [
    {"model": "teacher", "test top-1": 0.812345, "images": 100},
    {"model": "student [1]", "test top-1": 0.9, "images": 12345, "note": "best"},
  ]
  console.print(progress.table(rows, title="Noisy Student"))
  lines = [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]
  assert lines[0].strip() == "Noisy Student"
  assert re.fullmatch(r"\s*model\s+test top-1\s+images\s+note", lines[1])
  assert re.fullmatch(r"\s*teacher\s+0\.812\s+100\s+-", lines[3])
  assert re.fullmatch(r"\s*student \[1\]\s+0\.900\s+12345\s+best", lines[4])
