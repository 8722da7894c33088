"""The splits of `digits` are fixed, disjoint and balanced; its pixels follow the stated rule."""

import hashlib

import numpy as np
import pytest
from sklearn import datasets

from effnets import errors
from effnets.data import digits, sources

_SIZES = {"labelled": 100, "unlabelled": 1097, "train": 1197, "validation": 200, "test": 400}


def _indices(split, **options):
  return sources.open_source("digits", split, options=options).indices


@pytest.mark.parametrize("split", _SIZES)
def test_sizes_labels_and_types(split):
  source = sources.open_source("digits", split)
  assert isinstance(source, sources.Source)
  assert len(source) == _SIZES[split] == len(set(source.indices.tolist()))
  truth = datasets.load_digits().target[source.indices]
  labels = np.array([source[i]["label"] for i in range(len(source))])
  np.testing.assert_array_equal(labels, np.full_like(truth, -1) if split == "unlabelled" else truth)
  if split in ("labelled", "validation", "test"):
    assert np.bincount(truth).tolist() == [len(source) // 10] * 10
  example = source[3]
  assert example["image"].shape == (32, 32, 3) and example["image"].dtype == np.uint8
  assert example["label"].dtype == np.int32 and source.image_size == 32
  assert source.num_classes == len(source.class_names) == 10


def test_splits_are_disjoint_and_cover_everything():
  parts = [_indices(s) for s in ("labelled", "unlabelled", "validation", "test")]
  assert sorted(np.concatenate(parts).tolist()) == list(range(1797))
  np.testing.assert_array_equal(np.sort(np.concatenate(parts[:2])), _indices("train"))


def test_splits_never_move():
  # A recorded value: results of different versions are comparable only while it holds.
  text = ";".join(f"{s}:{_indices(s).tolist()}" for s in sorted(_SIZES))
  assert hashlib.sha256(text.encode()).hexdigest()[:16] == "ef5bc1b2b63b33d1"


def test_the_number_of_labels_moves_nothing_else():
  few, many = _indices("labelled", labels=50), _indices("labelled", labels=200)
  assert (len(few), len(many)) == (50, 200)
  assert set(few) < set(_indices("labelled")) < set(many)
  assert set(many) | set(_indices("unlabelled", labels=200)) == set(_indices("train"))
  for split in ("validation", "test", "train"):
    np.testing.assert_array_equal(_indices(split, labels=200), _indices(split))


def test_pixels_are_bilinear():
  raw = datasets.load_digits().images[_indices("test")[5]]
  image = sources.open_source("digits", "test")[5]["image"]
  assert (image == image[..., :1]).all()
  for y, x in [(0, 0), (5, 17), (16, 16), (31, 2), (30, 31)]:
    v, u = (np.clip((c + 0.5) / 4 - 0.5, 0, 7) for c in (y, x))
    top, left = min(int(v), 6), min(int(u), 6)
    v, u = v - top, u - left
    square = raw[top : top + 2, left : left + 2] * 255 / 16
    value = np.array([1 - v, v]) @ square @ np.array([1 - u, u])
    assert abs(int(image[y, x, 0]) - value) <= 0.5
  assert digits.enlarge(np.full((1, 8, 8), 16)).min() == 255


@pytest.mark.parametrize(
  "split, options, message",
  [
    ("trian", {}, r"config.data.split='trian' is not a split of digits. Nearest: 'train'"),
    ("train", {"label": 5}, r"config.data.options='label' .*Nearest: 'labels'"),
    ("train", {"labels": 105}, r"config.data.options.labels=105 must be a multiple of 10"),
    ("train", {"labels": 2000}, r"from 10 to 1140"),
    ("train", {"labels": "100"}, r"options.labels='100' must be"),
  ],
)
def test_messages(split, options, message):
  with pytest.raises(errors.UserError, match=message):
    sources.open_source("digits", split, options=options)
