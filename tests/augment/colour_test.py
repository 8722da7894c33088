"""Brightness and saturation against Python's own HSV conversion, pixel by pixel."""

import colorsys

import jax
import numpy as np
import pytest

from effnets import augment, streams


def _keys(count):
  key = streams.stream(jax.random.key(0), "colour")
  return streams.example_keys(key, streams.words(np.arange(count)))


def _images(count, size=4):
  return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def _saturated(image, factor):
  def pixel(rgb):
    h, s, v = colorsys.rgb_to_hsv(*(rgb / 255))
    return np.array(colorsys.hsv_to_rgb(h, min(1.0, s * factor), v)) * 255

  return np.apply_along_axis(pixel, -1, image.astype(np.float64))


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.5, 4.0])
def test_saturation_is_that_of_hsv(factor):
  images = _images(3)
  images[0, 0, 0] = 0  # black and grey have no hue
  images[0, 0, 1] = 77
  found = augment.recolour(images, _keys(3), brightness=0.0, saturation=(factor, factor))
  np.testing.assert_allclose(found, _saturated(images, factor), atol=0.51)


def test_brightness_adds_one_level_an_image():
  images = np.full((400, 2, 2, 3), 100, np.uint8)
  found = np.asarray(jax.jit(augment.recolour)(images, _keys(400))).astype(int)
  assert (found == found[:, :1, :1, :1]).all()
  levels = found[:, 0, 0, 0] - 100
  assert levels.min() < -28 and levels.max() > 28 and abs(levels).max() <= 32
  assert abs(levels.mean()) < 3
  # Without room above and below, levels stay in range.
  ends = np.stack([np.zeros((200, 2, 2, 3)), np.full((200, 2, 2, 3), 255)], 1).reshape(400, 2, 2, 3)
  found = np.asarray(augment.recolour(ends.astype(np.uint8), _keys(400)))
  assert set(np.unique(found[::2])) <= set(range(33)) and found[1::2].min() >= 223


def test_draws_are_each_images_own():
  images = np.repeat(_images(1), 8, axis=0)
  found = np.asarray(augment.recolour(images, _keys(8)))
  assert len({image.tobytes() for image in found}) == 8
  np.testing.assert_array_equal(augment.recolour(images[:3], _keys(8)[:3]), found[:3])


def test_errors():
  with pytest.raises(ValueError, match="keys"):
    augment.recolour(_images(2), _keys(3))
  with pytest.raises(ValueError, match="is no range"):
    augment.recolour(_images(2), _keys(2), saturation=(1.5, 0.5))
