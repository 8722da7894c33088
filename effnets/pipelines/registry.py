"""Finds the pipeline that a config names."""

import dataclasses
import pathlib
from types import ModuleType
from typing import Any

from rich import console as rich_console

from effnets import errors
from effnets.pipelines import bam, noisy_student, saccader, sweep

_PIPELINES = {
  "bam": bam,
  "noisy_student": noisy_student,
  "saccader": saccader,
  "sweep": sweep,
}


@dataclasses.dataclass(frozen=True)
class Planned:
  """One training of an experiment.

  soft: whether its unlabelled data carries probabilities, or its texts a teacher's outputs.
  """

  config: Any
  soft: bool = False


def planned(config: Any) -> dict[str, Planned]:
  """Returns every training of `config`, by stage name, in order; without a pipeline one, named "".

  Raises: UserError as `run`.
  """
  if not config.pipeline.name:
    return {"": Planned(config)}
  return {
    name: Planned(*planned) for name, planned in _named(config).planned_stages(config).items()
  }


def run(config: Any, workdir: str, console: rich_console.Console) -> None:
  """Runs the stages of `config.pipeline` in `workdir`; finished stages are kept.

  Raises: UserError for an unknown pipeline, or a mistake in a stage's config.
  """
  _named(config).run(config, workdir, console)


def last_stage(config: Any, workdir: str | pathlib.Path) -> tuple[Any, pathlib.Path]:
  """Returns config and folder of the furthest model that the pipeline in `workdir` has come to.

  Raises: UserError if there is none yet, or as `run`.
  """
  return _named(config).last_stage(config, workdir)


def _named(config: Any) -> ModuleType:
  name = config.pipeline.name
  if name not in _PIPELINES:
    raise errors.unknown("config.pipeline.name", name, "a pipeline", _PIPELINES)
  return _PIPELINES[name]
