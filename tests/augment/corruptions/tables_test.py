"""The corruptions' numbers, spot-checked against the published tables."""

import math

import pytest

from effnets.augment import corruptions
from effnets.augment.corruptions import tables


def test_the_order_of_the_report():
  assert corruptions.CORRUPTIONS == (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur",
    "zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate",
    "jpeg_compression",
  )  # fmt: skip
  assert corruptions.EXTRA_CORRUPTIONS == ("speckle_noise", "gaussian_blur", "spatter", "saturate")


@pytest.mark.parametrize(
  ("size", "name", "severity", "values"),
  [
    (224, "shot_noise", 2, (25,)),
    (224, "impulse_noise", 4, (0.17,)),
    (224, "snow", 5, (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55)),
    (224, "glass_blur", 5, (1.5, 4, 2)),
    (224, "elastic_transform", 1, (244 * 2, 244 * 0.7, 244 * 0.1)),
    (224, "elastic_transform", 5, (244 * 0.12, 244 * 0.01, 244 * 0.02)),
    (299, "elastic_transform", 4, (360 * 0.07, 360 * 0.01, 360 * 0.02)),
    (299, "jpeg_compression", 5, (5,)),
    (299, "saturate", 5, (20, 0.2)),
    (299, "snow", 1, (0.1, 0.3, 3, 0.5, 10, 4, 0.8)),
    (32, "elastic_transform", 1, (0, 0, 32 * 0.08)),
    (32, "elastic_transform", 5, (32 * 0.1, 32 * 0.03, 32 * 0.03)),
    (32, "defocus_blur", 4, (1, 0.2)),
    (32, "frost", 5, (0.75, 0.45)),
    (32, "spatter", 1, (0.65, 0.3, 4, 0.69, 0.6, 0)),
  ],
)
def test_numbers(size, name, severity, values):
  assert tables.parameters(name, severity, size) == pytest.approx(values)


def test_small_zooms():
  counts = [len(tables.parameters("zoom_blur", s, 32)[0]) for s in tables.SEVERITIES]
  # (end - 1) / 0.01 in floating point, rounded up: two of the ranges include their end.
  assert counts == [math.ceil((end - 1) / 0.01) for end in (1.06, 1.11, 1.16, 1.21, 1.26)]
  assert counts == [7, 12, 16, 21, 26]
