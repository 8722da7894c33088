"""The settings of `--mode=robustness`, checked before anything is opened."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from effnets import errors
from effnets.augment.corruptions import sequences as sequences_lib
from effnets.augment.corruptions import tables
from effnets.ops import attacks

KEY = "config.robustness"
FILE = "robustness.json"

_SUITES = ("corruptions", "sequences", "attacks", "photos")


@dataclasses.dataclass(frozen=True)
class Settings:
  """`config.robustness`, its lists read and checked."""

  suites: tuple[str, ...]
  corruptions: tuple[str, ...]
  severities: tuple[int, ...]
  sequences: tuple[str, ...]
  attacks: tuple[str, ...]
  epsilons: tuple[float, ...]
  reference: Mapping[str, Any] | None


def read(config: Any) -> Settings:
  """Returns the settings of `config.robustness`. Raises: UserError for what cannot be."""
  known = (*tables.CORRUPTIONS, *tables.EXTRA_CORRUPTIONS)
  perturbations = (*sequences_lib.PERTURBATIONS, *sequences_lib.EXTRA_PERTURBATIONS)
  if config.films:
    perturbations += sequences_lib.FILMED_PERTURBATIONS
  named = {
    "suites": (_SUITES, _SUITES[:3], "a suite"),
    "corruptions": (known, tables.CORRUPTIONS, "a corruption"),
    "sequences": (perturbations, sequences_lib.PERTURBATIONS, "a perturbation sequence"),
    "attacks": (attacks.KINDS, ("fgsm", "pgd"), "an attacker"),
  }
  names = {
    key: _names(config[key], valid, default, key, kind)
    for key, (valid, default, kind) in named.items()
  }
  severities = tuple(config.severities)
  if not severities or any(s not in tables.SEVERITIES for s in severities):
    raise errors.UserError(
      f"{KEY}.severities={severities!r} should be some of 1 to 5, such as (1, 3, 5)."
    )
  epsilons = tuple(config.epsilons)
  for epsilon in epsilons:
    if not isinstance(epsilon, int | float):
      raise errors.UserError(f"{KEY}.epsilons={epsilons!r} should be numbers, such as (1, 2, 4).")
    try:
      attacks.Attack(epsilon=epsilon)
    except ValueError as error:
      raise errors.UserError(f"{KEY}.epsilons: {error}") from error
  if not epsilons:
    raise errors.UserError(f"{KEY}.epsilons=() is empty; give numbers, such as (1, 2, 4).")
  for key in ("folder", "films", "imagenet_a", "stylized", "frost"):
    if config[key] and not pathlib.Path(config[key]).expanduser().is_dir():
      raise errors.UserError(f"{KEY}.{key}={config[key]!r} is not a folder that there is.")
  return Settings(
    **names,
    severities=tuple(dict.fromkeys(severities)),
    epsilons=epsilons,
    reference=_reference(config.reference) if config.reference else None,
  )


def _names(
  text: str,
  known: tuple[str, ...],
  default: tuple[str, ...],
  key: str,
  kind: str,
) -> tuple[str, ...]:
  """Returns the names in a comma list; `all` is `known`, nothing is `default`."""
  if text == "all":
    return known
  names = tuple(dict.fromkeys(filter(None, (part.strip() for part in text.split(",")))))
  for name in names:
    if name not in known:
      raise errors.unknown(f"{KEY}.{key}", name, kind, known)
  return names or default


def _reference(path: str) -> dict[str, Any]:
  """Returns what this command has written for another model."""
  try:
    content = json.loads(pathlib.Path(path).expanduser().read_text())
    if "corruptions" in content:
      content["corruptions"]["errors"] = _by_number(content["corruptions"]["errors"])
    if not content.keys() & {"corruptions", "sequences"}:
      raise KeyError("corruptions")
  except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
    raise errors.UserError(
      f"{KEY}.reference={path!r} is no {FILE} of this command that can be read "
      f"({type(error).__name__}: {error})."
    ) from error
  return content


def _by_number(by_name: Mapping[str, Mapping[str, float]]) -> dict[str, dict[int, float]]:
  """Returns severities as the numbers that JSON made text."""
  return {name: {int(s): value for s, value in by.items()} for name, by in by_name.items()}
