"""Rooflines of compiled programs."""

import pytest

from effnets import errors
from effnets.parallel import slices
from effnets.search import ahead, cost, spaces


@pytest.mark.slow
def test_a_compiled_network(tmp_path):
  pytest.importorskip("libtpu")
  made = spaces.create("mnas_tiny", ops=("conv",), squeezes=(0,), skips=("none",))
  tokens = (0,) * len(made)
  got = ahead.estimate(made, tokens, batch=64, num_classes=10, folder=tmp_path)
  chip, count = slices.CHIPS["v5e"], cost.of(made, tokens, num_classes=10)
  assert got.seconds == max(got.flops / chip.flops, got.traffic / chip.bandwidth)
  # Dense convolutions are what the compiler counts too; borders, where it leaves padding out, and
  # biases and activations make the difference.
  assert got.flops == pytest.approx(2 * 64 * count.madds, rel=0.25)
  assert ahead.estimate(made, tokens, batch=64, num_classes=10, folder=tmp_path) == got


def test_wrong_slices():
  made = spaces.create("mnas_tiny")
  tokens = (0,) * len(made)
  for name in ("v5e-4", "cpu:1"):
    with pytest.raises(errors.UserError, match="should be one TPU chip"):
      ahead.estimate(made, tokens, topology=name)
