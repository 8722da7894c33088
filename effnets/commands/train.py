"""`--mode=train`: one training, or a pipeline of them."""

import json
import pathlib
import time
from typing import Any

import jax
from rich import console as rich_console

from effnets import errors, pipelines, training


def train(config: Any, workdir: str) -> None:
  """Runs `config` in `workdir`, prints its final table and leaves `result.json`.

  Raises: UserError for a mistake in the config, the data or the workdir.
  """
  console = rich_console.Console()
  try:
    if config.pipeline.name:
      pipelines.run(config, workdir, console)
    else:
      _single(config, workdir, console)
  except training.Stopped as stopped:
    console.print(str(stopped))


def _single(config: Any, workdir: str, console: rich_console.Console) -> None:
  result = training.train(config, workdir)
  if jax.process_index():
    return
  path = pathlib.Path(workdir)
  training.plots.curves({"training": path / "metrics.jsonl"}, path / "plots" / "curves.png")
  training.write_result(path, {**result.figures, "seed": config.seed, "steps": result.steps, "seconds": result.seconds})
  console.print(training.progress.table(...))
