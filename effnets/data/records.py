"""A data set that we write ourselves, with its provenance: `records:PATH`. Used for pseudo-labels.

PATH is a folder with one ArrayRecord file and `records.json`: count, fields, classes, provenance,
and the name, size and sha256 of the data file. The JSON file is renamed into place last and names
its data file by content, so at every moment PATH holds the old data set, the new one, or none.

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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.serialization
import numpy as np
from array_record.python import array_record_data_source, array_record_module

from effnets import errors
from effnets.data import decode, sources

_MANIFEST = "records.json"
_FORMAT = 1


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
    # One record per group and no read-ahead: both are what random access wants.
    writer = array_record_module.ArrayRecordWriter(str(partial), "group_size:1")
    with contextlib.closing(writer):
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
        writer.write(flax.serialization.msgpack_serialize(record))
        count += 1
    if not count:
      raise ValueError(f"no examples to write to {path}.")
    if num_classes is None:
      soft = fields.get("probabilities")
      num_classes = len(class_names) if class_names else soft["shape"][0] if soft else largest + 1
    digest = _sha256(partial)
    manifest = {
      "format": _FORMAT,
      "count": count,
      "fields": fields,
      "image_size": sizes.pop() if len(sizes) == 1 else None,
      "num_classes": int(num_classes),
      "class_names": list(class_names or map(str, range(num_classes))),
      "data": f"records-{digest[:16]}.array_record",
      "bytes": partial.stat().st_size,
      "sha256": digest,
      "images": None if images is None else dict(images),
      "provenance": provenance,
    }
    _sync(partial)
    os.replace(partial, path / manifest["data"])
    partial.write_text(json.dumps(manifest, indent=2, sort_keys=True))
    _sync(partial)
    os.replace(partial, path / _MANIFEST)
  finally:
    partial.unlink(missing_ok=True)
  for old in path.glob("records-*.array_record"):
    if old.name != manifest["data"]:
      old.unlink()
  return manifest


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
    verify: bool = True,
    key: str = "config.data",
  ):
    """Opens a data set.

    Args:
      path: the folder. images: where images come from if the records hold none.
      soft: False leaves `probabilities` out: hard labels. verify: compare the sha256 (reads the
        whole file, about 1 GB/s); the size and the count are always compared.
    Raises: errors.UserError if it is missing or damaged, or it has no images and none are given.
    """
    path = pathlib.Path(path).expanduser()
    name = f"records:{path}"
    manifest = read_manifest(path)
    if manifest is None:
      raise errors.UserError(
        f"{key}.source={name!r}: no complete data set in {path.absolute()} ({_MANIFEST} is missing "
        "or damaged); expected a folder written by effnets.data.records.write."
      )
    data = path / manifest["data"]
    damage = _damage(data, manifest, verify)
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
    self._records = array_record_data_source.ArrayRecordDataSource([str(data)])
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
  """Returns the data set in the folder `argument`, of the one split `all` (also called `train`).

  Options: `soft`, `verify` as in `Records`; `images`, `images_split`, `images_options`: the source
  that the images come from, if the records hold none; default: what `write` was told.
  Raises: errors.UserError as `Records`, and for unknown options and splits.
  """
  allowed = ("soft", "verify", "images", "images_split", "images_options")
  sources.check_options(options, allowed, kind="records", key=key)
  if split not in ("all", "train"):
    raise errors.unknown(split_key, split, "a split of records", ("all", "train"))
  images = None
  known = (read_manifest(pathlib.Path(argument).expanduser()) or {}).get("images")
  where = options if options.get("images") else known or {}
  if where.get("images"):
    images = sources.open_source(
      where["images"],
      where.get("images_split", "train"),
      options=where.get("images_options"),
      key=f"{key}.options.images",
    )
  return Records(
    argument,
    images=images,
    soft=options.get("soft", True),
    verify=options.get("verify", True),
    key=key,
  )


def _describe(value: np.ndarray | bytes) -> dict[str, Any]:
  if isinstance(value, bytes):
    return {"dtype": "bytes", "shape": []}
  return {"dtype": str(value.dtype), "shape": list(value.shape)}


def _side(value: np.ndarray | bytes | None) -> int | None:
  square = isinstance(value, np.ndarray) and value.shape[0] == value.shape[1]
  return value.shape[0] if square else None


def _damage(data: pathlib.Path, manifest: Mapping[str, Any], verify: bool) -> str:
  if not data.is_file():
    return f"{data.name} is missing"
  if data.stat().st_size != manifest["bytes"]:
    return f"{data.name} has {data.stat().st_size} bytes, expected {manifest['bytes']}"
  if verify and _sha256(data) != manifest["sha256"]:
    return f"the sha256 of {data.name} is not the one in {_MANIFEST}"
  return ""


def _sha256(path: pathlib.Path) -> str:
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: pathlib.Path) -> None:
  # A rename may reach the disk before the bytes it names.
  with open(path, "rb") as file:
    os.fsync(file.fileno())
