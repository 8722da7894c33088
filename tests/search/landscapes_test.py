"""Landscapes: values and optima that were worked out apart from the code."""

import itertools

import numpy as np
import pytest

from effnets import errors
from effnets.models.scale_permuted import SPINENET
from effnets.search import landscapes, rewards

TRADE = landscapes.Trade()
# The best point of the soft reward with a target of 80 ms, and of 60, 70 and 90.
SOFT = "101210300121301220001201201210201211201020"


def test_chain():
  space = landscapes.chain()
  assert space.flat and len(space) == 42
  assert space.arities.tolist() == [4, 2, 2, 3, 3, 3] * 7
  assert space.count_raw() == 432**7


def test_match():
  space, match = landscapes.chain(), landscapes.Match()
  # 3 i^2 + i + 1 modulo 4, 2, 2, 3, 3, 3.
  assert landscapes.target(space.arities)[:6] == (1, 1, 1, 1, 2, 0)
  best = landscapes.target(space.arities)
  assert match(space, best)["accuracy"] == 1
  assert match(space, ((best[0] + 1) % 4, *best[1:]))["accuracy"] == pytest.approx(41 / 42)


def test_noise_and_failures():
  space = landscapes.chain()
  noisy = landscapes.Match(noise=0.05, failing=0.05)
  best = landscapes.target(space.arities)
  found = np.array([noisy(space, best, seed)["accuracy"] for seed in range(2000)])
  assert noisy(space, best, 7) == noisy(space, best, 7)
  # 2,000 draws: standard errors of .005, .001, .001.
  assert np.isnan(found).mean() == pytest.approx(0.05, abs=0.015)
  assert np.nanmean(found) == pytest.approx(1, abs=0.004)
  assert np.nanstd(found) == pytest.approx(0.05, abs=0.003)


def test_teachers_agree_on_some_decisions():
  space = landscapes.chain()
  targets = [landscapes.target(space.arities, teacher) for teacher in range(3)]
  alike = [
    np.mean([x == y for x, y in zip(a, b, strict=True)])
    for a, b in itertools.combinations(targets, 2)
  ]
  np.testing.assert_allclose(alike, (0.4286, 0.6667, 0.4286), atol=5e-5)
  taught = landscapes.Match(teacher=2)(space, targets[2])
  assert taught["kd_accuracy"] == pytest.approx(0.3 * alike[1] + 0.7)
  assert taught["accuracy"] == pytest.approx(alike[1])


def test_trade():
  assert landscapes.uniform(0, 0, 1) == pytest.approx(0.3175988623, abs=1e-10)
  assert landscapes.uniform(5, 2, 2) == pytest.approx(0.2673530038, abs=1e-10)
  zeros = TRADE(TRADE.space, (0,) * 42)
  costs = [
    5 * (TRADE(TRADE.space, (token, *(0,) * 41))["latency"] - zeros["latency"])
    for token in range(4)
  ]
  np.testing.assert_allclose(costs, np.array((4, 12, 11, 7)) - 4, atol=1e-9)
  assert zeros["accuracy"] == pytest.approx(0.621536, abs=5e-7)
  assert zeros["latency"] == pytest.approx(79.0)
  assert rewards.soft(zeros["accuracy"], 79.0, 80) == pytest.approx(0.622083, abs=5e-7)


@pytest.mark.parametrize(
  "form, settings, best, latency",
  [
    ("soft", {}, 0.701790, 94.8),
    ("hard", {}, 0.679706, 80.0),
    ("absolute", {"slope": -0.5}, 0.679706, 80.0),
    ("absolute", {}, 0.692485, 93.0),
  ],
)
def test_optima(form, settings, best, latency):
  reward = rewards.Reward(form, {"latency": 80.0}, settings=settings)
  found, tokens = TRADE.optimum(reward)
  assert found == pytest.approx(best, abs=5e-7)
  assert TRADE(TRADE.space, tokens)["latency"] == pytest.approx(latency)
  assert reward(TRADE(TRADE.space, tokens)) == found


def test_the_target_moves_no_optimum_of_the_soft_form():
  for target in (60.0, 70.0, 80.0, 90.0):
    _, tokens = TRADE.optimum(rewards.Reward("soft", {"latency": target}))
    assert "".join(map(str, tokens)) == SOFT
  assert TRADE(TRADE.space, tokens)["accuracy"] == pytest.approx(0.710178, abs=5e-7)


def test_latencies_of_all_points():
  fast = -TRADE.optimum(lambda values: -values["latency"])[0]
  slow = TRADE.optimum(lambda values: values["latency"])[0]
  assert (round(fast, 6), round(slow, 6)) == (63.2, 101.2)


def spinenet():
  """Returns the tokens of SpineNet-49."""
  tokens = [landscapes.LEVELS.index(b.level) for b in SPINENET if not b.output]
  tokens += [b.level - 3 for b in SPINENET if b.output]
  for index, block in enumerate(SPINENET, 2):
    tokens += [index - 1 - parent for parent in block.parents]
  return tuple(tokens)


def test_permuted():
  permuted = landscapes.Permuted()
  space, best = permuted.space, spinenet()
  space.validate(best)
  assert permuted(space, best)["accuracy"] == pytest.approx(1)
  # Two intermediate levels swapped: .35 of 2 of 10; two outputs: .15 of 2 of 5.
  swapped = (best[1], best[0], *best[2:])
  assert permuted(space, swapped)["accuracy"] == pytest.approx(1 - 0.07)
  swapped = (*best[:10], best[11], best[10], *best[12:])
  assert permuted(space, swapped)["accuracy"] == pytest.approx(1 - 0.06)
  # A block's parents in the other order are the same, also to the key.
  turned = (*best[:-2], best[-1], best[-2])
  assert permuted(space, turned)["accuracy"] == pytest.approx(1)
  assert space.key(turned) == space.key(best)
  # One other parent of the last block: a half of 1 of 15, of .5.
  other = (*best[:-1], next(t for t in range(16) if t not in best[-2:]))
  assert permuted(space, other)["accuracy"] == pytest.approx(1 - 0.5 / 30)


def test_permuted_points():
  space = landscapes.Permuted().space
  # 10! / (3! 3!) orders of 2 3 444 555 6 7, 5! of the outputs, pairs of parents: of all blocks
  # for outputs, of at most 5 for the others.
  pairs = 1
  for before in range(2, 17):
    reach = before if before >= 12 else min(5, before)
    pairs *= reach * (reach - 1) // 2
  assert space.count_raw() == 100_800 * 120 * pairs
  rng = np.random.default_rng(0)
  tokens = spinenet()
  for _ in range(200):
    before, tokens = tokens, space.mutate(tokens, rng)
    space.validate(tokens)
    assert tokens != before
  wrong = (0, 0, *tokens[2:])
  with pytest.raises(errors.UserError, match="cannot be 0"):
    space.validate(wrong)


def test_edges():
  edges = landscapes.Edges(seed=3)
  space = edges.space
  assert len(space) == 160 and len(edges.right) == 48
  assert landscapes.Edges(seed=4).right != edges.right
  best = tuple(int(i in edges.right) for i in range(160))
  assert edges(space, best)["accuracy"] == 1
  # All edges: precision 48 / 160, recall 1.
  everything = [edges(space, (1,) * 160, seed) for seed in range(50)]
  assert everything[0]["accuracy"] == pytest.approx(2 * 0.3 / 1.3)
  weights = np.array([list(values["edges"].values()) for values in everything])
  right = np.isin(np.arange(160), list(edges.right))
  # 2,400 and 5,600 draws, hardly clipped: standard errors below .004.
  assert weights[:, right].mean() == pytest.approx(0.75, abs=0.015)
  assert weights[:, ~right].mean() == pytest.approx(0.35, abs=0.015)
  assert edges(space, (0,) * 160) == {"accuracy": 0, "edges": {}}


def test_by_name():
  assert landscapes.create("match", noise=0.1) == landscapes.Match(noise=0.1)
  with pytest.raises(errors.UserError, match="mach.*Nearest: 'match'"):
    landscapes.create("mach")
  with pytest.raises(errors.UserError, match="noisy.*Nearest: 'noise'"):
    landscapes.create("match", noisy=1)
