"""Figures of robustness against published results and cases counted by hand."""

import itertools
import math
import zlib

import numpy as np
import pytest

from effnets.augment import corruptions
from effnets.evaluation import robustness

# Mean errors in percent of ResNeXt-101 32x48d WSL, from its authors' raw results, and its mCE.
WSL_ERRORS = (
  36.5868, 38.4364, 39.8076, 39.1164, 54.818, 37.5004, 44.4944, 39.6656, 37.8044, 29.9156, 18.376,
  32.1096, 40.2592, 25.6256, 26.9004,
)  # fmt: skip
WSL_FLIPS = (5.847, 6.991, 2.842, 2.323, 3.667, 1.536, 2.416, 3.469, 2.149, 4.619)
MEANS = (
  88.6428, 89.4468, 92.2640, 81.9880, 82.6268, 78.5948, 79.8360, 86.6816, 82.6572, 81.9324, 56.4592,
  85.3204, 64.6056, 71.7840, 60.6500,
)  # fmt: skip


def constant(values):
  return {
    name: dict.fromkeys(range(1, 6), value)
    for name, value in zip(corruptions.CORRUPTIONS, values, strict=True)
  }


def mce(*args, **kwargs):
  return np.mean(list(robustness.corruption_errors(*args, **kwargs).values()))


def test_alexnets_table():
  assert tuple(robustness.ALEXNET_ERRORS) == corruptions.CORRUPTIONS
  for by, mean in zip(robustness.ALEXNET_ERRORS.values(), MEANS, strict=True):
    assert 100 * np.mean(list(by.values())) == pytest.approx(mean, abs=1e-9)
  assert robustness.mean_error(robustness.ALEXNET_ERRORS) == pytest.approx(0.7889930667, abs=1e-10)
  assert tuple(robustness.ALEXNET_FLIPS) == corruptions.PERTURBATIONS


def test_mce_of_published_results():
  assert mce(robustness.ALEXNET_ERRORS) == pytest.approx(1)
  assert mce(constant([0.5] * 15)) == pytest.approx(0.64672573, abs=1e-8)
  errors = constant([value / 100 for value in WSL_ERRORS])
  assert mce(errors) == pytest.approx(0.4569656, abs=1e-7)
  assert robustness.mean_error(errors) == pytest.approx(np.mean(WSL_ERRORS) / 100)


def test_a_corruption_error_is_a_ratio_of_sums():
  errors = {"a": {1: 0.1, 2: 0.5}, "b": {1: 0.2}, "c": {1: 0.9}}
  reference = {"a": {1: 0.2, 2: 0.4, 3: 0.6}, "b": {1: 0.8, 2: 1.0}}
  found = robustness.corruption_errors(errors, reference=reference)
  assert found == pytest.approx({"a": 0.6 / 0.6, "b": 0.25})
  found = robustness.corruption_errors(errors, reference=reference, clean=0.05, reference_clean=0.1)
  assert found == pytest.approx({"a": 0.5 / 0.4, "b": 0.15 / 0.7})
  assert robustness.mean_error(errors) == pytest.approx((0.3 + 0.2 + 0.9) / 3)


def test_what_is_missing():
  errors = {"a": {1: 0.1, 3: 0.2}}
  wanted = {"a": dict.fromkeys((1, 2, 3), 1.0), "b": dict.fromkeys((1, 2), 1.0)}
  assert robustness.missing(errors, wanted) == {"a": [2], "b": [1, 2]}
  assert robustness.missing(wanted, wanted) == {}


def test_mfr_of_published_results():
  flips = dict(zip(corruptions.PERTURBATIONS, WSL_FLIPS, strict=True))
  found = robustness.ratios(flips, robustness.ALEXNET_FLIPS)
  # The rates are rounded to 0.001 %, so the mean is known as well as this.
  rounding = np.mean([0.0005 / rate for rate in robustness.ALEXNET_FLIPS.values()])
  assert np.mean(list(found.values())) == pytest.approx(27.832, abs=rounding)
  tenth = dict.fromkeys(corruptions.PERTURBATIONS, 0.1)
  found = robustness.ratios(tenth, robustness.ALEXNET_FLIPS)
  assert np.mean(list(found.values())) == pytest.approx(0.99125373, abs=1e-8)
  assert robustness.ratios({"shear": 0.1, "snow": 0.1}, {"snow": 0.2}) == {"snow": 0.5}


def test_flips():
  frames = np.array([[3, 3, 4, 3, 3]])
  assert robustness.flip_probability(frames, noise=False) == 0.5
  assert robustness.flip_probability(frames, noise=True) == 0.25
  assert robustness.flip_probability(frames, noise=False, difficulty=2) == pytest.approx(2 / 3)
  both = np.array([[0, 0, 0], [0, 1, 2]])
  assert robustness.flip_probability(both, noise=False) == 0.5


def ranked(*order, classes=12):
  """Returns logits under which the classes have this order, then that of their numbers."""
  order = [*order, *(c for c in range(classes) if c not in order)]
  logits = np.zeros(classes)
  logits[order] = -np.arange(classes)
  return logits


@pytest.mark.parametrize(
  ("after", "distance"),
  [
    ((0, 1, 2, 3, 4), 0),
    ((1, 0, 2, 3, 4), 2),
    ((4, 1, 2, 3, 0), 8),
    ((5, 1, 2, 3, 4, 0), 5),
    ((0, 1, 2, 3, 5, 4), 1),
    ((4, 3, 2, 1, 0), 12),
    ((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0), 9),
    ((5, 6, 7, 8, 9), 15),
  ],
)
def test_top5_distances(after, distance):
  logits = np.stack([ranked(), ranked(*after)])[None]
  assert robustness.top5_distance(logits, noise=False).tolist() == [distance]
  assert robustness.top5_distance(logits, noise=True).tolist() == [distance]


def test_top5_distance_against_a_slow_loop():
  logits = np.random.default_rng(0).integers(0, 9, (3, 7, 11)).astype(float)  # with ties
  for noise, difficulty in itertools.product((False, True), (1, 2)):
    step = 1 if noise else difficulty
    expected = []
    for frames in logits:
      distances = []
      for t in range(step, 7):
        old, new = frames[0 if noise else t - step], frames[t]
        by_old = sorted(range(11), key=lambda c, old=old: (-old[c], c))
        by_new = sorted(range(11), key=lambda c, new=new: (-new[c], c))
        distances.append(sum(abs(i - min(by_new.index(by_old[i]), 5)) for i in range(5)))
      expected.append(sum(distances) / len(distances))
    found = robustness.top5_distance(logits, noise=noise, difficulty=difficulty)
    np.testing.assert_allclose(found, expected)


def test_fewer_than_five_classes():
  logits = np.array([[[1.0, 0.0], [0.0, 1.0]]])
  assert robustness.top5_distance(logits, noise=False).tolist() == [2]


def test_classes_of_imagenet_a():
  classes = robustness.IMAGENET_A
  assert len(classes) == 200 and sum(classes) == 102178 and list(classes) == sorted(classes)
  assert zlib.crc32(",".join(map(str, classes)).encode()) == 0xCF9A9ADF
  logits = np.arange(1000.0)[None]
  assert robustness.masked(logits)[0].tolist() == [float(c) for c in classes]
  background = np.concatenate([[[-1.0]], logits], 1)
  np.testing.assert_array_equal(robustness.masked(background), robustness.masked(logits))


def test_calibration_in_bins_of_equal_size():
  confidence = np.repeat([0.25, 0.75], 200)
  correct = np.tile([True, False, False, False], 50).tolist() + np.tile([1, 1, 1, 0], 50).tolist()
  shuffled = np.random.default_rng(0).permutation(400)
  # Within a bin of equal confidence the share of right answers is the confidence.
  assert robustness.rms_calibration_error(confidence, np.array(correct)) == pytest.approx(0)
  wrong = np.zeros(400, bool)
  found = robustness.rms_calibration_error(confidence[shuffled], wrong)
  assert found == pytest.approx(math.sqrt((0.25**2 + 0.75**2) / 2))
  # 250 examples: a bin of 100, the rest together.
  confidence = np.concatenate([np.full(100, 0.3), np.full(150, 0.9)])
  found = robustness.rms_calibration_error(confidence, np.zeros(250, bool))
  assert found == pytest.approx(math.sqrt((100 * 0.3**2 + 150 * 0.9**2) / 250))
  assert robustness.rms_calibration_error(np.array([0.9]), np.array([True])) == pytest.approx(0.1)


def test_aurra():
  assert robustness.aurra(np.random.default_rng(0).random(9), np.ones(9, bool)) == 1
  found = robustness.aurra(np.array([0.2, 0.9, 0.5]), np.array([True, True, False]))
  assert found == pytest.approx((1 + 1 / 2 + 2 / 3) / 3)
