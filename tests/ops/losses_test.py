"""Losses against closed forms, the papers' own figures and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets.ops import losses

LOGITS = np.array([2.0, -1.0, 0.0, -4.595])
LABELS = np.array([1.0, 0.0, 1.0, 0.0])


@pytest.mark.parametrize(
  "smoothing, expected",
  [
    (0.0, [0.001306, 0.032768, 0.061266, 0.000008]),
    (0.1, [0.002335, 0.037999, 0.061266, 0.000180]),
  ],
)
def test_focal_loss_has_the_official_values(smoothing, expected):
  found = losses.focal(LOGITS, LABELS, label_smoothing=smoothing)
  np.testing.assert_allclose(found, expected, atol=6e-7)


@pytest.mark.parametrize("alpha, gamma", [(0.25, 2.0), (0.75, 2.0), (0.5, 0.0)])
def test_focal_loss_is_its_definition(alpha, gamma):
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(0, 3, 50), rng.integers(0, 2, 50)
  p = 1 / (1 + np.exp(-logits))
  expected = np.where(
    labels == 1,
    -alpha * (1 - p) ** gamma * np.log(p),
    -(1 - alpha) * p**gamma * np.log(1 - p),
  )
  found = losses.focal(logits, labels, alpha=alpha, gamma=gamma)
  np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("logit", [-200.0, -50.0, 50.0, 200.0])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_extreme_logits_give_finite_losses_and_gradients(logit, label):
  value, slope = jax.value_and_grad(lambda x: losses.focal(x, jnp.float32(label)))(logit)
  wrong = (logit > 0) != (label > 0.5)
  weight = 0.25 if label else 0.75
  np.testing.assert_allclose(value, weight * abs(logit) if wrong else 0.0, rtol=1e-6, atol=1e-20)
  np.testing.assert_allclose(abs(slope), weight if wrong else 0.0, rtol=1e-6, atol=1e-20)


def test_huber_is_its_definition_and_its_slope_is_clipped():
  error = np.linspace(-0.3, 0.3, 61).astype(np.float32)
  expected = np.where(np.abs(error) <= 0.1, error**2 / 2, 0.1 * np.abs(error) - 0.005)
  np.testing.assert_allclose(losses.huber(error, 0.1), expected, atol=1e-8)
  slope = jax.vmap(jax.grad(lambda e: losses.huber(e, 0.1)))(error)
  np.testing.assert_allclose(slope, np.clip(error, -0.1, 0.1), atol=1e-7)


def test_hardest_against_a_sort():
  rng = np.random.default_rng(0)
  costs, counted = rng.random((5, 20)).astype(np.float32), rng.random((5, 20)) < 0.7
  counted[3], counted[4] = False, np.arange(20) == 6
  for share in (0.01, 0.25, 1.0):
    found = np.asarray(losses.hardest(costs, counted, share))
    for row, there, mine in zip(costs, counted, found, strict=True):
      places = np.flatnonzero(there)
      count = min(len(places), max(1, round(share * len(places))))
      wanted = places[np.argsort(-row[places])][:count]
      assert sorted(np.flatnonzero(mine)) == sorted(wanted)
