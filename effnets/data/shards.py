"""A folder of pictures as ArrayRecord files, for `records.py` to read.

Each picture's bytes are kept as they are. A writer that is killed and started again keeps the
shards that are done (see `parts.py`). When all are, `records.json` makes the folder a data set.
"""

import concurrent.futures
import hashlib
import json
import math
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from effnets import errors
from effnets.data import decode, folder, records, sources
from effnets.data import parts as parts_lib

PER_SHARD = 5000
_OURS = re.compile(
  r"records-\d{5}-of-\d{5}\.(array_record|json)|partial-\d+\.tmp|preparing\.json|records\.json"
)
_DESCRIBED = ("data", "count", "bytes", "sha256")
_TOLD = 5


def default_count(pictures: int) -> int:
  """Returns how many shards so many pictures take by default.

  >>> default_count(1_281_167), default_count(3)
  (257, 1)
  """
  return max(1, math.ceil(pictures / PER_SHARD))


def check(path: pathlib.Path) -> None:
  """Checks that data sets may be written into the folder `path`, one in a folder for each split.

  Raises: errors.UserError if it is a file, or holds anything that is not from here.
  """
  if not path.exists():
    return
  if not path.is_dir():
    raise errors.UserError(f"DIR={str(path)!r} is a file; give a new or empty folder.")
  foreign = []
  for entry in sorted(path.iterdir()):
    inside = [p.name for p in entry.iterdir()] if entry.is_dir() else []
    strange = sorted(f"{entry.name}/{name}" for name in inside if not _OURS.fullmatch(name))
    foreign += strange[:1] if entry.is_dir() else [entry.name]
  if foreign:
    raise errors.UserError(
      f"DIR={str(path)!r} is not empty and holds what this command has not made "
      f"({', '.join(foreign[:3])}); give a new or empty folder."
    )


def write(
  path: pathlib.Path,
  source: folder.Folder,
  *,
  shards: int,
  provenance: Mapping[str, Any],
  skip_unreadable: bool = False,
  threads: int = 8,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
  """Writes the pictures of `source` as a data set into the folder `path`; returns its manifest.

  A data set that is there already, of the same pictures, is left as it is.

  Args:
    shards: number of files, at most one for each picture.
    provenance: kept in the manifest. skip_unreadable: leave out pictures that cannot be decoded,
      and name them in the provenance, where otherwise there would be no data set.
    threads: that read and decode. progress: told how many of how many pictures are done.
  Raises: errors.UserError if pictures cannot be decoded, or another data set is there.
  """
  ranges = [
    range(*(len(source) * n // shards for n in (number, number + 1))) for number in range(shards)
  ]
  pictures = [_fingerprint(source, indices) for indices in ranges]
  plan = {"count": len(source), "class_names": list(source.class_names), "shards": shards}
  whole = hashlib.sha256(json.dumps([plan, pictures]).encode()).hexdigest()
  manifest, parts = records.read_manifest(path), parts_lib.Parts(path, shards)
  if manifest is not None:
    if manifest["provenance"].get("pictures") != whole:
      raise errors.UserError(
        f"DIR: {str(path)!r} holds another data set already, of {manifest['count']:,} pictures in "
        f"{len(manifest['shards'])} shard(s); give another folder, or delete it."
      )
    parts.clear()
    progress(len(source), len(source))
    return manifest
  parts.claim(plan)
  known = [_finished(parts, number, pictures[number]) for number in range(shards)]
  _check_space(path, source, [i for n, i in enumerate(ranges) if known[n] is None])
  finished = []
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    for number, (indices, shard) in enumerate(zip(ranges, known, strict=True)):
      if shard is None:
        examples = _read(pool, source, indices, threads)
        counted = _counted(examples, indices.start, lambda done: progress(done, len(source)))
        shard = _write_shard(parts, number, counted, skip_unreadable=skip_unreadable)
        if "data" in shard:
          shard["pictures"] = pictures[number]
          parts.finish(number, shard)
      else:
        progress(indices.stop, len(source))
      finished.append(shard)
  unreadable = [name for shard in finished for name in shard["unreadable"]]
  if unreadable and not skip_unreadable:
    raise errors.UserError(
      f"{source.name}: {len(unreadable)} of {len(source)} pictures cannot be read: "
      f"{_listed(unreadable)}. Mend or delete them, or leave them out by --skip-unreadable."
    )
  count = sum(shard["count"] for shard in finished)
  if not count:
    raise errors.UserError(f"{source.name}: none of {len(source)} pictures can be read.")
  manifest = records.write_manifest(
    path,
    {
      "count": count,
      "fields": {
        "image": {"dtype": "bytes", "shape": []},
        "label": {"dtype": "int32", "shape": []},
      },
      "image_size": None,
      "num_classes": source.num_classes,
      "class_names": list(source.class_names),
      "shards": [{key: shard[key] for key in _DESCRIBED} for shard in finished if shard["count"]],
      "images": None,
      "provenance": {**provenance, "pictures": whole, "unreadable": unreadable},
    },
  )
  parts.clear()
  return manifest


def _fingerprint(source: folder.Folder, indices: range) -> str:
  """Returns a digest of which pictures these are: class, name, size and label of each."""
  digest = hashlib.sha256()
  for index in indices:
    picture = pathlib.Path(source.paths[index])
    size, label = picture.stat().st_size, source.labels[index]
    digest.update(f"{picture.parent.name}/{picture.name}\0{size}\0{label}\n".encode())
  return digest.hexdigest()


def _check_space(path: pathlib.Path, source: folder.Folder, missing: list[range]) -> None:
  """Raises errors.UserError if the disk has no room for the shards that are missing."""
  needed = sum(os.stat(source.paths[i]).st_size for indices in missing for i in indices)
  free = shutil.disk_usage(path).free
  if needed > free:
    raise errors.UserError(
      f"DIR: {str(path)!r} needs {needed / 1e9:.1f} GB for the pictures of {source.name}, and "
      f"{free / 1e9:.1f} GB are free there."
    )


def _finished(parts: parts_lib.Parts, number: int, pictures: str) -> dict[str, Any] | None:
  """Returns what is known of a shard that is done, of these pictures, or None."""
  known = parts.finished(number)
  return known if known and known.get("pictures") == pictures else None


def _read(
  pool: concurrent.futures.Executor, source: folder.Folder, indices: range, threads: int
) -> Iterator[dict[str, Any] | sources.Unreadable]:
  """Yields each example, its image encoded, or why it cannot be read."""

  def example(index: int) -> dict[str, Any] | sources.Unreadable:
    try:
      encoded = source.encoded(index)
      decode.image(encoded, source.paths[index])
    except sources.Unreadable as error:
      return error
    return {"image": encoded, "label": np.int32(source.labels[index])}

  # So many at a time: all of a shard's pictures need not be in memory.
  window = 16 * threads
  for start in range(0, len(indices), window):
    yield from pool.map(example, indices[start : start + window])


def _counted(examples: Iterator[Any], start: int, progress: Callable[[int], None]) -> Iterator[Any]:
  for done, example in enumerate(examples, start + 1):
    yield example
    progress(done)


def _write_shard(
  parts: parts_lib.Parts,
  number: int,
  examples: Iterator[dict[str, Any] | sources.Unreadable],
  *,
  skip_unreadable: bool,
) -> dict[str, Any]:
  """Writes one shard and returns what is to be known of it.

  One with unreadable pictures, unless they are skipped, is not kept and has no `data`.
  """
  partial, data = parts.partial, parts.data(number)
  count, unreadable = 0, []
  try:
    with records.open_writer(partial) as write_record:
      for example in examples:
        if isinstance(example, sources.Unreadable):
          unreadable.append(str(example))
        else:
          write_record(example)
          count += 1
    if unreadable and not skip_unreadable:
      return {"count": count, "unreadable": unreadable}
    shard = {**records.describe(partial, count), "data": data.name, "unreadable": unreadable}
    if count:
      records.publish(partial, data)
    return shard
  finally:
    partial.unlink(missing_ok=True)


def _listed(names: list[str]) -> str:
  more = f", and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
  return ", ".join(names[:_TOLD]) + more
