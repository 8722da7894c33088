"""Tensor names against the state dicts of timm 1.0.31 (data/timm_1.0.31.json)."""

import json
import pathlib
import zlib

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
