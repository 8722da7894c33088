"""Imported networks against outputs of timm.

data/timm_<model>.npz holds all logits at 96 pixels, data/timm_1.0.31.json every fiftieth one at
97 pixels, where padding rules show at each stride, of all architectures up to b5 and ResNet-152.
Both are from timm 1.0.31 in float64, with the weights and images of tests/oracle/recipe.py.
"""

import json
import pathlib
import zlib

import jax
import numpy as np
import pytest

from effnets import weights
from effnets.weights import catalog, convert, layout
from tests.oracle import recipe

DATA = pathlib.Path(__file__).parent / "data"
ORACLE = pathlib.Path(__file__).parent.parent / "oracle"
TIMM = json.loads((DATA / "timm_1.0.31.json").read_text())
# What is left is the rounding of float32; a wrong pixel or epsilon is 1e-2.
_TOLERANCE = 1e-5


def _error(ours, reference):
  return np.linalg.norm(np.asarray(ours) - reference) / np.linalg.norm(reference)


def _fill(names, gain):
  return {name: recipe.tensor(name, tuple(shape), gain) for name, shape in names}


def _assert_equal(state_dict, expected):
  assert list(state_dict) == list(expected)
  for name, value in expected.items():
    found = state_dict[name]
    assert (found.shape, found.dtype) == (value.shape, value.dtype), name
    np.testing.assert_array_equal(found, value, err_msg=name)


# The convolutions of one run as they do for users, those of the others as XLA has them, which
# compiles faster; that the two agree is tested of `ops`.
@pytest.mark.parametrize(
  "name,plain",
  [
    ("tf_efficientnet_b0", False),
    ("semnasnet_100", True),
    ("tf_mobilenetv3_large_100", True),
    pytest.param("tf_mixnet_s", True, marks=pytest.mark.slow),
  ],
)
def test_outputs_and_round_trip(name, plain):
  with np.load(ORACLE / f"timm_{name}.npz") as stored:
    reference = {key: stored[key] for key in stored.files}
  state_dict = _fill(json.loads(str(reference["names"])), float(reference["gain"]))
  loaded = weights.from_timm(name, state_dict)
  assert loaded.report.complete and loaded.report.loaded == sum(
    not key.endswith("num_batches_tracked") for key in state_dict
  )
  params = jax.tree.leaves(loaded.variables["params"])
  assert sum(leaf.size for leaf in params) == int(reference["params"])
  assert {leaf.dtype for leaf in params} == {np.dtype(np.float32)}
  images = recipe.images(int(reference["batch"]), int(reference["size"]))
  logits = jax.jit(loaded.module.clone(plain=plain).apply)(loaded.variables, images)
  assert _error(logits, reference["logits"]) < _TOLERANCE
  _assert_equal(weights.to_timm(loaded.module, loaded.variables), state_dict)


@pytest.mark.slow
@pytest.mark.parametrize("base", [base for base, told in TIMM.items() if "shapes" in told])
def test_every_architecture(base):
  told, architecture = TIMM[base], catalog.architectures()[base]
  module = architecture.create(1000)
  shapes = convert.leaf_shapes(module)
  names = [
    [tensor.name, [] if tensor.kind == "counter" else list(tensor.theirs(shapes[tensor.path]))]
    for tensor in layout.tensors(module)
    if tensor.name not in architecture.absent
  ]
  assert zlib.crc32(json.dumps(names).encode()) == told["shapes"]
  if "logits" not in told:
    return
  state_dict = _fill(names, 1.3)
  loaded = weights.from_timm(base, state_dict)
  logits = jax.jit(loaded.module.clone(plain=True).apply)(loaded.variables, recipe.images(2, 97))
  assert _error(logits[:, ::50].ravel(), np.asarray(told["logits"])) < _TOLERANCE
  _assert_equal(weights.to_timm(base, loaded.variables), state_dict)
