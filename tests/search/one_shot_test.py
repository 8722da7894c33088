"""One-shot search's controller: schedules and updates by hand, a known optimum."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from effnets import errors
from effnets.search import landscapes, one_shot
from effnets.search.space import Decision, Space, When

CHAIN = landscapes.chain()
SWITCH = Space(
  "switch",
  [
    Decision("b.op", ("conv", "mbconv"), "op"),
    Decision("b.squeeze", (0, 0.25, 0.5), "squeeze"),
    Decision("b.filters", (16, 32, 8), "filters"),
  ],
  [When("b.squeeze", "b.op", ("mbconv",))],
)


NOTHING = one_shot.Baseline(jnp.zeros(()), jnp.zeros(()))


def begin(searcher):
  """Returns logits that prefer nothing, their optimizer's state and no baseline."""
  logits = jnp.zeros(searcher.mask.shape)
  return logits, searcher.optimizer().init(logits), NOTHING


def update(searcher, controller, tokens, rewards):
  """Returns the controller after one step, as the loop takes it."""
  logits, moments, baseline = controller
  advantage, baseline = searcher.advantage(baseline, rewards)
  gradient = jax.grad(searcher.loss)(logits, tokens, advantage)
  change, moments = searcher.optimizer().update(gradient, moments)
  return optax.apply_updates(logits, change), moments, baseline


def test_rate_of_the_controller():
  settings = one_shot.Settings(steps=1000, target=84.0)
  rates = [float(one_shot.controller_rate(settings, s)) for s in (0, 249, 250, 625, 1000)]
  # Nothing for a quarter, then from 4.8e-3 to ten times that, by the root of ten half way.
  np.testing.assert_allclose(rates, (0, 0, 4.8e-3, 4.8e-3 * 10**0.5, 4.8e-2), rtol=1e-5)


def test_warm_up():
  settings = one_shot.Settings(steps=100, target=1.0, architectures=4000)
  searcher = one_shot.Searcher(SWITCH, settings)
  logits, sample = jnp.zeros((3, 3)), jax.jit(searcher.sample)
  for step, chance in ((0, 1.0), (15, 0.4), (25, 0.0)):
    found = sample(logits, jax.random.key(0), jnp.array(step))
    averaged = np.isclose(found.training[:, 0, 0], 0.5)
    np.testing.assert_array_equal(averaged, np.isclose(found.training[:, 1, 2], 1 / 3))
    # 4,000 draws: a standard error below .008.
    assert averaged.mean() == pytest.approx(chance, abs=0.025)
    # A third of the draws has the largest filters, the second choice, anyhow.
    widest = (found.training[:, 2].argmax(-1) == 1).mean()
    assert widest == pytest.approx(chance + (1 - chance) / 3, abs=0.025)
    np.testing.assert_array_equal(found.training.sum(-1), np.ones((4000, 3)))
    np.testing.assert_array_equal(found.scoring.argmax(-1), found.tokens)
  np.testing.assert_array_equal(found.training, found.scoring)
  again = sample(logits, jax.random.key(0), jnp.array(25))
  np.testing.assert_array_equal(found.tokens, again.tokens)
  other = sample(logits, jax.random.key(0), jnp.array(26))
  assert (found.tokens != other.tokens).any()


def test_update_by_hand():
  """Two updates in NumPy; with beta1 = 0 Adam is a gradient over its own mean square's root."""
  settings = one_shot.Settings(steps=4, target=1.0, idle=0.0, architectures=3, entropy=0.1)
  searcher = one_shot.Searcher(SWITCH, settings)
  step_of = jax.jit(functools.partial(update, searcher))
  controller, logits, second = begin(searcher), np.zeros((3, 3)), np.zeros((3, 3))
  mask = np.array([[1, 1, 0], [1, 1, 1], [1, 1, 1]], bool)
  total = weight = 0.0
  for step, (tokens, rewards) in enumerate(
    (
      ([(0, 1, 2), (1, 2, 0), (1, 0, 1)], [0.2, 0.7, 0.5]),
      ([(1, 1, 1), (0, 0, 0), (1, 2, 2)], [0.9, 0.1, 0.3]),
    )
  ):
    tokens, rewards = np.array(tokens), np.array(rewards)
    controller = step_of(controller, tokens, jnp.array(rewards))
    total, weight = 0.95 * total + 0.05 * rewards.mean(), 0.95 * weight + 0.05
    advantage = rewards - total / weight
    active = np.array([[1, row[0] == 1, 1] for row in tokens], bool)
    p = np.where(mask, np.exp(logits), 0)
    p /= p.sum(-1, keepdims=True)
    logs = np.log(np.where(mask, p, 1))
    entropy = -(p * logs).sum(-1, keepdims=True)
    change = np.zeros((3, 3))
    for a, row, on in zip(advantage, tokens, active, strict=True):
      change -= (a * (np.eye(3)[row] - p) - 0.1 * p * (logs + entropy)) * on[:, None] / 3
    second = 0.999 * second + 0.001 * change**2
    rate = 4.8e-3 * 10 ** (step / 4)
    logits -= rate * change / (np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8)
    np.testing.assert_allclose(controller[0][mask], logits[mask], atol=1e-6)
  baseline = controller[-1]
  assert float(baseline.total / baseline.weight) == pytest.approx(total / weight)


def test_rewards():
  settings = one_shot.Settings(steps=4, target=80.0)
  searcher = one_shot.Searcher(SWITCH, settings)
  found = searcher.reward(jnp.array([0.5, 0.5, 0.5]), jnp.array([40.0, 160.0, 80.0]))
  np.testing.assert_allclose(found, (0.45, 0.4, 0.5), rtol=1e-6)


def test_finds_a_hidden_target():
  settings = one_shot.Settings(steps=400, target=1.0, learning_rate=0.02, architectures=16)
  searcher = one_shot.Searcher(CHAIN, settings)
  best = jnp.array(landscapes.target(CHAIN.arities))
  key = jax.random.key(1)

  def step(controller, number):
    tokens = searcher.sample(controller[0], key, number).tokens
    rewards = searcher.reward((tokens == best).mean(-1), jnp.ones(16))
    controller = update(searcher, controller, tokens, rewards)
    return controller, (rewards.mean(), searcher.entropy(controller[0]))

  controller, (rewards, entropy) = jax.jit(
    lambda: jax.lax.scan(step, begin(searcher), jnp.arange(400))
  )()
  # Undecided for the first quarter, at 42.479 nats; then it learns.
  np.testing.assert_allclose(entropy[:100], 42.478979, rtol=1e-5)
  assert rewards[:100].mean() < 0.4 and rewards[-20:].mean() > 0.85
  found = landscapes.Match()(CHAIN, searcher.best(controller[0]))
  assert found["accuracy"] >= 0.95


def test_a_switch_of_many_runs_all_its_branches():
  """Why operations are masks and not branches."""
  branches = [jnp.sin, jnp.cos, jnp.tanh]
  pick = lambda index, x: jax.lax.switch(index, branches, x)  # noqa: E731
  x = jnp.ones(4)
  one = jax.jit(pick).lower(jnp.array(1), x).compile().as_text()
  many = jax.jit(jax.vmap(pick)).lower(jnp.arange(3), jnp.ones((3, 4))).compile().as_text()
  assert "conditional(" in one and "conditional(" not in many
  assert all(name in many for name in ("sine(", "cosine(", "tanh("))


def test_bad_settings():
  with pytest.raises(errors.UserError, match="rule others out"):
    one_shot.Searcher(landscapes.Permuted().space, one_shot.Settings(steps=1, target=1.0))
  for wrong in ({"steps": 0}, {"target": 0.0}, {"slope": 0.1}, {"idle": 1.0}):
    with pytest.raises(errors.UserError, match=next(iter(wrong))):
      one_shot.Settings(**{"steps": 1, "target": 1.0, **wrong})
