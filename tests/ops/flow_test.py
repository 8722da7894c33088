"""The flow layer against the sheet's figures and a loop over pixels."""

import jax.numpy as jnp
import numpy as np
import pytest

from effnets import ops


def waves(frames=3, size=8):
  k, y, x = np.meshgrid(range(frames), range(size), range(size), indexing="ij")
  return (np.sin(0.8 * (x - 0.5 * k)) + np.cos(0.6 * (y - 0.25 * k)))[None, ..., None]


def slow_tv_l1(one, two, iterations):
  """Returns the flow of two images by loops over pixels, float64."""
  h, w = one.shape
  theta, lam, tau = 0.3, 0.15, 0.25
  at = lambda a, y, x: a[y, x] if 0 <= y < h and 0 <= x < w else 0.0  # noqa: E731
  ahead = lambda a, y, x, dy, dx: at(a, y + dy, x + dx) - a[y, x]  # noqa: E731
  u, p = np.zeros((2, h, w)), np.zeros((2, 2, h, w))
  pixels = [(y, x) for y in range(h) for x in range(w)]
  for _ in range(iterations):
    new = u.copy()
    for y, x in pixels:
      g = [
        0.5 * (at(two, y, x + 1) - at(two, y, x - 1)),
        0.5 * (at(two, y + 1, x) - at(two, y - 1, x)),
      ]
      g2 = g[0] ** 2 + g[1] ** 2 + 1e-12
      rho = two[y, x] - one[y, x] + g[0] * u[0, y, x] + g[1] * u[1, y, x] + 1e-12
      if rho < -lam * theta * g2:
        k = lam * theta
      elif rho > lam * theta * g2:
        k = -lam * theta
      else:
        k = -rho / g2 if g2 > 1e-12 else 0
      for c in (0, 1):
        a, b = p[c]
        # Difference of p moved by one; beyond the last there is a zero.
        across = (a[y, x] if x + 1 < w else 0.0) - at(a, y, x - 1)
        down = (b[y, x] if y + 1 < h else 0.0) - at(b, y - 1, x)
        new[c, y, x] = u[c, y, x] + k * g[c] + theta * (across + down)
    u, q = new, p.copy()
    for y, x in pixels:
      for c in (0, 1):
        d = ahead(u[c], y, x, 0, 1), ahead(u[c], y, x, 1, 0)
        norm = 1 + tau / theta * np.sqrt(d[0] ** 2 + d[1] ** 2 + 1e-12)
        for axis in (0, 1):
          q[c, axis, y, x] = (p[c, axis, y, x] + tau / theta * d[axis]) / norm
    p = q
  return np.moveaxis(u, 0, -1)


@pytest.mark.parametrize("iterations", [1, 5, 40])
def test_flow_equals_the_sheet_s_figures(iterations):
  flow = np.asarray(ops.flow.representation_flow(jnp.asarray(waves()), iterations=iterations))
  assert flow.shape == (1, 3, 8, 8, 2)
  # Printed there with five digits.
  expected = {1: (0.28086, 0.52956), 5: (0.53422, 0.21451), 40: (0.41151, 0.18887)}[iterations]
  np.testing.assert_allclose(flow[0, 0, 3, 3], expected, atol=2e-5)
  np.testing.assert_array_equal(flow[0, 2], flow[0, 1])
  if iterations == 40:
    np.testing.assert_allclose(flow[0, 0, 0, 0], (0.38870, 0.14920), atol=2e-5)
    np.testing.assert_allclose(flow[0, 1, 5, 2], (0.47677, 0.22084), atol=2e-5)
    assert flow[0, 0].sum() == pytest.approx(31.09105, abs=1e-3)


def test_iterations_equal_a_loop():
  rng = np.random.default_rng(0)
  one, two = (255 * rng.random((2, 6, 7))).astype(np.float32)
  two[:2, :3] = 100  # no gradient inside
  flow = ops.flow.tv_l1(jnp.asarray(one), jnp.asarray(two), iterations=12)
  np.testing.assert_allclose(flow, slow_tv_l1(*np.float64([one, two]), 12), atol=2e-4)


def test_range_is_each_clip_s_or_the_batch_s():
  one = waves().astype(np.float32)
  two = np.concatenate([one, 10 * one])
  own = ops.flow.representation_flow(jnp.asarray(two), iterations=3)
  np.testing.assert_allclose(own[0], own[1], atol=1e-4)
  both = ops.flow.representation_flow(jnp.asarray(two), iterations=3, per_clip=False)
  assert np.abs(both[0] - both[1]).max() > 0.01
  alone = ops.flow.representation_flow(jnp.asarray(one), iterations=3, per_clip=False)
  np.testing.assert_allclose(alone[0], own[0], atol=1e-6)


def test_nothing_moves_without_contrast_or_time():
  # Rounding alone: the smallest numbers that the method adds, 1e-12.
  flat = ops.flow.representation_flow(jnp.ones((1, 3, 4, 4, 3)), iterations=4)
  np.testing.assert_allclose(flat, 0, atol=1e-11)
  assert not np.any(ops.flow.representation_flow(jnp.asarray(waves(1)), iterations=4))
