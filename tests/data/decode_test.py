"""Crops keep to the stated ranges and depend on the position only; decoding gives RGB."""

import io

import numpy as np
import pytest
from PIL import Image

from effnets.data import decode, sources

_RNG = np.random.default_rng(0)


def _encoded(array, mode=None, kind="PNG"):
  file = io.BytesIO()
  Image.fromarray(array, mode).save(file, kind)
  return file.getvalue()


def _ramp(height, width):
  """An image with the row in red and the column in green: a crop shows where it came from."""
  rows, columns = np.mgrid[:height, :width]
  return np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)


@pytest.mark.parametrize(
  "height, width, area, aspect",
  [(120, 200, (0.08, 1.0), (3 / 4, 4 / 3)), (200, 150, (0.3, 0.6), (1.0, 1.0))],
)
def test_random_boxes_keep_to_the_ranges(height, width, area, aspect):
  shares, ratios, missed = [], [], 0
  for position in range(3000):
    rng = decode.drawing(1, position)("crop")
    box = decode.random_box(height, width, rng, area=area, aspect=aspect, attempts=10)
    if box is None:
      missed += 1
      continue
    top, left, h, w = box
    assert 0 <= top <= height - h and 0 <= left <= width - w
    shares.append(h * w / (height * width))
    ratios.append(w / h)
  # Sides are whole pixels: half a pixel of about 30 is 2 % in a ratio, 3 % in an area.
  assert area[0] * 0.97 <= min(shares) and max(shares) <= area[1] * 1.03
  assert aspect[0] * 0.97 <= min(ratios) and max(ratios) <= aspect[1] * 1.03
  assert missed / 3000 < 0.02
  if aspect[0] == aspect[1]:  # no attempt fails for its shape: the area is uniform
    standard_error = (area[1] - area[0]) / np.sqrt(12 * len(shares))
    assert abs(np.mean(shares) - np.mean(area)) < 4 * standard_error
  else:  # nearly the whole range is met, as far as the image's own shape allows
    largest = min(1, aspect[1] * height / width)
    assert min(shares) < 0.1 and 0.95 * largest < max(shares) <= largest * 1.03
    assert min(ratios) < 0.78 and max(ratios) > 1.3


def test_random_crop_is_a_function_of_seed_and_position():
  example = {"image": _RNG.integers(0, 256, (60, 80, 3), np.uint8), "label": np.int32(1)}
  crop = decode.RandomCrop(16)
  first = [crop(example, decode.drawing(3, p))["image"] for p in range(20)]
  second = [crop(example, decode.drawing(3, p))["image"] for p in reversed(range(20))]
  for a, b in zip(first, reversed(second), strict=True):
    np.testing.assert_array_equal(a, b)
  assert len({a.tobytes() for a in first}) == 20
  assert not np.array_equal(first[0], crop(example, decode.drawing(4, 0))["image"])
  assert not np.array_equal(first[0], crop(example, decode.drawing(3, 0, "other/"))["image"])
  assert first[0].shape == (16, 16, 3) and first[0].dtype == np.uint8


@pytest.mark.parametrize(
  "height, width, size, padding, side",
  [(256, 300, 224, 32, 224), (500, 375, 224, 32, 328), (32, 32, 32, 0, 32), (40, 30, 600, 32, 28)],
)
def test_centre_crop(height, width, size, padding, side):
  fraction = size / (size + padding)
  top, left, h, w = decode.centre_box(height, width, fraction)
  assert (h, w) == (side, side)
  assert abs((height - side) / 2 - top) <= 0.5 and abs((width - side) / 2 - left) <= 0.5
  image = decode.CentreCrop(size, fraction)({"image": _ramp(height, width)})["image"]
  assert image.shape == (size, size, 3)
  if size == side:  # nothing is resized: the pixels themselves
    np.testing.assert_array_equal(image, _ramp(height, width)[top : top + side, left : left + side])


def test_centre_box_is_the_whole_number_that_integers_give():
  for size in range(1, 300, 7):
    for padding in (0, 1, 4, 32):
      for side in range(1, 600, 13):
        expected = max(1, size * side // (size + padding))
        assert decode.centre_box(side, 900, size / (size + padding))[2] == expected


def test_squash_keeps_all_sides():
  picture = _ramp(40, 80)
  assert decode.centre_box(40, 80, 0.5, squash=True) == (10, 20, 20, 40)
  whole = decode.CentreCrop(20, 1.0, "bilinear", squash=True)({"image": picture})["image"]
  # Both ramps keep their ends: every second row and every fourth column, at pixel centres.
  peer = np.asarray(Image.fromarray(picture).resize((20, 20), Image.Resampling.BILINEAR))
  np.testing.assert_array_equal(whole, peer)
  cut = decode.CentreCrop(20, 1.0, "bilinear")({"image": picture})["image"]
  assert not np.array_equal(whole, cut)


def test_no_attempt_fits_gives_the_centre_crop():
  example = {"image": _ramp(20, 200)}  # an aspect of 1 and 90 % of the area can not fit
  crop = decode.RandomCrop(16, area=(0.9, 1.0), aspect=(1.0, 1.0))
  np.testing.assert_array_equal(
    crop(example, decode.drawing(0, 0))["image"], decode.CentreCrop(16)(example)["image"]
  )


def test_resize_of_a_constant_and_of_a_ramp():
  assert (decode.resize(np.full((13, 29, 3), 77, np.uint8), 8) == 77).all()
  # A cubic filter reproduces a straight line away from the borders, at pixel centres.
  row = decode.resize(_ramp(64, 64), 16)[8, 3:13, 1]
  np.testing.assert_allclose(row, (np.arange(3, 13) + 0.5) * 4 - 0.5, atol=0.51)


_GREY = _RNG.integers(0, 256, (5, 7), np.uint8)
_RGBA = _RNG.integers(0, 256, (5, 7, 4), np.uint8)


@pytest.mark.parametrize(
  "encoded, expected",
  [
    (_encoded(_RGBA[..., :3]), _RGBA[..., :3]),
    (_encoded(_RGBA), _RGBA[..., :3]),
    (_encoded(_GREY), np.repeat(_GREY[..., None], 3, -1)),
    (_encoded(_GREY.astype(np.uint16) * 256 + 9), np.repeat(_GREY[..., None], 3, -1)),
  ],
)
def test_decoding_gives_rgb(encoded, expected):
  pixels = decode.image(encoded, "x")
  assert pixels.dtype == np.uint8
  np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_orientation_is_left_alone(kind):
  picture = Image.fromarray(np.zeros((4, 9, 3), np.uint8))
  exif = picture.getexif()
  exif[0x0112] = 6  # "rotate by 90 degrees"
  file = io.BytesIO()
  picture.save(file, kind, exif=exif)
  assert decode.image(file.getvalue(), "x").shape == (4, 9, 3)


@pytest.mark.parametrize("keep", [0, 10, 70, -40])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_damaged_files_are_named(kind, keep):
  encoded = _encoded(_RNG.integers(0, 256, (40, 40, 3), np.uint8), kind=kind)[:keep]
  texts = set()
  for _ in range(3):
    with pytest.raises(sources.Unreadable, match=r"^cat.jpg \(") as caught:
      decode.image(encoded, "cat.jpg")
    texts.add(str(caught.value))
  assert len(texts) == 1  # a file is counted under one name


def test_settings_are_checked():
  with pytest.raises(ValueError, match="area must be a range"):
    decode.RandomCrop(8, area=(0, 1))
  with pytest.raises(ValueError, match="size must be > 0"):
    decode.CentreCrop(0)
  with pytest.raises(ValueError, match="one of .'bilinear', 'bicubic'"):
    decode.CentreCrop(8, interpolation="nearest")
