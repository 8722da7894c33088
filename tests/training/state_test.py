"""The state as one pytree."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from effnets import streams
from effnets.training import optimizers, state
from tests.training import tiny

VARIABLES = {
  "params": {"dense": {"kernel": np.ones((4, 2), np.float32), "bias": np.zeros(2, np.float32)}},
  "batch_stats": {"norm": {"mean": np.zeros(2, np.float32)}},
}
OPTIMIZER = optimizers.create({"name": "rmsprop"}, optax.constant_schedule(0.1))


@pytest.mark.parametrize("average", [True, False])
def test_shapes_are_those_of_the_arrays(average):
  shapes = jax.eval_shape(lambda: VARIABLES)
  abstract = state.create(shapes, OPTIMIZER, seed=3, average=average)
  concrete = state.create(VARIABLES, OPTIMIZER, seed=3, average=average)
  assert jax.tree.structure(abstract) == jax.tree.structure(concrete)
  for a, c in zip(jax.tree.leaves(abstract), jax.tree.leaves(concrete), strict=True):
    assert (a.shape, a.dtype) == (np.shape(c), np.asarray(c).dtype)
  assert int(concrete.seed) == 3 and bool(concrete.healthy) and state.position(concrete) == 0
  assert set(concrete.model_state) == {"batch_stats"}


def test_evaluation_uses_the_average_where_there_is_one():
  plain = state.create(VARIABLES, OPTIMIZER, seed=0, average=False)
  tiny.assert_same_bits(plain.evaluated(), VARIABLES)
  averaged = state.create(VARIABLES, OPTIMIZER, seed=0, average=True)
  moved = averaged.replace(params=jax.tree.map(lambda x: x + 1, averaged.params))
  tiny.assert_same_bits(moved.evaluated(), VARIABLES)
  assert moved.variables()["params"]["dense"]["kernel"][0, 0] == 2


@pytest.mark.parametrize("keep", [True, False])
def test_an_accident_leaves_everything_but_the_mark(keep):
  old = state.create(VARIABLES, OPTIMIZER, seed=0, average=True)
  new = jax.tree.map(lambda x: x + jnp.asarray(1, x.dtype) if x.dtype != bool else x, old)
  chosen = state.select(jnp.asarray(keep), new, old)
  assert bool(chosen.healthy) == keep
  tiny.assert_same_bits(chosen.replace(healthy=old.healthy), new if keep else old)


def test_positions_beyond_32_bits():
  position = streams.words(2**32 - 8)
  made = state.create(VARIABLES, OPTIMIZER, seed=0, average=False)
  made = made.replace(position=streams.advance(jnp.asarray(position), 16))
  assert state.position(made) == 2**32 + 8
