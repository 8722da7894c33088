"""PSNR, SSIM and the KL of Gaussians against figures from elsewhere and a slow loop."""

import jax.numpy as jnp
import numpy as np
import pytest

from effnets.ops import losses, similarity


def waves():
  y, x, k = np.meshgrid(np.arange(64), np.arange(64), np.arange(3), indexing="ij")
  a = (np.sin(0.2 * x + 0.1 * y + k) + 1) / 2
  return a, np.clip(a + 0.1 * np.cos(0.3 * x - 0.2 * y), 0, 1)


def test_figures():
  a, b = waves()
  assert float(similarity.psnr(jnp.asarray(a), jnp.asarray(b))) == pytest.approx(23.71074, abs=1e-4)
  assert float(similarity.ssim(jnp.asarray(a), jnp.asarray(b))) == pytest.approx(0.872886, abs=2e-6)
  assert float(similarity.ssim(jnp.asarray(a), jnp.asarray(a))) == pytest.approx(1, abs=1e-6)
  assert np.isinf(float(similarity.psnr(jnp.asarray(a), jnp.asarray(a))))


def test_against_a_slow_loop():
  rng = np.random.default_rng(0)
  a, b = rng.random((2, 3, 13, 12, 2))
  window = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
  window = np.outer(window, window) / window.sum() ** 2
  expected = []
  for one, two in zip(a, b, strict=True):
    values = []
    for y in range(3):
      for x in range(2):
        for c in range(2):
          p, q = one[y : y + 11, x : x + 11, c], two[y : y + 11, x : x + 11, c]
          m, n = (window * p).sum(), (window * q).sum()
          v, w = (window * (p - m) ** 2).sum(), (window * (q - n) ** 2).sum()
          vw = (window * (p - m) * (q - n)).sum()
          low, high = 0.01**2, 0.03**2
          value = (2 * m * n + low) * (2 * vw + high)
          values.append(value / ((m * m + n * n + low) * (v + w + high)))
    expected.append(np.mean(values))
  found = similarity.ssim(jnp.asarray(a), jnp.asarray(b))
  assert found.shape == (3,)
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  np.testing.assert_allclose(
    similarity.psnr(jnp.asarray(a), jnp.asarray(b)),
    10 * np.log10(1 / ((a - b) ** 2).mean((1, 2, 3))),
    rtol=1e-5,
  )
  with pytest.raises(ValueError, match="11x11"):
    similarity.ssim(jnp.asarray(a[:, :10]), jnp.asarray(b[:, :10]))


def test_gaussian_kl():
  assert float(losses.gaussian_kl(0.3, -0.5, -0.1, 0.2)) == pytest.approx(0.1637911, abs=1e-7)
  assert float(losses.gaussian_kl(0.7, 0.3, 0.7, 0.3)) == 0
  # By sums over a fine grid.
  x = np.linspace(-30, 30, 400_001)
  log = lambda m, v: -0.5 * ((x - m) ** 2 / np.exp(v) + v + np.log(2 * np.pi))  # noqa: E731
  for q, p in (((1.2, 0.4), (0.0, 0.0)), ((-0.5, -2.0), (0.3, 1.0))):
    own = (np.exp(log(*q)) * (log(*q) - log(*p))).sum() * (x[1] - x[0])
    assert float(losses.gaussian_kl(*q, *p)) == pytest.approx(own, rel=1e-5)
