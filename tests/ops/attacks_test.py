"""Attacks on losses whose gradients are known, and against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import errors, streams
from effnets.ops import attacks


def keys(count, seed=0):
  return streams.example_keys(jax.random.key(seed), streams.words(np.arange(count)))


@pytest.mark.parametrize(
  ("name", "expected"),
  [("ifgsm", [0.0313725, 1.0, -1.0]), ("gd", [0.0392157, 1.0, -1.0])],
)
def test_the_papers_rules_on_a_constant_gradient(name, expected):
  x = jnp.array([0, 0.99, -0.995]).reshape(1, 1, 3, 1)
  signs = jnp.array([1.0, 1.0, -1.0]).reshape(1, 1, 3, 1)
  moved = attacks.perturb(
    lambda pixels: jnp.sum(pixels * signs, (1, 2, 3)),
    x,
    attack=attacks.create(name, 4),
    bounds=(-1, 1),
  )
  np.testing.assert_allclose(moved.ravel(), expected, atol=1e-6)


def test_the_table_of_attackers():
  assert attacks.create("pgd", 4) == attacks.Attack(4, 5, 1.0, random_start=True)
  assert attacks.create("ifgsm", 1, targeted=True) == attacks.Attack(1, 1, 1.0, targeted=True)
  assert attacks.create("gd", 3) == attacks.Attack(None, 4, 1.0)
  assert attacks.create("fgsm", 8) == attacks.Attack(8, 1, 8)
  assert attacks.create("pgd", 16, steps=10, step_size=4).steps == 10


def linear(weights, classes):
  """Returns (softmax cross-entropy of a linear model in JAX, its gradient in NumPy)."""

  def loss(pixels):
    logits = pixels.reshape(len(pixels), -1) @ weights / 255
    return -jax.nn.log_softmax(logits)[jnp.arange(len(pixels)), classes]

  def gradient(pixels):
    logits = pixels.reshape(len(pixels), -1) @ weights / 255
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares = shares / shares.sum(1, keepdims=True) - np.eye(weights.shape[1])[classes]
    return (shares @ weights.T / 255).reshape(pixels.shape)

  return loss, gradient


@pytest.mark.parametrize("name", ["pgd", "ifgsm", "gd", "fgsm"])
@pytest.mark.parametrize("targeted", [False, True])
def test_against_a_loop(name, targeted):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (4, 3, 3, 2)).astype(np.float64)
  weights, classes = rng.standard_normal((18, 5)), np.array([0, 4, 2, 1])
  loss, gradient = linear(weights, classes)
  attack = attacks.create(name, 3, targeted=targeted)
  moved = np.asarray(attacks.perturb(loss, images, attack=attack, keys=keys(4)))
  expected = images
  if name == "pgd":  # its start is one that the attack itself draws when it takes no step
    start = attacks.Attack(3, 0, 1.0, random_start=True)
    expected = np.asarray(attacks.perturb(loss, images, attack=start, keys=keys(4)), np.float64)
    assert 1.3 < np.abs(expected - images)[(images > 3) & (images < 252)].mean() < 1.7
  for _ in range(1 if name == "fgsm" else 4):
    sign = np.sign(gradient(expected)) * (-1 if targeted else 1)
    expected = expected + sign * (3 if name == "fgsm" else 1)
    if name != "gd":
      expected = np.clip(expected, images - 3, images + 3)
    expected = np.clip(expected, 0, 255)
  np.testing.assert_allclose(moved, expected, atol=1e-4)
  if name != "gd":
    assert np.abs(moved - images).max() <= 3 + 1e-4
  assert moved.min() >= 0 and moved.max() <= 255
  change = np.asarray(loss(jnp.asarray(moved))) - np.asarray(loss(jnp.asarray(images)))
  assert np.all(change < 0 if targeted else change > 0)


def test_a_start_depends_on_its_key_alone():
  images = jnp.full((6, 2, 2, 3), 100.0)
  attack = attacks.create("pgd", 8)
  zero = lambda pixels: jnp.zeros(len(pixels))  # noqa: E731
  whole = attacks.perturb(zero, images, attack=attack, keys=keys(6))
  part = attacks.perturb(zero, images[:2], attack=attack, keys=keys(6)[2:4])
  np.testing.assert_array_equal(whole[2:4], part)
  with pytest.raises(ValueError, match="one per picture"):
    attacks.perturb(zero, images, attack=attack)


def test_no_gradient_flows_through_and_radius_zero_changes_nothing():
  images = jnp.full((2, 2, 2, 3), 17.0)
  square = lambda pixels: jnp.sum(pixels**2, (1, 2, 3))  # noqa: E731

  def after(scale):
    attack = attacks.create("ifgsm", 2)
    return jnp.sum(attacks.perturb(lambda x: square(x * scale), images * scale, attack=attack))

  assert jax.grad(after)(1.0) == 0
  none = attacks.perturb(square, images, attack=attacks.create("pgd", 0), keys=keys(2))
  np.testing.assert_array_equal(none, images)


def test_random_targets_are_uniform_over_the_other_classes():
  count, classes = 40000, 5
  labels = jnp.arange(count) % classes
  targets = np.asarray(attacks.random_targets(keys(count), labels, classes))
  counts = np.zeros((classes, classes), int)
  np.add.at(counts, (np.asarray(labels), targets), 1)
  assert not np.diag(counts).any()
  others = counts[~np.eye(classes, dtype=bool)]
  assert np.abs(others - 2000).max() < 4.5 * np.sqrt(8000 * 0.25 * 0.75)


@pytest.mark.parametrize(
  ("epsilon", "parts"),
  [
    (4 / 255, ["less than half a level", "[0, 1], write 4;", "[-1, 1], 2."]),
    (0.3, ["[0, 1], write 76.5"]),
    (1028, ["more than the whole range", "[0, 65535], write 4."]),
    (-1, ["at least 0"]),
    (float("nan"), ["at least 0"]),
  ],
)
def test_epsilon_in_another_unit(epsilon, parts):
  with pytest.raises(errors.UserError) as caught:
    attacks.create("pgd", epsilon, key="config.x")
  for part in ["config.x=", "levels of 255", *parts]:
    assert part in str(caught.value)


def test_other_mistakes():
  with pytest.raises(errors.UserError, match="attack='pdg' is not an attacker. Nearest: 'pgd'"):
    attacks.create("pdg", 4)
  with pytest.raises(errors.UserError, match="steps=-1 and step_size=0.0"):
    attacks.create("pgd", 4, steps=-1)
