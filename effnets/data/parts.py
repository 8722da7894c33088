"""A folder that is filled part by part, by one process or several, and goes on after a kill.

Part i of n is a data file, `records-00003-of-00128.array_record`, and a JSON file beside it that
tells what is in it and is renamed into place behind it: a part is done when that file is there.
`preparing.json` says what the parts are parts of; those of something else go.
"""

import dataclasses
import json
import pathlib
import secrets
from collections.abc import Mapping
from typing import Any

from effnets.data import records

PLAN = "preparing.json"
# Processes on several hosts may have equal numbers.
_OWN = secrets.randbelow(10**12)


@dataclasses.dataclass(frozen=True)
class Parts:
  """The parts of a folder. count: how many. stem, suffix: of the names of their data files."""

  path: pathlib.Path
  count: int
  stem: str = "records"
  suffix: str = ".array_record"

  def data(self, number: int) -> pathlib.Path:
    """Returns where the data of a part lies, or will."""
    return self.path / f"{self.stem}-{number:05d}-of-{self.count:05d}{self.suffix}"

  @property
  def partial(self) -> pathlib.Path:
    """A file of this process's own, to write in and then to `publish`."""
    return self.path / f"partial-{_OWN}.tmp"

  def claim(self, plan: Mapping[str, Any]) -> None:
    """Makes what lies in the folder a part of `plan`; what is of another one goes."""
    self.path.mkdir(parents=True, exist_ok=True)
    file, plan = self.path / PLAN, json.loads(json.dumps(plan))
    try:
      same = json.loads(file.read_text()) == plan
    except (OSError, ValueError):
      same = False
    for torn in self.path.glob("partial-*.tmp"):
      torn.unlink()
    if not same:
      self.clear()
      for data in self.path.glob(f"{self.stem}-*-of-*{self.suffix}"):
        data.unlink()
      self._put(file, plan)

  def finished(self, number: int) -> dict[str, Any] | None:
    """Returns what `finish` told of a part, or None if it is not done, or its data is torn."""
    data = self.data(number)
    try:
      told = json.loads(data.with_suffix(".json").read_text())
      whole = not told["count"] or data.stat().st_size == told["bytes"]
    except (OSError, ValueError, KeyError):
      return None
    return told if whole else None

  def finish(self, number: int, told: Mapping[str, Any]) -> None:
    """Says that a part is done. told: `count` and, if that is not 0, `bytes` of its data."""
    self._put(self.data(number).with_suffix(".json"), told)

  def clear(self) -> None:
    """Deletes all but the data."""
    (self.path / PLAN).unlink(missing_ok=True)
    for file in self.path.glob(f"{self.stem}-*-of-*.json"):
      file.unlink()

  def _put(self, file: pathlib.Path, content: Mapping[str, Any]) -> None:
    self.partial.write_text(json.dumps(content))
    records.publish(self.partial, file)
