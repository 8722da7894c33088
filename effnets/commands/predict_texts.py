"""`--mode=predict` of texts: the answers to test sets, as GLUE takes them."""

import pathlib
from typing import Any

import jax
import numpy as np
from rich import console as rich_console

from effnets import data, errors, training, workdirs
from effnets.commands import trained as models
from effnets.data import glue

FOLDER = "submission"

_HIDDEN = ("test", "test_mismatched", "diagnostic")


def predict(config: Any, workdir: str, trained: training.results.Trained) -> None:
  """Writes a file for every test set, CoLA.tsv, MNLI-m.tsv, AX.tsv and so on, to `submission`.

  Of WNLI, if the model has not learned it, all answers are the class that its training set has most
  of. Test sets whose file is not there are left out, and named.

  Raises: UserError if there is none at all.
  """
  settings, written, absent = trained.config, [], []
  predictor = training.evaluator.create(settings, trained.task, trained.placement)
  options = settings.data.options.to_dict()
  for split in _HIDDEN:
    for problem in trained.task.problems:
      if split != "test" and not problem.matched:
        continue
      own = {**options, "tasks": problem.name}
      name = glue.submission_file(problem, split)
      try:
        source = data.open_source(settings.data.source, split, options=own)
      except errors.UserError as error:
        if "is missing" not in str(error):
          raise
        absent.append(name)
        continue
      outputs, _ = predictor.all(trained.variables, source)
      found = trained.task.of_task(outputs["logits"], problem.name)
      indices = [source.example(i).index for i in range(len(source))]
      written.append((name, glue.submission(problem, indices, found)))
  if not written:
    raise errors.UserError(
      f"config.data.source={settings.data.source!r} has none of the test files {', '.join(absent)}."
    )
  if all(problem.name != "wnli" for problem in trained.task.problems):
    written += _most_common(settings, options)
  if jax.process_index():
    return
  for name, text in written:
    workdirs.write(pathlib.Path(workdir) / FOLDER, name, text)
  told = ", ".join(name for name, _ in written)
  more = f" Not there: {', '.join(absent)}." if absent else ""
  end = f"{models.describe(trained, workdir)}: {pathlib.Path(workdir) / FOLDER} has {told}.{more}"
  rich_console.Console().print(end, soft_wrap=True, highlight=False, markup=False)


def _most_common(settings: Any, options: dict[str, Any]) -> list[tuple[str, str]]:
  """Returns WNLI's submission of the most common label, if its files are there."""
  task, own = glue.TASKS["wnli"], {**options, "tasks": "wnli"}
  try:
    train, test = (
      data.open_source(settings.data.source, split, options=own) for split in ("train", "test")
    )
  except errors.UserError:
    return []
  labels = [train.example(i).label for i in range(len(train))]
  answer = np.bincount(labels, minlength=task.units).astype(float)
  indices = [test.example(i).index for i in range(len(test))]
  return [(glue.submission_file(task), glue.submission(task, indices, [answer] * len(indices)))]
