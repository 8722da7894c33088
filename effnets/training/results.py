"""What a finished run leaves behind, and how it is read again."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
from jaxtyping import PyTree

from effnets import configuration, errors, parallel, tasks, workdirs
from effnets.training import checkpoints, inputs, state

RESULT = "result.json"


def write(workdir: str | pathlib.Path, figures: dict[str, Any]) -> None:
  """Writes `result.json`, whole or not at all; process 0 only."""
  if not jax.process_index():
    workdirs.write(workdir, RESULT, json.dumps(figures, indent=2) + "\n")


def read(workdir: str | pathlib.Path) -> dict[str, Any] | None:
  """Returns what `write` wrote, or None if the run is not finished."""
  path = pathlib.Path(workdir) / RESULT
  return json.loads(path.read_text()) if path.exists() else None


@dataclasses.dataclass(frozen=True)
class Trained:
  """A model with trained variables, on the mesh.

  config: under which it was made, without a pipeline. step: updates that made them. about: where
  they come from, for people. class_names: empty if they are not known.
  """

  config: Any
  task: tasks.Task
  placement: parallel.Placement
  variables: PyTree
  step: int
  about: dict[str, Any]
  class_names: tuple[str, ...] = ()


def model(config: Any, num_classes: int = 0) -> tuple[tasks.Task, parallel.Placement]:
  """Returns the task of `config` for evaluation, without its training data.

  num_classes: 0 for those of its validation data, which are then opened.
  """
  placement = inputs.placement(config)
  inputs.check_batches(config, placement)
  num_classes = num_classes or inputs.evaluation(config, "validation").num_classes
  step_batch = sum(configuration.step_batch(config)) // config.accumulate
  task = tasks.create(config, placement, num_classes=num_classes, step_batch=step_batch)
  return task, placement


def restore(config: Any, workdir: str | pathlib.Path, *, best: bool = False) -> Trained:
  """Returns the model of a run's newest checkpoint, or of its best. Its data need not be there.

  Raises: UserError if the workdir holds no checkpoint, only damaged ones, or another model's.
  """
  folder = pathlib.Path(workdir) / "checkpoints"
  if not checkpoints.present(folder):
    raise errors.UserError(f"--workdir={workdir} holds no checkpoints; train there first.")
  names = workdirs.class_names(workdir)
  task, placement = model(config, len(names))
  # The rate is not saved, so any schedule gives the same state.
  optimizer = inputs.optimizer(config, lambda step: 0.0, task)
  average = config.ema.decay > 0
  abstract = state.create(task.abstract(), optimizer, seed=config.seed, average=average)
  with checkpoints.Checkpoints(
    folder,
    best_metric=config.checkpoint.best_metric,
    best_mode=config.checkpoint.best_mode,
    read_only=True,
  ) as saver:
    abstract = state.placed(abstract, placement.state(abstract))
    restored, step, _ = saver.restore(abstract, step=saver.best() if best else None)
  return Trained(
    config=config,
    task=task,
    placement=placement,
    variables=restored.evaluated(),
    step=step,
    about={"run": str(workdir), "checkpoint": "best" if best else "last", "step": step},
    class_names=names,
  )
