"""Layouts of single tensors, and back."""

import numpy as np
import pytest

from effnets.weights import tensor


@pytest.mark.parametrize(
  "kind,shape,ours,theirs",
  [
    # An element there and here: output 1, input 2, row 4, column 6 of a kernel.
    ("conv", (2, 3, 5, 7), (4, 6, 2, 1), (1, 2, 4, 6)),
    ("tf_conv", (5, 7, 3, 2), (4, 6, 2, 1), (4, 6, 2, 1)),
    # A depthwise kernel's channels are outputs here and inputs there.
    ("tf_depthwise", (5, 7, 3, 1), (4, 6, 0, 2), (4, 6, 2, 0)),
    ("dense", (2, 3), (2, 1), (1, 2)),
    ("tf_dense", (3, 2), (2, 1), (2, 1)),
    ("tf_logits", (1, 1, 3, 2), (2, 1), (0, 0, 2, 1)),
    ("vector", (3,), (2,), (2,)),
  ],
)
def test_axes(kind, shape, ours, theirs):
  value = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
  found = tensor.Tensor("x", ("params", "x"), kind)
  here = found.to_ours(value)
  assert here.dtype == np.float32 and here.flags.c_contiguous
  assert here[ours] == value[theirs]
  assert found.theirs(here.shape) == shape
  back = found.to_theirs(here)
  assert back.flags.c_contiguous
  np.testing.assert_array_equal(back, value)
