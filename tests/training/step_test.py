"""One update: its program, its accidents, what it freezes and what a setting of zero means."""

import functools
import types

import jax
import numpy as np
import pytest

from effnets.training import step as step_lib
from tests.training import tiny


@functools.cache
def trainer(execution="jit", devices=1, **model):
  """Returns a trainer on mesh `data=devices` with `model` settings."""
  config = tiny.get_config()
  config.execution = execution
  config.batch_size = 16 if 16 % devices == 0 else 4 * devices
  config.batch_norm.group = "local"
  config.schedule.warmup_percent = 0.0
  config.augment.randaugment.layers = 0
  config.model.update(model)
  return tiny.Trainer(config, {"data": devices}, min_size=2**16)


def test_the_state_is_donated_and_counts_steps_and_examples():
  made = trainer()
  first = made.fresh()
  second, metrics = made.update(first, (), made.batch(0))
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))
  assert int(second.step) == 1 and np.asarray(second.position).tolist() == [0, 16]
  assert {"loss", "cross_entropy", "top1", "gradient_norm", "learning_rate"} <= metrics.keys()
  np.testing.assert_allclose(metrics["learning_rate"][0], 0.01, rtol=1e-4)
  assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(metrics))


def test_the_program_compiled_ahead_is_that_of_the_function():
  made = trainer()
  batch = made.batch(0)
  ahead, ahead_metrics = made.update(made.fresh(), (), batch)
  jitted = jax.jit(
    made.step,
    donate_argnums=0,
    out_shardings=(
      jax.tree.map(lambda x: x.sharding, made.abstract),
      made.placement.replicated,
    ),
  )
  called, called_metrics = jitted(made.fresh(), (), batch)
  tiny.assert_same_bits(ahead, called)
  tiny.assert_same_bits(ahead_metrics, called_metrics)


def test_equal_runs_are_equal_bit_for_bit_and_other_seeds_are_not():
  made = trainer()
  once, _ = made.run(2)
  again, _ = made.run(2)
  tiny.assert_same_bits(once, again)
  batch = made.batch(0)
  other = made.fresh().replace(seed=made.placement.put(np.uint32(9), made.placement.replicated))
  (_, mine), (_, theirs) = made.update(made.fresh(), (), batch), made.update(other, (), batch)
  assert float(mine["loss"][0]) != float(theirs["loss"][0])  # other noise on the same batch


@pytest.mark.parametrize("poison", ["loss", "weight"])
def test_an_accident_changes_nothing_and_stops_all_that_follows(poison):
  made = trainer()
  good = made.batch(0)
  current, _ = made.update(made.fresh(), (), good)
  bad = dict(made.batch(1))
  if poison == "loss":
    bad["weight"] = bad["weight"].at[5].set(np.nan)
  else:
    kernel = current.params["classifier"]["kernel"]
    current.params["classifier"]["kernel"] = kernel.at[0, 0].set(np.inf)
  before = jax.tree.map(np.array, jax.device_get(current))
  for batch in (bad, good):  # the step that fails, and one the host had already started
    current, metrics = made.update(current, (), batch)
    assert float(metrics["healthy"][0]) == 0
    assert not bool(current.healthy)
    tiny.assert_same_bits(current.replace(healthy=before.healthy), before)


def test_averages_follow_the_weights():
  made = trainer()
  current, _ = made.update(made.fresh(), (), made.batch(0))
  start = tiny.leaves(made.initial.ema)
  new = tiny.leaves(current.variables())
  for name, leaf in tiny.leaves(current.ema).items():
    # The first update's decay is min(0.9, (1 + 0) / (10 + 0)).
    expected = 0.1 * start[name].astype(np.float64) + 0.9 * new[name]
    np.testing.assert_allclose(leaf, expected, rtol=1e-6, atol=1e-7, err_msg=name)


# Noisy Student sheet, check 12. Six devices: a mean over them of equal numbers is not always equal.
@pytest.mark.parametrize(
  ("execution", "devices", "blocks", "frozen"),
  [
    ("shard_map", 6, 1, ("stem", "block_0")),
    ("jit", 8, 1, ("stem", "block_0")),
    ("jit", 8, -1, ("stem", "block_0", "block_1", "head")),  # a linear probe
  ],
)
@pytest.mark.slow
def test_frozen_blocks_stay_bit_for_bit(execution, devices, blocks, frozen):
  made = trainer(execution, devices, frozen_blocks=blocks)
  current, _ = made.run(2)
  for tree, first in (
    (current.params, made.initial.params),
    (current.model_state["batch_stats"], made.initial.model_state["batch_stats"]),
    (current.ema["params"], made.initial.ema["params"]),
    (current.ema["batch_stats"], made.initial.ema["batch_stats"]),
  ):
    for name in tree:
      if name in frozen:
        tiny.assert_same_bits(tree[name], first[name])
      elif name != "classifier":
        changed = [not np.array_equal(a, b) for a, b in _pairs(tree[name], first[name])]
        assert all(changed), name
  assert all(leaf.size for leaf in jax.tree.leaves(current.opt))


def _pairs(tree, other):
  return zip(tiny.leaves(tree).values(), tiny.leaves(other).values(), strict=True)


# Noisy Student sheet, check 13.
def test_no_unlabelled_examples_is_the_supervised_recipe_bit_for_bit():
  programs = []

  def lowered(*args):
    programs.append(real(*args).as_text())
    return types.SimpleNamespace(compile=lambda: None)

  real, step_lib.lower_update = step_lib.lower_update, lowered
  try:
    batches = []
    for unlabelled in ({}, {"source": "soft", "ratio": 0.0, "weight": 7.0}):
      config = tiny.get_config()
      config.data.unlabelled.update(unlabelled)
      made = tiny.Trainer(config, {"data": 1}, sources={"soft": tiny.Soft()})
      batches.append(made.batch(3))
  finally:
    step_lib.lower_update = real
  # The same program on the same batches from the same state.
  assert programs[0] == programs[1]
  tiny.assert_same_bits(*batches)
