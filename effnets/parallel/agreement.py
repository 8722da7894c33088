"""Whether all processes of a run do the same: compared before anything is compiled."""

import functools
import hashlib
import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import effnets
from effnets import errors

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
TIMEOUT_SECONDS = 120
"""How long the others may take from joining to here."""

_SHOWN = 6  # differences that a message names before it counts


@functools.cache
def code() -> dict[str, str]:
  """Returns what computes: versions of effnets, of Python and libraries, and a hash of sources."""
  return {
    "version of effnets": effnets.__version__,
    "version of Python": platform.python_version(),
    **{f"version of {name}": _version(name) for name in LIBRARIES},
    "sources of effnets": sources_hash(pathlib.Path(effnets.__file__).parent),
  }


def sources_hash(folder: pathlib.Path) -> str:
  """Returns twelve digits that change with the name or content of any Python file in `folder`."""
  digest = hashlib.sha256()
  for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
    content = path.read_bytes()
    digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
  return digest.hexdigest()[:12]


def differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
  """Returns (key, value in `first`, value in `other`) where they differ; None for a missing one."""
  keys = [*first, *(key for key in other if key not in first)]
  return [(k, first.get(k), other.get(k)) for k in keys if first.get(k) != other.get(k)]


def check(client: Any, index: int, count: int, settings: Mapping[str, Any]) -> None:
  """Compares `settings` and the code of all processes; every one of them calls this.

  Args:
    client: JAX's distributed client. index, count: of this process, of all.
    settings: key -> anything JSON can hold; what must be equal everywhere.

  Raises: UserError on every process, with each key that differs and its values, if any does; or if
    one does not answer in `TIMEOUT_SECONDS`.
  """
  try:
    told = _told(client, index, settings)
  except RuntimeError as error:
    raise errors.UserError(
      f"The {count} processes of this run could not compare what they do in {TIMEOUT_SECONDS} s "
      f"({str(error).splitlines()[0]}); start the same command on all of them."
    ) from error
  if not told:
    return
  other = min(told)
  found = json.loads(told[other])
  shown = "; ".join(
    f"{key}: {here!r} in process 0, {there!r} in process {other}"
    for key, here, there in found[:_SHOWN]
  )
  more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
  odd = f" ({len(told) - 1} more processes differ too)" if len(told) > 1 else ""
  raise errors.UserError(
    f"The {count} processes of this run differ: {shown}{more}{odd}. Start the same command with "
    "the same effnets and libraries on all of them."
  )


def _told(client: Any, index: int, settings: Mapping[str, Any]) -> dict[int, str]:
  """Returns index -> differences from process 0, as JSON, of the processes that differ."""
  mine = json.loads(json.dumps({**code(), **settings}))
  wait = TIMEOUT_SECONDS * 1000
  if index == 0:
    client.key_value_set("effnets/same", json.dumps(mine))
  found = differences(json.loads(client.blocking_key_value_get("effnets/same", wait)), mine)
  if found:  # nothing from those that agree: thousands of answers are quick to read then
    client.key_value_set(f"effnets/differs/{index}", json.dumps(found))
  client.wait_at_barrier("effnets_same", wait)
  return {int(k.rpartition("/")[2]): v for k, v in client.key_value_dir_get("effnets/differs/")}


def _version(name: str) -> str:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return "none"
