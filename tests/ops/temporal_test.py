"""Convolution over time against a loop, its derivatives against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import ops


def drawn(frames, taps, seed=0):
  rng = np.random.default_rng(seed)
  x = rng.standard_normal((2, frames, 3, 2, 4)).astype(np.float32)
  return jnp.asarray(x), jnp.asarray(rng.standard_normal((taps, 4, 5)), jnp.float32)


@pytest.mark.parametrize(
  ("frames", "taps", "dilation"), [(7, 3, 1), (7, 5, 2), (4, 5, 4), (1, 3, 1)]
)
def test_equals_a_loop_and_xla_s_derivatives(frames, taps, dilation):
  x, kernel = drawn(frames, taps)
  slow = np.zeros((2, frames, 3, 2, 5))
  for t in range(frames):
    for tap in range(taps):
      source = t + (tap - taps // 2) * dilation
      if 0 <= source < frames:
        slow[:, t] += np.asarray(x)[:, source] @ np.asarray(kernel)[tap]
  np.testing.assert_allclose(ops.temporal_conv(x, kernel, dilation=dilation), slow, atol=1e-5)

  def energy(x, kernel, plain):
    y = ops.temporal_conv(x, kernel, dilation=dilation, plain=plain)
    return jnp.sum(jnp.sin(y))

  ours, theirs = (jax.grad(energy, (0, 1))(x, kernel, plain) for plain in (False, True))
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)


def test_what_does_not_fit_is_refused():
  x, kernel = drawn(3, 3)
  for wrong in (kernel[:2], kernel[:, :3], kernel[0]):
    with pytest.raises(ValueError, match="does not fit"):
      ops.temporal_conv(x, wrong)
  with pytest.raises(ValueError, match="cast one"):
    ops.temporal_conv(x.astype(jnp.bfloat16), kernel)
  with pytest.raises(ValueError, match="dilation=0"):
    ops.temporal_conv(x, kernel, dilation=0)
