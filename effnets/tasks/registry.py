"""Builds the task that a config names."""

import dataclasses
from collections.abc import Callable
from typing import Any

from effnets import errors, parallel
from effnets.tasks import (
  base,
  image_tasks,
  prediction,
  scene_tasks,
  scenes,
  sequence_tasks,
  video,
)

Make = Callable[[Any, parallel.Placement, int, int], base.Task]
"""(config, placement, classes of the data, examples in one forward pass) -> task."""


def register(name: str, make: Make) -> None:
  """Makes `config.task.name` know a task of a room above. Raises: ValueError if it is known."""
  if _TASKS.setdefault(name, make) is not make:
    raise ValueError(f"the task {name!r} is registered twice.")


def create(
  config: Any,
  placement: parallel.Placement,
  *,
  num_classes: int,
  step_batch: int,
  total_steps: int = 0,
) -> base.Task:
  """Returns the task of `config`.

  Args:
    num_classes: of the data. step_batch: examples in one forward pass, over all devices.
    total_steps: of the training, for losses that change on the way; 0 if nothing is trained.

  Raises: UserError for a name or value that is none.
  """
  if config.task.name not in _TASKS:
    raise errors.unknown("config.task.name", config.task.name, "a task", _TASKS)
  made = _TASKS[config.task.name](config, placement, num_classes, step_batch)
  if any(field.name == "total_steps" for field in dataclasses.fields(made)):
    made = dataclasses.replace(made, total_steps=total_steps)
  return made


def transform(config: Any, *, training: bool) -> Any:
  """Returns what brings scenes, or films, of a task to one size; None for other tasks."""
  if config.task.name == "prediction":
    return prediction.transform(config, training=training)
  if config.task.name == "video":
    return video.transform(config, training=training)
  reads = _SCENES.get(config.task.name)
  return reads and scenes.transform(config, training=training, **reads)


# Tasks whose pictures keep their boxes, and what they read of them.
_SCENES = {
  "detection": {"objects": True, "semantic": False},
  "instances": {"objects": True, "semantic": False},
  "segmentation": {"objects": False, "semantic": True},
}

_TASKS: dict[str, Make] = {
  "classification": image_tasks.make_classification,
  "detection": scene_tasks.make_detection,
  "instances": scene_tasks.make_instances,
  "segmentation": scene_tasks.make_segmentation,
  "advprop": image_tasks.make_advprop,
  "distillation": image_tasks.make_distillation,
  "location": image_tasks.make_glimpses,
  "patches": image_tasks.make_glimpses,
  "reinforcement": image_tasks.make_glimpses,
  "learned_operations": image_tasks.make_learned_operations,
  "prediction": sequence_tasks.make_prediction,
  "text": sequence_tasks.make_text,
  "video": sequence_tasks.make_video,
}
