"""What each algorithm has to reach on landscapes; the marks are those of programs apart from ours.

Fewer seeds than there: the figures in comments are of ten seeds.
"""

import functools

import numpy as np
import pytest
from sklearn import metrics

from effnets.search import algorithms, landscapes, rewards
from effnets.search.algorithms.base import Result

TRADE = landscapes.Trade()


def accuracy(values):
  return values["accuracy"]


def search(name, landscape, seed, count=2000, reward=accuracy, **settings):
  """Returns the results of a search, told one by one."""
  space = landscape.space
  algorithm = algorithms.create(name, space, seed, **settings)
  results = []
  for number in range(count):
    proposal = algorithm.propose(number)
    values = landscape(space, proposal.tokens, seed * 1_000_003 + number)
    found = reward(values)
    found = found if np.isfinite(found) else None
    results.append(Result(number, proposal, found, values))
    algorithm.tell(results[-1])
  assert algorithm.summary().get("failed", 0) == sum(r.reward is None for r in results)
  return results


def best(results):
  return max(r.reward for r in results if r.reward is not None)


def last(results, count=200):
  return np.mean([r.reward for r in results[-count:] if r.reward is not None])


@pytest.mark.parametrize(
  "name, settings, seeds, mark",
  [
    ("factorised", {}, 3, 0.88),
    # As in the paper, networks may come again: without repeats the last 200 are .916 to .941.
    ("evolution", {"tries": 1}, 2, 0.92),
    ("ppo", {"epochs": 1}, 2, 0.80),
  ],
)
def test_a_hidden_target(name, settings, seeds, mark):
  for seed in range(seeds):
    results = search(name, landscapes.Match(), seed, **settings)
    assert last(results) >= mark
    assert best(results) == 1 or name == "ppo" and best(results) >= 0.95


def test_random_search_does_not_learn():
  results = search("random", landscapes.Match(), 0)
  assert 0.36 <= last(results) <= 0.40 and best(results) <= 0.67


def test_noise_and_failures():
  noisy = landscapes.Match(noise=0.05, failing=0.05)
  for seed in range(2):
    results = search("factorised", noisy, seed)
    assert last(results) >= 0.85
    # 5 % of 2,000, standard deviation 9.7.
    assert 70 <= sum(r.reward is None for r in results) <= 130


def test_accuracy_against_latency():
  soft = rewards.Reward("soft", {"latency": 80.0})
  optimum, _ = TRADE.optimum(soft)
  for seed in range(3):
    assert 0.696 <= best(search("factorised", TRADE, seed, reward=soft)) <= optimum + 1e-9
  for seed in range(2):
    assert 0.7010 <= best(search("evolution", TRADE, seed, reward=soft)) <= optimum + 1e-9


@pytest.mark.parametrize("form, settings", [("hard", {}), ("absolute", {"slope": -0.5})])
@pytest.mark.parametrize("target", [70.0, 80.0])
def test_latency_meets_its_target(form, settings, target):
  reward = rewards.Reward(form, {"latency": target}, settings=settings)
  results = search("factorised", TRADE, 0, 6000, reward)
  latency = np.mean([r.values["latency"] for r in results[-200:]])
  assert latency == pytest.approx(target, rel=0.02)


def test_the_soft_reward_meets_no_target():
  """Where the search ends is the exponent's doing alone: about 94 ms, whatever the target is."""
  for target in (60.0, 80.0):
    results = search("factorised", TRADE, 0, 4000, rewards.Reward("soft", {"latency": target}))
    latency = np.mean([r.values["latency"] for r in results[-200:]])
    assert latency == pytest.approx(94, abs=2)


def test_a_permuted_graph():
  permuted = landscapes.Permuted()
  assert best(search("factorised", permuted, 0, 3000)) >= 0.93
  # Seven of ten seeds find all of SpineNet-49 in 3,000 samples, the others all but one parent.
  for seed in (0, 1, 3):
    found = best(search("factorised", permuted, seed, 3000, learning_rate=0.1))
    assert found == pytest.approx(1, abs=1e-12)
  assert best(search("random", permuted, 0, 1000)) <= 0.61


def test_guided_by_edge_weights():
  means = {}
  for threshold in ("child", "edge", "none"):
    found = [
      best(search("guided_evolution", landscapes.Edges(seed=s), s, 200, threshold=threshold))
      for s in range(8)
    ]
    means[threshold] = np.mean(found)
    assert threshold != "child" or min(found) >= 0.75
  # One bound for a child is far better than one for each edge: 0.92, 0.63, 0.54.
  assert means["child"] >= means["none"] + 0.2
  assert means["child"] >= means["edge"] + 0.2


@functools.cache
def taught(teacher, seed):
  """Returns the best 100 architectures of a search for students of a teacher."""
  reward = rewards.Reward(accuracy="kd_accuracy")
  results = search("factorised", landscapes.Match(teacher=teacher), seed, reward=reward)
  order = np.argsort([-r.reward for r in results], kind="stable")[:100]
  return [results[i].tokens for i in order]


def test_teachers_have_students_of_their_own():
  """Populations differ by teacher, and not by seed."""
  labels = [(teacher, seed) for teacher in range(3) for seed in range(2)]
  points = np.array([tokens for label in labels for tokens in taught(*label)])
  distance = metrics.pairwise_distances(points, metric="hamming")
  score = functools.partial(metrics.silhouette_score, distance, metric="precomputed")
  assert score(np.repeat([teacher for teacher, _ in labels], 100)) > 0.6
  assert abs(score(np.repeat([seed for _, seed in labels], 100))) < 0.1
