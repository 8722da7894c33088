"""Cutout and random erasing against what their draws imply: shapes, shares, places, levels."""

import functools

import jax
import numpy as np
import pytest

from effnets import augment, streams

_HEIGHT, _WIDTH = 24, 30


def _keys(count, seed=0):
  key = streams.stream(jax.random.key(seed), "augment")
  return streams.example_keys(key, streams.words(np.arange(count)))


def _rectangles(painted):
  """Returns top, left, height, width of what is painted; checks that it is all of a rectangle."""
  found = []
  for mask in painted:
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    if not len(rows):
      found.append((0, 0, 0, 0))
      continue
    box = (rows[0], columns[0], rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0])
    assert mask.sum() == box[2] * box[3]
    found.append(box)
  return np.array(found)


def test_cutout():
  count, size = 3000, 9
  images = np.zeros((count, _HEIGHT, _WIDTH, 3), np.uint8)
  cut = jax.jit(functools.partial(augment.cutout, size=size, fill=(9, 8, 7)))
  result = np.asarray(cut(images, _keys(count)))
  painted = result.any(-1)
  assert (result[painted] == (9, 8, 7)).all()
  boxes = _rectangles(painted)
  # The middle row of the square is uniform over the rows: so the square, five below its middle and
  # four above, is cut off at the top for four of them.
  rows = np.where(boxes[:, 0] > 0, boxes[:, 0] + size // 2, boxes[:, 2] - size // 2 - 1)
  share = np.bincount(rows, minlength=_HEIGHT) / count
  assert len(share) == _HEIGHT and np.abs(share - 1 / _HEIGHT).max() < 0.015
  whole = (boxes[:, 0] > 0) & (boxes[:, 0] + boxes[:, 2] < _HEIGHT)
  assert (boxes[whole, 2] == size).all() and boxes[:, 2:].max() == size
  assert boxes[:, 2:].min() == 5


def test_cutout_of_nothing():
  images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
  np.testing.assert_array_equal(augment.cutout(images, _keys(4), size=0), images)
  with pytest.raises(ValueError, match="size=-2 is negative"):
    augment.cutout(images, _keys(4), size=-2)
  with pytest.raises(ValueError, match=r"cutout takes .* got \(4, 8, 8, 3\) and \(3,\)"):
    augment.cutout(images, _keys(3), size=2)


def test_random_erasing():
  count = 4000
  images = np.zeros((count, _HEIGHT, _WIDTH, 3), np.uint8)
  erase = jax.jit(functools.partial(augment.random_erasing, probability=0.6, fill=255))
  boxes = _rectangles(np.asarray(erase(images, _keys(count)))[..., 0] == 255)
  erased = boxes[boxes[:, 2] > 0].astype(float)
  assert abs(len(erased) / count - 0.6) < 0.03
  top, left, height, width = erased.T
  area, aspect = height * width / (_HEIGHT * _WIDTH), height / width
  # Sides are rounded, by half a pixel at most.
  assert ((height + 0.5) * (width + 0.5) > 0.02 * _HEIGHT * _WIDTH).all()
  assert ((height - 0.5) * (width - 0.5) < 0.4 * _HEIGHT * _WIDTH).all()
  assert ((height + 0.5) / (width - 0.5) > 0.3).all()
  assert ((height - 0.5) / (width + 0.5) < 1 / 0.3).all()
  assert aspect.min() < 0.4 and aspect.max() > 2.8
  assert (height < _HEIGHT).all() and (width < _WIDTH).all()
  # All shares are equally likely but for those that are too high: of 0.2 of this picture's pixels
  # every rectangle is low enough.
  small = area[area < 0.2]
  assert abs(np.mean(small < 0.11) - 0.5) < 0.04
  # The place is uniform: its share of the free rows has the mean 1/2.
  assert abs(np.mean(top / (_HEIGHT - height)) - 0.5) < 0.025
  assert abs(np.mean(left / (_WIDTH - width)) - 0.5) < 0.025


def test_what_random_erasing_paints():
  images = np.full((64, _HEIGHT, _WIDTH, 3), 7, np.uint8)
  erase = jax.jit(augment.random_erasing, static_argnames=("probability", "fill"))
  noise = np.asarray(erase(images, _keys(64), probability=1.0, fill="pixel"))
  marked = np.asarray(erase(images, _keys(64), probability=1.0, fill=(1, 2, 3)))
  painted = (marked == (1, 2, 3)).all(-1)
  assert (marked[~painted] == 7).all() and (noise[~painted] == 7).all()
  # The same rectangles; a random level per pixel and channel.
  levels = noise[painted].astype(float)
  assert abs(levels.mean() - 127.5) < 1.5 and abs(levels.var() / ((256**2 - 1) / 12) - 1) < 0.03
  assert abs(np.corrcoef(levels[:, 0], levels[:, 1])[0, 1]) < 0.03
  np.testing.assert_array_equal(erase(images, _keys(64), probability=0.0), images)


def test_own_key_only():
  images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype(np.uint8)
  keys, order = _keys(16), np.random.default_rng(1).permutation(16)
  for change in (functools.partial(augment.cutout, size=4), augment.random_erasing):
    expected = np.asarray(change(images, keys))
    np.testing.assert_array_equal(change(images[order], keys[order]), expected[order])


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"probability": 1.5}, r"probability=1\.5 is not in \[0, 1\]"),
    ({"area": (0.5, 0.2)}, r"area=\(0\.5, 0\.2\) is not ascending within \(0, 1\]"),
    ({"aspect": (0, 2)}, r"aspect=\(0, 2\) is not ascending and positive"),
    ({"fill": "pixels"}, r"fill='pixels' is neither 'pixel' nor levels"),
  ],
)
def test_errors(settings, message):
  with pytest.raises(ValueError, match=message):
    augment.random_erasing(np.zeros((2, 8, 8, 3), np.uint8), _keys(2), **settings)
