"""One update, from batch to gradient to state: the same function on every mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree

from effnets import parallel, streams
from effnets.tasks import base
from effnets.training import averaging, optimizers, state

Batch = dict[str, Array]
Update = Callable[
  [state.TrainState, PyTree, Batch], tuple[state.TrainState, dict[str, tuple[Array, Array]]]
]


def create(
  task: base.Task,
  optimizer: optax.GradientTransformation,
  placement: parallel.Placement,
  *,
  batch_size: int,
  schedule: optax.Schedule,
  accumulate: int = 1,
  coupled_weight_decay: float = 0.0,
  decays: optimizers.Rule = optimizers.decayed,
  ema_decay: float = 0.0,
) -> Update:
  """Returns `update(state, frozen, batch) -> (state, metrics)`; not yet compiled.

  Args:
    task: loss and model. optimizer: includes weight decay and clipping.
    batch_size: global examples of a step; the position advances by it.
    schedule: step -> learning rate; only to report it.
    accumulate: the batch is worked off in this many equal parts, one after the other, each from
      the same moments; gradients and moments' moves are averaged, as if it had been one part.
    coupled_weight_decay: factor of 0.5 * |v|^2 over decayed weights, added to the loss that is
      differentiated; the loss that is reported is without it.
    decays: path -> whether the weight there decays.
    ema_decay: of the averaged variables, if the state has any.

  `metrics` are (sum, count) pairs over the whole batch. A loss or gradient that is not finite
  leaves the state as it was, `healthy` set to False.
  """
  gradient = gradients(task, placement, accumulate=accumulate)

  def update(old: state.TrainState, frozen: PyTree, batch: Batch):
    loss, grads, model_state, metrics = gradient(
      placement.gather(old.params), old.model_state, frozen, batch, old.seed, old.step
    )
    if coupled_weight_decay:
      grads = optimizers.add_coupled_decay(grads, old.params, coupled_weight_decay, rule=decays)
    norm = optax.tree.norm(grads)
    updates, opt = optimizer.update(grads, old.opt, old.params)
    params = optax.apply_updates(old.params, updates)
    ema = old.ema
    if ema is not None:
      ema = averaging.update(ema, {"params": params, **model_state}, old.step, decay=ema_decay)
    new = old.replace(
      step=old.step + 1,
      position=streams.advance(old.position, batch_size),
      params=params,
      model_state=model_state,
      ema=ema,
      opt=opt,
    )
    healthy = old.healthy & jnp.isfinite(loss) & jnp.isfinite(norm)
    once = {
      "loss": loss,
      "gradient_norm": norm,
      "learning_rate": schedule(old.step),
      "healthy": healthy,
    }
    metrics |= {name: (jnp.float32(value), jnp.float32(1)) for name, value in once.items()}
    return state.select(healthy, new, old), metrics

  return update


def gradients(
  task: base.Task, placement: parallel.Placement, *, accumulate: int = 1
) -> Callable[..., tuple[Array, PyTree, PyTree, dict[str, tuple[Array, Array]]]]:
  """Returns f(params, model_state, frozen, batch, seed, step) -> loss, grads, state, metrics."""

  def part(params, model_state, frozen, batch, root, step):
    def loss_fn(params):
      return task.loss({"params": params, **model_state}, frozen, batch, root, step)

    (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    return loss, grads, aux.model_state, aux.metrics

  def whole(params, model_state, frozen, batch, seed, step):
    root = jax.random.key(seed)
    if accumulate == 1:
      return part(params, model_state, frozen, batch, root, step)
    shards = 1 if placement.execution == "shard_map" else placement.batch_shards

    def body(sums, micro):
      micro = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), micro)
      loss, grads, moved, metrics = part(params, model_state, frozen, micro, root, step)
      new = loss, grads, jax.tree.map(jnp.subtract, moved, model_state), metrics
      return jax.tree.map(jnp.add, sums, new), None

    # Every device works off its own part of the batch: (shards, parts, rest) -> parts first.
    micro = jax.tree.map(
      lambda x: x.reshape(shards, accumulate, -1, *x.shape[1:]).swapaxes(0, 1), batch
    )
    first = jax.tree.map(lambda x: x[0].reshape(-1, *x.shape[3:]), micro)
    shapes = jax.eval_shape(part, params, model_state, frozen, first, root, step)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (*sums, metrics), _ = jax.lax.scan(body, zeros, micro)
    loss, grads, moves = jax.tree.map(lambda x: x / accumulate, sums)
    return loss, grads, jax.tree.map(jnp.add, model_state, moves), metrics

  if placement.execution == "jit":
    return whole

  def local(params, model_state, *args):
    loss, grads, moved, metrics = whole(params, model_state, *args)
    # The one reduction of the step; equal parts of the batch make the mean of means the mean. The
    # mean of the moments' moves, so that frozen moments stay equal bit for bit.
    moves = jax.tree.map(jnp.subtract, moved, model_state)
    loss, grads, moves = jax.lax.pmean((loss, grads, moves), parallel.BATCH_AXES)
    model_state = jax.tree.map(jnp.add, model_state, moves)
    return loss, grads, model_state, jax.lax.psum(metrics, parallel.BATCH_AXES)

  specs = (P(), P(), P(), P(parallel.BATCH_AXES), P(), P())
  return placement.per_device(local, specs, P())


def lower_update(
  update: Update,
  placement: parallel.Placement,
  abstract: state.TrainState,
  frozen: PyTree,
  batch: Any,
) -> jax.stages.Lowered:
  """Returns the update, traced; the state is donated and keeps its placement.

  Args:
    abstract: the state's shapes with shardings. frozen, batch: arrays or shapes with shardings.
  """
  shardings = jax.tree.map(lambda x: x.sharding, abstract)
  jitted = jax.jit(update, donate_argnums=0, out_shardings=(shardings, placement.replicated))
  return jitted.lower(abstract, frozen, batch)
