"""What a finished run leaves behind, and how it is read again."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PyTree

from effnets import configuration, data, errors, parallel, tasks
from effnets.training import checkpoints, evaluator, inputs, state

RESULT = "result.json"


def write(workdir: str | pathlib.Path, figures: dict[str, Any]) -> None:
  """Writes `result.json`, whole or not at all; process 0 only."""
  if jax.process_index():
    return
  path = pathlib.Path(workdir) / RESULT
  temporary = path.with_suffix(".tmp")
  temporary.write_text(json.dumps(figures, indent=2) + "\n")
  temporary.replace(path)


def read(workdir: str | pathlib.Path) -> dict[str, Any] | None:
  """Returns what `write` wrote, or None if the run is not finished."""
  path = pathlib.Path(workdir) / RESULT
  return json.loads(path.read_text()) if path.exists() else None


@dataclasses.dataclass(frozen=True)
class Trained:
  """A model with trained variables, on the mesh. step: updates that made them."""

  task: tasks.Task
  placement: parallel.Placement
  variables: PyTree
  step: int


def model(config: Any) -> tuple[tasks.Task, parallel.Placement]:
  """Returns the task of `config` for evaluation, without its training data."""
  placement = inputs.placement(config)
  inputs.check_batches(config, placement)
  source = inputs.evaluation(config, "validation")
  step_batch = sum(configuration.step_batch(config)) // config.accumulate
  task = tasks.create(config, placement, num_classes=source.num_classes, step_batch=step_batch)
  return task, placement


def restore(config: Any, workdir: str | pathlib.Path, *, best: bool = False) -> Trained:
  """Returns the model of a run's newest checkpoint, or of its best.

  Raises: UserError if the workdir holds no checkpoint, only damaged ones, or another model's.
  """
  folder = pathlib.Path(workdir) / "checkpoints"
  if not folder.is_dir():
    raise errors.UserError(f"--workdir={workdir} holds no checkpoints; train there first.")
  task, placement = model(config)
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
  return Trained(task, placement, restored.evaluated(), step)


def probabilities(config: Any, variables: PyTree, source: data.Source) -> Float[np.ndarray, "n k"]:
  """Returns a classifier's softmax over `source`, in its order, without noise.

  The row of an example that cannot be read is zero.
  """
  task, placement = model(config)
  predictor = evaluator.create(config, task, placement)
  transform = inputs.evaluation_transform(config, source)
  outputs, examples = predictor.all(variables, source, transform)
  logits = outputs["logits"].astype(np.float64)
  unnormalised = np.exp(logits - logits.max(1, keepdims=True))
  result = np.zeros((len(source), logits.shape[1]), np.float32)
  result[examples["index"]] = unnormalised / unnormalised.sum(1, keepdims=True)
  return result
