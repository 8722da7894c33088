"""Starts the pipeline that a config names."""

from typing import Any

from rich import console as rich_console

from effnets import errors
from effnets.pipelines import noisy_student

_PIPELINES = {"noisy_student": noisy_student.run}


def run(config: Any, workdir: str, console: rich_console.Console) -> None:
  """Runs the stages of `config.pipeline` in `workdir`; finished stages are kept.

  Raises: UserError for an unknown pipeline, or a mistake in a stage's config.
  """
  if config.pipeline.name not in _PIPELINES:
    raise errors.unknown("config.pipeline.name", config.pipeline.name, "a pipeline", _PIPELINES)
  _PIPELINES[config.pipeline.name](config, workdir, console)
