"""What a run says and keeps when its loss stops being finite."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from effnets import errors, parallel
from effnets.training import inputs, state


def first_non_finite(
  gradient: Callable[..., Any],
  current: state.TrainState,
  frozen: PyTree,
  batch: PyTree,
  replicated: jax.sharding.Sharding,
) -> str:
  """Returns the name of the first tensor that is not finite, in the order a step makes them.

  Looks at the weights, then computes the step's loss, batch moments and gradients once more.
  """

  # Judged on the device: a sharded leaf cannot be fetched by one of several processes.
  def judge(params, model_state, *args):
    _, grads, moved, metrics = gradient(params, model_state, *args)
    kinds = {"weight": params, "batch moment": moved, "metric": metrics, "gradient": grads}
    return jax.tree.map(lambda x: jnp.isfinite(x).all(), kinds)

  verdicts = jax.jit(judge, out_shardings=replicated)(
    current.params, current.model_state, frozen, batch, current.seed, current.step
  )
  for kind in ("weight", "batch moment", "metric", "gradient"):
    for path, finite in jax.tree_util.tree_leaves_with_path(jax.device_get(verdicts[kind])):
      if not finite:
        return f"the {kind} {parallel.path_name(path)}"
  return "none when computed once more"


def non_finite(
  workdir: pathlib.Path,
  step: int,
  current: state.TrainState,
  examples: inputs.Training,
  gradient: Callable[..., Any],
  placement: parallel.Placement,
  frozen: PyTree,
) -> errors.UserError:
  """Returns the error of a loss or gradient that was not finite at `step`.

  Writes the examples of that step to `non_finite_batch.npz`. `current` is the state before it,
  since updates after the accident changed nothing.
  """
  start = state.position(current)
  batch = [examples.stream[start + i] for i in range(examples.batch_size)]
  host = {name: np.stack([example[name] for example in batch]) for name in batch[0]}
  if jax.process_index() == 0:
    np.savez_compressed(workdir / "non_finite_batch.npz", **host)
  with jax.transfer_guard("allow"):
    placed = placement.put(host, jax.tree.map(lambda _: placement.batch, host))
    name = first_non_finite(gradient, current, frozen, placed, placement.replicated)
  return errors.UserError(
    f"the loss or its gradient is not finite at step {step} (examples {start} to "
    f"{start + examples.batch_size - 1} of the stream); first tensor that is not: {name}. The "
    f"batch is in {workdir / 'non_finite_batch.npz'}, the last checkpoint is whole. Lower "
    "config.optimizer.learning_rate or set config.optimizer.clip_norm, in a new workdir."
  )
