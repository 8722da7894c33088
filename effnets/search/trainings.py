"""Whole trainings that an experiment on architectures consists of, each done once."""

import pathlib
from typing import Any

import ml_collections
from jaxtyping import PyTree

from effnets import training, workdirs


def finished(
  config: Any, folder: pathlib.Path, name: str, initial: PyTree = None
) -> dict[str, float]:
  """Returns the test figures of a training, from its folder if it is finished.

  Args: name: of the stage, as it is shown. initial: variables to begin with.
  """
  config = ml_collections.ConfigDict(config.to_dict()).lock()
  done = training.results.read(folder)
  if done is not None:
    # A folder that has moved calls its teachers, and where it starts, by other names.
    workdirs.check_same_run(folder, config, free=("distillation", "weights"))
  else:
    result = training.train(config, folder, name=name, initial=initial)
    done = {"figures": result.figures, "steps": result.steps, "seconds": result.seconds}
    training.results.write(folder, done)
  return done["figures"][config.data.split.test]
