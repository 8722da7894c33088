"""The model that a command is about: a run's, or imported weights."""

import dataclasses
import pathlib
import re
from typing import Any

from effnets import configuration, data, errors, pipelines, tasks, training, workdirs

_SYNSET = re.compile(r"n\d{8}")


def open_model(config: Any, workdir: str | pathlib.Path) -> training.results.Trained:
  """Returns the model of the run in `workdir`; if there is none, that of `config.weights`.

  Of a pipeline it is the furthest model; `config.evaluation.checkpoint` says which checkpoint.

  Raises: UserError if there is neither, or the run is another config's.
  """
  configuration.check(config)
  path = pathlib.Path(workdir)
  if config.weights and not _begun(path):
    return training.start.imported(config)
  if not path.is_dir():
    raise errors.UserError(
      f"--workdir={path} does not exist; train there first, or give --config.weights=NAME:SOURCE."
    )
  workdirs.check_same_run(path, config, workdirs.EVALUATION_KEYS)
  stage, folder = pipelines.last_stage(config, path) if config.pipeline.name else (config, path)
  best = config.evaluation.checkpoint == "best"
  trained = training.results.restore(stage, folder, best=best)
  about = {**trained.about, "run": str(folder.relative_to(path))}
  return dataclasses.replace(trained, about=about)


def open_classifier(
  config: Any, workdir: str | pathlib.Path, *, mode: str
) -> training.results.Trained:
  """Returns the model of `open_model`. Raises: UserError as it, and if it is no classifier."""
  trained = open_model(config, workdir)
  if not isinstance(trained.task, tasks.Classification):
    raise errors.UserError(
      f"--mode={mode} is for classifiers; config.task.name is {trained.config.task.name!r}."
    )
  return trained


def describe(trained: training.results.Trained, workdir: str | pathlib.Path) -> str:
  """Returns where a model of `open_model` comes from, in words."""
  about = trained.about
  if "weights" in about:
    return f"{trained.config.model.name}, weights {about['weights']}"
  folder = pathlib.Path(workdir) / about["run"]
  return f"{folder}, {about['checkpoint']} checkpoint, step {about['step']}"


def class_names(config: Any, trained: training.results.Trained) -> tuple[str, ...]:
  """Returns the names of a model's classes, in the order of its outputs.

  Those of the file `config.class_names`, else those of the data it was trained on, else, for 1,000
  classes, ImageNet's; failing all, numbers.

  Raises: UserError if the file cannot be read, or has another number of names.
  """
  count = trained.task.num_classes
  if config.class_names:
    names = data.class_names.read(config.class_names, key="config.class_names")
    if len(names) != count:
      raise errors.UserError(
        f"config.class_names={config.class_names!r} has {len(names)} names, the model {count} "
        "classes; give one name a line, in the order of the labels."
      )
    return names
  names = trained.class_names
  if count == 1000 and all(_SYNSET.fullmatch(name) for name in names):  # or if there are none
    return data.class_names.imagenet()
  return names or tuple(f"class {index}" for index in range(count))


def _begun(path: pathlib.Path) -> bool:
  """Returns whether there is a checkpoint in a run's folder, or in one of its stages."""
  if not path.is_dir():
    return False
  folders = [path, *(p for p in path.iterdir() if p.is_dir())]
  return any(training.checkpoints.present(folder / "checkpoints") for folder in folders)
