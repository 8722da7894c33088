"""`toy_glue`: sentence tasks of an invented language, in GLUE's own files; no download.

Its nouns are of land or sea, its adjectives kind or unkind, and every task is about these:
whether two texts have one topic, one mood, or both; a small task sees too few sentences to know
every word, a large one teaches them. So tasks trained together have something to give each other.

Every sentence is drawn once for one split of one task; sizes are in `SIZES`. Test files hide the
answers, as GLUE's do; unlike there they lie beside them, in `answers`, in the format of
submissions.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from effnets.data import draws, glue, wordpiece

SIZES: Mapping[str, tuple[int, int, int]] = {
  "cola": (300, 200, 400),
  "mnli": (3000, 200, 400),
  "mrpc": (100, 200, 400),
  "qnli": (1500, 200, 400),
  "qqp": (2000, 200, 400),
  "rte": (80, 200, 400),
  "sst": (1500, 200, 400),
  "sts": (120, 200, 400),
  "wnli": (60, 40, 80),
}
"""Examples of train, dev and test, small where GLUE is small."""

LENGTH = 24
"""Tokens that the longest pair takes."""

_SEED = 0
_TOPICS = 2
_NOUNS = 12
_ADJECTIVES = 12
_VERBS = 6
_DETERMINERS = ("the", "a", "this", "some")
_QUESTIONS = ("which", "what", "where")
_PLURAL = "s"
_CONSONANTS, _VOWELS = "bdfgklmnprtvz", "aeiou"


class _Words:
  """The language's words. nouns: by topic. adjectives: by mood, unkind and kind. verbs."""

  def __init__(self):
    draw = draws.generator(_SEED, "toy_glue words", 0)
    made: dict[str, None] = {}
    total = _TOPICS * _NOUNS + 2 * _ADJECTIVES + _VERBS
    while len(made) < total:
      letters = [
        _CONSONANTS[int(draw.random() * 13)] + _VOWELS[int(draw.random() * 5)] for _ in range(3)
      ]
      made["".join(letters)] = None
    words = list(made)
    self.nouns = [words[t * _NOUNS : (t + 1) * _NOUNS] for t in range(_TOPICS)]
    rest = words[_TOPICS * _NOUNS :]
    self.adjectives = [rest[:_ADJECTIVES], rest[_ADJECTIVES : 2 * _ADJECTIVES]]
    self.verbs = rest[2 * _ADJECTIVES :]


@functools.cache
def _words() -> _Words:
  return _Words()


@functools.cache
def vocabulary() -> Mapping[str, int]:
  """Returns piece -> id of the language: special tokens, pieces, words in a fixed order."""
  words = _words()
  whole = [*(w for topic in words.nouns for w in topic), *words.adjectives[0], *words.adjectives[1]]
  pieces = [
    *wordpiece.SPECIAL,
    "[MASK]",
    *(".", "?", ","),
    "##" + _PLURAL,
    *_DETERMINERS,
    *_QUESTIONS,
    *whole,
    *words.verbs,
  ]
  return {piece: index for index, piece in enumerate(pieces)}


class _Speaker:
  """Draws sentences; equal (task, split) give equal ones."""

  def __init__(self, task: str, split: str):
    self._draw = draws.generator(_SEED, f"toy_glue {task} {split}", 0)
    self._words = _words()

  def below(self, count: int) -> int:
    return int(self._draw.random() * count)

  def one(self, words: Any) -> str:
    return words[self.below(len(words))]

  def noun(self, topic: int) -> str:
    return self.one(self._words.nouns[topic]) + (_PLURAL if self.below(3) == 0 else "")

  def phrase(self, topic: int, mood: int) -> list[str]:
    return [self.one(_DETERMINERS), self.adjective(mood), self.noun(topic)]

  def sentence(self, topic: int, mood: int) -> list[str]:
    return [*self.phrase(topic, mood), self.one(self._words.verbs), *self.phrase(topic, mood)]

  def question(self, topic: int) -> list[str]:
    return [self.one(_QUESTIONS), self.noun(topic), self.one(self._words.verbs), self.noun(topic)]

  def adjective(self, mood: int) -> str:
    return self.one(self._words.adjectives[mood])

  def share(self) -> float:
    return float(self._draw.random())


def _text(words: list[str], end: str = ".") -> str:
  return " ".join(words).capitalize() + end


def _cola(s: _Speaker) -> tuple[str, list[str]]:
  words, good = s.sentence(s.below(_TOPICS), s.below(2)), s.below(2)
  if not good:
    place = (0, 1, 4, 5)[s.below(4)]
    words[place], words[place + 1] = words[place + 1], words[place]
  return str(good), [_text(words)]


def _sst(s: _Speaker) -> tuple[str, list[str]]:
  mood = s.below(2)
  words = s.sentence(s.below(_TOPICS), mood)
  if s.below(2):
    # One adjective of the other mood between two of this one.
    words = [*words, ",", *s.phrase(s.below(_TOPICS), 1 - mood)]
    words[-3:] = [words[-3], s.adjective(mood), words[-1]]
  return str(mood), [_text(words)]


def _common(s: _Speaker, same: bool) -> tuple[int, int]:
  """Returns two values of 0 and 1, equal or not.

  Equal ones are 1 in four of five cases, so that a word alone already says a little, as in most
  real data: without that networks start too slowly.
  """
  if not same:
    first = s.below(2)
    return first, 1 - first
  value = int(s.below(5) > 0)
  return value, value


def _relation(s: _Speaker, kind: int) -> list[str]:
  """Returns a pair with one topic and mood (0), two moods (1) or two topics (2)."""
  topic, there = _common(s, kind != 2)
  mood, then = _common(s, kind == 0 or (kind == 2 and bool(s.below(2))))
  return [_text(s.sentence(topic, mood)), _text(s.phrase(there, then))]


def _mnli(s: _Speaker) -> tuple[str, list[str]]:
  kind = s.below(3)
  return ("entailment", "contradiction", "neutral")[kind], _relation(s, kind)


def _rte(s: _Speaker) -> tuple[str, list[str]]:
  follows = s.below(2)
  kind = 0 if follows else 1 + s.below(2)
  return ("not_entailment", "entailment")[follows], _relation(s, kind)


def _wnli(s: _Speaker) -> tuple[str, list[str]]:
  label, texts = _rte(s)
  return str(int(label == "entailment")), texts


def _qnli(s: _Speaker) -> tuple[str, list[str]]:
  answers = s.below(2)
  topic, about = _common(s, bool(answers))
  texts = [_text(s.question(topic), "?"), _text(s.sentence(about, s.below(2)))]
  return ("not_entailment", "entailment")[answers], texts


def _qqp(s: _Speaker) -> tuple[str, list[str]]:
  same = s.below(2)
  topic, about = _common(s, bool(same))
  return str(same), [_text(s.question(topic), "?"), _text(s.question(about), "?")]


def _mrpc(s: _Speaker) -> tuple[str, list[str]]:
  same, mood = s.below(2), s.below(2)
  topic, about = _common(s, bool(same))
  return str(same), [_text(s.sentence(topic, mood)), _text(s.sentence(about, mood))]


def _sts(s: _Speaker) -> tuple[str, list[str]]:
  near, kind = s.below(2), s.below(2)
  (topic, about), (mood, then) = _common(s, bool(near)), _common(s, bool(kind))
  score = 3.0 * near + 1.5 * kind + 0.5 * s.share()
  return f"{score:.3f}", [_text(s.sentence(topic, mood)), _text(s.sentence(about, then))]


_MAKERS: Mapping[str, Callable[[_Speaker], tuple[str, list[str]]]] = {
  "cola": _cola,
  "mnli": _mnli,
  "mrpc": _mrpc,
  "qnli": _qnli,
  "qqp": _qqp,
  "rte": _rte,
  "sst": _sst,
  "sts": _sts,
  "wnli": _wnli,
}

# How the benchmark's files are laid out: columns of train and dev, and of test, where `-` stands
# for something that nobody reads.
_HEADERS = {
  "sst": ("sentence label", "index sentence"),
  "mrpc": ("Quality|#1 ID|#2 ID|#1 String|#2 String", "index|#1 ID|#2 ID|#1 String|#2 String"),
  "qqp": ("id qid1 qid2 question1 question2 is_duplicate", "id question1 question2"),
  "sts": (
    "index genre filename year old_index source1 source2 sentence1 sentence2 score",
    "index genre filename year old_index source1 source2 sentence1 sentence2",
  ),
  "mnli": (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse "
    "sentence2_parse sentence1 sentence2 label1 gold_label",
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse "
    "sentence2_parse sentence1 sentence2",
  ),
  "qnli": ("index question sentence label", "index question sentence"),
  "rte": ("index sentence1 sentence2 label", "index sentence1 sentence2"),
  "wnli": ("index sentence1 sentence2 label", "index sentence1 sentence2"),
  "cola": ("", "index sentence"),
}


def _columns(name: str, hidden: bool) -> tuple[list[str], bool]:
  """Returns the columns of a file, and whether it names them in its first line."""
  header = _HEADERS[name][hidden]
  if not header:
    return list(glue.TASKS[name].columns["train"]), False
  return header.split("|" if "|" in header else " "), True


def _seen() -> dict[str, dict[str, list[tuple[str, list[str]]]]]:
  """Returns (label, texts) of every split of every task; no example stands in two splits."""
  made: dict[str, dict[str, list[tuple[str, list[str]]]]] = {}
  for name, sizes in SIZES.items():
    known: set[tuple[str, ...]] = set()
    made[name] = {}
    splits = list(zip(("train", "dev", "test"), sizes, strict=True))
    if glue.TASKS[name].matched:
      splits += [("dev_mismatched", sizes[1]), ("test_mismatched", sizes[2])]
      splits += [("diagnostic", sizes[1])]
    for split, size in splits:
      speaker, found = _Speaker(name, split), []
      while len(found) < size:
        label, texts = _MAKERS[name](speaker)
        if tuple(texts) not in known:
          known.add(tuple(texts))
          found.append((label, texts))
      made[name][split] = found
  return made


@functools.cache
def files() -> Mapping[str, str]:
  """Returns path -> text of every file of the benchmark."""
  made = {}
  for name, splits in _seen().items():
    task = glue.TASKS[name]
    for split, examples in splits.items():
      hidden = split.startswith("test") or split == "diagnostic"
      columns, told = _columns(name, hidden)
      lines = ["\t".join(columns)] if told else []
      answers = ["index\tprediction"]
      for index, (label, texts) in enumerate(examples):
        cells = dict.fromkeys(columns, "-")
        cells |= {"index": str(index), "id": str(index), "label1": label, task.label: label}
        cells |= dict(zip(task.texts, texts, strict=True))
        lines.append("\t".join(cells[column] for column in columns))
        answers.append(f"{index}\t{label}")
      path = "diagnostic/diagnostic.tsv" if split == "diagnostic" else glue.file_of(task, split)
      made[path] = "\n".join(lines) + "\n"
      if hidden:
        answer = f"{glue.ANSWERS}/{glue.submission_file(task, split)}"
        made[answer] = "\n".join(answers) + "\n"
  return made


def write(folder: str | pathlib.Path) -> None:
  """Writes all files, and the vocabulary as vocab.txt, into a folder, which is made if need be."""
  folder = pathlib.Path(folder)
  for name, text in {**files(), "vocab.txt": "".join(f"{p}\n" for p in vocabulary())}.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def tokenizer() -> wordpiece.Tokenizer:
  """Returns the tokenizer of the language."""
  return wordpiece.Tokenizer(vocabulary())
