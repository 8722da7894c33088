"""Anchors against boxes that the papers' own code gave."""

import numpy as np
import pytest

from effnets.ops import anchors


@pytest.mark.parametrize(
  ("size", "scale", "levels", "count"),
  [
    (512, 4.0, 7, 49_104),
    (1280, 4.0, 7, 306_900),
    (1536, 5.0, 7, 441_936),
    (1536, 4.0, 8, 442_260),
    (320, 3.0, 7, 19_206),
    (896, 3.0, 7, 150_381),
  ],
)
def test_counts(size, scale, levels, count):
  grid = anchors.Grid(levels=tuple(range(3, levels + 1)), scale=scale)
  assert grid.boxes(size).shape == (count, 4)


_D0 = """-12 -12 20 20  -7.313708 -18.627417 15.313708 26.627417
-18.627417 -7.313708 26.627417 15.313708  -16.158737 -16.158737 24.158737 24.158737
-10.254379 -24.508759 18.25438 32.50876  -24.508759 -10.254379 32.50876 18.25438
-21.398417 -21.398417 29.398417 29.398417  -13.959393 -31.918785 21.959393 39.918785
-31.918785 -13.959393 39.918785 21.959393"""
_MNASFPN = """-8 -8 16 16  -11.119053 -11.119053 19.119053 19.119053
-15.048813 -15.048813 23.048813 23.048813  -4.485281 -12.970563 12.485281 20.970563
-6.690785 -17.381569 14.690785 25.381569  -9.469545 -22.939089 17.469545 30.939089"""


def _boxes(text):
  return np.asarray(text.split(), float).reshape(-1, 4)


def test_efficientdet_boxes():
  boxes = anchors.Grid().boxes(512)
  np.testing.assert_allclose(boxes[:9], _boxes(_D0), atol=1e-5)
  last = (-126.700569, 160.649719, 1022.700562, 735.350281)
  np.testing.assert_allclose(boxes[-1], last, rtol=1e-6)
  np.testing.assert_array_equal(anchors.Grid(scale=5.0).boxes(1536)[0], (-16, -16, 24, 24))
  lite = anchors.Grid(scale=3.0).boxes(320)
  np.testing.assert_array_equal(lite[0], (-8, -8, 16, 16))
  last = (-92.521187, 87.072739, 625.854492, 446.26059)
  np.testing.assert_allclose(lite[-1], last, rtol=1e-6)


def test_mnasfpn_boxes():
  boxes = anchors.Grid(levels=(3, 4, 5, 6), scale=3.0, aspect_first=True).boxes(320)
  assert boxes.shape == (19_125, 4)
  np.testing.assert_allclose(boxes[:6], _boxes(_MNASFPN), atol=1e-5)
  swapped = boxes[3:6, [1, 0, 3, 2]]
  np.testing.assert_allclose(boxes[6:9], swapped, atol=1e-5)
  last = (72.487287, 180.243643, 503.512713, 395.756357)
  np.testing.assert_allclose(boxes[-1], last, rtol=1e-6)


def test_default_boxes():
  ssd = anchors.Default()
  assert ssd.boxes(300).shape == (1917, 4) and ssd.boxes(320).shape == (2034, 4)
  assert ssd.counts() == (3, 6, 6, 6, 6, 6)
  first, second, *_ = ssd.shapes()
  want = [(0.1, 0.1), (0.141421, 0.282843), (0.282843, 0.141421)]
  np.testing.assert_allclose(first, want, atol=1e-6)
  want = [(0.35, 0.35), (0.247487, 0.494975), (0.494975, 0.247487)]
  want += [(0.202073, 0.606218), (0.606248, 0.202062), (0.418330, 0.418330)]
  np.testing.assert_allclose(second, want, atol=1e-6)
  boxes = ssd.boxes((320, 640))
  # Scaled by height and width apart; the first cell of the first map is 16 by 16 pixels.
  np.testing.assert_allclose(boxes[0], (8 - 16, 8 - 32, 8 + 16, 8 + 32), atol=1e-5)


def test_any_size_against_a_loop():
  grid = anchors.Grid(levels=(2, 3), scale=(2.0, 3.0), octaves=2, aspects=anchors.ROUNDED)
  want = []
  height, width = 37, 50
  for level, scale in ((2, 2.0), (3, 3.0)):
    rows, columns = -(-height // 2**level), -(-width // 2**level)
    tall, wide = height / rows, width / columns
    for row in range(rows):
      for column in range(columns):
        for octave in (1.0, 2**0.5):
          for x, y in ((1, 1), (1.4, 0.7), (0.7, 1.4)):
            cy, cx = (row + 0.5) * tall, (column + 0.5) * wide
            h, w = scale * octave * tall * y / 2, scale * octave * wide * x / 2
            want.append((cy - h, cx - w, cy + h, cx + w))
  found = grid.boxes((height, width))
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-4)
