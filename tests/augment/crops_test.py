"""Flips, shifts and crops against slicing and closed forms."""

import functools

import jax
import numpy as np
import pytest

from effnets import augment, streams


def _keys(count, seed=0):
  key = streams.stream(jax.random.key(seed), "crop")
  return streams.example_keys(key, streams.words(np.arange(count)))


def _images(count, height=6, width=7):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def test_flip():
  images = _images(2000)
  flipped = np.asarray(jax.jit(augment.flip)(images, _keys(2000)))
  same = (flipped == images).all((1, 2, 3))
  mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
  assert (same ^ mirrored).all()
  assert abs(mirrored.mean() - 0.5) < 0.04


@pytest.mark.parametrize(
  ("mode", "fill", "pad"),
  [
    ("constant", 0, {"constant_values": 0}),
    ("constant", 128, {"constant_values": 128}),
    ("reflect", 0, {}),
  ],
)
def test_shift_is_pad_and_cut(mode, fill, pad):
  pixels, count = 2, 400
  images = _images(count)
  shift = jax.jit(augment.shift, static_argnames=("pixels", "mode", "fill"))
  shifted = np.asarray(shift(images, _keys(count), pixels=pixels, mode=mode, fill=fill))
  margin = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
  padded = np.pad(images, margin, mode=mode, **pad)
  matches = np.stack(
    [
      (padded[:, top : top + 6, left : left + 7] == shifted).all((1, 2, 3))
      for top in range(5)
      for left in range(5)
    ]
  )
  assert (matches.sum(0) == 1).all()
  # Each of the 25 places is drawn about 16 times; below 3 has a probability of 1e-4 in all.
  assert matches.sum(1).min() >= 3


def test_shift_by_none_changes_nothing():
  images = _images(3)
  np.testing.assert_array_equal(augment.shift(images, _keys(3), pixels=0), images)


def test_random_resized_crop_of_a_ramp():
  # Bilinear interpolation of a linear ramp is linear away from the border, with the slope of the
  # crop: so the result tells how large a part was taken.
  size, count = 32, 64
  ramp = np.arange(size) * 8
  across = np.broadcast_to(ramp[None, :, None], (size, size, 3))
  images = np.stack([across, across.transpose(1, 0, 2)]).astype(np.uint8)
  crop = jax.jit(lambda images, keys: augment.random_resized_crop(images, keys, area=(0.2, 0.5)))
  keys = _keys(count)
  cropped = [np.asarray(crop(np.stack([image] * count), keys)).astype(float) for image in images]
  inner = slice(size // 4, -size // 4)
  width = np.diff(cropped[0][:, 16, inner, 0], axis=1).mean(1) / 8
  height = np.diff(cropped[1][:, inner, 16, 0], axis=1).mean(1) / 8
  share, ratio = width * height, width / height
  assert share.min() > 0.19 and share.max() < 0.51 and np.ptp(share) > 0.2
  assert ratio.min() > 0.73 and ratio.max() < 1.37 and np.ptp(ratio) > 0.3


def test_random_resized_crop_of_everything_is_the_image():
  images = _images(4, 8, 8)
  crop = functools.partial(augment.random_resized_crop, area=(1, 1), aspect=(1, 1))
  result = jax.jit(crop)(images, _keys(4))
  np.testing.assert_array_equal(result, images)


def test_random_resized_crop_changes_size():
  crop = functools.partial(augment.random_resized_crop, size=5)
  result = jax.eval_shape(crop, _images(2, 8, 8), _keys(2))
  assert result.shape == (2, 5, 5, 3) and result.dtype == np.uint8


def test_errors():
  images = _images(2)
  with pytest.raises(ValueError, match="mode='wrap' is none of"):
    augment.shift(images, _keys(2), mode="wrap")
  with pytest.raises(ValueError, match=r"pixels=6 is not in \[0, 5\]"):
    augment.shift(images, _keys(2), pixels=6)
  with pytest.raises(ValueError, match=r"keys \(b,\); got"):
    augment.flip(images, _keys(3))
  with pytest.raises(ValueError, match=r"area=\(0.5, 0.2\)"):
    augment.random_resized_crop(images, _keys(2), area=(0.5, 0.2))
  with pytest.raises(ValueError, match=r"aspect=\(0, 1\)"):
    augment.random_resized_crop(images, _keys(2), aspect=(0, 1))
