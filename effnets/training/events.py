"""Where a run's time went: `events.jsonl`, one line per compilation, evaluation, checkpoint, ..."""

import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import logging

from effnets.training import writers

_FIRST = "first_step"
FILE = "events.jsonl"


class Events:
  """Appends to `WORKDIR/events.jsonl`; lines of earlier starts stay.

  A line is `{"kind": "eval", "seconds": 1.25, "time": 1700000000.0, "step": 12}`, `time` being the
  wall-clock second since 1970 at which the event ended. Usual kinds: `setup`, `compile`, `step`
  (the sum of a logging period), `input_wait`, `eval`, `checkpoint`, `restore`, `restart`,
  `first_step`.
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

  def first_step(self, name: str, step: int, *, after: float) -> None:
    """Tells, here and in the log, that the first update of this start was done after `after` s.

    The event itself has no seconds: they are those of the events before it. name: of the run.
    """
    logging.info("%s: the first step was done after %.1f s.", name, after)
    self.add(_FIRST, 0.0, step=step, after=round(after, 3))

  def close(self) -> None:
    """Closes the file; a second call does nothing."""
    if self._file is not None:
      self._file.close()

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()


def read(path: str | pathlib.Path) -> list[dict[str, Any]]:
  """Returns the events of an `events.jsonl` (or of its workdir), oldest first; [] without one."""
  path = pathlib.Path(path)
  return writers.read(path / FILE if path.is_dir() else path)


def summary(path: str | pathlib.Path) -> dict[str, float]:
  """Returns the seconds by kind of an `events.jsonl` (or of its workdir), longest first."""
  seconds: dict[str, float] = {}
  for line in read(path):
    seconds[line["kind"]] = seconds.get(line["kind"], 0.0) + line["seconds"]
  return dict(sorted(seconds.items(), key=lambda item: -item[1]))


@dataclasses.dataclass(frozen=True)
class Account:
  """Where a run's time went.

  seconds: kind -> seconds of work that counted; `lost`, of work that a restart did again.
  steps: updates that counted. images: of them, on all devices. devices: of the newest start, 0 if
  it is not known. first_step: seconds from the newest start until its first update was
  done; of a start that did not get so far, of set-up and compilation.
  """

  seconds: Mapping[str, float]
  steps: int
  images: int
  devices: int
  first_step: float

  @property
  def total(self) -> float:
    """All seconds that are accounted for."""
    return sum(self.seconds.values())

  @property
  def goodput(self) -> float:
    """Share of the time in updates that counted, in [0, 1]."""
    return self.seconds.get("step", 0.0) / self.total if self.total else 0.0

  @property
  def images_per_second(self) -> float:
    """Images a second and device, of the time in updates."""
    spent = self.seconds.get("step", 0.0) * max(1, self.devices)
    return self.images / spent if spent else 0.0


def account(lines: Sequence[Mapping[str, Any]]) -> Account:
  """Returns where the time of a run's events went.

  What was done beyond the step at which a later start resumes is lost, and so is that start's own
  set-up, compilation and restoring.
  """
  seconds: dict[str, float] = {}
  kept: list[Mapping[str, Any]] = []
  lost, starts = 0.0, 0
  reached = 0.0
  for line in lines:
    if line["kind"] in (_FIRST, "setup"):
      reached = line.get("after", 0.0)
    if line["kind"] == _FIRST:
      continue
    if line["kind"] == "restart":
      starts += 1
      again = [x for x in kept if x.get("step", 0) > line["step"]]
      lost += sum(x["seconds"] for x in again)
      kept = [x for x in kept if x.get("step", 0) <= line["step"]]
    elif starts and line["kind"] in ("setup", "compile", "restore"):
      lost += line["seconds"]
    else:
      kept.append(line)
  for line in kept:
    seconds[line["kind"]] = seconds.get(line["kind"], 0.0) + line["seconds"]
  if lost:
    seconds["lost"] = lost
  compiled = [x for x in lines if x["kind"] == "compile"]
  newest = compiled[-1] if compiled else {}
  setup = next((x["seconds"] for x in reversed(lines) if x["kind"] == "setup"), 0.0)
  steps = sum(x.get("steps", 0) for x in kept if x["kind"] == "step")
  return Account(
    seconds=dict(sorted(seconds.items(), key=lambda item: -item[1])),
    steps=steps,
    images=steps * newest.get("batch", 0),
    devices=newest.get("devices", 0),
    first_step=reached or setup + newest.get("seconds", 0.0),
  )
