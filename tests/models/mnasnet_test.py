"""MnasNet against its sheet's counts, its sheet's golden outputs and timm."""

import jax
import numpy as np
import pytest

from effnets import models
from effnets.models import blocks, stage_tables
from tests.models import reference

GOLDEN = {
  "a1": (279, (-163.84, -31.762, 108.67, 86.033, 37.235), 10.164, 218.13, 906, 6.3761, 169.69),
  "b1": (262, (252.9, -13821, -4840, 14195, -5544.3), 68.339, 11978, 51, -649.11, 9671),
  "small": (272, (287.64, 405.83, -460.23, 112.66, 152.9), 9.9163, 321.15, 701, -17.405, 260.02),
  "small, actual": (
    *(272, (307.55, 686.77, -503.94, 168.46, 170.92), 11.043, 412.58, 701),
    *(-19.526, 331.2),
  ),
}


@pytest.mark.parametrize(
  "name",
  [pytest.param(name, marks=() if "small" in name else pytest.mark.slow) for name in GOLDEN],
)
def test_golden_forward_pass(name):
  short, _, rule = name.partition(", ")
  overrides = {"skip_rule": rule} if rule else {}
  reference.assert_golden(models.create(f"mnasnet_{short}", **overrides), GOLDEN[name])


def test_equals_timm():
  # timm trained these itself: PyTorch's padding and epsilon.
  module = models.create("mnasnet_a1", padding="SYMMETRIC", epsilon=1e-5)
  reference.assert_equals_timm(module, "timm_semnasnet_100")


@pytest.mark.parametrize(
  "name,stem,channels",
  [
    ("a1_035", 16, (8, 8, 16, 32, 40, 56, 112)),
    ("a1_050", 16, (8, 16, 24, 40, 56, 80, 160)),
    ("a1_075", 24, (16, 24, 32, 64, 88, 120, 240)),
    ("a1_140", 48, (24, 32, 56, 112, 160, 224, 448)),
    ("d1", 32, (24, 36, 48, 96, 96, 80, 320)),
  ],
)
def test_channels(name, stem, channels):
  module = models.create(f"mnasnet_{name}")
  assert (module.stem, module.head) == (stem, 1280)
  assert tuple(row.channels for row in module.rows) == channels


def test_squeeze_widths_of_a1():
  params = models.abstract(models.create("mnasnet_a1"), 32)["params"]
  widths = [
    params[f"block_{i}"]["squeeze"]["reduce"]["kernel"].shape[-1]
    for i in range(16)
    if "squeeze" in params[f"block_{i}"]
  ]
  assert widths == [6, 10, 10, 20, 28, 28, 40, 40]  # a quarter of the block's input, truncated


@pytest.mark.parametrize(
  "size,a1,wide", [(192, 229.3e6, 431.2e6), (128, 102.8e6, 192.7e6), (96, 58.5e6, 109.1e6)]
)
def test_multiply_adds_of_other_sizes(size, a1, wide):
  for name, want in (("mnasnet_a1", a1), ("mnasnet_a1_140", wide)):
    assert models.count(models.create(name), size).madds == pytest.approx(want, rel=1e-3)


def test_small_says_other_input_channels_than_it_has():
  # Scaled to 8 channels by 0.35 or 0.5, the table's input equals the output, so it skips again.
  for width, skips in ((1.0, False), (0.5, True)):
    row = stage_tables.unroll(models.create("mnasnet_small", width=width).rows)[0]
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 8)).astype(np.float32)
    block = blocks.MBConv(row)
    variables = models.init(block, 0, inputs=(x,))
    variables["params"]["project"]["norm"]["scale"] *= 0
    np.testing.assert_allclose(jax.jit(block.apply)(variables, x), x if skips else 0 * x, atol=1e-6)
