"""Which tensor is named when a loss is not finite."""

import jax
import numpy as np
import optax
import pytest

from effnets import parallel
from effnets.training import accidents, optimizers, state

KERNEL = np.ones((8, 4), np.float32)


@pytest.mark.parametrize(
  ("place", "expected"),
  [
    ("weight", "the weight dense/kernel"),
    ("moment", "the batch moment batch_stats/norm/mean"),
    ("metric", "the metric cross_entropy/0"),
    ("gradient", "the gradient dense/kernel"),
    ("nowhere", "none when computed once more"),
  ],
)
def test_the_first_that_a_step_makes_is_named(place, expected):
  def gradient(params, model_state, frozen, batch, seed, step):
    bad = {name: np.nan if name == place else 0.0 for name in ("moment", "metric", "gradient")}
    grads = jax.tree.map(lambda x: x + bad["gradient"] + bad["metric"], params)
    moved = jax.tree.map(lambda x: x + bad["moment"], model_state)
    return 0.0, grads, moved, {"cross_entropy": (batch["x"].sum() + bad["metric"], np.float32(1))}

  # Sharded weights: each device can judge only its part.
  placement = parallel.create({"data": 1, "fsdp": 8}, min_size=1)
  kernel = KERNEL.copy()
  if place == "weight":
    kernel[7, 3] = np.inf
  variables = {
    "params": {"dense": {"kernel": kernel}},
    "batch_stats": {"norm": {"mean": np.zeros(4, np.float32)}},
  }
  optimizer = optimizers.create({"name": "sgd"}, optax.constant_schedule(0.1))
  host = state.create(variables, optimizer, seed=0, average=False)
  current = placement.put(host, placement.state(host))
  assert not current.params["dense"]["kernel"].sharding.is_fully_replicated
  batch = {"x": jax.device_put(np.ones(8, np.float32), placement.batch)}
  found = accidents.first_non_finite(gradient, current, (), batch, placement.replicated)
  assert found == expected
