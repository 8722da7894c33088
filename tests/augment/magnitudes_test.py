"""Rows of both conventions at every magnitude against their formulas in fractions."""

import fractions
import math

import pytest

from effnets.augment import magnitudes, operations


def test_older_convention_at_every_magnitude():
  for magnitude in range(11):
    level = fractions.Fraction(magnitude, 10)
    expected = {
      "rotate": math.floor(30 * level),
      "translate_x": magnitude,
      "translate_y": magnitude,
      "posterize": 4 - math.floor(4 * level),
      "solarize": 256 - math.floor(256 * level),
      "cutout": math.floor(20 * level) // 2,
      "shear_x": float(level * 3 / 10),
      "contrast": float(level * 18 / 10) + 0.1,
      "equalize": None,
    }
    for name, value in expected.items():
      row = magnitudes.row(name, magnitude, convention="pil", cutout_const=10, translate_const=10)
      if name == "solarize" and magnitude == 0:
        assert row == ("identity", None)
        continue
      assert row[0] == {"contrast": "contrast_fixed"}.get(name, name)
      assert row[1] == (value if value is None else pytest.approx(value))
      if name in ("rotate", "posterize", "solarize", "cutout"):
        assert isinstance(row[1], int)


def test_official_convention_is_the_argument():
  for name in operations.OPERATIONS:
    row = magnitudes.row(name, 7, cutout_const=40, translate_const=100)
    assert row == (name, magnitudes.argument(name, 7))
