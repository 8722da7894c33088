"""The frozen teachers of a distillation: named in a config, and loaded when a student trains."""

from collections.abc import Mapping
from typing import Any

import ml_collections
from jaxtyping import PyTree

from effnets import errors, tasks, weights
from effnets.training import start

# What a teacher's input differs in from its student's, which has seen the picture before it.
_INPUT = ("image_size", "mean", "std")


def configure(
  config: ml_collections.ConfigDict,
  teachers: Mapping[str, str],
  *,
  weight: float = 0.9,
  temperature: float = 1.0,
  ensemble: str = "probabilities",
) -> None:
  """Makes the classification of `config` one that learns from `teachers` too.

  teachers: weights by name, NAME:SOURCE or `run:DIR`, see `weights.choice`. Labels are not smoothed
  any more: the teachers' answers are softer than that.

  Raises: UserError for weights that are none.
  """
  known = {}
  for name, text in teachers.items():
    own = ml_collections.ConfigDict(config.to_dict())
    own.task.name = "classification"
    with errors.context(f"the teacher {name}"):
      weights.configure(own, text)
    data = {key: own.data[key] for key in _INPUT}
    known[name] = {"weights": text, "model": own.model.to_dict(), "data": data}
  with config.unlocked():
    config.task.update({"name": "distillation", "label_smoothing": 0.0})
    config.distillation = ml_collections.ConfigDict(
      {"weight": weight, "temperature": temperature, "ensemble": ensemble, "teachers": known}
    )


def variables(config: Any, task: tasks.Task) -> tuple[PyTree, ...]:
  """Returns the variables of the teachers of `task`, in its order; none for tasks without any.

  Raises: UserError if they cannot be had, or have other classes.
  """
  found = []
  names = sorted(config.distillation.teachers) if hasattr(task, "teachers") else ()
  for name, teacher in zip(names, getattr(task, "teachers", ()), strict=True):
    own = ml_collections.ConfigDict(config.to_dict())
    own.task.name = "classification"
    own.weights = config.distillation.teachers[name].weights
    own.new_head = False
    own.model = ml_collections.ConfigDict(config.distillation.teachers[name].model.to_dict())
    with errors.context(f"config.distillation.teachers.{name}"):
      found.append(start.variables(own, teacher))
  return tuple(found)
