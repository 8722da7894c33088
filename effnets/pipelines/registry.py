"""Finds the pipeline that a config names."""

import pathlib
from types import ModuleType
from typing import Any

from rich import console as rich_console

from effnets import errors
from effnets.pipelines import noisy_student, sweep

_PIPELINES = {"noisy_student": noisy_student, "sweep": sweep}


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
