"""Shortcuts without weights against loops, and random weights against closed forms."""

import math

import jax
import numpy as np
import pytest

from effnets.models import shortcuts

_RNG = np.random.default_rng(0)


def _pooled(x, stride):
  """Returns the mean of every square of pixels, of those that are inside, by a loop."""
  sides = [math.ceil(side / stride) for side in x.shape[1:3]]
  found = np.zeros((len(x), *sides, x.shape[3]), np.float32)
  for i, j in np.ndindex(*sides):
    square = x[:, i * stride : (i + 1) * stride, j * stride : (j + 1) * stride]
    found[:, i, j] = square.mean((1, 2))
  return found


# Up to one pixel that is missing is behind the last one, as in the loop.
@pytest.mark.parametrize(
  ("size", "stride", "channels"),
  [((6, 4), 1, 3), ((8, 8), 2, 3), ((5, 7), 2, 8), ((8, 4), 4, 6), ((7, 8), 4, 6)],
)
def test_fit(size, stride, channels):
  x = _RNG.normal(size=(2, *size, 3)).astype(np.float32)
  expected, missing = _pooled(x, stride), channels - 3
  for centred, before in ((True, missing // 2), (False, 0)):
    found = np.asarray(shortcuts.fit(x, stride, channels, centred=centred))
    assert found.shape == (*expected.shape[:3], channels)
    np.testing.assert_allclose(found[..., before : before + 3], expected, rtol=1e-5, atol=1e-6)
    outside = np.delete(found, np.s_[before : before + 3], axis=-1)
    assert outside.shape[-1] == missing and not outside.any()


def test_fit_never_drops_channels():
  with pytest.raises(ValueError, match="8 channels does not fit 4"):
    shortcuts.fit(np.zeros((1, 2, 2, 8), np.float32), 1, 4, centred=True)


def test_shake_weighs_value_and_gradient_apart():
  branches = [_RNG.normal(size=(5, 2, 3, 4)).astype(np.float32) for _ in range(2)]
  noise = _RNG.uniform(size=(5, 4)).astype(np.float32)
  noise[4] = 0.0  # equal weights, not a division by zero
  y, pull = jax.vjp(lambda *ys: shortcuts.shake(ys, noise), *branches)
  cotangent = _RNG.normal(size=y.shape).astype(np.float32)
  for numbers in (noise[:, :2], noise[:, 2:]):
    numbers[4] = 0.5
  forward, backward = (
    (n / n.sum(1, keepdims=True))[:, :, None, None, None] for n in (noise[:, :2], noise[:, 2:])
  )
  np.testing.assert_allclose(
    y, sum(forward[:, i] * branches[i] for i in range(2)), rtol=1e-4, atol=1e-6
  )
  for index, gradient in enumerate(pull(cotangent)):
    np.testing.assert_allclose(gradient, backward[:, index] * cotangent, rtol=1e-5, atol=1e-7)
  # Equal branches show that each set of weights sums to 1.
  same, pull = jax.vjp(lambda x: shortcuts.shake([x, x], noise), branches[0])
  np.testing.assert_allclose(same, branches[0], rtol=1e-5)
  np.testing.assert_allclose(pull(cotangent)[0], cotangent, rtol=1e-5)


def test_shake_without_noise_is_the_mean():
  branches = [_RNG.normal(size=(3, 2, 2, 1)).astype(np.float32) for _ in range(2)]
  y, pull = jax.vjp(lambda *ys: shortcuts.shake(ys, None), *branches)
  np.testing.assert_allclose(y, (branches[0] + branches[1]) / 2, rtol=1e-6)
  for gradient in pull(np.ones_like(y)):
    np.testing.assert_array_equal(gradient, 0.5 * np.ones_like(y))


def test_shake_drop():
  rate = 0.4
  # An example that is kept, and two that are not: forward 2 u - 1, backward u'.
  noise = np.array([[0.4, 0.1, 0.2], [0.39, 0.25, 0.7], [0.0, 0.9, 0.0]], np.float32)
  x = _RNG.normal(size=(3, 2, 2, 2)).astype(np.float32)
  y, pull = jax.vjp(lambda x: shortcuts.shake_drop(x, noise, rate), x)
  rows = np.s_[:, None, None, None]
  np.testing.assert_allclose(y, x * np.array([1.0, -0.5, 0.8])[rows], rtol=1e-5)
  np.testing.assert_allclose(
    pull(np.ones_like(x))[0], np.ones_like(x) * np.array([1.0, 0.7, 0.0])[rows], rtol=1e-5
  )
  np.testing.assert_allclose(shortcuts.shake_drop(x, None, rate), x * np.float32(0.6), rtol=1e-6)
  np.testing.assert_array_equal(shortcuts.shake_drop(x, None, 0.0), x)
  np.testing.assert_array_equal(shortcuts.shake_drop(x, noise, 0.0), x)


def test_evaluation_is_the_expectation_of_shake_drop():
  # b + a - b a with b of mean p and a uniform in [-1, 1): mean p, variance p + (1 - p) / 3 - p^2.
  count, rate = 20_000, 0.3
  noise = _RNG.uniform(size=(count, 3)).astype(np.float32)
  y = np.asarray(shortcuts.shake_drop(np.ones((count, 1), np.float32), noise, rate))
  error = math.sqrt((0.7 + 0.3 / 3 - 0.49) / count)
  assert abs(y.mean() - shortcuts.shake_drop(1.0, None, rate)) < 5 * error


def test_forward_mode_takes_the_weights_of_the_gradient():
  x, factors = np.ones((2, 3), np.float32), np.array([[2.0, 3.0], [5.0, 7.0]], np.float32)
  y, tangent = jax.jvp(lambda x: shortcuts.weigh(x, *factors), (x,), (x,))
  np.testing.assert_array_equal(y, [[2.0] * 3, [3.0] * 3])
  np.testing.assert_array_equal(tangent, [[5.0] * 3, [7.0] * 3])
