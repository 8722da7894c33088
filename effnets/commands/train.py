"""`--mode=train`: one training, or a pipeline of them."""

import pathlib
from typing import Any

import jax
from rich import box, table
from rich import console as rich_console

from effnets import configuration, pipelines, training
from effnets.commands import marked, predicted


def train(config: Any, workdir: str) -> None:
  """Runs `config` in `workdir`, prints its final table and leaves `result.json`.

  Raises: UserError for a mistake in the config, the data or the workdir.
  """
  configuration.check(config)
  console = rich_console.Console()
  try:
    with training.stopping():
      if config.pipeline.name:
        pipelines.run(config, workdir, console)
      else:
        _single(config, workdir, console)
  except training.Stopped as stopped:
    console.print(str(stopped))


def _single(config: Any, workdir: str, console: rich_console.Console) -> None:
  result = training.train(config, workdir)
  figures = {**result.figures, "seed": config.seed, "steps": result.steps}
  training.results.write(workdir, {**figures, "seconds": round(result.seconds, 1)})
  path = pathlib.Path(workdir)
  if config.task.name in ("detection", "instances", "segmentation"):
    marked.example(config, path, result)
  if config.task.name == "prediction":
    predicted.example(config, path, result)
  if jax.process_index():
    return
  training.plots.curves({"training": path / "metrics.jsonl"}, path / "plots" / "curves.png")
  console.print(figures_table(result.figures, title=config.model.name))


def figures_table(figures: dict[str, dict[str, float]], *, title: str) -> table.Table:
  """Returns a table with one row a figure and one column a split."""
  shown = table.Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
  shown.add_column("figure")
  for split in figures:
    shown.add_column(split, justify="right")
  for name in next(iter(figures.values())):
    cells = (values[name] for values in figures.values())
    shown.add_row(name, *(str(c) if isinstance(c, int) else f"{c:.4f}" for c in cells))
  return shown
