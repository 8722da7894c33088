"""Checks of what a config says, and of what a policy is called with; each names key and remedy."""

import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp

from effnets import errors


def check_number(key: str, value: Any, low: float, high: float, *, whole: bool = False) -> None:
  """Raises UserError unless `value` is a number in [low, high]."""
  kind = numbers.Integral if whole else numbers.Real
  good = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
  if not good or not low <= value <= high:
    what = "a whole number" if whole else "a number"
    near = f" Nearest: {min(max(value, low), high)}." if good else ""
    raise errors.UserError(f"{key}={value!r} is not {what} in [{low}, {high}].{near}")


def check_flag(key: str, value: Any) -> None:
  """Raises UserError unless `value` is a bool."""
  if not isinstance(value, bool):
    raise errors.UserError(f"{key}={value!r} is not True or False.")


def check_choice(key: str, value: Any, kind: str, options: Iterable[str]) -> None:
  """Raises UserError with the nearest of `options` unless `value` is one of them."""
  options = list(options)
  if value not in options:
    raise errors.unknown(key, value, kind, options)


def colour(key: str, value: Any) -> int | tuple[int, int, int]:
  """Returns a level, or three as a tuple. Raises: UserError unless each is in [0, 255]."""
  levels = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
  whole = all(isinstance(v, numbers.Integral) and not isinstance(v, bool) for v in levels)
  if not whole or len(levels) not in (1, 3) or not all(0 <= v <= 255 for v in levels):
    raise errors.UserError(
      f"{key}={value!r} is neither a level in [0, 255] nor three of them, such as (125, 122, 113)."
    )
  return int(value) if isinstance(value, numbers.Integral) else tuple(int(v) for v in value)


def pair(key: str, value: Any, low: float, high: float) -> tuple[float, float]:
  """Returns an ascending pair as floats. Raises: UserError unless it lies above low up to high."""
  good = (
    isinstance(value, (tuple, list))
    and len(value) == 2
    and all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in value)
    and low < value[0] <= value[1] <= high
  )
  if not good:
    raise errors.UserError(
      f"{key}={value!r} is not an ascending pair of numbers above {low} and up to {high}."
    )
  return float(value[0]), float(value[1])


def mapping(key: str, value: Any, options: Iterable[str]) -> dict[str, Any]:
  """Returns `value`, any mapping, a ConfigDict too, as a dict whose keys are among `options`.

  Raises: UserError if it is no mapping or has another key.
  """
  options = sorted(options)
  if not hasattr(value, "keys"):
    raise errors.UserError(f"{key}={value!r} is not a mapping. Valid keys: {', '.join(options)}.")
  given = {name: value[name] for name in value.keys()}
  for name in given:
    if name not in options:
      close = "".join(f" Nearest: {key}.{near}." for near in errors.nearest(name, options, 1))
      raise errors.UserError(
        f"{key}.{name}={given[name]!r} is not a setting.{close} Valid keys: {', '.join(options)}."
      )
  return given


def check_batch(what: str, images: Any, keys: Any) -> None:
  """Raises ValueError unless there is one key for each of the images; `pack` checks the rest."""
  if jnp.ndim(images) != 4 or jnp.shape(keys) != jnp.shape(images)[:1]:
    raise ValueError(
      f"{what} takes images (b, h, w, 3) and keys (b,); got {jnp.shape(images)} and "
      f"{jnp.shape(keys)}."
    )
