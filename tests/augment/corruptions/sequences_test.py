"""Perturbation sequences frame by frame: what moves where, and by how much."""

import math

import numpy as np
import pytest
from scipy import ndimage

from effnets import errors
from effnets.augment import corruptions
from effnets.augment.corruptions import filters, sequences

ALL = (*sequences.PERTURBATIONS, *sequences.EXTRA_PERTURBATIONS)


def picture(side=48, seed=0):
  levels = np.random.default_rng(seed).uniform(0, 255, (side, side, 3))
  return np.clip(2 * ndimage.gaussian_filter(levels, (2, 2, 0)) - 60, 0, 255).astype(np.uint8)


def rng(seed=0):
  return np.random.default_rng(seed)


@pytest.mark.parametrize("name", ALL)
def test_frames_come_from_the_generator_alone(name):
  image = picture()
  first, again = (corruptions.sequence(image, name, rng(), side=40) for _ in range(2))
  assert first.shape == (41 if name == "translate" else 31, 40, 40, 3) and first.dtype == np.uint8
  np.testing.assert_array_equal(first, again)
  other = corruptions.sequence(image, name, rng(1), side=40)
  drawn = name in (*corruptions.NOISE_SEQUENCES, "snow")
  assert np.array_equal(first, other) != drawn


@pytest.mark.parametrize(
  ("name", "still"),
  [
    *((name, 15) for name in ("brightness", "rotate", "tilt", "shear")),
    *((name, 0) for name in (*corruptions.NOISE_SEQUENCES, "zoom_blur")),
    ("translate", 20),
    ("scale", 24),
  ],
)
def test_one_frame_is_the_picture_itself(name, still):
  image = picture()
  frame = corruptions.sequence(image, name, rng(), side=40)[still]
  assert np.abs(frame.astype(int) - image[4:44, 4:44]).max() <= 1


@pytest.mark.parametrize("difficulty", [1, 2, 3])
def test_noise_of_each_difficulty(difficulty):
  image = np.full((60, 60, 3), 128, np.uint8)

  def deviation(name):
    frames = corruptions.sequence(image, name, rng(), difficulty=difficulty)[1:] / 255
    assert abs(np.corrcoef(frames[0].ravel(), frames[1].ravel())[0, 1]) < 0.05
    return frames.std()

  level = 128 / 255
  expected = {
    "gaussian_noise": (0.03, 0.05, 0.08)[difficulty - 1],
    "shot_noise": math.sqrt(level / (300, 120, 60)[difficulty - 1]),
    "speckle_noise": level * (0.05, 0.10, 0.15)[difficulty - 1],
  }
  for name, value in expected.items():
    assert deviation(name) == pytest.approx(value, rel=0.02), name


def test_translation_is_whole_pixels_of_224():
  image = picture(256)
  frames = corruptions.sequence(image, "translate", rng(), side=224)
  for i in (0, 7, 20, 40):
    shift = i - 20  # what was further left is seen when the picture moves to the right
    columns = slice(16 - shift, 240 - shift)
    inside = slice(max(0, -(16 - shift)), 224 - max(0, 240 - shift - 256))
    expected = np.zeros((224, 224, 3), np.uint8)
    kept = image[16:240, max(0, columns.start) : min(256, columns.stop)]
    expected[:, inside] = kept
    np.testing.assert_array_equal(frames[i], expected)
  small = corruptions.sequence(picture(56), "translate", rng())
  np.testing.assert_array_equal(small[28][:, 2:], picture(56)[:, :-2])  # 8 * 56 / 224


def dots(*places, side=41):
  image = np.zeros((side, side, 3))
  for row, column in places:
    image[row, column] = 255
  blurred = ndimage.gaussian_filter(image, (1.5, 1.5, 0))
  return (255 * blurred / blurred.max()).astype(np.uint8)


def centre_of_mass(frame):
  return ndimage.center_of_mass(frame[..., 0].astype(float))


@pytest.mark.parametrize("i", [0, 9, 30])
def test_where_a_dot_goes(i):
  """A dot 10 pixels right of the centre, and one 10 below it."""
  angle = math.radians(i - 15)
  right, below = dots((20, 30)), dots((30, 20))

  def found(name, image):
    row, column = centre_of_mass(corruptions.sequence(image, name, rng())[i])
    return row - 20, column - 20

  assert np.hypot(*found("rotate", right)) == pytest.approx(10, abs=0.1)
  row, column = found("rotate", right)
  assert math.atan2(-row, column) == pytest.approx(angle, abs=0.02)  # anticlockwise
  assert found("shear", below) == pytest.approx((10, 10 * math.tan(angle)), abs=0.15)
  if i:
    assert found("scale", right) == pytest.approx((0, 10 * (0.4 + 0.025 * i)), abs=0.15)
  # Turned about the upright axis after the level one, and seen from the diagonal's length.
  focal = math.hypot(41, 41)
  x, y, z = 10 * math.cos(angle), -10 * math.sin(angle) ** 2, 10 * math.sin(angle) * math.cos(angle)
  row, column = focal * y / (focal + z), focal * x / (focal + z)
  assert found("tilt", right) == pytest.approx((row, column), abs=0.2)


def test_blurs_and_light_frame_by_frame():
  image = picture()
  x = image / 255
  frames = corruptions.sequence(image, "brightness", rng())
  value = x.max(-1, keepdims=True)
  for i in (0, 8, 30):
    expected = x / np.maximum(value, 1e-9) * np.clip(value + 0.02 * (i - 15), 0, 1)
    assert np.abs(frames[i] - 255 * expected).max() <= 1
  frames = corruptions.sequence(image, "zoom_blur", rng())
  zoomed = [filters.zoom_centre(x, 1 + 0.004 * k) for k in range(6)]
  assert np.abs(frames[5] - 255 * np.mean(zoomed, 0)).max() <= 1
  scale = 48 / 224
  frames = corruptions.sequence(image, "gaussian_blur", rng())
  expected = ndimage.gaussian_filter(
    x, ((0.25 + 0.035 * 20) * scale,) * 2 + (0,), mode="nearest", truncate=6
  )
  assert np.abs(frames[20] - 255 * expected).max() <= 1
  frames = corruptions.sequence(image, "motion_blur", rng())
  expected = filters.motion(x, round(10 * scale), 3 * scale, 4 * (12 - 30))
  assert np.abs(frames[12] - 255 * expected).max() <= 1


def test_snow_falls_from_one_field():
  image = np.zeros((60, 60, 3), np.uint8)
  frames = corruptions.sequence(image, "snow", rng(3)) / 255
  field = filters.zoom_centre(rng(3).normal(0.05, 0.3, (60, 60)), 3)
  field = np.floor(255 * np.clip(np.where(field < 0.5, 0, field), 0, 1)) / 255
  for i in (0, 30):
    layer = filters.motion(field, round(14 * 60 / 224), 4 * 60 / 224, 4 * i - 150)
    expected = np.clip(0.15 * 0.5 + layer + layer[::-1, ::-1], 0, 1)
    np.testing.assert_allclose(frames[i], expected[..., None].repeat(3, -1), atol=1.001 / 255)


def test_mistakes():
  image = picture()
  with pytest.raises(errors.UserError, match="'rotat' is not a perturbation sequence. .*'rotate'"):
    corruptions.sequence(image, "rotat", rng())
  with pytest.raises(ValueError, match="difficulty=2 of 'snow'"):
    corruptions.sequence(image, "snow", rng(), difficulty=2)
  with pytest.raises(ValueError, match="side=64 does not fit in a picture of 48 x 48"):
    corruptions.sequence(image, "snow", rng(), side=64)
