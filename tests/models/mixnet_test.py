"""MixNet against its sheet's counts and golden outputs, and timm."""

import pytest

from effnets import models
from effnets.models import stage_tables
from tests.models import reference

GOLDEN = {
  "s": (347, (167.43, -141.07, 144.51, -64.142, -71.904), -3.3114, 141.3, 24, 1.3409, 107.14),
  "m": (421, (373.83, 438.66, 389.12, 91.188, 17.255), 1.2938, 575.09, 145, -1.8714, 454.44),
  "l": (421, (87.014, 29.794, -18.062, -126.72, 130.19), 5.5863, 161.87, 340, -0.096733, 128.97),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) for n in GOLDEN])
def test_golden_forward_pass(name):
  reference.assert_golden(models.create(f"mixnet_{name}"), GOLDEN[name])


# The CPU's own lowering of 81 and 121 taps takes long to compile.
@pytest.mark.parametrize("plain", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_equals_timm(plain):
  reference.assert_equals_timm(models.create("mixnet_s", plain=plain), "timm_tf_mixnet_s")


@pytest.mark.parametrize(
  "name,overrides,params,madds",
  [
    ("s", {"width": 0.5}, 2_396_410, 88.1e6),
    ("s", {"width": 0.75}, 3_151_808, 170.7e6),
    ("s", {"width": 1.4}, 6_305_870, None),
    ("m", {"width": 0.5}, 2_658_744, 126.7e6),
    ("m", {"width": 1.4}, 7_979_106, 617.6e6),
    ("s", {"num_classes": 10}, 2_612_976, None),
    ("m", {"num_classes": 37}, 3_534_251, None),
    ("s", {"dilated": True}, 4_012_366, 223.1e6),
    ("m", {"dilated": True}, 4_812_782, 313.2e6),
    ("l", {"dilated": True}, 7_063_140, 520.7e6),
  ],
)
def test_variants(name, overrides, params, madds):
  count = models.count(models.create(f"mixnet_{name}", **overrides))
  assert count.params == params
  if madds is not None:
    assert count.madds == pytest.approx(madds, rel=1e-3)


@pytest.mark.parametrize(
  "name,stem,channels,repeats",
  [
    (
      "l",
      32,
      (32, 40, 40, 56, 56, 104, 104, 160, 160, 264, 264),
      (1, 1, 1, 1, 3, 1, 3, 1, 3, 1, 3),
    ),
    (
      "xl",
      40,
      (40, 48, 48, 64, 64, 128, 128, 192, 192, 320, 320),
      (1, 1, 1, 1, 4, 1, 4, 1, 4, 1, 4),
    ),
  ],
)
def test_scaled_tables(name, stem, channels, repeats):
  module = models.create(f"mixnet_{name}")
  assert (module.stem, module.head, module.dropout_rate) == (stem, 1536, 0.25)
  assert tuple(row.channels for row in module.rows) == channels
  assert tuple(row.repeats for row in module.rows) == repeats
  assert [len(stage) for stage in stage_tables.stages(module.rows)] == [1, 2, 2, 2, 2, 2]


def test_squeeze_widths_of_s():
  params = models.abstract(models.create("mixnet_s"), 32)["params"]
  widths = [params[f"block_{i}"]["squeeze"]["reduce"]["kernel"].shape[-1] for i in range(3, 16)]
  assert widths == [12, 20, 20, 20, 10, 20, 20, 40, 60, 60, 60, 100, 100]


def test_parts_are_parameters_of_their_own():
  params = models.abstract(models.create("mixnet_s"), 32)["params"]
  kernels = params["block_13"]["depthwise"]["conv"]
  assert {name: part["kernel"].shape for name, part in kernels.items()} == {
    str(i): (2 * i + 3, 2 * i + 3, 1, 144) for i in range(5)
  }
  assert params["block_13"]["depthwise"]["norm"]["scale"].shape == (720,)
  halves = params["block_1"]["expand"]["conv"]
  assert [halves[i]["kernel"].shape for i in ("0", "1")] == [(1, 1, 8, 48)] * 2
