"""The moving average against a NumPy loop and the sheet's decays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets.training import averaging


@pytest.mark.parametrize(
  "step, decay", [(0, 0.1), (1, 0.181818), (10, 0.55), (1000, 0.991089), (100000, 0.9999)]
)
def test_decay(step, decay):
  np.testing.assert_allclose(1 - averaging.rate(step, decay=0.9999), decay, atol=5e-7)


def test_matches_a_loop_over_params_and_stats(getkey):
  values = np.asarray(jax.random.normal(getkey(), (50, 3)), np.float64)

  def tree(v):
    return {"params": {"w": jnp.float32(v)}, "batch_stats": {"mean": jnp.float32(v[0])}}

  average, expected = tree(values[0]), values[0].copy()
  update = jax.jit(lambda a, v, t: averaging.update(a, v, t, decay=0.8))
  for t in range(49):
    average = update(average, tree(values[t + 1]), t)
    d = min(0.8, (1 + t) / (10 + t))
    expected = d * expected + (1 - d) * values[t + 1]
  np.testing.assert_allclose(average["params"]["w"], expected, atol=1e-5)
  np.testing.assert_allclose(average["batch_stats"]["mean"], expected[0], atol=1e-5)


def test_equal_values_stay_equal_bit_for_bit(getkey):
  values = {"w": jax.random.normal(getkey(), (1000,)), "n": jnp.int32(3)}
  after = averaging.update(values, {**values, "n": jnp.int32(4)}, 7, decay=0.9999)
  np.testing.assert_array_equal(after["w"], values["w"])
  assert after["n"] == 4


def test_keeps_the_dtype():
  average = {"w": jnp.zeros(3, jnp.bfloat16)}
  after = averaging.update(average, {"w": jnp.ones(3, jnp.float32)}, 0, decay=0.5)
  assert after["w"].dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float32(after["w"]), 0.9, atol=4e-3)
