"""`digit_scenes`: what is on a canvas, and the COCO folder that is written of it."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from effnets import errors, prepare
from effnets.data import digit_scenes, digits, sources


def _open(split="train", **options):
  return sources.open_source("digit_scenes", split, options=options)


def test_boxes_masks_and_classes_of_pixels_belong_together():
  source = _open()
  assert isinstance(source, sources.Source) and len(source) == 2048 and source.image_size == 128
  counts = []
  for index in range(60):
    scene = source[index]
    assert scene["image"].shape == (128, 128, 3) and scene["image"].dtype == np.uint8
    counts.append(len(scene["boxes"]))
    masks, total = scene["masks"], np.zeros((128, 128), int)
    for box, mask, label in zip(scene["boxes"].astype(int), masks, scene["classes"], strict=True):
      ys, xs = np.nonzero(mask)
      assert box.tolist() == [ys.min(), xs.min(), ys.max() + 1, xs.max() + 1]
      assert (scene["semantic"][mask > 0] == label + 1).all()
      # A quarter of a colour of at least 128.
      assert (scene["image"][mask > 0].max(-1) >= 31).all()
      total += mask
    assert total.max() <= 1 and (scene["semantic"][total == 0] == 0).all()
    if counts[-1] == 1:
      assert (scene["image"][total == 0] < 64).all()  # less than a quarter of the ink
  assert set(counts) == {1, 2, 3, 4}


def test_digits_may_be_of_one_class_in_the_same_scenes(tmp_path):
  alike = _open(agnostic=True)
  assert alike.num_classes == 1 and alike.class_names == ("digit",) and _open().num_classes == 10
  for index in range(5):
    one, ten = alike[index], _open()[index]
    assert (one["classes"] == 0).all() and len(one["classes"]) == len(ten["classes"])
    assert np.array_equal(one["semantic"], ten["semantic"] > 0)
    for name in ("image", "boxes", "masks"):
      assert np.array_equal(one[name], ten[name])
  assert alike.truth([0])["categories"] == [{"id": 1, "name": "digit"}]
  assert _open(agnostic=True, pixels=True).class_names == ("background", "digit")
  digit_scenes.write(tmp_path, {"examples": 2, "canvas": 64, "agnostic": True})
  names = (tmp_path / "semantic" / "classes.txt").read_text(encoding="utf-8").split()
  assert names == ["background", "digit"]


def test_a_single_digit_is_one_of_its_split_enlarged():
  source = _open("test", most=1)
  plain = sources.open_source("digits", "test")
  levels = digits.levels()[plain.indices]
  for index in range(8):
    scene = source[index]
    y0, x0, y1, x1 = scene["boxes"][0].astype(int)
    ink = scene["image"].max(-1).astype(float)
    best = {}
    for row in np.flatnonzero(plain._labels == scene["classes"][0]):
      for side in range(24, 65):
        mask = digits.enlarge(levels[row], side) >= 64
        ys, xs = np.nonzero(mask)
        if (ys.max() + 1 - ys.min(), xs.max() + 1 - xs.min()) == (y1 - y0, x1 - x0):
          part = mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
          best[row, side] = (part != scene["masks"][0][y0:y1, x0:x1]).sum()
    assert min(best.values()) == 0 and ink.max() >= 128


def test_scenes_are_functions_of_split_and_index_and_stay():
  assert np.array_equal(_open(examples=50)[7]["image"], _open()[7]["image"])
  assert not np.array_equal(_open("validation")[7]["image"], _open()[7]["image"])
  digest = hashlib.sha256()
  for index in (0, 1, 2047):
    for name in ("image", "boxes", "classes", "masks", "semantic"):
      digest.update(np.ascontiguousarray(_open()[index][name]).tobytes())
  assert digest.hexdigest()[:16] == "aef8ef2b445ca8e5"
  with pytest.raises(IndexError):
    _open()[2048]


def test_the_written_folder_gives_equal_scenes(tmp_path):
  counts = digit_scenes.write(tmp_path, {"examples": 6, "canvas": 64})
  assert counts == {"train": 6, "validation": 6, "test": 6}
  for split in counts:
    ours = _open(split, examples=6, canvas=64)
    theirs = sources.open_source(f"coco:{tmp_path}", split, options={"masks": True})
    pixels = sources.open_source(f"segmentation:{tmp_path}", split)
    assert len(theirs) == len(pixels) == 6 and not theirs.notes.counts
    assert theirs.class_names == ours.class_names and theirs.category_ids == ours.category_ids
    assert pixels.class_names == ours.semantic_names
    for index in range(6):
      for name in ("image", "boxes", "classes", "crowd", "masks"):
        np.testing.assert_array_equal(ours[index][name], theirs[index][name])
      np.testing.assert_array_equal(ours[index]["semantic"], pixels[index]["semantic"])
    strip = lambda truth: [(a["bbox"], a["area"], a["image_id"]) for a in truth["annotations"]]  # noqa: E731
    assert strip(ours.truth()) == strip(theirs.truth())
  assert Image.open(tmp_path / "semantic" / "val" / "000000.png").mode == "L"


def test_the_command_writes_all_splits(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(digit_scenes, "SPLITS", {"train": 3, "validation": 2, "test": 1})
  assert prepare.main(["digit_scenes", str(tmp_path / "out")]) == 0
  printed = capsys.readouterr().out
  assert "train: 3 scenes" in printed and f"coco:{tmp_path}/out" in printed
  file = tmp_path / "out" / "annotations" / "instances_val.json"
  assert len(json.loads(file.read_text())["images"]) == 2
  assert prepare.main(["digit_scenes", str(tmp_path), "--shards", "2"]) == 2


@pytest.mark.parametrize(
  ("split", "options", "message"),
  [
    ("train", {"agnostic": 1}, "options.agnostic=1 is not True or False."),
    ("trian", {}, "config.data.split='trian' is not a split of digit_scenes. Nearest: 'train'"),
    ("train", {"canvas": 8}, "options.canvas=8 must be a whole number from 32 to 512"),
    ("test", {"examples": True}, "options.examples=True must be .* default: 512"),
    ("train", {"moste": 3}, "options='moste' .*'most'"),
  ],
)
def test_messages(split, options, message):
  with pytest.raises(errors.UserError, match=message):
    _open(split, **options)
