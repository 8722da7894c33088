"""GLUE as TensorFlow Datasets has it: `glue:tfds`, or `glue:tfds:DIR` for another folder of data.

TFDS names the texts otherwise from task to task, and gives labels as numbers in an order of its
own. Here its examples become the lines of the benchmark's own files, which `glue` reads.
"""

import functools
from collections.abc import Sequence
from typing import Any

from effnets.data import glue, tfds

# Our task -> TFDS's config, and its names of our columns with texts.
_CONFIGS = {
  "cola": ("cola", ("sentence",)),
  "diagnostic": ("ax", ("premise", "hypothesis")),
  "mnli": ("mnli", ("premise", "hypothesis")),
  "mrpc": ("mrpc", ("sentence1", "sentence2")),
  "qnli": ("qnli", ("question", "sentence")),
  "qqp": ("qqp", ("question1", "question2")),
  "rte": ("rte", ("sentence1", "sentence2")),
  "sst": ("sst2", ("sentence",)),
  "sts": ("stsb", ("sentence1", "sentence2")),
  "wnli": ("wnli", ("sentence1", "sentence2")),
}


def files(data_dir: str | None, *, key: str) -> glue.Files:
  """Returns the benchmark's files, each made when it is asked for.

  data_dir: where TFDS's data sets lie prepared; None for its own default. key: where the source is
  set in the config, for messages.

  Raises: UserError, when a file is asked for, if its data set is not prepared there.
  """
  places = {}
  for task in glue.TASKS.values():
    splits = {split: split for split in ("train", "test")} | {"dev": "validation"}
    if task.matched:
      splits = {"train": "train"}
      for ours, theirs in (("dev", "validation"), ("test", "test")):
        splits |= {ours: f"{theirs}_matched", f"{ours}_mismatched": f"{theirs}_mismatched"}
    places |= {glue.file_of(task, ours): (task, ours, theirs) for ours, theirs in splits.items()}
  places["diagnostic/diagnostic.tsv"] = (glue.DIAGNOSTIC, "diagnostic", "test")

  @functools.cache
  def read(path: str) -> str | None:
    if path not in places:
      return None
    task, ours, theirs = places[path]
    name, texts = _CONFIGS[task.name]
    features, examples = tfds.examples(f"glue/{name}", theirs, data_dir=data_dir, key=key)
    names = getattr(features["label"], "names", None)
    return _text(task, ours, examples, texts=texts, names=names)

  return read


def _text(
  task: glue.Task, split: str, examples: Any, *, texts: Sequence[str], names: Sequence[str] | None
) -> str:
  """Returns the text of a file. texts: TFDS's names. names: of its labels, if it has any."""
  hidden = split.startswith("test") or split == "diagnostic"
  columns = task.columns.get(split)
  lines = []
  if columns is None:
    columns = ("index", *task.texts, *(() if hidden else (task.label,)))
    lines.append("\t".join(columns))
  for number in range(len(examples)):
    example = examples[number]
    cells = dict.fromkeys(columns, "")
    cells["index"] = str(int(example["idx"]))
    if not hidden:
      cells[task.label] = _label(task, example["label"], names)
    for ours, theirs in zip(task.texts, texts, strict=True):
      # A text with a tab or a line's end would be two.
      cells[ours] = " ".join(example[theirs].decode("utf-8").replace("\t", " ").split("\n"))
    lines.append("\t".join(cells[column] for column in columns))
  return "\n".join(lines) + "\n"


def _label(task: glue.Task, label: Any, names: Sequence[str] | None) -> str:
  if task.regression:
    return repr(float(label))
  # Of two classes without names in the files, 0 and 1 are the same everywhere.
  return str(int(label)) if task.labels == ("0", "1") else names[int(label)]
