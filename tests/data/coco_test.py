"""COCO folders: what is read, and what becomes of everything that is wrong in one."""

import json
import pickle
import re

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle_lib

from effnets import errors
from effnets.data import coco, coco_files, sources

_POLYGON = [[2, 3, 8, 3, 8, 9, 2, 9]]


def _annotation(number, **changes):
  base = {
    "id": number,
    "image_id": 7,
    "category_id": 3,
    "bbox": [2.0, 3.0, 6.0, 6.0],
    "area": 33.0,
    "iscrowd": 0,
    "segmentation": _POLYGON,
  }
  return {k: v for k, v in {**base, **changes}.items() if v is not None}


def _dataset(annotations=()):
  return {
    "images": [
      {"id": 7, "file_name": "a.png", "height": 20, "width": 30},
      {"id": 3, "file_name": "b.png", "height": 12, "width": 10},
    ],
    "annotations": list(annotations) or [_annotation(1)],
    "categories": [{"id": 5, "name": "bee"}, {"id": 3, "name": "ant"}],
  }


def _write(root, dataset, split="train2017"):
  for image in dataset["images"]:
    path = root / split / image["file_name"]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((image["height"], image["width"], 3), 9, np.uint8)).save(path)
  folder = root / "annotations"
  folder.mkdir(exist_ok=True)
  text = dataset if isinstance(dataset, str) else json.dumps(dataset, indent=1)
  (folder / f"instances_{split}.json").write_text(text)
  return folder / f"instances_{split}.json"


def _open(root, split="train", **options):
  return sources.open_source(f"coco:{root}", split, options=options)


def test_reads_boxes_classes_crowds_and_masks(tmp_path):
  crowd = np.zeros((20, 30), np.uint8)
  crowd[1:5, 20:28] = 1
  text = np.zeros((20, 30), np.uint8)
  text[0:2, 0:4] = 1
  _write(
    tmp_path,
    _dataset(
      [
        _annotation(11),
        _annotation(
          12,
          category_id=5,
          bbox=[20, 1, 8, 4],
          iscrowd=1,
          segmentation=coco_files.encoded(crowd, runs=True),
        ),
        _annotation(13, bbox=[0, 0, 4, 2], segmentation=coco_files.encoded(text)),
      ]
    ),
  )
  source = _open(tmp_path, masks=True)
  assert isinstance(source, sources.Source) and len(source) == 2 and not source.notes.counts
  assert source.class_names == ("ant", "bee") and source.category_ids == (3, 5)
  assert source.image_ids.tolist() == [7, 3]
  scene, empty = source[0], source[1]
  np.testing.assert_array_equal(scene["boxes"], [[3, 2, 9, 8], [1, 20, 5, 28], [0, 0, 2, 4]])
  assert scene["boxes"].dtype == np.float32
  assert scene["classes"].tolist() == [0, 1, 0] and scene["crowd"].tolist() == [False, True, False]
  square = np.zeros((20, 30), np.uint8)
  square[3:9, 2:8] = 1
  np.testing.assert_array_equal(scene["masks"], [square, crowd, text])
  assert empty["boxes"].shape == (0, 4) and empty["masks"].shape == (0, 12, 10)
  again = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(again[0]["masks"], scene["masks"])
  with pytest.raises(IndexError):
    source[2]


def test_ids_with_gaps_count_as_they_are(tmp_path):
  _write(tmp_path, _dataset())
  source = _open(tmp_path, sparse=True)
  assert source.num_classes == 5 and source.class_names == ("", "", "ant", "", "bee")
  assert source.category_ids == (0, 0, 3, 0, 5) and source[0]["classes"].tolist() == [2]


def test_the_80_categories():
  assert len(coco_files.IDS) == len(coco_files.NAMES) == 80
  by_id = dict(zip(coco_files.IDS, coco_files.NAMES, strict=True))
  assert (by_id[1], by_id[13], by_id[90]) == ("person", "stop sign", "toothbrush")


_RLE = {"size": [20, 30], "counts": [100, 50, 450]}

# What is wrong, which rule, whether the object stays, and a word of the note.
_WRONG = [
  ({"image_id": 99}, "unknown picture", False, "image_id 99"),
  ({"category_id": 4}, "unknown category", False, "a.png: category_id 4"),
  ({"category_id": None}, "unknown category", False, "category_id None"),
  ({"bbox": None}, "no box", False, "bbox None"),
  ({"bbox": [1, 2, 3]}, "no box", False, "bbox"),
  ({"bbox": [1, 2, "3", 4]}, "no box", False, "bbox"),
  ({"bbox": [1, 2, float("nan"), 4]}, "no box", False, "nan"),
  ({"bbox": [2, 3, 0, 6]}, "zero area", False, "0x6"),
  ({"bbox": [2, 3, -1, 6]}, "zero area", False, "-1x6"),
  ({"bbox": [25, 15, 10, 10]}, "outside", True, "clipped"),
  ({"bbox": [40, 15, 10, 10]}, "outside", False, "all of it, skipped"),
  ({"segmentation": None}, "wrong mask", False, "no segmentation"),
  ({"segmentation": []}, "wrong mask", False, "no polygons"),
  ({"segmentation": [[1, 2, 3, 4]]}, "wrong mask", False, "without three corners"),
  ({"segmentation": [[1, 2, 3, 4, 5, "6"]]}, "wrong mask", False, "no numbers"),
  ({"segmentation": {**_RLE, "size": [30, 20]}}, "wrong mask", False, r"RLE of size \[30, 20\]"),
  ({"segmentation": {**_RLE, "counts": [100, 50]}}, "wrong mask", False, "add up to 600"),
  ({"segmentation": {**_RLE, "counts": "X"}}, "wrong mask", False, "add up to 600"),
  ({"segmentation": {**_RLE, "counts": [600]}}, "wrong mask", False, "without a pixel"),
]


@pytest.mark.parametrize(("changes", "rule", "kept", "word"), _WRONG)
def test_what_is_wrong_is_counted_and_named(tmp_path, changes, rule, kept, word):
  _write(tmp_path, _dataset([_annotation(1), _annotation(22, **changes), _annotation(3)]))
  source = _open(tmp_path, masks=True)
  assert source.notes.counts == {rule: 1}
  (line,) = source.notes.lines()
  assert line.startswith(f"1 × {rule}: annotation 22")
  assert re.search(word, line)
  assert len(source[0]["boxes"]) == 2 + kept
  if kept:
    np.testing.assert_array_equal(source[0]["boxes"][1], [15, 25, 20, 30])
  # What has a picture, a category and a box is judged in evaluation, as it stands.
  judged = rule in ("zero area", "outside", "wrong mask")
  truth = source.truth()["annotations"]
  assert len(truth) == 2 + judged and [a["id"] for a in truth] == list(range(1, len(truth) + 1))
  if judged and "bbox" in changes:
    assert truth[1]["bbox"] == changes["bbox"]


def test_boxes_on_the_border_and_rounded_ones_are_no_matter(tmp_path):
  _write(tmp_path, _dataset([_annotation(1, bbox=[-0.5, 0, 30.9, 20.5])]))
  source = _open(tmp_path)
  assert not source.notes.counts
  np.testing.assert_array_equal(source[0]["boxes"], [[0, 0, 20, 30]])


def test_compressed_runs_are_counted_as_the_official_tool_does():
  rng = np.random.default_rng(0)
  for _ in range(50):
    height, width = rng.integers(1, 40, 2)
    mask = (rng.uniform(size=(height, width)) < rng.uniform()).astype(np.uint8)
    text = rle_lib.encode(np.asfortranarray(mask))["counts"].decode()
    assert coco_files._runs(text) == height * width
    runs = coco_files.encoded(mask, runs=True)
    np.testing.assert_array_equal(rle_lib.decode(coco_files.rle(runs, height, width)), mask)


def test_missing_and_damaged_pictures(tmp_path):
  _write(tmp_path, _dataset([_annotation(1), _annotation(2, image_id=3)]))
  (tmp_path / "train2017" / "b.png").unlink()
  with pytest.raises(errors.UserError, match=r"1 of 2 pictures are missing in .*b\.png"):
    _open(tmp_path)
  source = _open(tmp_path, max_missing=0.5)
  assert len(source) == 1 and source.notes.counts == {"missing picture": 1}
  (tmp_path / "train2017" / "a.png").write_bytes(b"no picture")
  with pytest.raises(sources.Unreadable, match=r"a\.png \(no known image format\)"):
    source[0]
  Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "train2017" / "a.png")
  with pytest.raises(sources.Unreadable, match=r"9x8 pixels, its annotations say 30x20"):
    source[0]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda t: t[:60], r"instances_train2017.json, line 6, column \d+: .*expected a COCO file"),
    (lambda t: t.replace('"area": 33.0', '"area" 33.0'), r"line \d\d, column \d+: Expecting ':'"),
    (lambda t: "[1]", "expected an object with images, annotations and categories"),
    (lambda t: t.replace('"annotations"', '"annotation"'), "annotations is missing"),
    (lambda t: t.replace('"height": 12', '"height": "12"'), r"line 9: images\[1\]: height='12'"),
    (
      lambda t: t.replace('"height": 12', '"height": 0'),
      r"line 9: images\[1\]: height=0, expected",
    ),
    (
      lambda t: t.replace('"id": 3,\n   "file', '"id": 7,\n   "file'),
      r"images\[1\]: id=7 is there tw",
    ),
    (lambda t: t.replace('"name": "ant"', '"nome": "ant"'), r"categories\[1\]: name=None"),
  ],
)
def test_a_malformed_file_is_told_with_its_line(tmp_path, change, message):
  path = _write(tmp_path, _dataset())
  path.write_text(change(path.read_text()))
  with pytest.raises(errors.UserError, match=message):
    _open(tmp_path)


def test_lines_are_those_of_the_entries(tmp_path):
  path = _write(tmp_path, _dataset())
  text = path.read_text()
  lines = text.splitlines()
  for part in ("images", "categories"):
    start = next(i for i, line in enumerate(lines) if f'"{part}"' in line)
    braces = [i + 1 for i, line in enumerate(lines) if line == "  {" and i > start]
    assert [coco_files._line(text, part, n) for n in (0, 1)] == braces[:2]


def test_splits_and_years(tmp_path):
  _write(tmp_path, _dataset(), "train2017")
  _write(tmp_path, _dataset(), "val2017")
  assert len(_open(tmp_path, "validation")) == len(_open(tmp_path, "val")) == 2
  with pytest.raises(errors.UserError, match=r"split='test' is not a split of .*'train', 'val'"):
    _open(tmp_path, "test")
  _write(tmp_path, _dataset(), "val2014")
  with pytest.raises(errors.UserError, match=r"year='' ?: .*validation of 2014, 2017"):
    _open(tmp_path, "validation")
  assert _open(tmp_path, "validation", year=2014).name.endswith("validation")
  explicit = {
    "annotations": str(tmp_path / "annotations" / "instances_val2014.json"),
    "images": str(tmp_path / "val2014"),
  }
  assert len(_open(tmp_path, "any", **explicit)) == 2


def test_a_split_whose_objects_are_secret(tmp_path):
  dataset = _dataset()
  del dataset["annotations"]
  path = _write(tmp_path, dataset, "test2017")
  path.rename(path.with_name("image_info_test-dev2017.json"))
  source = _open(tmp_path, "test-dev")
  assert len(source) == 2 and len(source[0]["boxes"]) == 0 and source[0]["image"].shape[0] == 20
  assert source.truth()["annotations"] == []


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"mask": True}, "options='mask' .*'masks'"),
    ({"masks": "yes"}, "options.masks='yes' should be True or False"),
    ({"images": "x"}, "give annotations and images together"),
    ({"max_missing": "1%"}, "options.max_missing='1%' should be a share"),
  ],
)
def test_messages(tmp_path, options, message):
  _write(tmp_path, _dataset())
  with pytest.raises(errors.UserError, match=message):
    _open(tmp_path, **options)


def test_no_folder_and_no_annotations(tmp_path):
  with pytest.raises(errors.UserError, match="no annotations in .*instances_SPLIT.json"):
    _open(tmp_path)
  with pytest.raises(errors.UserError, match="source='coco' lacks a path"):
    sources.open_source("coco", "train")


def test_notes_name_three_and_count_all():
  notes = coco.Notes()
  for i in range(5):
    notes.add("rule", f"case {i}")
  assert notes.lines() == ["5 × rule: case 0; case 1; case 2; …"]
