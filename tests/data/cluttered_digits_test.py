"""`cluttered_digits`: what is on a canvas, rebuilt with loops; splits, places, options."""

import hashlib

import numpy as np
import pytest
from sklearn import datasets

from effnets import errors
from effnets.data import digits, draws, sources

DIGITS = datasets.load_digits()
# Rounding moves a value by a half at most; exact halves are not exact in floating point.
HALF = 0.5 + 1e-9


def _open(split="train", **options):
  return sources.open_source("cluttered_digits", split, options=options)


def _bilinear(levels, side):
  """Returns 8x8 levels on a grid of `side` by floating point, one pixel after the other."""
  out = np.zeros((side, side))
  for i in range(side):
    for j in range(side):
      v, u = (np.clip((c + 0.5) * 8 / side - 0.5, 0, 7) for c in (i, j))
      top, left = min(int(v), 6), min(int(u), 6)
      v, u = v - top, u - left
      square = levels[top : top + 2, left : left + 2]
      out[i, j] = np.array([1 - v, v]) @ square @ np.array([1 - u, u]) * 255 / 16
  return out


@pytest.mark.parametrize("split", ["train", "validation", "test", "labelled", "unlabelled"])
def test_sizes_and_labels_are_those_of_the_source_digits(split):
  source, plain = _open(split), sources.open_source("digits", split)
  assert isinstance(source, sources.Source)
  assert len(source) == 4 * len(plain) and source.num_classes == 10 and source.image_size == 64
  for index in (0, 7, len(plain), len(source) - 1):
    example = source[index]
    assert example["label"] == plain[index % len(plain)]["label"]
    assert example["label"].dtype == np.int32
    assert example["image"].shape == (64, 64, 3) and example["image"].dtype == np.uint8
  for index in (-1, len(source)):
    with pytest.raises(IndexError):
      source[index]


@pytest.mark.parametrize("canvas", [32, 64, 100, 128])
@pytest.mark.parametrize("background", ["plain", "photos"])
def test_the_whole_digit_lies_inside_the_canvas(canvas, background):
  source = _open("test", canvas=canvas, background=background)
  sides = set()
  for index in range(0, 400, 40):
    top, left, bottom, right = source.box(index)
    side = bottom - top
    assert 0 <= top and bottom <= canvas and 0 <= left and right <= canvas and right - left == side
    assert 3 * canvas / 16 <= side <= 5 * canvas / 16
    sides.add(side)
    box = source[index]["image"][top:bottom, left:right].astype(float)
    expected = _bilinear(DIGITS.images[source._source.indices[index]], side)
    if background == "plain":
      assert np.abs(box - expected[..., None]).max() <= HALF
    else:  # ink covers a background of half brightness at most
      share = expected / 255
      assert (box >= 255 * share[..., None] - 1.5).all()
      assert (box <= 255 * share[..., None] + 128 * (1 - share[..., None]) + 1.5).all()
  assert len(sides) > 2


def test_fragments_are_rebuilt_by_a_loop():
  source = _open("validation", clutter=5)
  indices = sources.open_source("digits", "validation").indices
  rebuilt, overlaps = 0, 0
  for index in (0, 1, 250, 799):
    copy, row = divmod(index, 200)
    position = 1797 * copy + int(indices[row])
    rng = draws.generator(0, "cluttered_digits/clutter", position)
    top, left, bottom, right = source.box(index)
    canvas = np.zeros((64, 64))
    for _ in range(5):
      which, width, down, across, *places = rng.random(44)
      own = 12 + int(width * 9)
      digit = _bilinear(DIGITS.images[indices[int(which * 200)]], own)
      size = own // 2
      y, x = int(down * (own - size + 1)), int(across * (own - size + 1))
      part = digit[y : y + size, x : x + size]
      for attempt in range(20):
        v, u = (int(places[2 * attempt + k] * (64 - size + 1)) for k in (0, 1))
        rows, columns = set(range(v, v + size)), set(range(u, u + size))
        if rows & set(range(top, bottom)) and columns & set(range(left, right)):
          overlaps += 1
          continue
        canvas[v : v + size, u : u + size] = np.maximum(canvas[v : v + size, u : u + size], part)
        rebuilt += 1
        break
    image = source[index]["image"][..., 0].astype(float)
    image[top:bottom, left:right] = canvas[top:bottom, left:right]
    assert np.abs(image - canvas).max() <= HALF
    assert not canvas[top:bottom, left:right].any()
  assert rebuilt == 20 and overlaps > 0


def test_no_source_digit_is_in_two_splits():
  names = ("train", "validation", "test")
  parts = [set(_open(name)._source.indices.tolist()) for name in names]
  assert sum(map(len, parts)) == len(set.union(*parts)) == 1797
  few = _open("labelled", labels=50)
  assert len(few) == 200 and set(few._source.indices) < parts[0]


def test_photos_of_two_splits_share_no_column():
  photos = datasets.load_sample_images().images
  seen = {}
  for split, (first, end) in {
    "train": (0, 320),
    "validation": (320, 448),
    "test": (448, 640),
  }.items():
    source = _open(split, background="photos", clutter=0, copies=1)
    columns = []
    for index in range(0, 200, 25):
      image = source[index]["image"].astype(int)
      top, left, bottom, right = source.box(index)
      # A corner that the digit leaves free is a part of a photo at half brightness.
      y, x = (0 if top >= 12 else 52), (0 if left >= 12 else 52)
      patch = image[y : y + 12, x : x + 12]
      found = []
      for photo in photos:
        halves = photo.astype(int) // 2
        fits = (halves[: 427 - 63 + y, first:end] == patch[0, 0]).all(-1)
        for v, u in np.argwhere(fits):
          if np.array_equal(halves[v : v + 12, first + u : first + u + 12], patch):
            found.append(first + u - x)
      assert found, (split, index)
      assert any(first <= left <= end - 64 for left in found)
      columns += found
    seen[split] = columns


def test_examples_never_move():
  # A recorded value: results of different versions are comparable only while it holds. Photos are
  # left out, as JPEG decoders differ in the last bit.
  digest = hashlib.sha256()
  for split in ("train", "validation", "test"):
    for background in ("plain", "photos"):
      source = _open(split, background=background)
      for index in (0, 399, 600):
        digest.update(source[index]["image"].tobytes() if background == "plain" else b"")
        digest.update(str(source.box(index)).encode())
  assert digest.hexdigest()[:16] == "12bebc045e47ff3d"
  one, other = _open("test"), _open("test")
  assert np.array_equal(one[17]["image"], other[17]["image"])
  assert not np.array_equal(one[17]["image"], one[17 + 400]["image"])


def test_options_leave_the_rest_alone():
  few, many = _open("test", clutter=2), _open("test", clutter=9)
  assert few.box(3) == many.box(3)
  assert (few[3]["image"] <= many[3]["image"]).all()
  assert _open("test", copies=7)[3]["image"].tolist() == _open("test")[3]["image"].tolist()
  # 50 labels are among the first 100, and each digit keeps its place on its canvas.
  small, large = _open("labelled", labels=50), _open("labelled", labels=100)
  place = dict(zip(large._source.indices.tolist(), range(100), strict=True))
  for index in range(50):
    assert small.box(index) == large.box(place[int(small._source.indices[index])])


def test_tiny_digits_are_two_thirds_as_wide():
  source = _open("test", digits="tiny", canvas=96, clutter=30)
  sides = [source.box(i)[2] - source.box(i)[0] for i in range(100)]
  # An eighth of 96 to five 24ths.
  assert (min(sides), max(sides)) == (12, 20)


def test_large_digits_are_twice_as_wide():
  source = _open("test", digits="large", clutter=30)
  for index in range(0, 400, 40):
    top, left, bottom, right = source.box(index)
    assert 0 <= top and bottom <= 64 and 0 <= left and right <= 64
    assert 24 <= bottom - top <= 40
    box = source[index]["image"][top:bottom, left:right, 0].astype(float)
    expected = _bilinear(DIGITS.images[source._source.indices[index]], bottom - top)
    assert np.abs(box - expected).max() <= HALF


def test_places_are_uniform():
  source = _open("train", copies=1)
  boxes = np.array([source.box(index) for index in range(len(source))])
  sides = boxes[:, 2] - boxes[:, 0]
  counts = np.bincount(sides, minlength=21)[12:21]
  # Nine sizes, 133 of each expected: chi-squared of 8 degrees of freedom is below 26 in 99.9 %.
  assert ((counts - 133) ** 2 / 133).sum() < 26
  share = boxes[:, :2] / (64 - sides[:, None])
  assert np.abs(share.mean(0) - 0.5).max() < 4 * np.sqrt(1 / 12 / len(source))


@pytest.mark.parametrize("side", [6, 12, 19, 32, 40])
def test_digits_grow_to_any_side(side):
  grown = digits.enlarge(DIGITS.images[:3].astype(np.int64), side)
  for levels, image in zip(DIGITS.images, grown, strict=False):
    assert np.abs(image - _bilinear(levels, side)).max() <= HALF


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"canvas": 16}, r"config.data.options.canvas=16 must be a whole number from 32 to 128; def"),
    ({"canvas": 129}, r"options.canvas=129 must be .* default: 64"),
    ({"clutter": -1}, r"options.clutter=-1 must be a whole number from 0 to 64; default: 8"),
    ({"clutter": 1.5}, r"options.clutter=1.5 must be"),
    ({"copies": True}, r"options.copies=True must be a whole number from 1 to 100; default: 4"),
    (
      {"background": "photo"},
      r"options.background='photo' is not one of its values. Near.*'photos'",
    ),
    (
      {"digits": "big"},
      r"options.digits='big' is not one of its values. Valid: 'large', 'small', 'tiny'",
    ),
    ({"labels": 105}, r"options.labels=105 must be a multiple of 10"),
    ({"canvass": 64}, r"options='canvass' is not an option of cluttered_digits. Near.*'canvas'"),
  ],
)
def test_messages(options, message):
  with pytest.raises(errors.UserError, match=message):
    _open(**options)
  with pytest.raises(errors.UserError, match=r"split='trian' is not a split.*Nearest: 'train'"):
    _open("trian")
