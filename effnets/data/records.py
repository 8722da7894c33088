"""A data set that we write ourselves, with its provenance: `records:PATH`.

PATH is a folder with ArrayRecord files and `records.json`: count, fields, classes, provenance, and
the name, count, size and sha256 of each data file. `write` makes one file, for pseudo-labels;
`shards.write` several, from a folder of pictures. The JSON file is renamed into place last, and
`write` names its data file by content, so at every moment PATH holds the old data set, the new one,
or none. A folder of such folders, one for each split, is `records:PATH` too.

An example is a dict of arrays, encoded with msgpack, which carries names, shapes and types. Common
fields: image uint8 (h, w, 3) or the bytes of an encoded image, label int32, probabilities
float32 (k,), source_index int64. Without `image`, `Records(path, images=source)` takes the image
from `source[source_index]`: a duplicated or relabelled image then costs no space.
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import flax.serialization
import numpy as np
from array_record.python import array_record_data_source, array_record_module

from effnets import errors
from effnets.data import decode, sources

_MANIFEST = "records.json"
_FORMAT = 2
# One record per group and no read-ahead: both are what random access wants.
_OPTIONS = "group_size:1"
# Reading more than this for its sha256 would delay every start by more than a second or two.
_VERIFIED = 1 << 30


def write(
  path: str | os.PathLike,
  examples: Iterable[Mapping[str, Any]],
  provenance: Mapping[str, Any],
  *,
  num_classes: int | None = None,
  class_names: Sequence[str] | None = None,
  images: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Writes a data set, replacing one that is there, and returns its manifest.

  Args:
    path: the folder. examples: dicts of arrays (or bytes) with equal fields, read once.
    provenance: anything JSON can hold: who made the labels, from what, with which settings.
    num_classes: default: length of class_names or probabilities, else the largest label + 1.
    class_names: default: "0", "1", ….
    images: where the images are if the examples hold none: the options `images`, `images_split`
      and `images_options` of `open_split`, which takes them from here.
  Raises: ValueError if the fields differ, there is no label or no example. What was there stays.
  """
  path = pathlib.Path(path)
  path.mkdir(parents=True, exist_ok=True)
  provenance = json.loads(json.dumps(dict(provenance)))  # Fails now, not after the work.
  for stale in path.glob("partial-*.tmp"):  # left by a killed writer
    stale.unlink()
  partial = path / f"partial-{os.getpid()}.tmp"
  count, fields, largest, sizes = 0, {}, -1, set()
  try:
    with open_writer(partial) as write_record:
      for example in examples:
        record = {k: v if isinstance(v, bytes) else np.asarray(v) for k, v in example.items()}
        if not fields:
          fields = {k: _describe(v) for k, v in record.items()}
        if record.keys() != fields.keys() or "label" not in record:
          raise ValueError(
            f"example {count} has fields {sorted(record)}, "
            f"expected {sorted({*fields, 'label'})} in every example."
          )
        largest = max(largest, int(record["label"]))
        sizes.add(_side(record.get("image")))
        write_record(record)
        count += 1
    if not count:
      raise ValueError(f"no examples to write to {path}.")
    if num_classes is None:
      soft = fields.get("probabilities")
      num_classes = len(class_names) if class_names else soft["shape"][0] if soft else largest + 1
    data = describe(partial, count)
    data["data"] = f"records-{data['sha256'][:16]}.array_record"
    manifest = {
      "count": count,
      "fields": fields,
      "image_size": sizes.pop() if len(sizes) == 1 else None,
      "num_classes": int(num_classes),
      "class_names": list(class_names or map(str, range(num_classes))),
      "shards": [data],
      "images": None if images is None else dict(images),
      "provenance": provenance,
    }
    publish(partial, path / data["data"])
    manifest = write_manifest(path, manifest)
  finally:
    partial.unlink(missing_ok=True)
  for old in path.glob("records-*.array_record"):
    if old.name != data["data"]:
      old.unlink()
  return manifest


@contextlib.contextmanager
def open_writer(path: pathlib.Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
  """Opens a new data file; gives a function that writes an example, of arrays and bytes, to it."""
  writer = array_record_module.ArrayRecordWriter(str(path), _OPTIONS)
  with contextlib.closing(writer):
    yield lambda record: writer.write(flax.serialization.msgpack_serialize(dict(record)))


def describe(path: pathlib.Path, count: int) -> dict[str, Any]:
  """Returns what a manifest says of a data file with `count` examples."""
  with open(path, "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  return {"data": path.name, "count": count, "bytes": path.stat().st_size, "sha256": digest}


def publish(partial: pathlib.Path, path: pathlib.Path) -> None:
  """Renames a finished file into place."""
  # A rename may reach the disk before the bytes it names.
  with open(partial, "rb") as file:
    os.fsync(file.fileno())
  os.replace(partial, path)


def write_manifest(path: pathlib.Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
  """Writes the manifest that makes the folder `path` a data set, and returns it."""
  manifest = {"format": _FORMAT, **manifest}
  partial = path / f"partial-{os.getpid()}.tmp"
  partial.write_text(json.dumps(manifest, indent=2, sort_keys=True))
  publish(partial, path / _MANIFEST)
  return manifest


def splits(path: str | os.PathLike) -> list[str]:
  """Returns the splits of a folder of data sets, sorted."""
  return sorted(found.parent.name for found in pathlib.Path(path).glob(f"*/{_MANIFEST}"))


def read_manifest(path: str | os.PathLike) -> dict[str, Any] | None:
  """Returns the manifest of a complete data set (see `write`), or None if there is none."""
  try:
    manifest = json.loads((pathlib.Path(path) / _MANIFEST).read_text())
  except (OSError, ValueError):
    return None
  return manifest if isinstance(manifest, dict) and manifest.get("format") == _FORMAT else None


class Records:
  """A written data set as a source. `provenance`: as given to `write`. `manifest`: all of it."""

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    images: sources.Source | None = None,
    soft: bool = True,
    verify: bool | None = None,
    key: str = "config.data",
  ):
    """Opens a data set.

    Args:
      path: the folder. images: where images come from if the records hold none.
      soft: False leaves `probabilities` out: hard labels. verify: compare the sha256 (reads all
        data, about 1 GB/s), None: if there is at most 1 GiB; sizes and count are always compared.
    Raises: errors.UserError if it is missing or damaged, or it has no images and none are given.
    """
    path = pathlib.Path(path).expanduser()
    name = f"records:{path}"
    manifest = read_manifest(path)
    if manifest is None:
      raise errors.UserError(
        f"{key}.source={name!r}: no complete data set in {path.absolute()} ({_MANIFEST} is missing "
        "or damaged); expected a folder written by `python -m effnets.prepare` or by "
        "effnets.data.records.write."
      )
    shards = manifest["shards"]
    if verify is None:
      verify = sum(shard["bytes"] for shard in shards) <= _VERIFIED
    damage = next(filter(None, (_damage(path, shard, verify) for shard in shards)), "")
    if damage:
      raise errors.UserError(
        f"{key}.source={name!r} is damaged: {damage}. Delete the folder and write it again."
      )
    if "image" not in manifest["fields"] and images is None:
      raise errors.UserError(
        f"{key}.source={name!r} holds no images; name the source that its source_index counts in "
        f"{key}.options.images and {key}.options.images_split."
      )
    self.name = name
    self.manifest = manifest
    self.provenance = manifest["provenance"]
    self.num_classes = manifest["num_classes"]
    self.class_names = tuple(manifest["class_names"])
    inside = "image" in manifest["fields"]
    self.image_size = manifest["image_size"] if inside else images.image_size
    self._images = images
    self._soft = soft
    try:
      self._records = array_record_data_source.ArrayRecordDataSource(
        [str(path / shard["data"]) for shard in shards]
      )
    except (RuntimeError, ValueError, OSError) as error:  # as the damage will have it
      raise errors.UserError(
        f"{key}.source={name!r} is damaged: {error}. Delete the folder and write it again."
      ) from error
    if len(self._records) != manifest["count"]:
      raise errors.UserError(
        f"{key}.source={name!r} is damaged: {len(self._records)} records, expected "
        f"{manifest['count']}. Delete the folder and write it again."
      )

  def __len__(self) -> int:
    return self.manifest["count"]

  def __getitem__(self, index: int) -> sources.Example:
    name = f"{self.name} #{index}"
    try:
      example = flax.serialization.msgpack_restore(self._records[index])
    except Exception as error:  # The reader's and msgpack's words for damaged bytes are many.
      raise sources.Unreadable(f"{name} ({type(error).__name__}: {error})") from error
    if "image" not in example:
      example["image"] = self._images[int(example["source_index"])]["image"]
    elif isinstance(example["image"], bytes):
      example["image"] = decode.image(example["image"], name)
    if not self._soft:
      example.pop("probabilities", None)
    example["label"] = np.int32(example["label"])
    return example


def open_split(
  argument: str, split: str, *, options: Mapping[str, Any], key: str, split_key: str
) -> Records:
  """Returns a split of the data set in the folder `argument`.

  A folder without folders for splits has the one split `all` (also called `train`).
  Options: `soft`, `verify` as in `Records`; `images`, `images_split`, `images_options`: the source
  that the images come from, if the records hold none; default: what `write` was told.
  Raises: errors.UserError as `Records`, and for unknown options and splits.
  """
  allowed = ("soft", "verify", "images", "images_split", "images_options")
  sources.check_options(options, allowed, kind="records", key=key)
  path = pathlib.Path(argument).expanduser()
  manifest = read_manifest(path)
  if manifest is None and (inside := splits(path)):
    if split not in inside:
      raise errors.unknown(split_key, split, f"a data set in {path}", inside)
    path /= split
    manifest = read_manifest(path)
  elif split not in ("all", "train"):
    raise errors.unknown(split_key, split, "a split of records", ("all", "train"))
  images = None
  known = (manifest or {}).get("images")
  where = options if options.get("images") else known or {}
  if where.get("images"):
    images = sources.open_source(
      where["images"],
      where.get("images_split", "train"),
      options=where.get("images_options"),
      key=f"{key}.options.images",
    )
  return Records(
    path,
    images=images,
    soft=options.get("soft", True),
    verify=options.get("verify"),
    key=key,
  )


def _describe(value: np.ndarray | bytes) -> dict[str, Any]:
  if isinstance(value, bytes):
    return {"dtype": "bytes", "shape": []}
  return {"dtype": str(value.dtype), "shape": list(value.shape)}


def _side(value: np.ndarray | bytes | None) -> int | None:
  square = isinstance(value, np.ndarray) and value.shape[0] == value.shape[1]
  return value.shape[0] if square else None


def _damage(path: pathlib.Path, shard: Mapping[str, Any], verify: bool) -> str:
  data = path / shard["data"]
  if not data.is_file():
    return f"{data.name} is missing"
  if data.stat().st_size != shard["bytes"]:
    return f"{data.name} has {data.stat().st_size} bytes, expected {shard['bytes']}"
  if verify and describe(data, 0)["sha256"] != shard["sha256"]:
    return f"the sha256 of {data.name} is not the one in {_MANIFEST}"
  return ""
