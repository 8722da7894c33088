"""The one training loop: every task of every paper goes through `train`.

Data flows one way: source -> example -> batch on the mesh -> augment -> model -> loss -> gradient
-> state. What differs between papers is the task and the config.
"""

import collections
import dataclasses
import pathlib
import signal
import time
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from effnets import configuration, data, errors, parallel, streams, tasks
from effnets.training import (
  checkpoints,
  evaluator,
  events,
  inputs,
  optimizers,
  progress,
  schedules,
  state,
  step,
  writers,
)

# Steps the host may run ahead of the device: enough to keep it busy, few enough to bound memory.
_RUN_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Result:
  """What a finished training gives.

  figures: split name -> figures of the last state. best: the best checkpoint's validation figure.
  steps: updates done. seconds: of this call. variables: those that evaluation uses, on the mesh.
  """

  figures: dict[str, dict[str, float]]
  steps: int
  seconds: float
  variables: PyTree


class Stopped(Exception):
  """The run was asked to stop, saved its state and can be resumed by the same command."""


def train(
  config: Any,
  workdir: str | pathlib.Path,
  *,
  name: str = "training",
  frozen: PyTree = (),
  initial: PyTree | None = None,
) -> Result:
  """Trains `config` in `workdir`, resuming by itself, and returns the final figures.

  Args:
    config: as `configuration.base()`. workdir: holds checkpoints, metrics and events.
    name: what the progress line calls the run.
    frozen: arrays the task needs beside its variables, whole and equal in every process.
    initial: variables to start from instead of fresh ones, as host arrays or on any mesh.

  Raises:
    UserError for a mistake that can be known before compiling, or a loss that is not finite.
    Stopped after SIGTERM.
  """
  # 1. Set-up and logging.
  started = time.perf_counter()
  main_process = jax.process_index() == 0
  workdir = pathlib.Path(workdir)
  if main_process:
    configuration.claim_workdir(workdir, config)
  log = events.Events(workdir)

  # 2. Mesh.
  placement = inputs.placement(config)

  # 3. Input.
  examples = inputs.training(config)
  batch_size = examples.batch_size
  inputs.check_batches(config, placement, batch_size)
  validation = inputs.evaluation(config, config.data.validation_split)
  total_steps = schedules.total_steps(config.train, examples.steps_per_epoch)

  # 4. Model and optimizer, as shapes.
  task = tasks.create(
    config,
    placement,
    num_classes=examples.num_classes,
    step_batch=batch_size // config.accumulate,
  )
  schedule = schedules.create(
    config.schedule,
    total_steps=total_steps,
    steps_per_epoch=examples.steps_per_epoch,
    batch_size=config.batch_size,
  )
  abstract_variables = task.abstract()
  optimizer = optimizers.create(
    config.optimizer,
    schedule,
    params=abstract_variables["params"],
    frozen=inputs.frozen_paths(config, abstract_variables["params"]),
  )
  average = config.ema.decay > 0

  # 5. Shard and initialise.
  abstract = state.create(abstract_variables, optimizer, seed=config.seed, average=average)
  shardings = placement.state(abstract)
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
  )
  frozen = placement.put(frozen, placement.state(frozen))

  # 6. Update step.
  update = step.create(
    task,
    optimizer,
    placement,
    batch_size=batch_size,
    accumulate=config.accumulate,
    ema_decay=config.ema.decay,
  )
  with log.timed("compile", program="update"):
    compiled = step.compile_update(
      update, placement, abstract, frozen, examples.abstract_batch(placement)
    )

  # 7. Restore: own workdir, then given variables, then from scratch.
  saver = checkpoints.Checkpoints(
    workdir / "checkpoints",
    keep=config.checkpoint.keep,
    best_metric=config.checkpoint.best_metric,
    best_mode=config.checkpoint.best_mode,
  )
  if saver.latest() is None:
    variables = task.init(config.seed) if initial is None else jax.device_get(initial)
    fresh = state.create(variables, optimizer, seed=config.seed, average=average)
    current, first = placement.put(fresh, shardings), 0
    logging.info("%s starts from %s.", name, "fresh" if initial is None else "given variables")
  else:
    with log.timed("restore"):
      current, first, _ = saver.restore(abstract)
    log.add("restart", 0.0, step=first)
    logging.info("%s resumes at step %d of %d.", name, first, total_steps)
  start = state.position(current)

  # 8. Evaluators.
  predictor = evaluator.Predictor(task, placement, batch_size=config.eval_batch_size)

  def evaluate(split: str, source: data.Source) -> dict[str, float]:
    with log.timed("evaluate", split=split):
      return predictor.evaluate(current.evaluated(), source, inputs.evaluation_transform(config))

  # 9. Loop.
  writer = writers.Writer(workdir, tensorboard=config.tensorboard) if main_process else None
  if writer is not None:
    writer.truncate_after(first)
  every = {
    "evaluate": schedules.steps(config.evaluation, "every", total_steps, examples.steps_per_epoch),
    "save": schedules.steps(config.checkpoint, "every", total_steps, examples.steps_per_epoch),
    "log": config.log_every_steps,
  }
  pending: collections.deque = collections.deque()
  window: list[dict[str, Any]] = []
  latest: dict[str, float] = {}
  host = data.train_batches(
    examples.stream,
    batch_size,
    start=start,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    workers=config.data.workers,
    threads=config.data.threads,
  )
  stop = _StopSignal()
  with (
    stop,
    data.place(host, placement.mesh) as batches,
    progress.Progress(total_steps, name, initial=first) as bar,
    jax.transfer_guard("disallow"),
  ):
    now = first
    window_start, window_wait = time.perf_counter(), batches.waited

    def check_finite(limit: int) -> None:
      while len(pending) > limit:
        number, healthy = pending.popleft()
        if not jax.device_get(healthy):
          accident = accidents.describe(step.gradients(task, placement), current, frozen, batch)
          raise errors.UserError(accidents.keep(workdir, saver, current, accident))

    def save(figures: dict[str, float] | None = None) -> None:
      check_finite(0)
      with log.timed("checkpoint", step=now):
        saver.save(now, current, metrics=figures)

    while now < total_steps:
      if stop.requested(now):
        save()
        saver.close()
        raise Stopped(f"{name} stopped at step {now} of {total_steps}; the same command resumes.")
      batch = next(batches)
      current, metrics = compiled(current, frozen, batch)
      now += 1
      window.append(metrics)
      pending.append((now, metrics["finite"][0]))
      check_finite(_RUN_AHEAD)

      last = now == total_steps
      if now % every["log"] == 0 or last:
        check_finite(0)
        seconds = time.perf_counter() - window_start
        waited = batches.waited - window_wait
        latest = {f"train/{k}": v for k, v in _means(jax.device_get(window)).items()}
        latest["images_per_second"] = len(window) * batch_size / seconds
        latest["input_wait"] = waited / seconds
        log.add("step", seconds - waited, steps=len(window))
        log.add("input_wait", waited)
        if writer is not None:
          writer.scalars(now, latest)
        bar.update(now, examples=len(window) * batch_size, waited=waited, **_shown(latest))
        window = []
        window_start, window_wait = time.perf_counter(), batches.waited
      figures = None
      if now % every["evaluate"] == 0 or last:
        check_finite(0)
        figures = evaluate(config.data.validation_split, validation)
        if writer is not None:
          writer.scalars(now, {f"validation/{k}": v for k, v in figures.items()})
      if now % every["save"] == 0 or last:
        save(figures)
      if figures is not None or now % every["save"] == 0:
        window_start, window_wait = time.perf_counter(), batches.waited

  # 10. Shut-down.
  figures = {}
  for split in dict.fromkeys((config.data.validation_split, config.data.test_split)):
    source = inputs.evaluation(config, split)
    figures[split] = evaluate(split, source)
  if writer is not None:
    writer.scalars(now, {f"{s}/{k}": v for s in figures for k, v in figures[s].items()})
    writer.close()
  saver.close()
  return Result(figures, now, time.perf_counter() - started, current.evaluated())
