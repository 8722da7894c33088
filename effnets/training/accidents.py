"""What a run says and keeps when its loss stops being finite."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from effnets import parallel
from effnets.training import state


def first_non_finite(
  gradient: Callable[..., Any], current: state.TrainState, frozen: PyTree, batch: PyTree
) -> str:
  """Returns the name of the first tensor that is not finite, in the order a step makes them.

  Looks at the weights, then computes the step's loss, batch moments and gradients once more.
  """
  _, grads, model_state, metrics = jax.jit(gradient)(
    current.params, current.model_state, frozen, batch, current.seed, current.step
  )
  for kind, tree in (
    ("weight", current.params),
    ("batch moment", model_state),
    ("metric", metrics),
    ("gradient", grads),
  ):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      if np.issubdtype(leaf.dtype, np.floating) and not np.isfinite(jax.device_get(leaf)).all():
        return f"the {kind} {parallel.path_name(path)}"
  return "none when computed once more"


def keep_batch(workdir: pathlib.Path, examples: list[dict[str, Any]]) -> pathlib.Path:
  """Writes the examples of a batch to `non_finite_batch.npz` and returns its path."""
  path = workdir / "non_finite_batch.npz"
  np.savez_compressed(path, **{k: np.stack([e[k] for e in examples]) for k in examples[0]})
  return path
