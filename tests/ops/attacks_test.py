"""Perturbations against the sheet's hand-worked case and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets.ops import attacks

_RNG = np.random.default_rng(0)
_KEYS = jax.random.split(jax.random.key(0), 8)


def _images(count=8):
  return jnp.asarray(_RNG.uniform(0, 255, (count, 5, 4, 3)), jnp.float32)


def _linear(x):
  """A loss with a constant gradient of mixed signs."""
  signs = jnp.where(jnp.arange(x[0].size).reshape(x[0].shape) % 3 > 0, 1.0, -1.0)
  return jnp.sum(x * signs, (1, 2, 3))


# AdvProp sheet, check 4: x in [-1, 1] is 127.5 * (x + 1) in levels.
@pytest.mark.parametrize(
  ("kind", "expected"),
  [("ifgsm", [0.0313725, 1.0, -1.0]), ("gd", [0.0392157, 1.0, -1.0])],
)
def test_the_sheets_case(kind, expected):
  x = 127.5 * (np.array([0, 0.99, -0.995], np.float32).reshape(1, 1, 1, 3) + 1)
  ascend = jnp.array([1.0, 1.0, -1.0])
  attack = attacks.Attack(kind, epsilon=4, step=1, steps=5, targeted=False)
  moved = attacks.perturb(attack, lambda x: jnp.sum(x * ascend, (1, 2, 3)), x, _KEYS[:1])
  np.testing.assert_allclose(np.ravel(moved) / 127.5 - 1, expected, atol=1e-6)


@pytest.mark.parametrize("kind", attacks.KINDS)
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_ball_range_and_direction(kind, targeted, epsilon):
  images = _images()
  attack = attacks.Attack(kind, epsilon=epsilon, step=1, steps=3, targeted=targeted)
  moved = attacks.perturb(attack, _linear, images, _KEYS)
  most = 3.0 if kind == "gd" else epsilon
  assert float(jnp.abs(moved - images).max()) <= most + 1e-4
  assert 0 <= float(moved.min()) and float(moved.max()) <= 255
  gained = _linear(moved) - _linear(images)
  assert bool(jnp.all(gained < 0 if targeted else gained > 0))
  if kind != "pgd" and 3 < epsilon:  # the ball is never reached
    inner = (images > 4) & (images < 251)
    expected = 4.0 if kind == "fgsm" else 3.0
    np.testing.assert_allclose(jnp.abs(moved - images)[inner], expected, atol=1e-3)


def test_a_random_start_fills_the_ball():
  images = jnp.full((8, 32, 32, 3), 100.0)
  attack = attacks.Attack("pgd", epsilon=4, steps=0)
  moved = attacks.perturb(attack, _linear, images, _KEYS) - images
  # Uniform on [-4, 4]: mean 0, variance 64/12; 24,576 draws.
  assert abs(float(moved.mean())) < 4 * (16 / 3 / moved.size) ** 0.5
  np.testing.assert_allclose(float(moved.var()), 16 / 3, rtol=0.03)
  assert float(jnp.abs(moved).max()) > 3.99
  still = attacks.perturb(
    attacks.Attack("pgd", epsilon=4, steps=0, clean_start=1.0), _linear, images, _KEYS
  )
  np.testing.assert_array_equal(still, images)


def test_each_image_is_attacked_alone():
  images = _images()
  attack = attacks.Attack(steps=2)
  loss = lambda x: jnp.sum(jnp.sin(x / 9) * jnp.cumsum(x, 1), (1, 2, 3))  # noqa: E731
  together = attacks.perturb(attack, loss, images, _KEYS)
  alone = attacks.perturb(attack, loss, images[3:5], _KEYS[3:5])
  np.testing.assert_allclose(together[3:5], alone, atol=1e-4)


def test_no_gradient_flows_through():
  images = _images(2)

  def through(scale):
    moved = attacks.perturb(attacks.Attack(steps=1), _linear, images * scale, _KEYS[:2])
    return jnp.sum(moved)

  assert float(jax.grad(through)(1.0)) == 0.0


def test_a_targeted_attack_lowers_the_loss_to_its_target_at_every_step():
  weights = jnp.asarray(_RNG.normal(size=(60, 5)) / 2000, jnp.float32)
  targets = jnp.asarray(_RNG.integers(0, 5, 8))

  def loss(x):
    log = jax.nn.log_softmax(x.reshape(len(x), -1) @ weights)
    return -jnp.take_along_axis(log, targets[:, None], 1)[:, 0]

  images, values = _images(), []
  for steps in range(6):
    attack = attacks.Attack("ifgsm", epsilon=8, step=1, steps=steps)
    values.append(np.asarray(loss(attacks.perturb(attack, loss, images, _KEYS))))
  assert np.all(np.diff(values, axis=0) < 0)


def test_random_targets_are_wrong_and_even():
  labels = jnp.arange(20_000) % 10
  targets = attacks.random_targets(labels, 10, jax.random.split(jax.random.key(1), 20_000))
  shift = np.asarray((targets - labels) % 10)
  counts = np.bincount(shift, minlength=10)
  assert counts[0] == 0
  # Nine equal classes; four standard errors.
  expected = 20_000 / 9
  assert np.all(np.abs(counts[1:] - expected) < 4 * np.sqrt(expected * 8 / 9))


def _softmax_loss(weights, classes):
  """Returns (cross-entropy of a linear model in JAX, its gradient in NumPy)."""

  def loss(pixels):
    logits = pixels.reshape(len(pixels), -1) @ weights / 255
    return -jax.nn.log_softmax(logits)[jnp.arange(len(pixels)), classes]

  def gradient(pixels):
    logits = pixels.reshape(len(pixels), -1) @ weights / 255
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares = shares / shares.sum(1, keepdims=True) - np.eye(weights.shape[1])[classes]
    return (shares @ weights.T / 255).reshape(pixels.shape)

  return loss, gradient


@pytest.mark.parametrize("kind", attacks.KINDS)
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_against_a_loop_in_numpy(kind, targeted, scale):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (4, 3, 3, 2)).astype(np.float64)
  loss, gradient = _softmax_loss(rng.standard_normal((18, 5)), np.array([0, 4, 2, 1]))
  attack = attacks.Attack(kind, epsilon=3, step=1, steps=4, targeted=targeted)
  # A traced scale: one program for all radii.
  run = jax.jit(lambda x, s: attacks.perturb(attack, loss, x, _KEYS[:4], scale=s))
  expected = images
  if kind == "pgd":  # its start is what is drawn for a ball of that size
    start = attacks.Attack(kind, epsilon=3 * scale, steps=0)
    expected = np.asarray(attacks.perturb(start, loss, images, _KEYS[:4]), np.float64)
  for _ in range(1 if kind == "fgsm" else 4):
    sign = np.sign(gradient(expected)) * (-1 if targeted else 1)
    expected = expected + sign * scale * (3 if kind == "fgsm" else 1)
    if kind != "gd":
      expected = np.clip(expected, images - 3 * scale, images + 3 * scale)
    expected = np.clip(expected, 0, 255)
  np.testing.assert_allclose(run(images, scale), expected, atol=1e-4)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"kind": "pgdd"}, "'pgdd' is none of pgd"),
    ({"epsilon": 8 / 255}, "8 if it was meant for pixels in .0, 1., 4 for .-1, 1."),
    ({"step": 0.0078}, "step=0.0078 should be in levels"),
    ({"epsilon": 300}, "levels of .0, 255., such as 255"),
    ({"epsilon": -1}, "such as 4"),
    ({"steps": -1}, "steps must be at least 0"),
    ({"clean_start": 2}, "clean_start in"),
  ],
)
def test_settings_are_checked(fields, words):
  with pytest.raises(ValueError, match=words):
    attacks.Attack(**fields)
