"""The one training loop: every task of every paper goes through `train`.

Data flows one way: source -> example -> batch on the mesh -> augment -> model -> loss -> gradient
-> state. What differs between papers is the task and the config.
"""

import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
from absl import logging
from clu import parameter_overview
from jaxtyping import PyTree

from effnets import parallel, workdirs
from effnets.training import (
  accidents,
  assembly,
  checkpoints,
  evaluator,
  events,
  inputs,
  meters,
  profiling,
  progress,
  signals,
  start,
  state,
  step,
  teachers,
  writers,
)


@dataclasses.dataclass(frozen=True)
class Result:
  """What a finished training gives.

  figures: split name -> figures of the last state. steps: updates done in all.
  seconds: of this call. variables: those that evaluation uses, on the mesh.
  """

  figures: dict[str, dict[str, float]]
  steps: int
  seconds: float
  variables: PyTree


def train(
  config: Any,
  workdir: str | pathlib.Path,
  *,
  name: str = "training",
  sources: assembly.Sources = assembly.NO_SOURCES,
  frozen: PyTree = (),
  initial: PyTree | None = None,
  devices: Sequence[jax.Device] | None = None,
  programs: assembly.Programs | None = None,
) -> Result:
  """Trains `config` in `workdir`, resuming by itself, and returns the final figures.

  Args:
    config: as `configuration.base()`. workdir: holds checkpoints, metrics and events.
    name: what the progress line calls the run; empty for no such line.
    sources: see `assembly.prepare`.
    frozen: arrays the task needs beside its variables, whole and equal in every process; default:
      the teachers that the config names.
    initial: variables to start from instead of fresh ones, as host arrays or on any mesh.
    devices: of the mesh; default: all that are here.
    programs: of earlier trainings that are the same program, see there; default: compiles its own.

  Raises:
    UserError for a mistake that can be known before compiling, or a loss that is not finite.
    signals.Stopped after SIGTERM.
  """
  # 1. to 3. Mesh, input, model and optimizer shapes.
  started = time.perf_counter()
  ready = assembly.prepare(config, sources, devices=devices)
  placement, examples, task, total = (
    ready.placement,
    ready.examples,
    ready.task,
    ready.total_steps,
  )

  # 4. Workdir and logging; after the checks, so that a mistyped config claims no workdir.
  workdir = pathlib.Path(workdir)
  begun = checkpoints.present(workdir / "checkpoints")
  if config.weights and initial is None and not begun:
    initial = start.variables(config, task)
  frozen = frozen or teachers.variables(config, task)
  main_process = jax.process_index() == 0
  parallel.on_first(lambda: workdirs.claim(workdir, config))
  log = events.Events(workdir, active=main_process)

  # 5. and 6. Shard, and the update step (what is fresh is drawn in 7., if nothing is restored).
  programs = programs or assembly.Programs()
  program = programs.once("shapes", lambda: assembly.program(config, ready))
  abstract, shardings = program.abstract, program.shardings
  frozen = placement.put(frozen, placement.state(frozen))

  # 7. Restore: own workdir, then given variables, then `config.weights`, then from scratch.
  saver = checkpoints.Checkpoints(
    workdir / "checkpoints",
    keep=config.checkpoint.keep,
    best_metric=config.checkpoint.best_metric,
    best_mode=config.checkpoint.best_mode,
  )
  if saver.latest() is None:
    variables = task.init(config.seed) if initial is None else parallel.to_host(initial)
    average = config.ema.decay > 0
    fresh = state.create(variables, ready.optimizer, seed=config.seed, average=average)
    current, first = placement.put(fresh, shardings), 0
    given = "given variables" if initial is not None else "scratch"
    logging.info("%s starts from %s.", name, config.weights or given)
  else:
    with log.span("restore"):
      current, first, _ = saver.restore(abstract)
    log.add("restart", 0.0, step=first)
    logging.info("%s resumes at step %d of %d.", name, first, total)
  if main_process:
    overview = parameter_overview.get_parameter_overview(current.params, include_stats="sharding")
    (workdir / "parameters.txt").write_text(overview + "\n")
    workdirs.write_class_names(workdir, examples.class_names)

  # 8. Evaluators.
  predictor = programs.once("predict", lambda: evaluator.create(config, task, placement))

  def judged(split: str) -> tuple[Any, ...]:
    source = ready.splits[split]
    return current.evaluated(), source, inputs.evaluation_transform(config, source)

  def evaluate(split: str) -> dict[str, float]:
    with bar.paused("evaluation"), meter.paused(), log.span("eval", step=now, split=split):
      figures = predictor.evaluate(*judged(split))
    named = {f"{split}/{key}": value for key, value in figures.items()}
    if not (now == first and named.keys() <= reported):
      writer.scalars(now, named)
    return figures

  def healthy_or_stop(unhealthy: int | None) -> None:
    if unhealthy is not None:
      gradient = step.gradients(task, placement, accumulate=config.accumulate)
      raise accidents.non_finite(workdir, unhealthy, current, examples, gradient, placement, frozen)

  def save(figures: dict[str, float] | None) -> None:
    healthy_or_stop(meter.unhealthy())
    with bar.paused("checkpoint"), meter.paused(), log.span("checkpoint", step=now):
      saver.save(now, current, metrics=figures)

  # 9. Loop.
  now, figures, headline = first, {}, config.checkpoint.best_metric
  reported = _reported(workdir, first) if main_process else set()
  meter = meters.Meter(examples.batch_size)
  with (
    log,
    saver,
    writers.Writer(workdir, tensorboard=config.tensorboard, active=main_process) as writer,
    inputs.batches(config, placement, examples, state.position(current)) as batches,
    progress.Progress(total, name, start=first, active=main_process and bool(name)) as bar,
    signals.StopSignal() as stop,
    profiling.Window(workdir / "tb", config.profile, active=main_process) as profile,
    jax.transfer_guard("disallow"),
  ):
    writer.truncate_after(first)
    if now < total:
      log.add("setup", time.perf_counter() - started)
      sizes = {"devices": placement.mesh.size, "batch": examples.batch_size}
      predictor.compile_ahead(*judged(config.data.split.validation))
      with log.span("compile", program="update", **sizes):
        batch = examples.abstract_batch(placement)
        compiled = programs.once("update", lambda: program.lower(frozen, batch).compile())
        parallel.meet("update")
      meter.start(batches.waited)
    while now < total:
      if stop.requested(now):
        save(None)
        raise signals.Stopped(
          f"{name} stopped at step {now} of {total}; the same command resumes it."
        )
      profile.before(now - first, current)
      batch = next(batches)
      current, metrics = compiled(current, frozen, batch)
      now += 1
      healthy_or_stop(meter.add(now, metrics))
      if now == first + 1:
        healthy_or_stop(meter.unhealthy())  # waits for it
        log.first_step(name, now, after=time.perf_counter() - started)
      last = now == total
      if last or now % config.log_every_steps == 0:
        healthy_or_stop(meter.unhealthy())
        steps, logged = meter.steps, meter.flush(batches.waited)
        writer.scalars(now, {**logged, "unreadable": examples.stream.tally.failed})
        waited = logged["seconds"] * logged["input_wait"]
        log.add("step", logged["seconds"] - waited, step=now, steps=steps)
        log.add("input_wait", waited, step=now)
        bar.update(
          now,
          images=steps * examples.batch_size,
          input_wait=waited,
          values={n: logged[f"train/{n}"] for n in ("loss", headline) if f"train/{n}" in logged},
        )
      validated = None
      if last or now % ready.every_evaluation == 0:
        healthy_or_stop(meter.unhealthy())
        validated = evaluate(config.data.split.validation)
      if last or now % ready.every_save == 0:
        save(validated)
      if last:
        figures[config.data.split.validation] = validated
    tally = examples.stream.tally
    if tally.failed:
      logging.warning(
        "%s: %d of %d reads failed and were replaced by others.", name, tally.failed, tally.reads
      )
    for split in ready.splits:
      if split not in figures:
        figures[split] = evaluate(split)

  # 10. Shut-down: leaving the block above has waited for the last checkpoint.
  return Result(figures, now, time.perf_counter() - started, current.evaluated())


def _reported(workdir: pathlib.Path, step: int) -> set[str]:
  """Returns the figures that an earlier start of the run wrote for `step`, not to write twice."""
  lines = writers.read(workdir / writers.FILE)
  return {name for line in lines if line.get("step") == step for name in line}
