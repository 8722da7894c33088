"""Comparisons: figures against closed forms and repeated draws, pictures that are there."""

import math

import numpy as np
import pytest
from PIL import Image

from effnets.evaluation import comparison


@pytest.mark.parametrize("count", [2, 3, 5, 40])
def test_mean_and_error_of_an_arithmetic_series(count):
  # 1, 2, ..., n: mean (n + 1) / 2; variance over n - 1 is n (n + 1) / 12.
  mean, error = comparison.mean_and_error(range(1, count + 1))
  assert mean == pytest.approx((count + 1) / 2)
  assert error == pytest.approx(math.sqrt((count + 1) / 12))


def test_one_seed_has_no_error():
  mean, error = comparison.mean_and_error([0.25])
  assert mean == 0.25 and math.isnan(error)


def test_the_error_is_that_of_repeated_draws():
  # The standard error of a mean of n draws is the spread of such means, here over 4,000 repeats.
  draws = np.random.default_rng(0).normal(size=(4000, 5))
  errors_squared = [comparison.mean_and_error(row)[1] ** 2 for row in draws]
  assert np.mean(errors_squared) == pytest.approx(draws.mean(1).var(), rel=0.06)


def test_one_value_is_shown_without_an_error():
  assert comparison.shown([0.123456]) == "12.35%"
  assert comparison.shown([0.1, 0.3]) == "20.00% ± 10.00%"


def test_pictures_are_drawn(tmp_path):
  comparison.dots({"a": [0.5], "b": [0.2, 0.4]}, tmp_path / "plots" / "dots.png", label="top-1")
  few = {("N1", "M4"): [0.5, 0.7], ("N1", "M5"): [0.2], ("N2", "M5"): [0.9]}
  comparison.heat_map(few, tmp_path / "map.png", label="top-1", axes=("layers", "magnitude"))
  for path in (tmp_path / "plots" / "dots.png", tmp_path / "map.png"):
    picture = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(picture, axis=0)) > 10


def test_the_hottest_cell_is_the_lightest(tmp_path):
  cells = {("a", "x"): [0.9], ("a", "y"): [0.1], ("b", "x"): [0.1], ("b", "y"): [0.1]}
  comparison.heat_map(cells, tmp_path / "map.png", label="top-1", axes=("rows", "columns"))
  picture = np.asarray(Image.open(tmp_path / "map.png").convert("RGB")).astype(int)
  # Viridis ends at yellow and begins at purple.
  yellow = np.argwhere((np.abs(picture - [253, 231, 37]) < 6).all(-1))
  purple = np.argwhere((np.abs(picture - [68, 1, 84]) < 6).all(-1))
  left, upper = np.median(yellow, 0)[::-1]
  assert left < np.median(purple[:, 1]) and upper < np.median(purple[:, 0])
