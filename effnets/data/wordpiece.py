"""BERT's tokenizer: clean, split at spaces and punctuation, cut words into pieces of a vocabulary.

Source: `tokenization.py` of google-research/bert; where Hugging Face differs, an argument says so.
"""

import functools
import os
import pathlib
import unicodedata
from collections.abc import Mapping, Sequence

from effnets import errors

PAD, UNKNOWN, START, SEPARATOR = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIAL = (PAD, UNKNOWN, START, SEPARATOR)

# CJK ideographs, each of which is a word. Kana and Hangul are not among them.
_IDEOGRAPHS = (
  (0x4E00, 0x9FFF),
  (0x3400, 0x4DBF),
  (0x20000, 0x2A6DF),
  (0x2A700, 0x2B73F),
  (0x2B740, 0x2B81F),
  (0x2B820, 0x2CEAF),
  (0xF900, 0xFAFF),
  (0x2F800, 0x2FA1F),
)
# ASCII that counts as punctuation though Unicode has it as symbols: `$`, `+`, `^`, …
_ASCII = ((33, 47), (58, 64), (91, 96), (123, 126))


def _within(code: int, ranges: Sequence[tuple[int, int]]) -> bool:
  return any(low <= code <= high for low, high in ranges)


@functools.lru_cache(maxsize=1 << 16)
def _kind(character: str) -> str:
  """Returns `drop`, `space`, `ideograph`, `punctuation` or `letter`."""
  code, category = ord(character), unicodedata.category(character)
  if character in " \t\n\r" or category == "Zs":
    return "space"
  if code in (0, 0xFFFD) or category in ("Cc", "Cf"):
    return "drop"
  if _within(code, _IDEOGRAPHS):
    return "ideograph"
  if _within(code, _ASCII) or category.startswith("P"):
    return "punctuation"
  return "letter"


def basic(text: str, *, lower_case: bool = True) -> list[str]:
  """Returns the words and punctuation marks of a text.

  lower_case: also takes accents off, as the uncased vocabularies want.

  >>> basic("Héllo, Wörld!  don't")
  ['hello', ',', 'world', '!', 'don', "'", 't']
  """
  spaced = []
  for character in text:
    kind = _kind(character)
    if kind == "space":
      spaced.append(" ")
    elif kind == "ideograph":
      spaced.append(f" {character} ")
    elif kind != "drop":
      spaced.append(character)
  words = []
  # All of Unicode's white space, line and paragraph separators too.
  for word in "".join(spaced).split():
    if lower_case:
      word = unicodedata.normalize("NFD", word.lower())
      word = "".join(c for c in word if unicodedata.category(c) != "Mn")
    words += _at_punctuation(word)
  return words


def _at_punctuation(word: str) -> list[str]:
  parts: list[str] = []
  open_part = False
  for character in word:
    if _kind(character) == "punctuation":
      parts.append(character)
      open_part = False
    elif open_part:
      parts[-1] += character
    else:
      parts.append(character)
      open_part = True
  return parts


class Tokenizer:
  """Texts to pieces of a vocabulary and their ids; equal texts give equal ids in every process.

  vocabulary: piece -> id. lower_case: see `basic`. longest: characters of a word above which it is
  unknown (Google 200, Hugging Face 100). protected: whether special tokens that stand in a text are
  taken as such, as Hugging Face does; Google's code takes them apart.
  """

  def __init__(
    self,
    vocabulary: Mapping[str, int],
    *,
    lower_case: bool = True,
    longest: int = 200,
    protected: bool = False,
    name: str = "the vocabulary",
  ):
    """Raises: UserError if a special token is missing from the vocabulary."""
    missing = [token for token in SPECIAL if token not in vocabulary]
    if missing:
      raise errors.UserError(
        f"{name} lacks {', '.join(missing)}, which every vocabulary of BERT has; is it a vocab.txt?"
      )
    self.vocabulary = dict(vocabulary)
    self.lower_case, self.longest, self.protected = lower_case, longest, protected
    self.pad, self.unknown, self.start, self.separator = (vocabulary[t] for t in SPECIAL)
    self._known: dict[str, tuple[int, ...]] = {}

  def __len__(self) -> int:
    """Returns how many rows an embedding of all ids needs."""
    return 1 + max(self.vocabulary.values())

  def pieces(self, word: str) -> list[str]:
    """Returns the longest pieces of a word from the left, all but the first with `##`.

    >>> names = [*SPECIAL, "un", "##aff", "##able"]
    >>> Tokenizer({name: i for i, name in enumerate(names)}).pieces("unaffable")
    ['un', '##aff', '##able']
    """
    if len(word) > self.longest:
      return [UNKNOWN]
    found, start = [], 0
    while start < len(word):
      for end in range(len(word), start, -1):
        piece = ("##" if start else "") + word[start:end]
        if piece in self.vocabulary:
          break
      else:
        return [UNKNOWN]
      found.append(piece)
      start = end
    return found

  def tokens(self, text: str) -> list[str]:
    """Returns the pieces of a text."""
    found = []
    for part in self._parts(text):
      if self.protected and part in SPECIAL:
        found.append(part)
      else:
        for word in basic(part, lower_case=self.lower_case):
          found += self.pieces(word)
    return found

  def ids(self, text: str) -> list[int]:
    """Returns the ids of the pieces of a text."""
    found: list[int] = []
    for part in self._parts(text):
      if self.protected and part in SPECIAL:
        found.append(self.vocabulary[part])
        continue
      for word in basic(part, lower_case=self.lower_case):
        ids = self._known.get(word)
        if ids is None:
          ids = tuple(self.vocabulary[piece] for piece in self.pieces(word))
          if len(self._known) < 1 << 20:
            self._known[word] = ids
        found += ids
    return found

  def _parts(self, text: str) -> list[str]:
    """Returns the text cut at special tokens, if these are protected."""
    parts = [text]
    if self.protected:
      for token in SPECIAL:
        cut = []
        for part in parts:
          if part in SPECIAL:
            cut.append(part)
            continue
          first, *rest = part.split(token)
          cut.append(first)
          for piece in rest:
            cut += [token, piece]
        parts = cut
    return parts


def read_vocabulary(path: str | os.PathLike[str], *, stripped: bool = True) -> dict[str, int]:
  """Returns piece -> id of a vocab.txt: one piece a line, ids from 0.

  stripped: of all white space, as Google's code does; Hugging Face takes off the line's end alone.

  Raises: UserError if it cannot be read.
  """
  path = pathlib.Path(path).expanduser()
  try:
    lines = path.read_bytes().decode("utf-8").split("\n")
  except (OSError, UnicodeDecodeError) as error:
    raise errors.UserError(f"the vocabulary {path} cannot be read: {error}.") from error
  if lines[-1] == "":
    lines.pop()
  return {line.strip() if stripped else line.rstrip("\r"): i for i, line in enumerate(lines)}


def truncated(first: int, second: int, room: int) -> tuple[int, int]:
  """Returns the lengths of a pair after its longer one lost its end, token by token, to fit `room`.

  Of two equally long ones the second loses.

  >>> truncated(100, 60, 125), truncated(60, 100, 125), truncated(80, 80, 125)
  ((65, 60), (60, 65), (63, 62))
  """
  while first + second > room:
    if first > second:
      first -= 1
    else:
      second -= 1
  return first, second


def sequence(
  tokenizer: Tokenizer, first: str, second: str | None, *, length: int
) -> tuple[list[int], int, int]:
  """Returns (ids, tokens of the first segment, tokens cut off): [CLS] first [SEP] second [SEP].

  second: None for a single text. length: the most ids; at least 2, of pairs 3.
  """
  one = tokenizer.ids(first)
  if second is None:
    kept = one[: length - 2]
    ids = [tokenizer.start, *kept, tokenizer.separator]
    return ids, len(ids), len(one) - len(kept)
  two = tokenizer.ids(second)
  keep_one, keep_two = truncated(len(one), len(two), length - 3)
  cut = len(one) + len(two) - keep_one - keep_two
  ids = [tokenizer.start, *one[:keep_one], tokenizer.separator]
  return [*ids, *two[:keep_two], tokenizer.separator], len(ids), cut
