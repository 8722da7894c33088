"""Resampling against loops over pixels."""

import jax
import numpy as np
import pytest

from effnets.ops import resampling

_X = np.random.default_rng(0).normal(size=(2, 6, 5, 3)).astype(np.float32)


@pytest.mark.parametrize("size", [(12, 10), (7, 9), (6, 5), (3, 2)])
def test_nearest(size):
  want = np.empty((2, *size, 3), np.float32)
  for i in range(size[0]):
    for j in range(size[1]):
      want[:, i, j] = _X[:, i * 6 // size[0], j * 5 // size[1]]
  np.testing.assert_array_equal(resampling.nearest(_X, size), want)


@pytest.mark.parametrize("size", [(11, 9), (7, 13), (3, 1)])
def test_bilinear(size):
  want = np.empty((2, *size, 3))
  for i in range(size[0]):
    for j in range(size[1]):
      y = i * 5 / (size[0] - 1)
      x = j * 4 / (size[1] - 1) if size[1] > 1 else 0.0
      weights = np.zeros((6, 5))
      for row in range(6):
        for column in range(5):
          weights[row, column] = max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column))
      want[:, i, j] = np.einsum("hw,bhwc->bc", weights, _X)
  np.testing.assert_allclose(resampling.bilinear(_X, size), want, atol=1e-5)


@pytest.mark.parametrize("padding", ["SAME", "SYMMETRIC"])
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_shrink(padding, kind):
  # Of 6 rows TensorFlow pads one below, PyTorch one on either side; 5 columns get one on each.
  before = 0 if padding == "SAME" else 1
  want = np.empty((2, 3, 3, 3))
  for i in range(3):
    for j in range(3):
      rows = [r for r in range(2 * i - before, 2 * i - before + 3) if 0 <= r < 6]
      columns = [c for c in range(2 * j - 1, 2 * j + 2) if 0 <= c < 5]
      window = _X[:, rows][:, :, columns]
      want[:, i, j] = window.max((1, 2)) if kind == "max" else window.mean((1, 2))
  found = resampling.shrink(_X, (3, 3), padding=padding, kind=kind)
  np.testing.assert_allclose(found, want, atol=1e-6)
  assert resampling.shrink(_X, (6, 5)) is _X


def test_slopes_of_pools():
  x = _X.astype("bfloat16")
  for kind in ("max", "avg"):
    total = jax.jit(jax.grad(lambda x, k=kind: resampling.pool(x, 2, 2, kind=k).sum()))(x)
    # Every window hands on 1 in all; there are 3 by 3, of which the last ones are cut.
    assert float(total.astype("float32").sum()) == pytest.approx(2 * 9 * 3, rel=1e-2)
