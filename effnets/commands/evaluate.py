"""`--mode=evaluate`: the figures of a workdir's best or last checkpoint."""

import json
import pathlib
from typing import Any

import jax
from rich import console as rich_console

from effnets import errors, pipelines, training
from effnets.commands import train


def evaluate(config: Any, workdir: str) -> None:
  """Evaluates a run on its validation and test split and writes `evaluation.json`.

  Of a pipeline, its last stage's run. `config.evaluation.checkpoint` says which: `best` or `last`.

  Raises: UserError if there is no such run or checkpoint.
  """
  which = config.evaluation.checkpoint
  if which not in ("best", "last"):
    raise errors.unknown("config.evaluation.checkpoint", which, "a checkpoint", ("best", "last"))
  path = pathlib.Path(workdir)
  if not path.is_dir():
    raise errors.UserError(f"--workdir={path} does not exist.")
  if config.pipeline.name:
    config, path = pipelines.last_stage(config, path)
  trained = training.results.restore(config, path, best=which == "best")
  predictor = training.evaluator.create(config, trained.task, trained.placement)
  figures = {}
  for split in dict.fromkeys((config.data.split.validation, config.data.split.test)):
    source = training.inputs.evaluation(config, split)
    transform = training.inputs.evaluation_transform(config, source)
    figures[split] = predictor.evaluate(trained.variables, source, transform)
  if jax.process_index():
    return
  (path / "evaluation.json").write_text(
    json.dumps({**figures, "checkpoint": which, "step": trained.step}, indent=2) + "\n"
  )
  title = f"{path}, {which} checkpoint, step {trained.step}"
  rich_console.Console().print(train.figures_table(figures, title=title))
