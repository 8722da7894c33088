"""Everything a run needs to continue, as one pytree."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int32, PyTree, UInt32

from effnets import streams


@flax.struct.dataclass
class TrainState:
  """All fields are saved and restored together; what is not in it does not exist.

  step: updates applied so far.   seed: root of every random stream.
  position: examples drawn from the training stream, as (high, low) words.
  healthy: False once a loss or gradient was not finite; from then on updates change nothing, so
    that the state just before the accident is still there when the host notices.
  params: weights, float32.   model_state: batch-norm moments, float32.
  ema: averaged params and moments, or None.   opt: optimizer state.
  """

  step: Int32[Array, ""]
  seed: UInt32[Array, ""]
  position: UInt32[Array, "2"]
  healthy: Bool[Array, ""]
  params: PyTree
  model_state: PyTree
  ema: PyTree
  opt: PyTree

  def variables(self) -> dict[str, Any]:
    """Returns the trained variables as the model takes them."""
    return {"params": self.params, **self.model_state}

  def evaluated(self) -> dict[str, Any]:
    """Returns the variables that evaluation uses: the averaged ones where there are any."""
    return self.variables() if self.ema is None else self.ema


def create(
  variables: dict[str, Any], optimizer: optax.GradientTransformation, *, seed: int, average: bool
) -> TrainState:
  """Returns the state at step 0 over host arrays.

  Args:
    variables: `params` and model-state collections. seed: below 2**32.
    average: keep an exponential moving average of all variables.
  """
  model_state = {name: tree for name, tree in variables.items() if name != "params"}
  opt = jax.eval_shape(optimizer.init, variables["params"])
  concrete = all(isinstance(x, (np.ndarray, jax.Array)) for x in jax.tree.leaves(variables))
  if concrete:
    opt = jax.jit(optimizer.init)(variables["params"])
  scalar = np.zeros if concrete else jax.ShapeDtypeStruct
  return TrainState(
    step=scalar((), np.int32),
    seed=np.uint32(seed) if concrete else scalar((), np.uint32),
    position=scalar((2,), np.uint32),
    healthy=np.ones((), bool) if concrete else scalar((), bool),
    params=variables["params"],
    model_state=model_state,
    ema=variables if average else None,
    opt=opt,
  )


def select(keep: Bool[Array, ""], new: TrainState, old: TrainState) -> TrainState:
  """Returns `new` where `keep`, else `old` marked unhealthy."""
  state = jax.tree.map(lambda n, o: jnp.where(keep, n, o), new, old)
  return state.replace(healthy=keep)


def position(state: TrainState) -> int:
  """Returns the number of examples drawn, as a Python integer."""
  return streams.integer(jax.device_get(state.position))


def placed(abstract: PyTree, shardings: PyTree) -> PyTree:
  """Returns shapes that know where they live, as compiling and restoring take them."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
  )
