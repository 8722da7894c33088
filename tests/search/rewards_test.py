"""Rewards against figures worked out apart from the code, fronts against hand and brute force."""

import itertools

import numpy as np
import pytest

from effnets import errors
from effnets.search import rewards

# accuracy, cost, target: soft, hard, soft -.15, soft -.3, absolute.
FIGURES = (
  (0.5, 40, 80, 0.524858, 0.5, 0.554785, 0.615572, 0.45),
  (0.5, 160, 80, 0.476319, 0.25, 0.450625, 0.406126, 0.4),
  (0.752, 78, 75, 0.749938, 0.723077, None, None, 0.748),
)
MNAS = np.array([(75.2, 78), (74.5, 77), (72, 75), (76.7, 103), (75.6, 84)]) * (1, -1)


@pytest.mark.parametrize("accuracy, cost, target, soft, hard, w15, w30, absolute", FIGURES)
def test_forms(accuracy, cost, target, soft, hard, w15, w30, absolute):
  near = lambda value: pytest.approx(value, abs=6e-7)  # noqa: E731
  assert rewards.soft(accuracy, cost, target) == near(soft)
  assert rewards.hard(accuracy, cost, target) == near(hard)
  assert rewards.absolute(accuracy, cost, target) == near(absolute)
  if w15 is not None:
    assert rewards.soft(accuracy, cost, target, -0.15) == near(w15)
    assert rewards.soft(accuracy, cost, target, -0.3) == near(w30)


def test_all_forms_are_the_accuracy_at_the_target():
  assert {form(0.7, 75.0, 75.0) for form in rewards.FORMS.values()} == {0.7}
  assert -np.log2(1.05) == pytest.approx(-0.0703893279, abs=1e-10)


def test_exponents_of_either_side():
  # Nothing below the target and -1 above it is the hard form.
  for cost in (40.0, 80.0, 160.0):
    assert rewards.soft(0.5, cost, 80, 0, -1) == pytest.approx(rewards.hard(0.5, cost, 80))
  assert rewards.two_sided(0.5, 40, 80) == pytest.approx(0.476319, abs=6e-7)


def test_the_target_is_inert_in_the_soft_form_only():
  rng = np.random.default_rng(0)
  same = {name: 0 for name in rewards.FORMS}
  for _ in range(50):
    nets = np.stack([rng.uniform(0.3, 0.8, 30), rng.uniform(1, 1000, 30)], 1)
    for name, form in rewards.FORMS.items():
      best = [np.argmax([form(a, c, t) for a, c in nets]) for t in (1.0, 1000.0)]
      same[name] += best[0] == best[1]
  assert same["soft"] == 50
  assert same["hard"] < 40 and same["absolute"] < 40 and same["two_sided"] < 40


def test_distilled_accuracy():
  """The same forms on the accuracy after training with a teacher."""
  for accuracy, cost, target, expected in (
    (0.665, 15.8, 15, 0.662586),
    (0.612, 14, 15, 0.614963),
    (0.755, 75, 75, 0.755),
  ):
    reward = rewards.Reward("soft", {"latency": target}, accuracy="kd_accuracy")
    values = {"accuracy": 0.1, "kd_accuracy": accuracy, "latency": cost}
    assert reward(values) == pytest.approx(expected, abs=6e-7)


def test_several_costs():
  values = {"accuracy": 0.6, "latency": 100.0, "memory": 4.0}
  targets = {"latency": 50.0, "memory": 2.0}
  assert rewards.Reward("hard", targets)(values) == pytest.approx(0.15)
  twice = rewards.Reward("absolute", targets, settings={"slope": -0.2})
  assert twice(values) == pytest.approx(0.2)
  assert rewards.Reward()(values) == 0.6


def test_clips_and_refuses():
  reward = rewards.Reward("absolute", {"latency": 1.0}, settings={"slope": -1.0})
  assert reward({"accuracy": 0.5, "latency": 9.0}) == 0.001
  assert rewards.Reward()({"accuracy": 99.0}) == 10.0
  for bad in (float("nan"), float("inf"), -float("inf")):
    with pytest.raises(ValueError, match="failed"):
      reward({"accuracy": bad, "latency": 1.0})
    with pytest.raises(ValueError, match="failed"):
      reward({"accuracy": 0.5, "latency": bad})


def test_bad_settings():
  with pytest.raises(errors.UserError, match="hardd.*Nearest: 'hard'"):
    rewards.Reward("hardd")
  with pytest.raises(errors.UserError, match="slope.*is not a setting of 'soft'"):
    rewards.Reward("soft", settings={"slope": 1})
  with pytest.raises(errors.UserError, match="latency=0 has to be above 0"):
    rewards.Reward("soft", {"latency": 0})
  with pytest.raises(errors.UserError, match="latencies.*Nearest: 'latency'"):
    rewards.Reward("soft", {"latencies": 5})({"accuracy": 0.5, "latency": 3})
  with pytest.raises(errors.UserError, match="above 0"):
    rewards.Reward("soft", {"latency": 5})({"accuracy": 0.5, "latency": 0})


def test_front_and_hypervolume():
  assert rewards.pareto_front(MNAS) == [0, 1, 2, 3, 4]
  assert rewards.hypervolume(MNAS, (70, -110)) == pytest.approx(193.0)
  worse = np.concatenate([MNAS, [(74.0, -90.0), (60.0, -200.0)]])
  assert rewards.pareto_front(worse) == [0, 1, 2, 3, 4]
  assert rewards.hypervolume(worse, (70, -110)) == pytest.approx(193.0)
  assert rewards.pareto_front(np.zeros((0, 2))) == []


def test_volume_of_three_objectives_by_counting_cells():
  rng = np.random.default_rng(1)
  points = rng.integers(0, 6, (8, 3))
  cells = sum(
    bool((points > np.array(cell)).all(1).any()) for cell in itertools.product(range(6), repeat=3)
  )
  assert rewards.hypervolume(points, (0, 0, 0)) == cells


def test_ranking():
  # Fronts: 0, 2, 3 (with 0 and 3 the ends); 1; 4.
  points = np.array([(5, 1), (2, 2), (4, 3), (1, 5), (1, 1)], float)
  assert rewards.ranks(points).tolist() == [0, 1, 0, 0, 2]
  assert rewards.crowding(points[[0, 2, 3]]).tolist() == [np.inf, 2.0, np.inf]
  assert rewards.ranking(points) == [0, 3, 2, 1, 4]
  # A point counts as often as it is there.
  assert rewards.ranks(np.array([(1, 1), (1, 1), (0, 0)])).tolist() == [0, 0, 1]
