"""Where a run's time went: `events.jsonl`, one line per compilation, evaluation, checkpoint, ..."""

import contextlib
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from effnets.training import writers

FILE = "events.jsonl"


class Events:
  """Appends to `WORKDIR/events.jsonl`; lines of earlier starts stay.

  A line is `{"kind": "eval", "seconds": 1.25, "time": 1700000000.0, "step": 12}`, `time` being the
  wall-clock second since 1970 at which the event ended. Usual kinds: `compile`, `step` (the sum of
  a logging period), `input_wait`, `eval`, `checkpoint`, `restore`, `restart`.
  """

  def __init__(self, workdir: str | pathlib.Path, *, active: bool = True):
    """Opens the file. An inactive one (on all processes but one) takes calls and writes nothing."""
    self._file = None
    if active:
      path = pathlib.Path(workdir) / FILE
      path.parent.mkdir(parents=True, exist_ok=True)
      writers.drop_torn_line(path)
      self._file = open(path, "a", encoding="utf-8")

  def add(self, kind: str, seconds: float, **fields: Any) -> None:
    """Writes one event that took `seconds` and ended now; `fields` are anything JSON can hold."""
    if self._file is None:
      return
    line = {"kind": kind, "seconds": round(float(seconds), 6), "time": time.time(), **fields}
    self._file.write(json.dumps(line, allow_nan=False) + "\n")
    self._file.flush()

  @contextlib.contextmanager
  def span(self, kind: str, **fields: Any) -> Iterator[dict[str, Any]]:
    """Times the block. Fields may be added to the dict that it yields.

    The event is written even if the block raises, with the name of the exception as `error`.
    """
    start = time.perf_counter()
    try:
      yield fields
    except BaseException as err:
      fields["error"] = type(err).__name__
      raise
    finally:
      self.add(kind, time.perf_counter() - start, **fields)

  def close(self) -> None:
    """Closes the file; a second call does nothing."""
    if self._file is not None:
      self._file.close()

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()


def summary(path: str | pathlib.Path) -> dict[str, float]:
  """Returns the seconds by kind of an `events.jsonl` (or of its workdir), longest first."""
  path = pathlib.Path(path)
  seconds: dict[str, float] = {}
  for line in writers.read(path / FILE if path.is_dir() else path):
    seconds[line["kind"]] = seconds.get(line["kind"], 0.0) + line["seconds"]
  return dict(sorted(seconds.items(), key=lambda item: -item[1]))
