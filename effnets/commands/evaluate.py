"""`--mode=evaluate`: the figures of a workdir's last or best checkpoint."""

import json
import pathlib
from typing import Any

import jax
from rich import console as rich_console

from effnets import configuration, errors, pipelines, training, workdirs
from effnets.commands import train


def evaluate(config: Any, workdir: str) -> None:
  """Evaluates a run on its validation and test split, prints the figures and writes them down.

  Of a pipeline, its furthest model. `config.evaluation.checkpoint` says which checkpoint: `best` or
  `last`. The figures go to `evaluation.json` in `workdir`.

  Raises: UserError if there is no such run or checkpoint.
  """
  configuration.check(config)
  path = pathlib.Path(workdir)
  if not path.is_dir():
    raise errors.UserError(f"--workdir={path} does not exist.")
  workdirs.check_same_run(path, config, workdirs.EVALUATION_KEYS)
  which = config.evaluation.checkpoint
  stage, folder = pipelines.last_stage(config, path) if config.pipeline.name else (config, path)
  trained = training.results.restore(stage, folder, best=which == "best")
  predictor = training.evaluator.create(stage, trained.task, trained.placement)
  figures = {}
  splits = stage.data.split
  for part in ("validation", "test"):
    if part == "test" and splits.test == splits.validation:
      figures[part] = figures["validation"]
      continue
    source = training.inputs.evaluation(stage, part)
    transform = training.inputs.evaluation_transform(stage, source)
    figures[part] = predictor.evaluate(trained.variables, source, transform)
  if jax.process_index():
    return
  about = {"run": str(folder.relative_to(path)), "checkpoint": which, "step": trained.step}
  try:
    (path / "evaluation.json").write_text(json.dumps({**about, **figures}, indent=2) + "\n")
  except OSError as error:
    raise errors.UserError(f"--workdir={path} cannot be written: {error.strerror}.") from error
  title = f"{folder}, {which} checkpoint, step {trained.step}"
  rich_console.Console().print(train.figures_table(figures, title=title))
