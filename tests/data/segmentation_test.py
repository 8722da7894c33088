"""Folders of pictures with a class for each pixel, in the layouts that there are."""

import numpy as np
import pytest
from PIL import Image

from effnets import errors
from effnets.data import scenes, segmentation, sources


def _save(path, pixels, palette=False):
  path.parent.mkdir(parents=True, exist_ok=True)
  picture = Image.fromarray(pixels)
  if palette:
    picture.putpalette([(37 * i) % 256 for i in range(768)])
  picture.save(path)


def _labels(top=3, shape=(6, 8)):
  return (np.arange(shape[0] * shape[1]).reshape(shape) % top).astype(np.uint8)


def _picture(shape=(6, 8)):
  return np.full((*shape, 3), 77, np.uint8)


def _plain(root, count=3):
  for i in range(count):
    _save(root / "images" / "val" / "deep" / f"{i}.jpg", _picture())
    _save(root / "masks" / "val" / "deep" / f"{i}.png", _labels())
  (root / "masks" / "classes.txt").write_text("sky\ngrass\ntree\n")


def _open(root, split="validation", **options):
  return sources.open_source(f"segmentation:{root}", split, options=options)


def test_voc(tmp_path):
  root = tmp_path / "VOC2012"
  _save(root / "JPEGImages" / "x.jpg", _picture())
  _save(root / "SegmentationClass" / "x.png", _labels(21), palette=True)
  (root / "ImageSets" / "Segmentation").mkdir(parents=True)
  (root / "ImageSets" / "Segmentation" / "val.txt").write_text("x\n")
  for where in (root, tmp_path):
    source = _open(where)
    assert isinstance(source, sources.Source) and source.num_classes == 21
    np.testing.assert_array_equal(source[0]["semantic"], _labels(21))
    assert source[0]["image"].shape == (6, 8, 3)
  with pytest.raises(errors.UserError, match="split='train' is not a list in .*'val'"):
    _open(root, "train")


# Train ids of Cityscapes' 19 classes by id, from its label table.
_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes(tmp_path, kind):
  _save(tmp_path / "leftImg8bit" / "val" / "ulm" / "u_1_leftImg8bit.png", _picture())
  ids = np.arange(48).reshape(6, 8).astype(np.uint8) % 34
  expected = np.vectorize(lambda i: _IDS.index(i) if i in _IDS else 255)(ids).astype(np.uint8)
  stored = ids if kind == "labelIds" else expected
  _save(tmp_path / "gtFine" / "val" / "ulm" / f"u_1_gtFine_{kind}.png", stored)
  source = _open(tmp_path)
  assert source.num_classes == 19 and source.class_names[13] == "car"
  np.testing.assert_array_equal(source[0]["semantic"], expected)


def test_plain_folders_and_missing_labels(tmp_path):
  _plain(tmp_path)
  source = _open(tmp_path)
  assert len(source) == 3 and source.class_names == ("sky", "grass", "tree")
  np.testing.assert_array_equal(source[1]["semantic"], _labels())
  (tmp_path / "masks" / "val" / "deep" / "1.png").unlink()
  with pytest.raises(errors.UserError, match=r"1 of 3 pictures have no labels.*deep/1\.png"):
    _open(tmp_path)
  assert len(_open(tmp_path, max_missing=0.5)) == 2


@pytest.mark.parametrize(
  ("labels", "message"),
  [
    (_labels(shape=(5, 8)), r"0.png \(8x5 pixels, its picture has 8x6\)"),
    (_labels(4), r"0.png \(class 3, there are 3, from 0\)"),
    (_picture(), "one byte a pixel, not colours"),
  ],
)
def test_wrong_labels_make_an_example_unreadable(tmp_path, labels, message):
  _plain(tmp_path)
  _save(tmp_path / "masks" / "val" / "deep" / "0.png", labels)
  with pytest.raises(sources.Unreadable, match=message):
    _open(tmp_path)[0]


def test_pixels_that_do_not_count_stay_so(tmp_path):
  _plain(tmp_path)
  labels = _labels()
  labels[0] = scenes.IGNORED
  _save(tmp_path / "masks" / "val" / "deep" / "0.png", labels)
  fit = scenes.Fit((12, 16), semantic=True, objects=False)
  found = fit(_open(tmp_path)[0])
  assert set(fit.fields) == {"size", "scale", "original", "semantic"}
  np.testing.assert_array_equal(found["semantic"], np.repeat(np.repeat(labels, 2, 0), 2, 1))


def test_messages(tmp_path):
  with pytest.raises(errors.UserError, match="there is no folder"):
    _open(tmp_path / "none")
  with pytest.raises(errors.UserError, match="has no labels; expected PATH/JPEGImages"):
    _open(tmp_path)
  _plain(tmp_path)
  with pytest.raises(errors.UserError, match="split='train' is not a folder in .*'val'"):
    _open(tmp_path, "train")
  (tmp_path / "masks" / "classes.txt").write_text("one\n")
  with pytest.raises(errors.UserError, match="has 1 lines; expected 2 to 255 classes"):
    _open(tmp_path)
  assert len(segmentation.VOC) == 21
