"""Where a run's figures go: `metrics.jsonl`, one line per step and call, and TensorBoard files."""

import json
import math
import os
import pathlib
import socket
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

FILE = "metrics.jsonl"


class Writer:
  """Appends scalars to `WORKDIR/metrics.jsonl` and `WORKDIR/tb/`.

  A line is `{"step": 12, "time": 1700000000.0, "train/loss": 0.5, ...}`: strict JSON, flushed, a
  figure that is not finite written as null. Of several processes one should be `active`.
  """

  def __init__(self, workdir: str | pathlib.Path, *, tensorboard: bool = True, active: bool = True):
    """Opens the files for appending. An inactive writer touches nothing and takes every call."""
    self._workdir = pathlib.Path(workdir)
    self._active = active
    self._lines = None
    self._board = None
    if not active:
      return
    self._workdir.mkdir(parents=True, exist_ok=True)
    drop_torn_line(self._workdir / FILE)
    self._lines = open(self._workdir / FILE, "a", encoding="utf-8")
    if tensorboard:
      self._board = _Board(self._workdir / "tb")

  def scalars(self, step: int, values: Mapping[str, Any]) -> None:
    """Writes `values` (numbers, or 0-d arrays, fetched here) for `step`.

    Raises: ValueError if a value is no scalar, or a name is `step` or `time`.
    """
    if not self._active:
      return
    reserved = {"step", "time"} & set(values)
    if reserved:
      raise ValueError(f"a metric cannot be called {reserved.pop()!r}.")
    numbers = {name: _number(name, v) for name, v in jax.device_get(dict(values)).items()}
    now = time.time()
    line = {"step": int(step), "time": now}
    line.update((name, _finite(v)) for name, v in numbers.items())
    self._lines.write(json.dumps(line, allow_nan=False) + "\n")
    self._lines.flush()
    if self._board is not None:
      self._board.scalars(int(step), now, numbers)

  def truncate_after(self, step: int) -> None:
    """Removes what was written for later steps than `step`, the one that a resumed run starts from.

    So every step is there once, as in an unbroken run. The file is replaced as a whole: a kill in
    between leaves the old one.
    """
    if not self._active:
      return
    self._lines.close()
    path = self._workdir / FILE
    kept = [line for line in read(path) if line.get("step", 0) <= step]
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
      file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in kept)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
    self._lines = open(path, "a", encoding="utf-8")
    if self._board is not None:
      self._board.restart(int(step) + 1)

  def flush(self) -> None:
    """Hands everything to the operating system."""
    if self._board is not None:
      self._board.flush()

  def close(self) -> None:
    """Flushes and closes the files; a second call does nothing."""
    if self._lines is not None:
      self._lines.close()
    if self._board is not None:
      self._board.close()
      self._board = None

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()


def read(path: str | pathlib.Path) -> list[dict[str, Any]]:
  """Returns the lines of a JSON-lines file; a last one cut by a kill is left out.

  Raises: ValueError, naming file and line, if another line is not a JSON object.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return []
  # Decoded line by line: a kill may also cut in the middle of a character.
  lines = path.read_bytes().split(b"\n")
  result = []
  for index, line in enumerate(lines):
    if not line.strip():
      continue
    try:
      value = json.loads(line.decode("utf-8"))
      if not isinstance(value, dict):
        raise ValueError("not an object")
    except ValueError as err:
      if index == len(lines) - 1:
        break
      raise ValueError(f"{path}, line {index + 1}: {err}.") from err
    result.append(value)
  return result


def drop_torn_line(path):
  """Cuts off a last line without its end, so that the next one starts on a line of its own."""
  if not path.exists():
    return
  with open(path, "rb+") as file:
    data = file.read()
    end = data.rfind(b"\n") + 1
    if end < len(data):
      logging.info("%s: dropped a last line that was cut by a kill.", path)
      file.truncate(end)


def _number(name, value):
  value = np.asarray(value)
  if value.shape != () or value.dtype.kind not in "biuf" and value.dtype.name != "bfloat16":
    raise ValueError(f"metric {name!r} should be one number; it is {value!r}.")
  return int(value) if value.dtype.kind in "biu" else float(value)


def _finite(value):
  return value if math.isfinite(value) else None


class _Board:
  """One TensorBoard event file, written without TensorFlow.

  Only the record format and the protocol buffers of the `tensorboard` package are used; its own
  file writer would import TensorFlow where that is installed.
  """

  _count = 0

  def __init__(self, directory):
    # Imported here: it takes a third of a second that a run without TensorBoard need not spend.
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer import record_writer

    self._event_pb2, self._summary_pb2 = event_pb2, summary_pb2
    directory.mkdir(parents=True, exist_ok=True)
    _Board._count += 1
    # TensorBoard reads files in the order of their names; the count, of a fixed width lest 10 sort
    # before 9, puts two writers of one second in theirs.
    name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
    self._file = open(directory / f"{name}.{_Board._count:06d}", "ab")
    self._writer = record_writer.RecordWriter(self._file)
    self._write(file_version="brain.Event:2", wall_time=time.time())

  def scalars(self, step, now, numbers):
    summary = self._summary_pb2.Summary(
      value=[self._summary_pb2.Summary.Value(tag=n, simple_value=v) for n, v in numbers.items()]
    )
    self._write(step=step, wall_time=now, summary=summary)
    self.flush()

  def restart(self, step):
    """Tells TensorBoard to forget what earlier files say of `step` and later."""
    log = self._event_pb2.SessionLog(status=self._event_pb2.SessionLog.START)
    self._write(step=step, wall_time=time.time(), session_log=log)
    self.flush()

  def flush(self):
    self._file.flush()

  def close(self):
    self._file.close()

  def _write(self, **fields):
    self._writer.write(self._event_pb2.Event(**fields).SerializeToString())
