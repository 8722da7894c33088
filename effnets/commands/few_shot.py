"""`--mode=few_shot`: what a linear classifier makes of a model's features and a few examples."""

import json
from typing import Any

import jax
import numpy as np
from absl import logging
from rich import box, table
from rich import console as rich_console

from effnets import errors, evaluation, training, workdirs
from effnets.commands.trained import describe, open_classifier


def few_shot(config: Any, workdir: str) -> None:
  """Judges a model's features by few-shot classification of any labelled data, and prints it.

  The model is that of `trained.open_model`; its own classifier takes no part, so the data may have
  other classes. `config.few_shot` says how many examples of each class are drawn from the training
  split, and how often; the penalty is chosen on the validation split; what is told is the test
  split's top-1. The figures go to `few_shot.json` in `workdir`.

  Raises: UserError if there is no such model or data, a class has too few examples, or validation
    and test split are the same.
  """
  trained = open_classifier(config, workdir, mode="few_shot")
  settings = trained.config.few_shot
  sources = _sources(trained.config, several=len(settings.l2) != 1)
  num_classes = sources["train"].num_classes
  parts = {part: _features(trained, source) for part, source in sources.items()}
  _check_counts(sources["train"], parts["train"][1], max(settings.shots))
  if jax.process_index():
    return
  found = [
    evaluation.few_shot_accuracy(
      parts["train"],
      parts["validation"],
      parts["test"],
      num_classes,
      shots=shots,
      draws=settings.draws,
      seed=trained.config.seed,
      l2=tuple(settings.l2) or evaluation.L2,
    )
    for shots in settings.shots
  ]
  rows = [
    {
      "shots": f.shots,
      "test_top1": f.mean,
      "spread": f.spread,
      "validation_top1": float(np.mean(f.validation)),
      "l2": f.l2,
      "draws": list(f.test),
    }
    for f in found
  ]
  about = {**trained.about, "data": trained.config.data.source, "features": settings.features}
  content = json.dumps({**about, "few_shot": rows}, indent=2) + "\n"
  workdirs.write(workdir, "few_shot.json", content)
  rich_console.Console().print(_table(found, title=describe(trained, workdir)))


def _sources(config, *, several):
  """Returns the three splits by their part in this; several: whether there is a choice to make."""
  sources = {"train": training.inputs.evaluation(config, "train")}
  sources |= {part: training.inputs.evaluation(config, part) for part in ("validation", "test")}
  if several and sources["validation"].name == sources["test"].name:
    raise errors.UserError(
      f"config.data.split.validation={config.data.split.validation!r} is the test split too, and "
      "the penalty is chosen on it; name another one, or give one penalty: "
      "--config.few_shot.l2=(1.0,)."
    )
  return sources


def _features(trained, source):
  """Returns features `n d` and labels `n` of all readable examples."""
  config, name = trained.config, trained.config.few_shot.features

  def predict(variables, batch):
    ends = trained.task.features(variables, batch)
    if name not in ends:
      raise errors.unknown("config.few_shot.features", name, "an end point of the network", ends)
    return {"features": ends[name]}

  predictor = training.evaluator.create(config, trained.task, trained.placement, predict=predict)
  transform = training.inputs.evaluation_transform(config, source)
  logging.info("Features of %d examples of %s.", len(source), source.name)
  outputs, examples = predictor.all(trained.variables, source, transform)
  return outputs["features"], examples["label"]


def _check_counts(source, labels, shots):
  counts = np.bincount(labels, minlength=source.num_classes)
  scarce = [label for label in range(source.num_classes) if counts[label] < shots]
  if scarce:
    told = ", ".join(f"{source.class_names[c]!r} has {counts[c]}" for c in scarce[:4])
    more = f" and {len(scarce) - 4} other classes" if len(scarce) > 4 else ""
    raise errors.UserError(
      f"config.few_shot.shots: {shots} examples of each class are asked for; of {source.name} "
      f"{told}{more}. The most there can be: {counts.min()}."
    )


def _table(found, *, title):
  shown = table.Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
  for name in ("examples a class", "test top1", "± (draws)", "validation", "penalty"):
    shown.add_column(name, justify="right")
  for f in found:
    cells = f"{f.shots} {f.mean:.4f} {f.spread:.4f} {np.mean(f.validation):.4f} {f.l2:g}"
    shown.add_row(*cells.split())
  return shown
