"""The policy gradient against NumPy, REINFORCE against PPO, and what is told in what order."""

import itertools

import jax
import numpy as np
import pytest

from effnets import errors
from effnets.search import algorithms, landscapes
from effnets.search.algorithms import gradient
from effnets.search.algorithms.base import Proposal, Result
from effnets.search.space import Decision, Different, Space, When

MATCH = landscapes.Match()
SHORT = {"batch": 10, "entropy": 1e-3}
SMALL = Space(
  "small", [Decision(f"d{i}", tuple(range(a)), f"k{a}") for i, a in enumerate((3, 2, 3))]
)
ORDER = Space(
  "order",
  [Decision(f"slot{i}", (0, 1, 2), "slot") for i in range(3)],
  [Different(("slot0", "slot1", "slot2"))],
)
SWITCH = Space(
  "switch",
  [Decision("on", (False, True), "on"), Decision("how", (0, 1, 2), "how")],
  [When("how", "on", (True,))],
)


def search(algorithm, landscape, count, first=0):
  """Returns the results of `count` trials, told one by one."""
  results = []
  for number in range(first, first + count):
    proposal = algorithm.propose(number)
    values = landscape(landscape.space, proposal.tokens, number)
    results.append(Result(number, proposal, values["accuracy"], values))
    algorithm.tell(results[-1])
  return results


def test_baseline_and_clip():
  average = gradient.Baseline(0.95)
  found = [average.update(reward) for reward in (0.5, 0.6, 0.4, 0.7)]
  np.testing.assert_allclose(found, (0.5, 0.551282, 0.498247, 0.55263), atol=6e-7)
  for ratio, advantage, expected in (
    *((1.5, 1, 1.2), (1.5, -1, -1.5), (0.5, 1, 0.5), (0.5, -1, -0.8), (1.1, 2, 2.2)),
  ):
    assert float(gradient.surrogate(ratio, advantage, 0.2)) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["factorised", "lstm"])
def test_ppo_with_one_epoch_is_reinforce(name):
  settings = {"policy": name, **SHORT}
  one = algorithms.create("ppo", MATCH.space, 3, epochs=1, **settings)
  other = algorithms.create("reinforce", MATCH.space, 3, **settings)
  for round in range(4):
    mine = search(one, MATCH, 30, 30 * round)
    theirs = search(other, MATCH, 30, 30 * round)
    assert [r.tokens for r in mine] == [r.tokens for r in theirs]
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-6)
  assert one.version == 12


def test_more_epochs_are_another_method():
  one = algorithms.create("ppo", MATCH.space, 3, policy="factorised", epochs=1)
  more = algorithms.create("ppo", MATCH.space, 3, policy="factorised", epochs=3)
  for algorithm in (one, more):
    search(algorithm, MATCH, 40)
  assert np.abs(one.params - more.params).max() > 0.01


def test_update_by_hand():
  """Two REINFORCE updates of independent logits, with Adam, in NumPy doubles."""
  settings = {"batch": 4, "learning_rate": 0.1, "entropy": 0.2, "decay": 0.5}
  algorithm = algorithms.create("factorised", SMALL, 0, **settings)
  rng = np.random.default_rng(5)
  logits, first, second = np.zeros((3, 3)), np.zeros((3, 3)), np.zeros((3, 3))
  mask = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1]], bool)
  total = weight = 0.0
  for step in (1, 2):
    tokens = rng.integers(SMALL.arities, size=(4, 3))
    rewards = rng.uniform(size=4)
    for i in range(4):
      info = {"version": step - 1, "log_probability": 0.0}
      algorithm.tell(Result(i, Proposal(tuple(tokens[i].tolist()), info), float(rewards[i])))
    total, weight = 0.5 * total + 0.5 * rewards.mean(), 0.5 * weight + 0.5
    advantage = rewards - total / weight
    p = np.where(mask, np.exp(logits), 0)
    p /= p.sum(-1, keepdims=True)
    logs = np.log(np.where(mask, p, 1))
    gradient_ = np.zeros((3, 3))
    for a, row in zip(advantage, tokens, strict=True):
      gradient_ -= a * (np.eye(3)[row] - p) / 4
    entropy = -(p * logs).sum(-1, keepdims=True)
    gradient_ += 0.2 * p * (logs + entropy)
    first, second = 0.9 * first + 0.1 * gradient_, 0.999 * second + 0.001 * gradient_**2
    change = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    logits = logits - 0.1 * np.where(mask, change, 0)
    np.testing.assert_allclose(algorithm.params, logits, atol=1e-5)
    assert algorithm.entropy == pytest.approx(entropy.sum(), abs=1e-5)


def test_first_advantage_of_one_sample_is_nothing():
  algorithm = algorithms.create("factorised", SMALL, 0, batch=1, entropy=0.0)
  assert algorithm.propose(0).tokens in set(SMALL.points())
  algorithm.tell(Result(0, algorithm.propose(0), 0.9))
  assert algorithm.version == 1 and not np.asarray(algorithm.params).any()


def test_failures_and_stale_results_teach_nothing():
  algorithm = algorithms.create("factorised", SMALL, 0, batch=2, max_staleness=1)
  old = algorithm.propose(0)
  for number in range(1, 5):
    algorithm.tell(Result(number, algorithm.propose(number), 0.5 + 0.1 * number))
  algorithm.tell(Result(5, algorithm.propose(5), None))
  assert algorithm.version == 2
  before = np.asarray(algorithm.params)
  algorithm.tell(Result(0, old, 5.0))  # two updates old
  algorithm.tell(Result(6, algorithm.propose(6), 0.5))
  assert algorithm.version == 2
  np.testing.assert_array_equal(before, algorithm.params)
  summary = algorithm.summary()
  assert (summary["failed"], summary["stale"]) == (1, 1)
  assert summary["baseline"] < 1


def test_repeated_networks_count_as_any_other():
  algorithm = algorithms.create("factorised", SMALL, 0, batch=2)
  proposal = algorithm.propose(0)
  for number in range(4):
    algorithm.tell(Result(number, proposal, 0.5))
  assert algorithm.version == 2 and algorithm.summary()["duplicates"] == 0.75


@pytest.mark.parametrize("name", ["factorised", "lstm"])
def test_telling_again_rebuilds_the_state(name):
  settings = {"policy": name, "epochs": 1, **SHORT}
  whole = algorithms.create("ppo", MATCH.space, 7, **settings)
  results = search(whole, MATCH, 60)
  again = algorithms.create("ppo", MATCH.space, 7, **settings)
  for result in results[:47]:
    again.tell(result)
  rest = search(again, MATCH, 13, 47)
  assert rest == results[47:]
  for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(again.params), strict=True):
    np.testing.assert_array_equal(a, b)
  assert whole.propose(60) == again.propose(60)
  other = algorithms.create("ppo", MATCH.space, 8, **settings)
  assert other.propose(0).tokens != results[0].tokens


@pytest.mark.parametrize("policy", ["factorised", "lstm"])
def test_permutations(policy):
  """Masks of earlier tokens: only permutations come, with the log-probability of their steps."""
  algorithm = algorithms.create("ppo", ORDER, 0, policy=policy, batch=30)
  drawn = [algorithm.propose(number) for number in range(30)]
  assert {p.tokens for p in drawn} == set(itertools.permutations(range(3)))
  network = algorithm.policy
  for proposal in drawn[:5]:
    logits = np.asarray(network.logits(algorithm.params, np.array([proposal.tokens])))[0]
    expected, left = 0.0, [0, 1, 2]
    for token, row in zip(proposal.tokens, logits, strict=True):
      expected += row[token] - np.log(np.exp(row[left]).sum())
      left.remove(token)
    assert proposal.info["log_probability"] == pytest.approx(expected, abs=1e-5)


def test_learns_an_order():
  algorithm = algorithms.create("ppo", ORDER, 0, policy="lstm", batch=30, learning_rate=0.01)
  for number in range(600):
    proposal = algorithm.propose(number)
    reward = sum(a == b for a, b in zip(proposal.tokens, (2, 0, 1), strict=True)) / 3
    algorithm.tell(Result(number, proposal, reward))
  drawn = [algorithm.propose(number).tokens for number in range(600, 620)]
  assert drawn.count((2, 0, 1)) >= 15


def test_inactive_decisions_do_not_count():
  algorithm = algorithms.create("factorised", SWITCH, 0, batch=40)
  for number in range(40):
    proposal = algorithm.propose(number)
    chances = -np.log(2) if proposal.tokens[0] == 0 else -np.log(6)
    assert proposal.info["log_probability"] == pytest.approx(chances, abs=1e-6)
    algorithm.tell(Result(number, proposal, 1.0 - proposal.tokens[0]))
  assert algorithm.params[0, 0] > algorithm.params[0, 1]


def test_ratio_of_every_token():
  settings = {"policy": "factorised", "per_token": True, "batch": 10}
  algorithm = algorithms.create("ppo", MATCH.space, 0, normalise=True, **settings)
  results = search(algorithm, MATCH, 40)
  info = results[0].proposal.info
  assert sum(info["log_probabilities"]) == pytest.approx(info["log_probability"], abs=1e-4)
  assert algorithm.version == 4


def test_bad_settings():
  with pytest.raises(errors.UserError, match="method='pop'"):
    algorithms.create("ppo", SMALL, 0, method="pop")
  with pytest.raises(errors.UserError, match="batch=0"):
    algorithms.create("ppo", SMALL, 0, batch=0)
  with pytest.raises(errors.UserError, match="decay=1"):
    algorithms.create("ppo", SMALL, 0, decay=1.0)
  with pytest.raises(errors.UserError, match="learning_rat.*Nearest: 'learning_rate'"):
    algorithms.create("ppo", SMALL, 0, learning_rat=1.0)
  with pytest.raises(errors.UserError, match="hidden.*is not one of its settings"):
    algorithms.create("factorised", SMALL, 0, hidden=3)
  with pytest.raises(errors.UserError, match="policy='lstn'"):
    algorithms.create("ppo", SMALL, 0, policy="lstn")
