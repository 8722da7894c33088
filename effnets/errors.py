"""The one kind of error that is the user's to mend, and the words it is said in."""

import contextlib
import difflib
import importlib
from collections.abc import Iterable, Iterator
from types import ModuleType


class UserError(Exception):
  """A mistake in a config, a flag, a file or a workdir; `main` prints it and exits with status 2.

  The message says which key, what came in, what would be right and the nearest valid values.
  """


def nearest(word: str, options: Iterable[str], count: int = 3) -> list[str]:
  """Returns up to `count` of `options` that resemble `word`, best first.

  Letters and digits that look alike count as equal.

  >>> nearest("b", ["b7", "b0", "a"]), nearest("bo", ["b7", "b0", "a"])
  (['b7', 'b0'], ['b0', 'b7'])
  """
  alike = str.maketrans("olI", "011")

  def likeness(option: str) -> float:
    return difflib.SequenceMatcher(None, word.translate(alike), option.translate(alike)).ratio()

  word = str(word)
  scores = {option: likeness(option) for option in options}
  close = [option for option, score in scores.items() if score >= 0.4]
  return sorted(close, key=lambda option: (scores[option], option), reverse=True)[:count]


def unknown(
  key: str, value: object, kind: str, options: Iterable[str], where: str = ""
) -> UserError:
  """Returns the error for a name that is none of `options`.

  Args:
    key: the config key, such as `config.model.name`. value: what came in.
    kind: what the value should have been, with its article, such as "a model".
    options: every valid name. where: how to list them all, when they are too many to print.

  >>> print(unknown("config.model.name", "efficientnet_bo", "a model", ["efficientnet_b0"]))
  config.model.name='efficientnet_bo' is not a model. Nearest: 'efficientnet_b0'.
  """
  options = sorted(options)
  close = nearest(str(value), options)
  parts = [f"{key}={value!r} is not {kind}."]
  if close:
    parts.append("Nearest: " + ", ".join(repr(o) for o in close) + ".")
  if where:
    parts.append(f"All: {where}.")
  elif options and (not close or len(options) > len(close)):
    parts.append("Valid: " + ", ".join(repr(o) for o in options) + ".")
  return UserError(" ".join(parts))


def package(name: str, *, extra: str, what: str, called: str = "") -> ModuleType:
  """Returns the module `name`, which the optional `extra` of effnets installs.

  what: needs it, in words. called: what pip calls it, if not `name`.

  Raises: UserError that names the extra, if it is not there.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(
      f"{called or name} is not installed, or not whole ({error}); "
      f"`pip install 'effnets[{extra}]'` brings all that {what} needs."
    ) from error


@contextlib.contextmanager
def context(where: str) -> Iterator[None]:
  """Puts `where: ` before the message of a UserError that is raised inside."""
  try:
    yield
  except UserError as error:
    raise UserError(f"{where}: {error}") from error
