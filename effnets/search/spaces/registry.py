"""Spaces by name."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from effnets import errors
from effnets.search import space

_MAKERS: dict[str, Callable[..., space.Space]] = {}


def register(name: str, **own: Any) -> Callable[[Callable], Callable]:
  """Returns a decorator that makes a function, with its own defaults `own`, known by `name`.

  The function's keyword arguments are the space's settings.
  """

  def keep(maker: Callable[..., space.Space]) -> Callable[..., space.Space]:
    if name in _MAKERS:
      raise ValueError(f"space name {name!r} is taken.")
    _MAKERS[name] = functools.partial(maker, **own)
    return maker

  return keep


def names() -> list[str]:
  """Returns the names of all spaces, sorted."""
  return sorted(_MAKERS)


def create(name: str, **settings: Any) -> space.Space:
  """Returns the space `name`; settings: see the function that makes it.

  Raises: UserError for an unknown name or setting, with the nearest ones.
  """
  if name not in _MAKERS:
    raise errors.unknown("config.search.space", name, "a space", _MAKERS)
  maker = _MAKERS[name]
  valid = inspect.signature(maker).parameters
  for key in settings:
    if key not in valid:
      raise errors.unknown("config.search.settings", key, f"a setting of {name!r}", valid)
  settings = {key: space.plain(value) for key, value in settings.items()}
  made = maker(**settings)
  made.name, made.settings = name, settings
  made.__dict__.pop("version", None)
  return made
