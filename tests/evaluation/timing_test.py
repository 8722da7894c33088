"""Medians of interleaved calls, with a clock of our own."""

import itertools

from effnets.evaluation import timing


def test_calls_take_turns_and_medians_are_theirs():
  order, now = [], itertools.count()
  spent = {"a": iter([1, 2, 9]), "b": iter([5, 5, 50])}
  clock_value = [0.0]

  def call(name):
    def run():
      order.append(name)
      if len(order) > 2:  # the first call of each is not timed
        clock_value[0] += next(spent[name])

    return run

  def clock():
    next(now)
    return clock_value[0]

  medians = timing.interleaved({n: call(n) for n in "ab"}, rounds=3, clock=clock)
  assert order == ["a", "b"] * 4
  assert medians == {"a": 2.0, "b": 5.0}
  assert next(now) == 12  # two readings for each timed call, none for the warm-up
