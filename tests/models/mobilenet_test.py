"""MobileNets against their sheets' counts and golden outputs, closed forms and timm."""

import pytest

from effnets import models
from effnets.models import layers
from tests.models import reference

GOLDEN = {
  "large": (
    *(266, (344.19, 170.89, -35.506, -141.79, 185.71), 1.7926, 332.69, 972),
    *(159.51, 251.28),
  ),
  "large_075": (
    *(266, (436.19, 124.34, -481.27, 71.272, 520.25), -6.0581, 582.19, 563),
    *(255.06, 396.87),
  ),
  "large_minimal": (
    *(234, (-353.55, 987.88, -2865.4, -6939.9, 215.65), -67.794, 3029.5, 104),
    *(1327.7, 1992.7),
  ),
  "small": (
    *(210, (-41.514, 41.081, -6.4303, 31.251, 37.079), -1.2411, 32.137, 787),
    *(14.748, 23.515),
  ),
  "small_075": (
    *(210, (-63.046, 19.628, -3.2206, 37.105, -0.94401), -0.16447, 26.631, 519),
    *(11.724, 18.442),
  ),
  "small_minimal": (
    *(174, (-167.89, -120.69, 1.5837, -71.737, 82.305), -2.7381, 162.67, 252),
    *(79.375, 122.87),
  ),
}


@pytest.mark.parametrize(
  "name",
  [pytest.param(n, marks=() if n == "small" else pytest.mark.slow) for n in GOLDEN],
)
def test_golden_forward_pass(name):
  module = models.create(f"mobilenetv3_{name}")
  reference.assert_golden(module, GOLDEN[name], place="last")


def test_equals_timm():
  module = models.create("mobilenetv3_large")
  reference.assert_equals_timm(module, "timm_tf_mobilenetv3_large_100")


def _v1(m, classes=1000):
  """Returns the parameters of MobileNetV1 by hand."""
  stem, *rest = (
    layers.divisible(c * m) for c in (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
  )
  total, channels = 27 * stem + 2 * stem, stem
  for out in rest:
    total += 9 * channels + 2 * channels + channels * out + 2 * out
    channels = out
  return total + (channels + 1) * classes


def _v2(m, classes=1000):
  """Returns the parameters of MobileNetV2 by hand."""
  channels, head = layers.divisible(32 * m), max(1280, layers.divisible(1280 * m))
  total = 27 * channels + 2 * channels
  for t, c, n in (
    (1, 16, 1),
    (6, 24, 2),
    (6, 32, 3),
    (6, 64, 4),
    (6, 96, 3),
    (6, 160, 3),
    (6, 320, 1),
  ):
    for _ in range(n):
      wide, out = t * channels, layers.divisible(c * m)
      total += (channels * wide + 2 * wide) * (t > 1) + 11 * wide + wide * out + 2 * out
      channels = out
  return total + channels * head + 2 * head + (head + 1) * classes


@pytest.mark.parametrize(
  "name,by_hand,widths",
  [("mobilenetv1", _v1, (25, 35, 50, 75, 125)), ("mobilenetv2", _v2, (35, 50, 75, 125, 140))],
)
def test_parameters_of_multipliers(name, by_hand, widths):
  assert models.entry(name).params == by_hand(1.0)
  for width in widths:
    assert models.entry(f"{name}_{width:03d}").params == by_hand(width / 100), width


@pytest.mark.parametrize(
  "name,channels,last",
  [
    ("large_035", (8, 8, 8, 8, 16, 32, 32, 32, 40, 56), 336),
    ("large_050", (8, 8, 16, 16, 24, 40, 40, 40, 56, 80), 480),
    ("large_075", (16, 16, 24, 24, 32, 64, 64, 64, 88, 120), 720),
    ("large_125", (24, 24, 32, 32, 48, 104, 104, 104, 144, 200), 1200),
    ("small_035", (8, 8, 8, 8, 16, 16, 16, 32), 200),
    ("small_050", (8, 8, 16, 16, 24, 24, 24, 48), 288),
    ("small_075", (16, 16, 24, 24, 32, 32, 40, 72), 432),
    ("small_125", (24, 24, 32, 32, 48, 48, 64, 120), 720),
  ],
)
def test_channels_of_v3(name, channels, last):
  module = models.create(f"mobilenetv3_{name}")
  assert (module.stem, *(row.channels for row in module.rows)) == channels
  assert (module.head, module.hidden) == (last, 1280 if "large" in name else 1024)


@pytest.mark.parametrize(
  "name,overrides,params",
  [
    ("large", {"num_classes": 1001}, 5_484_313),
    ("small", {"num_classes": 1001}, 2_543_881),
    # The hidden layer scaled too, and the paper's small one.
    ("large_035", {"hidden": 448}, 1_019_448),
    ("large_125", {"hidden": 1600}, 8_256_296),
    ("small", {"hidden": 1280}, 2_946_568),
    ("small_125", {"hidden": 1280}, 3_645_960),
    # timm keeps the stem below 0.75.
    ("small_050", {"stem": 16}, 1_593_224),
    ("large_050", {"stem": 16}, 2_689_904),
  ],
)
def test_variants_of_v3(name, overrides, params):
  module = models.create(f"mobilenetv3_{name}", **overrides)
  assert models.count(module, 32).params == params


@pytest.mark.parametrize(
  "name,size,madds",
  [("large", 128, 73.4e6), ("large", 256, 281.7e6), ("small", 96, 12.1e6), ("small", 192, 42.1e6)],
)
def test_multiply_adds_of_v3_at_other_sizes(name, size, madds):
  count = models.count(models.create(f"mobilenetv3_{name}"), size)
  assert count.madds == pytest.approx(madds, rel=5e-3)


# (taps, partition, dilated): params and MAdds of the sheet's drop-in study.
V1_STUDY = {
  ((5,), "equal", False): (4_311_336, 599.6e6),
  ((9,), "equal", False): (4_589_096, 707.8e6),
  ((13,), "equal", False): (5_025_576, 877.8e6),
  ((3, 5), "equal", False): (4_271_656, 584.2e6),
  ((3, 5, 7), "equal", False): (4_324_152, 604.1e6),
  ((3, 5, 7, 9), "equal", False): (4_390_696, 630.6e6),
  ((3, 5, 7, 9, 11, 13), "equal", False): (4_560_376, 694.1e6),
  ((3, 5, 7), "exponential", False): (4_301_416, 595.8e6),
  ((3, 5, 7, 9, 11, 13), "exponential", False): (4_341_096, 611.2e6),
  ((3, 5), "equal", True): (4_239_656, 571.8e6),
  ((3, 5, 7, 9), "equal", True): (4_262_696, 580.8e6),
  ((3, 5, 7, 9, 11, 13), "equal", True): (4_295_176, 592.8e6),
}
V2_STUDY = {
  ((5,), "equal", False): (3_619_048, 337.6e6),
  ((13,), "equal", False): (4_646_632, 669.1e6),
  ((3, 5), "equal", False): (3_561_960, 319.2e6),
  ((3, 5, 7), "equal", False): (3_638_040, 343.3e6),
  ((3, 5, 7, 9, 11), "equal", False): (3_845_672, 408.8e6),
  ((3, 5, 7, 9, 11, 13), "equal", False): (3_980_472, 452.6e6),
}


@pytest.mark.parametrize(
  "name,setting,want",
  [("mobilenetv1", *item) for item in V1_STUDY.items()]
  + [("mobilenetv2", *item) for item in V2_STUDY.items()],
)
def test_mixed_drop_in(name, setting, want):
  kernels, partition, dilated = setting
  module = models.create(name, kernels=kernels, partition=partition, dilated=dilated)
  count = models.count(module)
  assert count.params == want[0]
  assert count.madds == pytest.approx(want[1], rel=1e-3)


def test_timm_s_deep_v3():
  module = models.create("mobilenetv3_large_150d")
  params = models.abstract(module, 32)["params"]
  assert params["head_1"]["conv"]["kernel"].shape == (1, 1, 1440, 1440)
  assert models.entry("mobilenetv3_large_150d").params == pytest.approx(14.62e6, abs=0.005e6)
  assert tuple(row.repeats for row in module.rows) == (2, 1, 2, 4, 1, 2, 2, 3, 4)


def test_timm_s_deep_v2():
  # Its mobilenetv2_110d and _120d: ends and their channels fixed; 4.52 M and 5.83 M parameters.
  fixed = {"stem": 32, "head": 1280, "keep_ends": True}
  for width, depth, repeats, params in (
    (1.1, 1.2, (1, 3, 4, 5, 4, 4, 1), 4.52e6),
    (1.2, 1.4, (1, 3, 5, 6, 5, 5, 1), 5.83e6),
  ):
    module = models.create("mobilenetv2", width=width, depth=depth, **fixed)
    assert tuple(row.repeats for row in module.rows) == repeats
    assert models.count(module, 32).params == pytest.approx(params, abs=0.005e6)
