"""`--mode=evaluate`: the figures of a run's checkpoint, or of imported weights."""

import json
import re
from typing import Any

import jax
from rich import console as rich_console

from effnets import errors, evaluation, tasks, training, workdirs
from effnets.commands import predicted, train
from effnets.commands.trained import describe, open_model


def evaluate(config: Any, workdir: str) -> None:
  """Evaluates a model on validation and test split, prints the figures and writes them down.

  The model is that of `trained.open_model`. The figures go to `evaluation.json` in `workdir`; of a
  detector also each class's AP, and COCO's result files, `detections_SPLIT.json`; of predicted
  films the figures of every frame, drawn in `plots/frames.png`.

  Raises: UserError if there is no such model or data, or the data has other classes.
  """
  trained = open_model(config, workdir)
  settings, task = trained.config, trained.task
  sources = {part: training.inputs.evaluation(settings, part) for part in ("validation", "test")}
  for source in sources.values():
    if source.num_classes != task.num_classes:
      raise errors.UserError(
        f"config.data.source={settings.data.source!r} has {source.num_classes} classes, the model "
        f"{task.num_classes}; evaluate it on its own classes, or train it on this data first."
      )
  predictor = training.evaluator.create(settings, task, trained.placement)
  figures, more, over_time = {}, {}, {}
  for part, source in sources.items():
    if part == "test" and source.name == sources["validation"].name:
      figures[part] = figures["validation"]
      continue
    transform = training.inputs.evaluation_transform(settings, source)
    outputs, examples = predictor.all(trained.variables, source, transform)
    found = outputs, examples, source
    if isinstance(task, tasks.ObjectTask):
      split = settings.data.split[part]
      figures[part], more[part] = _detections(task, found, workdir, split)
    else:
      figures[part] = task.evaluate(*found)
    if isinstance(task, tasks.Prediction):
      over_time[part] = evaluation.prediction.curves(outputs)
  if jax.process_index():
    return
  if over_time:
    more = {"over_time": over_time}
    label = f"{len(outputs['psnr'])} clips of {sources['test'].name}"
    predicted.curves(workdir, list(over_time.values())[-1], task.context, label)
  elif more:
    more = {"ap_of_classes": more}
  content = {**trained.about, **figures, **more}
  workdirs.write(workdir, "evaluation.json", json.dumps(content, indent=2) + "\n")
  console = rich_console.Console()
  console.print(train.figures_table(figures, title=describe(trained, workdir)))


def _detections(
  task: tasks.ObjectTask, found: tuple[Any, ...], workdir: str, split: str
) -> tuple[dict[str, float], dict[str, float]]:
  """Writes COCO's result file `detections_SPLIT.json`; returns the figures and each class's AP."""
  from effnets.evaluation import detection

  results, (_, examples, source) = task.results(*found), found
  if not jax.process_index():
    name = re.sub(r"\W+", "_", split)
    workdirs.write(workdir, f"detections_{name}.json", detection.to_json(results) + "\n")
  return task.judged(results, examples, source)
