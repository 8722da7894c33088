"""Geometry, cell and policies against the sheet's figures and slow loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import ops
from effnets.ops import glimpses


def _softmax(x):
  e = np.exp(x - x.max())
  return e / e.sum()


def test_the_cell_is_the_papers():
  # The sheet's numeric check 7.8.
  index = np.arange(4 * 4 * 6)
  features = jnp.asarray(np.sin(0.7 * index).reshape(1, 16, 6), jnp.float32)
  vector = jnp.cos(0.3 * jnp.arange(6))
  chosen, logits = jax.jit(lambda f, a: glimpses.look(f, a, 4, glimpses.greedy))(features, vector)
  assert [divmod(int(p), 4) for p in chosen[0]] == [(1, 2), (0, 3), (2, 1), (3, 0)]
  shares = np.asarray(jax.nn.softmax(logits, -1))[0]
  found = [shares[t, int(p)] for t, p in enumerate(chosen[0])]
  np.testing.assert_allclose(found, [0.094996, 0.104080, 0.114775, 0.127050], atol=1e-6)
  np.testing.assert_allclose(
    logits[0, 0, :4], [0.525617, -0.281050, -0.250041, 0.526221], atol=1e-6
  )


def test_the_cell_is_a_slow_loop():
  rng = np.random.default_rng(0)
  features = rng.normal(size=(2, 9, 5))
  vector = rng.normal(size=5)
  chosen, logits = glimpses.look(
    jnp.asarray(features, jnp.float32), jnp.asarray(vector, jnp.float32), 9, glimpses.greedy
  )
  for b in range(2):
    seen = np.zeros(9)
    for t in range(9):
      s = np.array([features[b, n] @ vector / np.sqrt(5) - 1e5 * seen[n] for n in range(9)])
      w = _softmax(s)
      h = sum(features[b, n] * w[n] for n in range(9))
      g = _softmax(h)
      expected = np.array([features[b, n] @ g - 1e5 * seen[n] for n in range(9)])
      np.testing.assert_allclose(logits[b, t], expected, rtol=1e-6, atol=1e-5)
      assert chosen[b, t] == expected.argmax()
      seen[expected.argmax()] = 1
    assert sorted(chosen[b].tolist()) == list(range(9))


def test_draws_follow_the_probabilities_and_never_return():
  features = jnp.asarray(np.random.default_rng(1).normal(size=(1, 4, 3)), jnp.float32)
  features = jnp.broadcast_to(features, (4000, 4, 3))
  keys = jax.random.split(jax.random.key(0), 4000)
  chosen, logits = glimpses.look(features, jnp.ones(3), 4, glimpses.sampled(keys))
  assert (np.sort(chosen, 1) == np.arange(4)).all()
  shares = np.bincount(np.asarray(chosen[:, 0]), minlength=4) / 4000
  # Three standard deviations of a share of 4,000 draws are 0.024 at the most.
  np.testing.assert_allclose(shares, jax.nn.softmax(logits[0, 0]), atol=0.024)


def test_coordinates_and_patches():
  values = jnp.array([-1, -0.97, -0.3, 0, 0.05, 0.999, 1])
  assert glimpses.nearest(values, 19).tolist() == [0, 0, 6, 9, 9, 18, 18]
  edge = glimpses.scale(77, 224)
  assert edge == 0.65625
  tops = glimpses.patch_top(jnp.array([-edge, 0.0, edge]), 224, 77)
  assert tops.tolist() == [0, 73, 147]
  every = jnp.arange(361)
  points = glimpses.locations(every, 19)
  assert points[0].tolist() == [-1, -1] and points[18].tolist() == [-1, 1]
  assert (glimpses.places(points, 19) == every).all()
  # True patches begin at 8 i, nominal ones up to three pixels later.
  nominal = glimpses.patch_top(points * edge, 224, 77)[:, 0]
  true = jnp.array([glimpses.Field(77, 8).patch(i, 19)[0] for i in range(361)])
  assert (nominal - true).min() == 0 and (nominal - true).max() == 3


def test_patches_go_on_beyond_the_edge():
  image = np.random.default_rng(2).normal(size=(1, 12, 12, 2)).astype(np.float32)
  points = jnp.array([[[0.0, 0.0], [-1.0, 1.0], [0.9, -0.35]]])
  found = glimpses.patches(jnp.asarray(image), points, 5)
  padded = np.pad(image[0], ((12, 12), (12, 12), (0, 0)), mode="edge")
  for t, (y, x) in enumerate(points[0].tolist()):
    top, left = (int((12 * (v + 3) - 5) / 2) - 12 for v in (y, x))
    expected = padded[12 + top : 17 + top, 12 + left : 17 + left]
    np.testing.assert_array_equal(found[0, t], expected)
    whole = glimpses.zoomed(jnp.asarray(image), points[:, t], 5, 5)
    np.testing.assert_allclose(whole[0], expected, atol=1e-6)
  # Half the resolution: means of 2x2 pixels.
  half = glimpses.zoomed(jnp.asarray(image), jnp.zeros((1, 2)), 12, 6)
  expected = image.reshape(1, 6, 2, 6, 2, 2).mean((2, 4))
  np.testing.assert_allclose(half, expected, atol=1e-6)


def test_fields_and_grids():
  assert glimpses.field([(3, 1), (1, 1), (3, 2), (3, 1)]) == glimpses.Field(9, 2)
  for field in (glimpses.Field(77, 8), glimpses.Field(17, 4)):
    for size in range(field.size - 3, field.size + 40):
      starts = [p for p in range(0, size, field.stride) if p + field.size <= size]
      assert field.grid(size) == len(starts)


def test_the_order_of_class_relevance():
  logits = np.random.default_rng(3).normal(size=(3, 10, 4)).astype(np.float32)
  found = glimpses.ordered(jnp.asarray(logits), 10)
  for b in range(3):
    predicted = logits[b].mean(0).argmax()
    assert found[b].tolist() == np.argsort(-logits[b, :, predicted], kind="stable").tolist()


@pytest.mark.parametrize("variance", [False, True])
def test_edges_rank_windows(variance):
  images = np.random.default_rng(4).uniform(size=(2, 24, 24, 3)).astype(np.float32)
  window = glimpses.Field(9, 4)
  found = glimpses.sobel(jnp.asarray(images), window, 16, variance=variance)
  for b in range(2):
    grey = np.pad(images[b] @ np.array([0.2989, 0.587, 0.114]), 1, mode="reflect")
    strength = np.zeros((24, 24))
    kernel = np.array([[-1, -2, -1], [0, 0, 0], [1, 2, 1]])
    for y in range(24):
      for x in range(24):
        part = grey[y : y + 3, x : x + 3]
        strength[y, x] = np.hypot((part * kernel).sum(), (part * kernel.T).sum())
    scores = [
      (w.var(ddof=1) if variance else w.mean())
      for i in range(16)
      for t, left, bottom, right in [window.patch(i, 4)]
      for w in [strength[t:bottom, left:right]]
    ]
    assert found[b].tolist() == np.argsort(-np.array(scores), kind="stable").tolist()


def test_edges_of_the_papers_size():
  found = jax.eval_shape(
    lambda x: glimpses.sobel(x, glimpses.Field(77, 8), 361), jnp.zeros((1, 224, 224, 3))
  )
  assert found.shape == (1, 361)


def test_chance_and_the_middle():
  keys = jax.random.split(jax.random.key(0), 500)
  chosen = np.asarray(ops.glimpses.at_random(keys, 5, 20)).ravel()
  shares = np.bincount(chosen, minlength=25).reshape(5, 5) / len(chosen)
  # Locations nearest to an edge row are half as many.
  edge = np.array([1, 2, 2, 2, 1]) / 8
  np.testing.assert_allclose(shares, np.outer(edge, edge), atol=0.01)
  assert glimpses.centre(2, 19, 3).tolist() == [[180] * 3] * 2
