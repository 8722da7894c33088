"""The GLUE tasks: what they ask, how their files look, and how predictions are handed in.

Files are tab-separated without any quoting, as the benchmark's download has them:
PATH/CoLA/train.tsv, PATH/MNLI/dev_matched.tsv, PATH/diagnostic/diagnostic.tsv and so on.
Source: Wang et al. 2019 (arXiv 1804.07461) and the readers of its baselines.
"""

import dataclasses
import hashlib
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging

from effnets import errors

SPLITS = ("train", "dev", "test", "dev_mismatched", "test_mismatched", "diagnostic")
ANSWERS = "answers"
"""Folder of gold answers to test files, in the format of submissions, where somebody has them."""


class Example(NamedTuple):
  """One line of a task's file.

  first, second: the texts; None for tasks on single ones. label: a class's number, -1 if hidden or
  none. value: of regression on the file's own scale, nan if hidden or none. row: number in the
  file, from 0. index: how the file itself calls the line, for submissions.
  """

  first: str
  second: str | None
  label: int
  value: float
  row: int
  index: str


@dataclasses.dataclass(frozen=True)
class Task:
  """A task and its files.

  name: in configs. folder: of its files. labels: in the order of classes; empty for regression.
  texts: names of the columns with texts. label: of the column with the answer.
  columns: of files without a header, by split; others say it themselves.
  metrics: see `evaluation.glue`. scale: what regression values are divided by. limits: least and
    largest of such values; None if there are none.
  symmetric: whether the order of two texts means nothing, so that training takes both.
  lenient: skips lines with too few columns, as its readers do. submission: the file's stem.
  matched: whether it has two dev and test sets, of which `dev` and `test` are the matched ones.
  """

  name: str
  folder: str
  labels: tuple[str, ...]
  texts: tuple[str, ...]
  label: str
  metrics: tuple[str, ...]
  submission: str
  columns: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  scale: float = 1.0
  limits: tuple[float, float] | None = None
  symmetric: bool = False
  lenient: bool = False
  matched: bool = False

  @property
  def units(self) -> int:
    """How many outputs its head has."""
    return len(self.labels) or 1

  @property
  def regression(self) -> bool:
    """Whether its answers are numbers."""
    return not self.labels


_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_PAIR = ("sentence1", "sentence2")
_COLA = ("source", "label", "mark", "sentence")

TASKS = {
  task.name: task
  for task in (
    Task(
      "cola",
      "CoLA",
      _BINARY,
      ("sentence",),
      "label",
      ("matthews",),
      "CoLA",
      {"train": _COLA, "dev": _COLA},
    ),
    Task("sst", "SST-2", _BINARY, ("sentence",), "label", ("accuracy",), "SST-2"),
    Task(
      "mrpc",
      "MRPC",
      _BINARY,
      ("#1 String", "#2 String"),
      "Quality",
      ("accuracy", "f1"),
      "MRPC",
      symmetric=True,
    ),
    Task(
      "sts",
      "STS-B",
      (),
      _PAIR,
      "score",
      ("pearson", "spearman"),
      "STS-B",
      scale=5.0,
      limits=(0.0, 5.0),
      symmetric=True,
    ),
    Task(
      "qqp",
      "QQP",
      _BINARY,
      ("question1", "question2"),
      "is_duplicate",
      ("accuracy", "f1"),
      "QQP",
      lenient=True,
    ),
    Task(
      "mnli",
      "MNLI",
      ("contradiction", "entailment", "neutral"),
      _PAIR,
      "gold_label",
      ("accuracy",),
      "MNLI-m",
      matched=True,
    ),
    Task("qnli", "QNLI", _ENTAILMENT, ("question", "sentence"), "label", ("accuracy",), "QNLI"),
    Task("rte", "RTE", _ENTAILMENT, _PAIR, "label", ("accuracy",), "RTE"),
    Task("wnli", "WNLI", _BINARY, _PAIR, "label", ("accuracy",), "WNLI"),
  )
}

BAM = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst", "sts")
"""The eight tasks that are trained together; WNLI is left out."""

DIAGNOSTIC = dataclasses.replace(
  TASKS["mnli"], name="diagnostic", metrics=("matthews",), submission="AX", matched=False
)
"""What `mnli` models are asked beside; it has no training set."""

_DIAGNOSTIC_FILES = (
  "diagnostic/diagnostic.tsv",
  "AX/AX.tsv",
  "AX/diagnostic.tsv",
  "MNLI/diagnostic.tsv",
  "diagnostic.tsv",
)

_CUSTOM = ("folder", "labels", "texts", "label", "metrics", "columns", "scale", "symmetric")

Files = Callable[[str], str | None]
"""Path below the data's folder -> the file's text, or None if there is none."""


def tasks(names: Iterable[str], custom: Mapping[str, Any] | None = None) -> tuple[Task, ...]:
  """Returns the tasks of these names, in this order.

  custom: name -> fields of `Task` for tasks of one's own, of which `labels` (empty: regression),
    `texts` and `label` are needed; files are FOLDER/train.tsv, dev.tsv and test.tsv.

  Raises: UserError for a name that is none or twice there, or a field that is none.
  """
  custom, found = custom or {}, []
  for name in names:
    if name in custom:
      found.append(_own(name, custom[name]))
    elif name in TASKS:
      found.append(TASKS[name])
    else:
      raise errors.unknown("config.data.options.tasks", name, "a task", [*TASKS, *custom])
  twice = {t.name for t in found if sum(t.name == other.name for other in found) > 1}
  if twice or not found:
    told = f"names {sorted(twice)[0]!r} twice" if twice else "is empty"
    raise errors.UserError(f"config.data.options.tasks {told}; name each task once: {_all()}.")
  return tuple(found)


def _all() -> str:
  return ",".join(TASKS)


def _own(name: str, fields: Mapping[str, Any]) -> Task:
  key = f"config.data.options.custom.{name}"
  for field in fields:
    if field not in _CUSTOM:
      raise errors.unknown(key, field, "a field of a task", _CUSTOM)
  for field in ("labels", "texts", "label"):
    if field not in fields:
      raise errors.UserError(f"{key}.{field} is missing; it is a column's name, or labels.")
  labels, texts = tuple(fields["labels"]), tuple(fields["texts"])
  if not name.isidentifier() or not 1 <= len(texts) <= 2 or len(labels) == 1:
    raise errors.UserError(
      f"{key}: a task's name is a word; it has one or two `texts`, and at least two `labels` or, "
      "for regression, none."
    )
  columns = fields.get("columns", ())
  every = {split: tuple(columns) for split in ("train", "dev", "test")} if columns else {}
  return Task(
    name,
    str(fields.get("folder", name)),
    labels,
    texts,
    str(fields["label"]),
    tuple(fields.get("metrics", ("accuracy",) if labels else ("pearson", "spearman"))),
    name,
    every,
    scale=float(fields.get("scale", 1.0)),
    symmetric=bool(fields.get("symmetric", False)),
  )


def folder(path: str | pathlib.Path) -> Files:
  """Returns the files of a folder on disk. Raises: UserError if there is none."""
  path = pathlib.Path(path).expanduser()
  if not path.is_dir():
    raise errors.UserError(
      f"config.data.source='glue:{path}': there is no such folder; it should hold CoLA, MNLI and "
      "so on, as GLUE's download does."
    )

  def read(name: str) -> str | None:
    file = path / name
    try:
      return file.read_bytes().decode("utf-8-sig") if file.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
      raise errors.UserError(f"{file} cannot be read as UTF-8: {error}.") from error

  return read


def file_of(task: Task, split: str) -> str:
  """Returns the path of a split's file, below the data's folder."""
  if task.matched and split in ("dev", "test"):
    split = f"{split}_matched"
  return f"{task.folder}/{split}.tsv"


def read(task: Task, split: str, files: Files, *, where: str = "") -> list[Example]:
  """Returns the examples of a task's split, those of `diagnostic` for that split of `mnli`.

  where: what messages put before a file's path.

  Raises: UserError if the file is missing, lacks a column, or has a label or value that is none,
    with its line.
  """
  if split not in SPLITS or (split not in ("train", "dev", "test") and not task.matched):
    own = SPLITS if task.matched else SPLITS[:3]
    raise errors.unknown("config.data.split", split, f"a split of {task.name}", own)
  names = _DIAGNOSTIC_FILES if split == "diagnostic" else (file_of(task, split),)
  name = next((n for n in names if files(n) is not None), None)
  if name is None:
    raise errors.UserError(
      f"{where}{names[0]} is missing; GLUE's download has it. Leave {task.name} out with "
      "--config.data.options.tasks, or give the right folder."
    )
  hidden = split.startswith("test") or split == "diagnostic"
  found = parse(task, split, files(name), name=f"{where}{name}", hidden=hidden)
  return _answered(task, split, found, files, where) if hidden else found


def parse(task: Task, split: str, text: str, *, name: str, hidden: bool = False) -> list[Example]:
  """Returns the examples in a file's text. hidden: it has no answers. Others: as `read`."""
  lines = [line.rstrip("\r") for line in text.removeprefix("\ufeff").split("\n")]
  if lines and lines[-1] == "":
    lines.pop()
  header = task.columns.get(split)
  start = 0
  if header is None:
    if not lines:
      raise errors.UserError(f"{name} is empty; its first line should name the columns.")
    header, start = tuple(column.strip() for column in lines[0].split("\t")), 1
  wanted = (*task.texts, *(() if hidden else (task.label,)))
  for column in wanted:
    if column not in header:
      raise errors.UserError(
        f"{name}, line 1: there is no column {column!r}; expected {', '.join(map(repr, wanted))}, "
        f"found {', '.join(map(repr, header))}."
      )
  places = [header.index(column) for column in wanted]
  own = next((i for i, column in enumerate(header) if column in ("index", "id")), None)
  found, skipped = [], 0
  for number, line in enumerate(lines[start:], start + 1):
    cells = line.split("\t")
    if len(cells) <= max(places):
      if task.lenient:
        skipped += 1
        continue
      raise errors.UserError(
        f"{name}, line {number}: {len(cells)} columns, expected at least {max(places) + 1}, with "
        f"{wanted[places.index(max(places))]!r} in the last."
      )
    texts = [cells[place] for place in places[: len(task.texts)]]
    label, value = -1, math.nan
    if not hidden:
      label, value = _answer(task, cells[places[-1]], f"{name}, line {number}")
    row = number - start - 1
    second = texts[1] if len(texts) > 1 else None
    index = cells[own] if hidden and own is not None else str(row)
    found.append(Example(texts[0], second, label, value, row, index))
  if skipped:
    logging.warning("%s: %d lines with too few columns were left out.", name, skipped)
  if not found:
    raise errors.UserError(f"{name} has no examples.")
  return found


def _answer(task: Task, text: str, where: str) -> tuple[int, float]:
  if not task.regression:
    if text not in task.labels:
      raise errors.UserError(
        f"{where}: the label {text!r} is none of {', '.join(map(repr, task.labels))}."
      )
    return task.labels.index(text), math.nan
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not math.isfinite(value):
    raise errors.UserError(f"{where}: {text!r} is no number, as {task.label!r} should be.")
  return -1, value


def _answered(
  task: Task, split: str, found: list[Example], files: Files, where: str
) -> list[Example]:
  """Returns the examples with the gold answers that lie beside them, if any do."""
  name = f"{ANSWERS}/{submission_file(task, split)}"
  text = files(name)
  if text is None:
    return found
  lines = text.rstrip("\n").split("\n")[1:]
  answers = dict(line.rstrip("\r").split("\t", 1) for line in lines if "\t" in line)
  made = []
  for example in found:
    if example.index not in answers:
      raise errors.UserError(f"{where}{name} has no answer for index {example.index}.")
    label, value = _answer(task, answers[example.index], f"{where}{name}, index {example.index}")
    made.append(example._replace(label=label, value=value))
  return made


def digest(example: Example) -> int:
  """Returns 64 bits of a hash of an example's texts, by which stored targets know it again."""
  text = f"{example.first}\0{'' if example.second is None else example.second}"
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def submission_file(task: Task, split: str = "test") -> str:
  """Returns the name of the file in which the answers to a split are handed in.

  >>> submission_file(TASKS["mnli"], "test_mismatched"), submission_file(TASKS["sst"])
  ('MNLI-mm.tsv', 'SST-2.tsv')
  """
  if split == "diagnostic":
    return f"{DIAGNOSTIC.submission}.tsv"
  stem = task.submission
  return f"{stem}m.tsv" if split == "test_mismatched" else f"{stem}.tsv"


def submission(task: Task, indices: Sequence[str], outputs: Sequence[Any]) -> str:
  """Returns the text of a submission: `index<TAB>prediction` lines below their header.

  Args: outputs: by example; logits, or the predicted value over `task.scale`.

  >>> submission(TASKS["rte"], ["0", "1"], [[2.0, 1.0], [0.0, 3.0]]).splitlines()[1:]
  ['0\\tentailment', '1\\tnot_entailment']
  """
  lines = ["index\tprediction"]
  for index, output in zip(indices, outputs, strict=True):
    values = [float(x) for x in output]
    if task.regression:
      value = values[0] * task.scale
      if task.limits:
        value = min(max(value, task.limits[0]), task.limits[1])
      lines.append(f"{index}\t{value:.3f}")
    else:
      lines.append(f"{index}\t{task.labels[values.index(max(values))]}")
  return "\n".join(lines) + "\n"
