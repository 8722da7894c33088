"""Folders of images are read in a fixed order; what is wrong with one is said."""

import numpy as np
import pytest
from PIL import Image

from effnets import errors
from effnets.data import batches, decode, sources
from effnets.data import stream as stream_lib


def _write(path, value, *, damaged=False):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.full((10 + value % 3, 12, 3), value, np.uint8)).save(path)
  if damaged:
    path.write_bytes(path.read_bytes()[:40])


def _open(root, split="train", **options):
  return sources.open_source(f"folder:{root}", split, options=options)


def test_splits_share_their_classes(tmp_path):
  for i, name in enumerate(["train/cat/b.png", "train/cat/a.JPG", "train/ant/z.jpeg"]):
    _write(tmp_path / name, 50 * i)
  _write(tmp_path / "validation/cat/v.png", 200)
  _write(tmp_path / "validation/bee/w.png", 210)
  (tmp_path / "train/cat/notes.txt").write_text("not an image")
  train = _open(tmp_path)
  assert train.class_names == ("ant", "bee", "cat") and train.num_classes == 3
  assert [p.rsplit("/", 2)[1:] for p in train.paths] == [
    ["ant", "z.jpeg"],
    ["cat", "a.JPG"],
    ["cat", "b.png"],
  ]
  assert [int(train[i]["label"]) for i in range(3)] == [0, 2, 2]
  assert train.image_size is None and train[2]["image"].shape == (10, 12, 3)
  assert (train[2]["image"] == 0).all() and train[2]["label"].dtype == np.int32
  assert [int(_open(tmp_path, "validation")[i]["label"]) for i in (0, 1)] == [1, 2]


def test_a_folder_without_splits(tmp_path):
  _write(tmp_path / "b/1.png", 10)
  _write(tmp_path / "a/1.png", 20)
  source = _open(tmp_path, "all")
  assert source.class_names == ("a", "b") and len(source) == len(_open(tmp_path)) == 2
  with pytest.raises(errors.UserError, match=r"split='test' is not a split of .* Valid: 'all'"):
    _open(tmp_path, "test")


@pytest.fixture
def damaged(tmp_path):
  """60 images of two classes, of which 3 are damaged and one vanishes after opening."""
  for i in range(60):
    name = f"train/{'ab'[i % 2]}/{i:02}.{'png' if i % 4 else 'jpg'}"
    _write(tmp_path / name, 4 * i, damaged=i in (8, 21, 33))
  source = _open(tmp_path)
  (tmp_path / "train/b/11.png").unlink()
  return source


def test_damaged_images_are_replaced_counted_and_named(damaged):
  def read(order):
    stream = stream_lib.Stream(damaged, seed=1, transform=decode.RandomCrop(6), max_unreadable=0.15)
    return {p: stream[p]["image"] for p in order}, stream.tally

  images, tally = read(range(120))
  again, _ = read(reversed(range(120)))
  for p in range(120):
    np.testing.assert_array_equal(images[p], again[p])
  assert sorted(name.split("train/")[1].split(" (")[0] for name in tally.names) == [
    "a/08.jpg",
    "b/11.png",
    "b/21.png",
    "b/33.png",
  ]
  assert tally.failed >= 8 and tally.reads == 120 + tally.failed


@pytest.mark.parametrize("threads", [0, 3])
def test_a_share_over_the_limit_stops_the_batches(damaged, threads):
  stream = stream_lib.Stream(damaged, seed=1, transform=decode.RandomCrop(6), max_unreadable=0.05)
  iterator = batches.train_batches(stream, 10, threads=threads)
  with pytest.raises(errors.UserError, match=r"max_unreadable=0.05 allows. First: .*train/"):
    for _ in range(30):
      next(iterator)
  assert 60 <= stream.tally.reads < 90  # after one epoch; where it stops depends on the order only
  iterator.close()


def test_evaluation_masks_damaged_images(damaged):
  iterator = batches.eval_batches(damaged, 16, transform=decode.CentreCrop(6), max_unreadable=0.1)
  seen = list(iterator)
  mask, index = (np.concatenate([b[k] for b in seen]) for k in ("mask", "index"))
  broken = [i for i, p in enumerate(damaged.paths) if p[-6:-4] in ("08", "21", "33", "11")]
  assert mask.sum() == 56 and index[:60].tolist() == list(range(60)) and (index[60:] == -1).all()
  assert np.flatnonzero(~mask[:60]).tolist() == broken
  with pytest.raises(errors.UserError, match=r"4 of 60 reads of folder:"):
    list(batches.eval_batches(damaged, 60, transform=decode.CentreCrop(6)))


def test_messages(tmp_path):
  with pytest.raises(
    errors.UserError, match=r"config.data.source='folder:.*gone': there is no fold"
  ):
    _open(tmp_path / "gone")
  (tmp_path / "train/a").mkdir(parents=True)
  with pytest.raises(errors.UserError, match=r"split='train': no images in .*train"):
    _open(tmp_path)
  _write(tmp_path / "train/a/1.png", 1)
  with pytest.raises(errors.UserError, match=r"one class only \('a'\)"):
    _open(tmp_path)
  with pytest.raises(errors.UserError, match=r"split='trian' is not a folder in .* 'train'"):
    _open(tmp_path, "trian")
  with pytest.raises(
    errors.UserError, match="options='size' is not an option of a folder.*hold_out"
  ):
    _open(tmp_path, size=3)


def _flat(root, count=20):
  for name in ("ant", "bee"):
    for i in range(count):
      _write(root / name / f"{i}.png", 10 * i)


def test_a_folder_without_splits_is_cut_by_name(tmp_path):
  _flat(tmp_path)
  parts = {s: _open(tmp_path, s, hold_out=15) for s in ("train", "validation", "test", "all")}
  assert {s: len(part) for s, part in parts.items()} == {
    "train": 28,
    "validation": 6,
    "test": 6,
    "all": 40,
  }
  cut = [set(parts[s].paths) for s in ("train", "validation", "test")]
  assert set.union(*cut) == set(parts["all"].paths) and sum(map(len, cut)) == 40
  for part in parts.values():  # sorted as ever, both classes in each
    assert part.paths == sorted(part.paths) and part.class_names == ("ant", "bee")
    assert {int(part[i]["label"]) for i in range(len(part))} == {0, 1}
  # Another picture moves at most one out of each part.
  _write(tmp_path / "ant/new.png", 3)
  later = _open(tmp_path, "test", hold_out=15)
  assert len(set(parts["test"].paths) - set(later.paths)) <= 1
  # Where there are split folders they are what they are.
  _write(tmp_path / "s/train/cat/a.png", 1)
  _write(tmp_path / "s/train/dog/a.png", 1)
  assert len(_open(tmp_path / "s", "train", hold_out=15)) == 2


def test_what_cannot_be_held_out(tmp_path):
  _flat(tmp_path, count=2)
  with pytest.raises(errors.UserError, match=r"ant holds 2 picture\(s\), too few"):
    _open(tmp_path, "train", hold_out=15)
  with pytest.raises(errors.UserError, match="hold_out=50 should be a percentage"):
    _open(tmp_path, "train", hold_out=50)
  with pytest.raises(errors.UserError, match="To cut some off: --config.data.options.hold_out=15"):
    _open(tmp_path, "validation")
