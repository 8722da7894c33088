"""Algorithms by name, with the constants of their papers unless told otherwise."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from effnets import errors
from effnets.search.algorithms import (
  evolution,
  gradient,
  netadapt,
  plain,
  policies,
  samplers,
)
from effnets.search.algorithms.base import Algorithm

# NASNet's 3.5e-4 is an LSTM's; independent logits learn nothing with it in 2,000 samples.
_LEARNING_RATES = {"factorised": 0.05}


def _fields(settings: type) -> list[str]:
  return [field.name for field in dataclasses.fields(settings)]


def _checked(name: str, settings: dict[str, Any], known: Iterable[str]) -> None:
  known = list(known)
  for setting in settings:
    if setting not in known:
      raise errors.unknown(f"algorithm {name}", setting, "one of its settings", known)


def _gradient(name: str, policy: str, method: str) -> Callable[..., Algorithm]:
  def make(space: Any, seed: int, *, policy: str = policy, **settings: Any) -> Algorithm:
    if policy not in policies.POLICIES:
      raise errors.unknown(f"algorithm {name}: policy", policy, "a policy", policies.POLICIES)
    of_policy = [field for field in _fields(policies.POLICIES[policy]) if field != "layout"]
    _checked(name, settings, ["policy", *_fields(gradient.Settings), *of_policy])
    mine = {key: settings.pop(key) for key in of_policy if key in settings}
    if policy in _LEARNING_RATES:
      settings.setdefault("learning_rate", _LEARNING_RATES[policy])
    settings.setdefault("method", method)
    made = policies.create(policy, policies.Layout.of(space), **mine)
    return gradient.PolicyGradient(space, seed, made, gradient.Settings(**settings))

  return make


def _evolution(name: str, made: type, settings: type) -> Callable[..., Algorithm]:
  def make(space: Any, seed: int, **given: Any) -> Algorithm:
    _checked(name, given, _fields(settings))
    return made(space, seed, settings(**given))

  return make


def _plain(name: str, made: Callable[..., Algorithm], fixed: dict[str, Any]) -> Callable:
  known = [key for key in inspect.signature(made).parameters if key not in ("space", "seed")]
  open_ended = "settings" in known

  def make(space: Any, seed: int, **settings: Any) -> Algorithm:
    if not open_ended:
      _checked(name, settings, known)
    return made(space, seed, **fixed, **settings)

  return make


def _netadapt(space: Any, seed: int, **settings: Any) -> Algorithm:
  _checked("netadapt", settings, ["cost", "start", *_fields(netadapt.Settings)])
  for needed in ("cost", "target"):
    if needed not in settings:
      raise errors.UserError(f"algorithm netadapt needs {needed!r} among its settings.")
  return netadapt.NetAdapt(space, seed, **settings)


_ALGORITHMS: dict[str, Callable[..., Algorithm]] = {
  "random": _plain("random", plain.Random, {}),
  "exhaustive": _plain("exhaustive", plain.Exhaustive, {}),
  "factorised": _gradient("factorised", "factorised", "reinforce"),
  "reinforce": _gradient("reinforce", "lstm", "reinforce"),
  "ppo": _gradient("ppo", "lstm", "ppo"),
  "transformer": _gradient("transformer", "transformer", "ppo"),
  "evolution": _evolution("evolution", evolution.Evolution, evolution.Settings),
  "guided_evolution": _evolution(
    "guided_evolution", evolution.GuidedEvolution, evolution.GuidedSettings
  ),
  "netadapt": _netadapt,
  "tpe": _plain("tpe", samplers.Sampler, {"sampler": "tpe"}),
  "nsga2": _plain("nsga2", samplers.Sampler, {"sampler": "nsga2"}),
}


def names() -> list[str]:
  """Returns the names of all algorithms."""
  return sorted(_ALGORITHMS)


def create(name: str, space: Any, seed: int, **settings: Any) -> Algorithm:
  """Returns the algorithm `name` on a space.

  Raises: UserError for an unknown name or setting.
  """
  if name not in _ALGORITHMS:
    raise errors.unknown("algorithm", name, "a search algorithm", _ALGORITHMS)
  return _ALGORITHMS[name](space, seed, **settings)
