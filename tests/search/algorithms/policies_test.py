"""Policies against closed forms, and against themselves computed another way."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import errors
from effnets.search import landscapes
from effnets.search.algorithms import policies

MNAS = policies.Layout.of(landscapes.chain())
SMALL = policies.Layout((4, 2, 3, 2, 4), (0, 1, 2, 1, 0))


def made(policy, seed=0):
  params = policy.init(np.random.default_rng(seed))
  # Biases start at zero and would hide which row they are read from.
  rng = np.random.default_rng(seed + 1)
  return jax.tree.map(lambda leaf: jnp.asarray(leaf + rng.normal(0, 0.3, leaf.shape)), params)


@pytest.mark.parametrize(
  "settings, expected",
  [({}, 85_324), ({"padded": False}, 83_917), ({"per_step_heads": True}, 99_868)],
)
def test_parameters_of_the_lstm(settings, expected):
  # A head for each of 42 steps instead of 6: 36 more of 4 * 101.
  assert 85_324 + 36 * 4 * 101 == 99_868
  policy = policies.create("lstm", MNAS, **settings)
  params = policy.init(np.random.default_rng(0))
  assert policies.count(params) == expected
  assert all(np.abs(leaf).max() <= 0.1 for leaf in jax.tree.leaves(params))
  assert params["recurrent"].std() == pytest.approx(0.1 / 3**0.5, rel=0.01)


@pytest.mark.parametrize("name", policies.POLICIES)
def test_one_step_at_a_time_is_all_at_once(name):
  # One of the two with a head for every step.
  settings = {"per_step_heads": True} if name == "transformer" else {}
  policy = policies.create(name, SMALL, **settings)
  params = made(policy)
  tokens = np.random.default_rng(2).integers(SMALL.arities, size=(3, 5))
  at_once = jax.jit(policy.logits)
  whole = at_once(params, tokens)
  # The scan over `step` of the class that all policies are.
  by_step = jax.jit(functools.partial(policies.Policy.logits, policy))(params, tokens)
  mask = SMALL.mask()
  np.testing.assert_allclose(whole[:, mask], by_step[:, mask], atol=2e-5)
  # What is sampled without noise is the likeliest at each step.
  greedy = np.asarray(jax.jit(policy.sample)(params, np.zeros((3, 5, 4), np.float32), mask))
  logits = np.where(mask, at_once(params, greedy), -np.inf)
  np.testing.assert_array_equal(greedy, logits.argmax(-1))


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_no_decision_sees_later_ones(name):
  policy = policies.create(name, SMALL)
  params = made(policy)
  tokens = np.array([[1, 0, 2, 1, 3]])
  at_once = jax.jit(policy.logits)
  before = np.asarray(at_once(params, tokens))
  for place in range(5):
    changed = tokens.copy()
    changed[0, place] = (changed[0, place] + 1) % SMALL.arities[place]
    after = np.asarray(at_once(params, changed))
    np.testing.assert_array_equal(after[:, : place + 1], before[:, : place + 1])
    assert place == 4 or np.abs(after[:, place + 1] - before[:, place + 1]).max() > 1e-4


def test_lstm_by_hand():
  """One architecture through textbook gates in NumPy."""
  policy = policies.create("lstm", SMALL, hidden=3)
  params = jax.tree.map(np.asarray, made(policy))
  tokens = [3, 1, 0, 1, 2]
  sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
  output, cell, inputs = np.zeros(3), np.zeros(3), params["start"]
  embedding = params["embedding"].reshape(3, 4, 3)
  heads, biases = params["head"].reshape(3, 4, 3), params["head_bias"].reshape(3, 4)
  found = np.asarray(policy.logits(params, np.array([tokens])))[0]
  for place, (token, kind) in enumerate(zip(tokens, SMALL.kinds, strict=True)):
    gates = inputs @ params["input"] + output @ params["recurrent"] + params["bias"]
    enter, forget, candidate, leave = gates.reshape(4, 3)
    cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(candidate)
    output = sigmoid(leave) * np.tanh(cell)
    np.testing.assert_allclose(found[place], heads[kind] @ output + biases[kind], atol=1e-5)
    inputs = embedding[kind, token]


def test_entropy_and_log_probability():
  arities = np.array(MNAS.arities)
  logits = jnp.zeros((2, 42, 4))
  tokens = np.zeros((2, 42), int)
  active = np.ones((2, 42), bool)
  active[1, 10:] = False
  logs, entropy = policies.log_probabilities(logits, tokens, MNAS.mask(), active)
  assert float(entropy[0].sum()) == pytest.approx(42.478979, abs=1e-5)
  assert float(entropy[1].sum()) == pytest.approx(np.log(arities[:10]).sum(), abs=1e-5)
  assert float(logs[0].sum()) == pytest.approx(-42.478979, abs=1e-5)
  assert float(logs[1].sum()) == pytest.approx(-np.log(arities[:10]).sum(), abs=1e-5)


def test_samples_follow_the_softmax():
  layout = policies.Layout((3,), (0,))
  policy = policies.create("factorised", layout)
  params = jnp.array([[0.0, 1.0, -1.0]])
  noise = np.random.default_rng(0).gumbel(size=(20_000, 1, 3)).astype(np.float32)
  tokens = np.asarray(policy.sample(params, noise, layout.mask()))[:, 0]
  shares = np.bincount(tokens, minlength=3) / len(tokens)
  expected = np.exp([0, 1, -1]) / np.exp([0, 1, -1]).sum()
  # Three standard errors of a share near a half.
  np.testing.assert_allclose(shares, expected, atol=3 * 0.5 / 20_000**0.5)


def test_bad_settings():
  with pytest.raises(errors.UserError, match="lstn.*Nearest: 'lstm'"):
    policies.create("lstn", SMALL)
  with pytest.raises(errors.UserError, match="hiden.*Nearest: 'hidden'"):
    policies.create("lstm", SMALL, hiden=3)
  with pytest.raises(errors.UserError, match="multiple of heads=3"):
    policies.create("transformer", SMALL, heads=3)
