"""Tensor names against the state dicts of timm 1.0.31 (data/timm_1.0.31.json)."""

import json
import pathlib
import zlib

import numpy as np
import pytest

from effnets.weights import catalog, layout

TIMM = json.loads((pathlib.Path(__file__).parent / "data" / "timm_1.0.31.json").read_text())


@pytest.mark.parametrize("base", [base for base, told in TIMM.items() if "names" in told])
def test_names_and_their_order(base):
  architecture = catalog.architectures()[base]
  names = [tensor.name for tensor in layout.tensors(architecture.create(1000))]
  names = [name for name in names if name not in architecture.absent]
  assert len(names) == TIMM[base]["keys"]
  assert zlib.crc32("\n".join(names).encode()) == TIMM[base]["names"]


def test_axes():
  value = np.arange(2 * 3 * 5 * 7, dtype=np.float32).reshape(2, 3, 5, 7)  # O I H W
  kernel = layout.Tensor("x.weight", ("params", "x"), "conv")
  ours = kernel.to_ours(value)
  assert ours.shape == (5, 7, 3, 2) and ours.flags.c_contiguous
  assert ours[4, 6, 2, 1] == value[1, 2, 4, 6]
  assert kernel.theirs(ours.shape) == value.shape
  np.testing.assert_array_equal(kernel.to_theirs(ours), value)
  dense = layout.Tensor("x.weight", ("params", "x"), "dense")
  np.testing.assert_array_equal(dense.to_ours(value[0, 0]), value[0, 0].T)
  assert dense.theirs((7, 5)) == (5, 7)
