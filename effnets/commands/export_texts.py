"""What `--mode=export` does of its own for encoders of texts."""

import pathlib
from typing import Any

import numpy as np
from jaxtyping import Int

from effnets import data, errors, parallel, training
from effnets.weights import programs

VOCABULARY = "vocab.txt"


def program(trained: training.results.Trained) -> programs.TextProgram:
  """Returns the encoder with its heads as what is exported."""
  task = trained.task
  module, variables = task.tested(parallel.to_host(trained.variables))
  return programs.TextProgram(module, variables, task.length, task.answers, task.answer_names)


def examples(
  trained: training.results.Trained, count: int
) -> tuple[tuple[Int[np.ndarray, "b s"], ...], str]:
  """Returns a few texts of all tasks and what they are: validation data, or random tokens."""
  task = trained.task
  try:
    source = training.inputs.evaluation(trained.config, "validation")
    rows = np.linspace(0, len(source) - 1, count).astype(int)
    found = [source[int(row)] for row in rows]
    what = f"texts of {source.name}"
  except errors.UserError:
    draw, whole = np.random.default_rng(0), task.length
    words = task.module.backbone.vocab_size
    found = [
      {"ids": draw.integers(0, words, whole, np.int32), "lengths": np.array([whole, whole // 2])}
      for _ in range(count)
    ]
    what = "texts of random tokens"
  batch = {name: np.stack([e[name] for e in found]) for name in ("ids", "lengths")}
  return tuple(np.asarray(array, np.int32) for array in task.inputs(batch)), what


def write_vocabulary(trained: training.results.Trained, folder: pathlib.Path) -> dict[str, Any]:
  """Writes the vocabulary into `folder`, and returns how texts become tokens of it.

  Raises: UserError if it is not where the config says.
  """
  settings = trained.config.data
  tokenizer = data.texts.tokenizer_of(settings.source.partition(":")[2], settings.options.to_dict())
  lines = [""] * len(tokenizer)
  for piece, number in tokenizer.vocabulary.items():
    lines[number] = piece
  text = "".join(f"{piece}\n" for piece in lines)
  (folder / VOCABULARY).write_text(text, encoding="utf-8", newline="\n")
  return {
    "vocabulary": VOCABULARY,
    "lower_case": tokenizer.lower_case,
    "longest_word": tokenizer.longest,
    "protected": tokenizer.protected,
  }


def describe(trained: training.results.Trained, made: programs.TextProgram) -> dict[str, Any]:
  """Returns what is told of the program's inputs and tasks. Unknown numbers of texts are null."""
  tasks = {}
  for problem in trained.task.problems:
    tasks[problem.name] = {"texts": len(problem.texts)} | (
      # Values of the output are on the task's own scale.
      {"scale": problem.scale} if problem.regression else {"labels": list(problem.labels)}
    )
  return {
    "inputs": {name: {"dtype": "int32", "shape": [None, made.length]} for name in made.inputs(1)},
    "length": made.length,
    "tasks": tasks,
  }
