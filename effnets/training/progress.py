"""What a person sees of a run: a live bar on a terminal, plain lines elsewhere, and tables."""

import collections
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import rich.box
import rich.console
import rich.progress
import rich.table
import rich.text
from absl import logging

# The rate is that of the last so many calls of `update`: long enough to be steady, short enough to
# show a machine that has become slower.
_WINDOW = 50


class Progress:
  """Progress through `total` steps: step/total, examples/s, loss, input-wait share, time left.

  The first call of `update` ends the step that was compiled; rate, share and time left are counted
  from there. Time in `paused` blocks (evaluation, checkpoints) counts for neither, and is shown as
  its share of the whole.

  >>> console = rich.console.Console(width=100, force_terminal=False)
  >>> with Progress(10, "student 1", console=console, clock=iter(range(99)).__next__) as progress:
  ...   progress.update(1, images=32, values={"loss": 2.0})
  ...   progress.update(2, images=32, values={"loss": 1.5})
  student 1: step 1/10 (10%), loss 2.000
  student 1: step 2/10 (20%), 32 examples/s, loss 1.500, input wait 0%, 0:00:08 left
  """

  def __init__(
    self,
    total: int,
    description: str = "",
    *,
    console: rich.console.Console | None = None,
    start: int = 0,
    line_seconds: float = 0.0,
    active: bool = True,
    clock: Callable[[], float] = time.perf_counter,
  ):
    """Prepares the display; it begins on entering the context.

    Args:
      total: steps of the run. start: step that it resumes from. console: default is a new one on
        standard output; on a terminal the bar is live, otherwise each report is a line.
      line_seconds: without a terminal, the least time between two lines (the last step's is always
        written). active: False on all processes but one. clock: seconds, for tests.
    """
    self._total, self._description, self._start = total, description, start
    self._console = console or rich.console.Console()
    self._line_seconds, self._active, self._clock = line_seconds, active, clock
    self._live = active and self._console.is_terminal
    self._bar = self._task = self._stream = None
    self._step, self._values = start, {}
    self._marks = collections.deque(maxlen=_WINDOW)  # (seconds without pauses, step, images, wait)
    self._paused = 0.0
    self._spent: dict[str, float] = {}
    self._images = self._wait = 0.0
    self._began = self._last_line = None

  def __enter__(self):
    self._began = self._clock()
    if self._live:
      self._bar = _TwoLines(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(bar_width=None),
        rich.progress.TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        rich.progress.TextColumn("{task.percentage:.0f}%", style="progress.percentage"),
        console=self._console,
        expand=True,
      )
      self._task = self._bar.add_task(
        rich.text.Text(self._description).markup,
        total=self._total,
        completed=self._start,
        report="compiling",
      )
      self._bar.start()
      # The log's own stream was taken before the bar redirected it; lines would break the bar.
      handler = logging.get_absl_handler().python_handler
      self._stream = (handler, handler.setStream(sys.stderr))
    return self

  def __exit__(self, *unused):
    if self._bar is not None:
      self._bar.stop()
      handler, stream = self._stream
      if stream is not None:
        handler.setStream(stream)
      self._bar = None

  def update(
    self,
    step: int,
    *,
    images: int = 0,
    input_wait: float = 0.0,
    values: Mapping[str, float] | None = None,
  ) -> None:
    """Reports that `step` steps are done.

    Args:
      step: steps done so far. images: examples since the last call. input_wait: seconds of waiting
        for input since then. values: figures to show, such as the loss; the last ones stay shown.
        Without a terminal, only calls with `values` write a line.
    """
    if not self._active:
      return
    now = self._clock()
    if self._marks:
      self._images += images
      self._wait += input_wait
    self._step = step
    self._marks.append((now - self._paused, step, self._images, self._wait))
    self._values.update(values or {})
    if self._live:
      self._bar.update(self._task, completed=step, report=", ".join(self._report(now)))
    elif values:
      late = self._last_line is None or now - self._last_line >= self._line_seconds
      if late or step >= self._total:
        self._last_line = now
        share = 100 * step / max(self._total, 1)
        head = f"{self._description}: " if self._description else ""
        parts = [f"{head}step {step}/{self._total} ({share:.0f}%)", *self._report(now)]
        self.write(", ".join(parts))

  @contextlib.contextmanager
  def paused(self, kind: str) -> Iterator[None]:
    """Takes the block's time out of rate and time left, and shows its share as that of `kind`."""
    before = self._clock()
    try:
      yield
    finally:
      seconds = self._clock() - before
      self._paused += seconds
      self._spent[kind] = self._spent.get(kind, 0.0) + seconds

  def write(self, text: str) -> None:
    """Writes a line as it is, above the bar if there is one."""
    if self._active:
      self._console.print(text, markup=False, highlight=False, soft_wrap=True)

  @property
  def images_per_second(self) -> float | None:
    """Images per second over the last updates, the compiled step and pauses left out."""
    if len(self._marks) < 2:
      return None
    (t0, _, images0, _), (t1, _, images1, _) = self._marks[0], self._marks[-1]
    return (images1 - images0) / (t1 - t0) if t1 > t0 else None

  @property
  def input_wait_share(self) -> float | None:
    """Share of the time, in [0, 1], that the last updates waited for input."""
    if len(self._marks) < 2:
      return None
    (t0, _, _, wait0), (t1, _, _, wait1) = self._marks[0], self._marks[-1]
    return min((wait1 - wait0) / (t1 - t0), 1.0) if t1 > t0 else None

  @property
  def seconds_left(self) -> float | None:
    """Seconds that the steps left will take at the present rate, with pauses as often as so far."""
    if len(self._marks) < 2 or self._marks[-1][1] <= self._marks[0][1]:
      return None
    (t0, step0, _, _), (t1, step1, _, _) = self._marks[0], self._marks[-1]
    done = max(self._step - self._start, 1)
    per_step = (t1 - t0) / (step1 - step0) + self._paused / done
    return max(self._total - self._step, 0) * per_step

  def _report(self, now):
    parts = []
    if self.images_per_second:
      rate = self.images_per_second
      parts.append(f"{rate:,.0f} examples/s" if rate >= 10 else f"{rate:.1f} images/s")
    parts += [f"{name} {_figures(value)}" for name, value in self._values.items()]
    if self.input_wait_share is not None:
      parts.append(f"input wait {100 * self.input_wait_share:.0f}%")
    whole = max(now - self._began, 1e-9) if self._began is not None else None
    if whole:
      parts += [f"{kind} {100 * s / whole:.0f}%" for kind, s in self._spent.items()]
    if self.seconds_left is not None:
      parts.append(f"{duration(self.seconds_left)} left")
    return parts


class _TwoLines(rich.progress.Progress):
  """The bar on one line and the figures below it, so that neither is cut on a narrow terminal."""

  def get_renderables(self):
    yield self.make_tasks_table(self.tasks)
    for task in self.tasks:
      yield rich.text.Text("  " + task.fields["report"])


def duration(seconds: float) -> str:
  """Returns `h:mm:ss`, with days in front from one day on.

  >>> duration(3725.4), duration(200000)
  ('1:02:05', '2d 7:33:20')
  """
  whole = int(seconds)
  days, rest = divmod(whole, 86400)
  text = f"{rest // 3600}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
  return f"{days}d {text}" if days else text


def table(
  rows: Sequence[Mapping[str, Any]], *, title: str | None = None, columns: Sequence[str] = ()
) -> rich.table.Table:
  """Returns a table of `rows` to print with a `rich` console.

  Args:
    rows: column name -> value; floats are shown with four figures, None as a dash. title: above it.
    columns: their order; default is that of first appearance. Numbers are aligned to the right.
  """
  columns = list(columns) or list(dict.fromkeys(name for row in rows for name in row))
  result = rich.table.Table(title=title, box=rich.box.SIMPLE_HEAD, title_justify="left")
  for name in columns:
    cells = [row.get(name) for row in rows]
    numeric = all(c is None or isinstance(c, (int, float)) for c in cells)
    result.add_column(name, justify="right" if numeric else "left", no_wrap=numeric)
  for row in rows:
    cells = []
    for name in columns:
      cell = row.get(name)
      cells.append(
        "-" if cell is None else _figures(cell) if isinstance(cell, float) else str(cell)
      )
    result.add_row(*(rich.text.Text(cell) for cell in cells))
  return result


def _figures(value):
  """Returns a number with four figures, large ones with separators."""
  if value != value or abs(value) == float("inf"):
    return str(value)
  if abs(value) >= 1000:
    return f"{value:,.0f}"
  if value != 0 and abs(value) < 1e-3:
    return f"{value:.3g}"
  decimals = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1
  return f"{value:.{decimals}f}"
