"""Texts of several tasks in one source: `glue:PATH` and `toy_glue`.

An example is ids int32 (s,), lengths int32 (2,) (of all tokens and of the first segment), label
int32 (-1 if the answer is hidden, 0 of regression), value float32 (of regression, over the task's
scale; 0 otherwise), task int32 (its place among the source's) and cut int32 (tokens that were over
the limit). With a teacher it has targets float32 (k,), k the most outputs of a task, and taught
bool. Texts are tokenised when they are asked for.

Options: `tasks`, a comma list; `vocabulary`, a vocab.txt; `length` of the sequences; `lower_case`;
`longest_word` and `protected`, see `wordpiece.Tokenizer`; `custom`, see `glue.tasks`; and of the
training split `both_orders` of symmetric pairs, `sampling`, `exponent` and `sizes`, see
`proportions`: `own`, or `paper` for those that BAM's code counts with.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from effnets import errors
from effnets.data import glue, proportions, sources, targets, toy_glue, wordpiece
from effnets.data import stream as stream_lib

INPUTS = ("ids", "lengths", "value", "task", "cut")

_DEFAULTS: Mapping[str, Any] = {
  "both_orders": True,
  "custom": {},
  "exponent": 0.75,
  "length": 0,
  "longest_word": 200,
  "lower_case": True,
  "protected": False,
  "sampling": "proportional",
  "sizes": "own",
  "tasks": ",".join(glue.BAM),
  "vocabulary": "",
}
_SIZES = ("own", "paper")
_LENGTH = 128


class Texts:
  """Examples of several tasks, one task after the other.

  tasks: in the order of their numbers. examples: by task. tokenizer, length: of the sequences.
  counts: how often the examples of each task stand in the source. weights: of its losses.
  """

  image_size = None

  def __init__(
    self,
    name: str,
    tasks: Sequence[glue.Task],
    examples: Sequence[Sequence[glue.Example]],
    tokenizer: wordpiece.Tokenizer,
    *,
    length: int,
    counts: Sequence[int] = (),
    weights: Sequence[float] = (),
    shares: Sequence[float] = (),
  ):
    """Takes the examples of every task; shares: of the tasks in the stream, empty for the pool's.

    Raises: UserError if `length` leaves no room for a text.
    """
    if not isinstance(length, int) or length < 4:
      raise errors.UserError(
        f"config.data.options.length={length!r} leaves no room for a pair of texts; usual: 128."
      )
    self.name, self.tasks, self.tokenizer, self.length = name, tuple(tasks), tokenizer, length
    self.inputs = INPUTS
    self.class_names = class_names(tasks)
    self.num_classes = len(self.class_names)
    self.examples = tuple(tuple(each) for each in examples)
    self.counts = tuple(counts) or (1,) * len(self.tasks)
    self.weights = tuple(weights) or (1.0,) * len(self.tasks)
    self._shares = tuple(shares)
    self._targets: dict[int, np.ndarray] = {}
    sizes = [len(each) for each in self.examples]
    # Which task, and which of its examples, stands where.
    whole = [n * c for n, c in zip(sizes, self.counts, strict=True)]
    self.numbers = np.repeat(np.arange(len(sizes), dtype=np.int32), whole)
    self._rows = np.concatenate(
      [np.tile(np.arange(n, dtype=np.int32), c) for n, c in zip(sizes, self.counts, strict=True)]
    )

  def __len__(self) -> int:
    return len(self.numbers)

  def example(self, index: int) -> glue.Example:
    """Returns the line behind the example `index`."""
    return self.examples[self.numbers[index]][self._rows[index]]

  def __getitem__(self, index: int) -> sources.Example:
    number, row = int(self.numbers[index]), int(self._rows[index])
    task, found = self.tasks[number], self.examples[number][row]
    ids, first, cut = wordpiece.sequence(
      self.tokenizer, found.first, found.second, length=self.length
    )
    example = self.blank()
    example["ids"][:] = self.tokenizer.pad
    example["ids"][: len(ids)] = ids
    label, value = found.label, 0.0
    if not math.isnan(found.value):
      label, value = 0, found.value / task.scale
    example |= {
      "lengths": np.array([len(ids), first], np.int32),
      "label": np.int32(label),
      "value": np.float32(value),
      "task": np.int32(number),
      "cut": np.int32(cut),
      "weight": np.float32(self.weights[number]),
    }
    if number in self._targets:
      example["targets"][: task.units] = self._targets[number][row]
      example["taught"] = np.bool_(True)
    return example

  def blank(self) -> sources.Example:
    """Returns an example without tokens."""
    example = {
      "ids": np.zeros(self.length, np.int32),
      "lengths": np.zeros(2, np.int32),
      "value": np.float32(0),
      "task": np.int32(0),
      "cut": np.int32(0),
    }
    if self._targets:
      example["targets"] = np.zeros(max(task.units for task in self.tasks), np.float32)
      example["taught"] = np.bool_(False)
    return example

  def ordered(self, **settings: Any) -> stream_lib.Readable | None:
    """Returns the order in which tasks have their shares; None for that of the pool."""
    if not self._shares:
      return None
    name, seed = settings.pop("name", ""), settings["seed"]
    parts = [
      stream_lib.Stream(
        Part(self, number), **settings, name=f"{name}/{task.name}".removeprefix("/")
      )
      for number, task in enumerate(self.tasks)
    ]
    return proportions.Proportional(parts, self._shares, seed=seed)

  def digests(self, number: int) -> np.ndarray:
    """Returns a hash of the texts of every example of a task, uint64 (n,)."""
    return np.array([glue.digest(example) for example in self.examples[number]], np.uint64)

  def plain(self) -> "Texts":
    """Returns the same examples, each once, in order, without weights or teachers."""
    return Texts(self.name, self.tasks, self.examples, self.tokenizer, length=self.length)

  def taught(self, found: Mapping[str, targets.Targets]) -> "Texts":
    """Returns the same source with teachers' targets, by the name of their task.

    Raises: UserError if targets miss an example, or are of a task that is not here.
    """
    names = [task.name for task in self.tasks]
    for name in found:
      if name not in names:
        raise errors.unknown("teacher targets", name, "a task of the student", names)
    made = copy.copy(self)
    made.inputs = (*INPUTS, "targets", "taught")
    made._targets = {
      number: found[task.name].of(task, self.digests(number), f"{self.name}, {task.name}")
      for number, task in enumerate(self.tasks)
      if task.name in found
    }
    return made

  def with_blank_targets(self) -> "Texts":
    """Returns the same source with targets of 0, as if teachers had seen it."""
    made = copy.copy(self)
    made.inputs = (*INPUTS, "targets", "taught")
    made._targets = {
      number: np.broadcast_to(np.float32(0), (len(found), task.units))
      for number, (task, found) in enumerate(zip(self.tasks, self.examples, strict=True))
    }
    return made


class Part:
  """The examples of one task of a source, which has the same fields. number: of the task."""

  image_size = None

  def __init__(self, source: Texts, number: int):
    self._source = source
    self._indices = np.flatnonzero(source.numbers == number)
    self.name = f"{source.name}, {source.tasks[number].name}"
    self.inputs, self.num_classes = source.inputs, source.num_classes
    self.class_names = source.class_names

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> sources.Example:
    return self._source[int(self._indices[index])]

  def blank(self) -> sources.Example:
    """Returns that of the source."""
    return self._source.blank()


def class_names(tasks: Sequence[glue.Task]) -> tuple[str, ...]:
  """Returns the name of every output of all heads, in their order.

  >>> class_names([glue.TASKS["rte"], glue.TASKS["sts"]])
  ('rte:entailment', 'rte:not_entailment', 'sts:value')
  """
  return tuple(f"{task.name}:{label}" for task in tasks for label in (task.labels or ("value",)))


def tasks_of(options: Mapping[str, Any]) -> tuple[glue.Task, ...]:
  """Returns the tasks that the options of a source name. Raises: UserError."""
  names = options.get("tasks", _DEFAULTS["tasks"])
  if isinstance(names, str):
    names = [part.strip() for part in names.split(",") if part.strip()]
  return glue.tasks(names, options.get("custom", {}))


def length_of(source: str, options: Mapping[str, Any]) -> int:
  """Returns how many tokens a text of the source with this name has."""
  return options.get("length") or (_LENGTH if source.partition(":")[2] else toy_glue.LENGTH)


def open_split(
  argument: str, split: str, *, options: dict[str, Any], key: str, split_key: str
) -> Texts:
  """Returns a split of the benchmark in a folder, or of the embedded one.

  Args: argument: the folder, `tfds` or `tfds:DIR`; empty for `toy_glue`. split: of
    `glue.SPLITS`. The others: see `sources.open_source`.
  Raises: UserError for a folder, file, split or option that is wrong.
  """
  where = f"{argument}/" if argument else "toy_glue/"
  sources.check_options(options, _DEFAULTS, kind="a source of texts", key=key)
  settings = {**_DEFAULTS, **options}
  if split not in glue.SPLITS:
    raise errors.unknown(split_key, split, f"a split of {where[:-1]}", glue.SPLITS)
  for name, options_ in (("sampling", proportions.WAYS), ("sizes", _SIZES)):
    if settings[name] not in options_:
      raise errors.unknown(f"{key}.options.{name}", settings[name], "one of its values", options_)
  exponent = settings["exponent"]
  if isinstance(exponent, bool) or not isinstance(exponent, int | float) or exponent > 1:
    raise errors.UserError(f"{key}.options.exponent={exponent!r} should be a number up to 1: 0.75.")
  tasks = tasks_of(settings)
  if split in glue.SPLITS[3:]:
    tasks = tuple(task for task in tasks if task.matched)
    if not tasks:
      raise errors.UserError(f"{split_key}={split!r} is a split of mnli, which is not among tasks.")
  files = _files(argument, key)
  tokenizer = tokenizer_of(argument, settings, key=key)
  examples = [glue.read(task, split, files, where=where) for task in tasks]
  more: dict[str, Any] = {}
  if split == "train":
    if settings["both_orders"]:
      examples = [
        _both(found) if task.symmetric else found
        for task, found in zip(tasks, examples, strict=True)
      ]
    more = _shared(settings, tasks, examples, key)
  length = length_of(f":{argument}", settings)
  return Texts(f"{where[:-1]}, {split}", tasks, examples, tokenizer, length=length, **more)


def stand_in(source: str, options: Mapping[str, Any], *, vocab_size: int) -> Texts:
  """Returns empty texts in place of a training set that is not here, as many as GLUE has.

  vocab_size: of the network, which the vocabulary that is not here will fit.

  Raises: UserError for an option that is wrong.
  """
  settings = {**_DEFAULTS, **options}
  tasks = tasks_of(settings)
  names = [*wordpiece.SPECIAL, *(f"piece {i}" for i in range(vocab_size - len(wordpiece.SPECIAL)))]
  tokenizer = wordpiece.Tokenizer({name: index for index, name in enumerate(names)})
  examples = []
  for task in tasks:
    second = "" if len(task.texts) > 1 else None
    one = glue.Example("", second, -1 if task.regression else 0, 0.0, 0, "0")
    examples.append([one] * proportions.PAPER_SIZES.get(task.name, 10_000))
  more = _shared(settings, tasks, examples, "config.data")
  return Texts(source, tasks, examples, tokenizer, length=length_of(source, settings), **more)


def _files(argument: str, key: str) -> glue.Files:
  """Returns the files of a folder, of TFDS, or of the embedded benchmark."""
  if not argument:
    return toy_glue.files().get
  kind, _, data_dir = argument.partition(":")
  if kind == "tfds":
    from effnets.data import tfds_glue  # TFDS takes seconds to import

    return tfds_glue.files(data_dir or None, key=key)
  return glue.folder(argument)


def _both(found: list[glue.Example]) -> list[glue.Example]:
  """Returns the examples, and then all of them with their texts swapped."""
  count = len(found)
  return [*found, *(e._replace(first=e.second, second=e.first, row=e.row + count) for e in found)]


def tokenizer_of(
  argument: str, options: Mapping[str, Any], *, key: str = "config.data"
) -> wordpiece.Tokenizer:
  """Returns the tokenizer of a source, whose files need not be here. Arguments: see `open_split`.

  Raises: UserError if no vocabulary is named, or it cannot be read.
  """
  settings = {**_DEFAULTS, **options}
  if not settings["vocabulary"]:
    if argument:
      raise errors.UserError(
        f"{key}.options.vocabulary is empty; give the vocab.txt that came with the weights, such "
        "as --config.data.options.vocabulary=uncased_L-12_H-768_A-12/vocab.txt."
      )
    return toy_glue.tokenizer()
  return wordpiece.Tokenizer(
    wordpiece.read_vocabulary(settings["vocabulary"]),
    lower_case=settings["lower_case"],
    longest=settings["longest_word"],
    protected=settings["protected"],
    name=str(settings["vocabulary"]),
  )


def _shared(
  settings: Mapping[str, Any],
  tasks: Sequence[glue.Task],
  examples: Sequence[Sequence[glue.Example]],
  key: str,
) -> dict[str, Any]:
  """Returns how the tasks share the training: `counts`, `weights` or `shares` of `Texts`."""
  if len(tasks) == 1:
    return {}
  names = [task.name for task in tasks]
  sizes = {name: len(found) for name, found in zip(names, examples, strict=True)}
  if settings["sizes"] == "paper":
    unknown = [name for name in names if name not in proportions.PAPER_SIZES]
    if unknown:
      raise errors.UserError(
        f"{key}.options.sizes='paper' knows no size of {unknown[0]!r}; set it to 'own'."
      )
    sizes = dict(proportions.PAPER_SIZES)
  exponent = settings["exponent"]
  if settings["sampling"] == "copies":
    found = proportions.copies(sizes, exponent)
    return {
      "counts": [found[name][0] for name in names],
      "weights": [found[name][1] for name in names],
    }
  if settings["sampling"] == "weights":
    weights = proportions.weights(sizes, exponent)
    return {"weights": [weights[name] for name in names]}
  shares = proportions.shares({name: sizes[name] for name in names}, exponent)
  return {"shares": [shares[name] for name in names]}
