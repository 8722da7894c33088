"""Writing shards that a kill interrupts, and reading sets of several files."""

import os
import pathlib
import pickle
import types

import numpy as np
import pytest
from PIL import Image

from effnets import errors
from effnets.data import records, shards, sources


@pytest.fixture
def source(tmp_path):
  for label, name in enumerate("ab"):
    (tmp_path / "pictures" / name).mkdir(parents=True)
    for i in range(5):
      pixels = np.full((4, 6, 3), 20 * i + label, np.uint8)
      Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{i}.png")
  return sources.open_source(f"folder:{tmp_path / 'pictures'}", "train")


def _write(path, source, **settings):
  return shards.write(path, source, **{"shards": 4, "provenance": {"by": "test"}, **settings})


class _Killed(Exception):
  pass


def _killed_at(count):
  def progress(done, total):
    if done >= count:
      raise _Killed

  return progress


def _data(path):
  return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in path.glob("*.array_record")}


def test_a_killed_writer_goes_on(tmp_path, source):
  whole = _write(tmp_path / "whole", source)
  assert [shard["count"] for shard in whole["shards"]] == [2, 3, 2, 3]
  path = tmp_path / "killed"
  with pytest.raises(_Killed):
    _write(path, source, progress=_killed_at(6))  # in the middle of the third shard
  done = _data(path)
  assert sorted(done) == [
    "records-00000-of-00004.array_record",
    "records-00001-of-00004.array_record",
  ]
  assert records.read_manifest(path) is None
  (path / "partial-1.tmp").write_text("left by a writer that had no time")
  told = []
  manifest = _write(path, source, progress=lambda done, total: told.append(done))
  assert manifest == whole and told[:2] == [2, 5] and told[-1] == 10
  after = _data(path)
  assert {name: after[name] for name in done} == done
  assert {n: b for n, (_, b) in after.items()} == {
    n: b for n, (_, b) in _data(tmp_path / "whole").items()
  }
  assert sorted(p.name for p in path.iterdir()) == sorted([*after, "records.json"])
  opened = records.Records(path)
  for reader in (opened, pickle.loads(pickle.dumps(opened))):  # worker processes get copies
    for i in range(10):
      np.testing.assert_array_equal(reader[i]["image"], source[i]["image"])
      assert reader[i]["label"] == source[i]["label"]


def test_a_torn_shard_is_written_again(tmp_path, source):
  path = tmp_path / "out"
  with pytest.raises(_Killed):
    _write(path, source, progress=_killed_at(6))
  torn = path / "records-00000-of-00004.array_record"
  torn.write_bytes(torn.read_bytes()[:-3])
  _write(path, source)
  assert len(records.Records(path, verify=True)) == 10


def test_unfinished_shards_of_another_count_go(tmp_path, source):
  path = tmp_path / "out"
  with pytest.raises(_Killed):
    _write(path, source, progress=_killed_at(6))
  _write(path, source, shards=2)
  opened = records.Records(path)
  assert len(opened) == 10
  names = {shard["data"] for shard in opened.manifest["shards"]}
  assert {p.name for p in path.iterdir()} == {*names, "records.json"}


def test_only_the_shard_of_a_mended_picture_is_written_again(tmp_path, source):
  path, whole = tmp_path / "out", pathlib.Path(source.paths[6]).read_bytes()
  pathlib.Path(source.paths[6]).write_bytes(whole[:30])
  with pytest.raises(errors.UserError, match="1 of 10 pictures cannot be read: .*b/1.png"):
    _write(path, source)
  kept = _data(path)
  assert [name[8:13] for name in sorted(kept)] == ["00000", "00001", "00003"]
  pathlib.Path(source.paths[6]).write_bytes(whole)
  Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(source.paths[0])  # another size
  _write(path, source)
  opened, after = records.Records(path), _data(path)
  assert len(opened) == 10
  for i in (0, 6):
    np.testing.assert_array_equal(opened[i]["image"], source[i]["image"])
  assert [name[8:13] for name in sorted(kept) if after[name] == kept[name]] == ["00001", "00003"]


def test_a_full_disk_is_told_before_the_work(tmp_path, source, monkeypatch):
  needed = sum(os.stat(path).st_size for path in source.paths)
  for free in (needed - 1, needed):
    usage = types.SimpleNamespace(free=free)
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda path, usage=usage: usage)
    if free < needed:
      with pytest.raises(errors.UserError, match="needs 0.0 GB for the pictures of folder:.*free"):
        _write(tmp_path / "out", source)
      assert not list((tmp_path / "out").glob("records*"))
    else:
      assert _write(tmp_path / "out", source)["count"] == 10


def test_damage_in_any_shard_is_noticed(tmp_path, source):
  manifest = _write(tmp_path / "out", source)
  data = tmp_path / "out" / manifest["shards"][2]["data"]
  content = bytearray(data.read_bytes())
  content[len(content) // 2] ^= 4
  data.write_bytes(content)
  message = f"the sha256 of {data.name} is not the one"
  with pytest.raises(errors.UserError, match=message):
    records.Records(tmp_path / "out")
  # Where the reader stumbles over it, it is told as well.
  with pytest.raises(errors.UserError, match="is damaged: .*write it again"):
    records.Records(tmp_path / "out", verify=False)
  data.unlink()
  with pytest.raises(errors.UserError, match=f"{data.name} is missing"):
    records.Records(tmp_path / "out", verify=False)


def test_large_sets_are_verified_on_request_only(tmp_path, source, monkeypatch):
  manifest = _write(tmp_path / "out", source)
  data = tmp_path / "out" / manifest["shards"][0]["data"]
  content = bytearray(data.read_bytes())
  content[content.index(b"PNG")] ^= 4
  monkeypatch.setattr(records, "_VERIFIED", sum(s["bytes"] for s in manifest["shards"]) - 1)
  data.write_bytes(content)
  sources.open_source(f"records:{tmp_path / 'out'}", "all")
  with pytest.raises(errors.UserError, match="sha256"):
    sources.open_source(f"records:{tmp_path / 'out'}", "all", options={"verify": True})


def test_shards_without_a_readable_picture(tmp_path, source):
  for path in source.paths[:3]:
    with open(path, "wb"):
      pass
  manifest = _write(tmp_path / "out", source, shards=5, skip_unreadable=True)
  assert [shard["count"] for shard in manifest["shards"]] == [1, 2, 2, 2]
  assert len(records.Records(tmp_path / "out")) == manifest["count"] == 7
  for path in source.paths:
    with open(path, "wb"):
      pass
  with pytest.raises(errors.UserError, match="none of 10 pictures can be read"):
    _write(tmp_path / "none", source, skip_unreadable=True)
