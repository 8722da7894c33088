"""Several trainings of one network as one program: members that differ in seed or learning rate.

For what shapes allow: the noise of a proxy, several seeds of one candidate, a learning rate.
Networks that differ are better trained by `shared.py`: under `vmap` a choice between operations
computes all of them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from effnets import data, errors, training
from effnets.training import optimizers, state, step


@dataclasses.dataclass(frozen=True)
class Member:
  """One training. seed: of data order, noise and initial weights. rate: times the learning rate."""

  seed: int
  rate: float = 1.0


def _scaled() -> optax.GradientTransformation:
  """Returns what multiplies updates by a number that is part of the state.

  Updates of all optimizers here are proportional to the learning rate.
  """

  def update(updates, rate, params=None):
    del params
    return jax.tree.map(lambda u: u * rate, updates), rate

  return optax.GradientTransformation(lambda params: jnp.ones(()), update)


def train(
  config: Any, members: Sequence[Member], *, device: jax.Device | None = None
) -> list[dict[str, float]]:
  """Returns the figures of every member on the validation split, in their order.

  Augmentations that choose one of several operations compute all of them here.

  Raises: UserError for no member, or a config that cannot be trained.
  """
  if not members:
    raise errors.UserError("a population needs at least one member.")
  device = device or jax.local_devices()[0]
  readies = [training.prepare(_seeded(config, m.seed), devices=[device]) for m in members]
  first = readies[0]
  optimizer = optax.chain(first.optimizer, _scaled())
  update = step.create(
    first.task,
    optimizer,
    first.placement,
    batch_size=first.examples.batch_size,
    schedule=first.schedule,
    accumulate=config.accumulate,
    coupled_weight_decay=optimizers.coupled_weight_decay(config.optimizer),
    decays=optimizers.decay_rule(config.optimizer),
    ema_decay=config.ema.decay,
  )
  states = []
  for member in members:
    variables = first.task.init(member.seed)
    average = config.ema.decay > 0
    made = state.create(variables, optimizer, seed=member.seed, average=average)
    states.append(made.replace(opt=(made.opt[0], jnp.float32(member.rate))))
  current = jax.device_put(_stacked(states), device)
  together = jax.jit(jax.vmap(update, in_axes=(0, None, 0)), donate_argnums=0)
  streams = [_batches(config, ready) for ready in readies]
  try:
    for _ in range(first.total_steps):
      batch = _stacked([next(stream) for stream in streams])
      current, _ = together(current, (), jax.device_put(batch, device))
  finally:
    for stream in streams:
      stream.close()
  return _figures(config, first, current, len(members))


def _seeded(config: Any, seed: int) -> ml_collections.ConfigDict:
  made = ml_collections.ConfigDict(config.to_dict())
  made.seed = seed
  return made.lock()


def _stacked(trees: Sequence[Any]) -> Any:
  return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def _batches(config: Any, ready: Any) -> Any:
  return data.train_batches(
    ready.examples.stream,
    ready.examples.batch_size,
    workers=config.data.workers,
    threads=config.data.threads,
  )


def _figures(config: Any, ready: Any, current: Any, count: int) -> list[dict[str, float]]:
  source = ready.splits[config.data.split.validation]
  host = data.eval_batches(
    source,
    config.eval_batch_size,
    transform=training.inputs.evaluation_transform(config, source),
    workers=config.data.workers,
    threads=config.data.threads,
  )
  predict = jax.jit(jax.vmap(ready.task.predict, in_axes=(0, None)))
  outputs, examples = [], []
  try:
    for batch in host:
      found = jax.device_get(predict(current.evaluated(), batch))
      outputs.append({name: x[:, batch["mask"]] for name, x in found.items()})
      names = [name for name in batch if name not in ("image", "mask")]
      examples.append({name: batch[name][batch["mask"]] for name in names})
  finally:
    host.close()
  whole = {name: np.concatenate([o[name] for o in outputs], 1) for name in outputs[0]}
  about = {name: np.concatenate([e[name] for e in examples]) for name in examples[0]}
  return [
    ready.task.evaluate({name: x[i] for name, x in whole.items()}, about, source)
    for i in range(count)
  ]
