"""Names of classes, in the order of their labels."""

import functools
import importlib.resources
import os
import pathlib

from effnets import errors


@functools.cache
def imagenet() -> tuple[str, ...]:
  """Returns a short name for each of ImageNet's 1,000 classes, all different.

  Source: WordNet's words for the synsets of ILSVRC 2012, which are in the order of their numbers.

  >>> imagenet()[281], imagenet()[134], imagenet()[517]
  ('tabby', 'crane (bird)', 'crane (machine)')
  """
  file = importlib.resources.files("effnets.data") / "imagenet_classes.txt"
  return tuple(file.read_text("utf-8").splitlines())


def read(path: str | os.PathLike[str], *, key: str = "the file of class names") -> tuple[str, ...]:
  """Returns the class names in a text file, one on a line, label 0 first.

  Spaces around a name and empty lines at the end do not count. Whether there are as many names as
  classes, only the caller can know.

  Args: key: what the path was given as, for messages.
  Raises: errors.UserError if the file cannot be read, is no text, is empty or has an empty line.
  """
  path = pathlib.Path(path).expanduser()
  expected = "expected a text file with one class name on a line, label 0 first"
  try:
    text = path.read_text("utf-8-sig")
  except OSError as error:
    raise errors.UserError(
      f"{key}={str(path)!r} cannot be read ({error.strerror}); {expected}."
    ) from error
  except UnicodeDecodeError as error:
    raise errors.UserError(f"{key}={str(path)!r} is no UTF-8 text; {expected}.") from error
  names = tuple(line.strip() for line in text.rstrip().split("\n"))
  if names == ("",):
    raise errors.UserError(f"{key}={str(path)!r} is empty; {expected}.")
  if "" in names:
    raise errors.UserError(
      f"{key}={str(path)!r}: line {names.index('') + 1} is empty, which would shift all names "
      f"behind it; {expected}."
    )
  return names
