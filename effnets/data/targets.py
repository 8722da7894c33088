"""What a teacher says of a task's training examples, stored: `write`, `read`.

A folder holds `targets.npz` (logits float32 (n, k), or of regression the predicted values over the
task's scale (n, 1); digests uint64 (n,) of the texts) and `targets.json`: task, labels, count, the
sha256 of the arrays, and the provenance. The JSON file is written last, so targets are there whole
or not at all. Examples are known again by the hash of their texts, not by their place in a file.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt64

from effnets import errors
from effnets.data import glue

_ARRAYS, _MANIFEST = "targets.npz", "targets.json"


@dataclasses.dataclass(frozen=True)
class Targets:
  """A teacher's outputs for a task. digests: of the examples' texts, see `glue.digest`."""

  task: str
  labels: tuple[str, ...]
  logits: Float32[np.ndarray, "n k"]
  digests: UInt64[np.ndarray, " n"]
  provenance: Mapping[str, Any]

  def of(self, task: glue.Task, digests: UInt64[np.ndarray, " m"], name: str) -> np.ndarray:
    """Returns the outputs for examples of a task, float32 (m, k), by their digests.

    name: of the examples, for messages.

    Raises: UserError if they are another task's, or miss examples.
    """
    if self.task != task.name or self.labels != task.labels:
      raise errors.UserError(
        f"teacher targets for {task.name} are of {self.task!r} with labels {self.labels}; those of "
        f"{task.name} are {task.labels}."
      )
    order = np.argsort(self.digests, kind="stable")
    known = self.digests[order]
    place = np.minimum(np.searchsorted(known, digests), len(known) - 1)
    missing = np.flatnonzero(known[place] != digests)
    if len(missing):
      first = ", ".join(map(str, missing[:3]))
      raise errors.UserError(
        f"teacher targets for {task.name} miss {len(missing)} of the {len(digests)} examples of "
        f"{name} (numbers {first}{', …' if len(missing) > 3 else ''}); they are of "
        f"{len(self.digests)} others. Let the teacher label these files: a new workdir does."
      )
    return self.logits[order[place]]


def write(folder: str | os.PathLike[str], found: Targets) -> None:
  """Writes targets. Raises: ValueError if the arrays do not fit each other."""
  if len(found.logits) != len(found.digests) or not np.isfinite(found.logits).all():
    raise ValueError(f"{found.logits.shape} logits, all finite, for {len(found.digests)} digests.")
  path = pathlib.Path(folder)
  path.mkdir(parents=True, exist_ok=True)
  logits = np.asarray(found.logits, np.float32)
  digests = np.asarray(found.digests, np.uint64)
  partial = path / f"partial-{os.getpid()}.npz"
  np.savez(partial, logits=logits, digests=digests)
  os.replace(partial, path / _ARRAYS)
  manifest = {
    "task": found.task,
    "labels": list(found.labels),
    "count": len(logits),
    "sha256": _hash(logits, digests),
    "provenance": dict(found.provenance),
  }
  partial = path / f"partial-{os.getpid()}.json"
  partial.write_text(json.dumps(manifest, indent=2) + "\n")
  os.replace(partial, path / _MANIFEST)


def read(folder: str | os.PathLike[str]) -> Targets | None:
  """Returns the targets in a folder, or None if there are none, or not whole.

  Raises: UserError if they are damaged.
  """
  path = pathlib.Path(folder)
  if not (path / _MANIFEST).is_file():
    return None
  try:
    manifest = json.loads((path / _MANIFEST).read_text())
    with np.load(path / _ARRAYS, allow_pickle=False) as stored:
      logits, digests = stored["logits"], stored["digests"]
    whole = _hash(logits, digests) == manifest["sha256"] and len(logits) == manifest["count"]
  except (OSError, ValueError, KeyError, EOFError) as error:
    raise errors.UserError(f"{path}: teacher targets cannot be read ({error}).") from error
  if not whole:
    raise errors.UserError(
      f"{path}: teacher targets are damaged: {_ARRAYS} is not what {_MANIFEST} says. Remove the "
      "folder; the same command makes them again."
    )
  labels = tuple(manifest["labels"])
  return Targets(manifest["task"], labels, logits, digests, manifest["provenance"])


def _hash(*arrays: np.ndarray) -> str:
  digest = hashlib.sha256()
  for array in arrays:
    digest.update(f"{array.dtype}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()
