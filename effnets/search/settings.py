"""From the section `search` of a config to what a search takes: checked, and nothing trained."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from effnets import configuration, errors, parallel, workdirs
from effnets.search import algorithms, landscapes, lut, proxy, rewards, running, section, spaces
from effnets.search import study as study_lib

DATABASE = "study.db"
EVALUATORS = ("proxy", "table", "landscape")


@dataclasses.dataclass(frozen=True)
class Search:
  """What a config's search comes to. evaluators: one for every worker thread, made when called."""

  space: Any
  reward: Callable[[Mapping[str, Any]], float]
  rules: running.Rules
  evaluators: Callable[[], list[running.Evaluate]]
  algorithm: Callable[[], Any]


def create(config: Any, workdir: str | pathlib.Path) -> Search:
  """Returns the search of `config`, everything checked that costs no training.

  Raises: UserError for what is none.
  """
  if "search" not in config:
    raise errors.UserError(
      "this config has no section `search`; take one such as configs/search_mnasnet.py."
    )
  found = config.search
  _check(found)
  with errors.context("config.search.space"):
    space = spaces_or_landscape(found)
  reward = _reward(found.reward)
  rules = running.Rules(
    **{field.name: found[field.name] for field in dataclasses.fields(running.Rules)}
  )

  def algorithm():
    with errors.context("config.search.algorithm"):
      options = found.algorithm.options.to_dict()
      return algorithms.create(found.algorithm.name, space, config.seed, **options)

  def evaluators():
    return _evaluators(config, space, pathlib.Path(workdir))

  return Search(space, reward, rules, evaluators, algorithm)


def spaces_or_landscape(found: Any) -> Any:
  """Returns the space that is searched: a landscape brings its own."""
  if found.evaluator.name == "landscape":
    return _landscape(found).space
  return spaces.create(found.space.name, **found.space.options.to_dict())


def _landscape(found: Any) -> Any:
  options = found.evaluator.options.to_dict()
  return landscapes.create(options.pop("name", "match"), **options)


def _check(found: Any) -> None:
  for name in found:
    if name not in section.defaults():
      raise errors.unknown("config.search", name, "a setting", section.defaults())
  for name in section.defaults():
    if name not in found:
      raise errors.UserError(
        f"config.search.{name} is missing; start from effnets.search.section.defaults()."
      )
  for key, options in (
    ("evaluator.name", EVALUATORS),
    ("proxy.execution", proxy.EXECUTIONS),
    ("failure", ("skip", "penalise", "abort")),
    ("infeasible", ("skip", "penalise")),
  ):
    value = configuration.flatten(found)[key]
    if value not in options:
      raise errors.unknown(f"config.search.{key}", value, "one of its values", options)
  for key, low in (("trials", 1), ("repeats", 1), ("retries", 0), ("losses", 0), ("window", 0)):
    if found[key] < low:
      raise errors.UserError(f"config.search.{key}={found[key]} should be at least {low}.")


def _reward(found: Any) -> rewards.Reward:
  costs, targets = tuple(found.costs), tuple(found.targets)
  if len(costs) != len(targets):
    raise errors.UserError(
      f"config.search.reward.costs={costs} and config.search.reward.targets={targets} should be as "
      "many, such as ('madds',) and (1e6,)."
    )
  with errors.context("config.search"):
    return rewards.Reward(
      found.form,
      dict(zip(costs, map(float, targets), strict=True)),
      found.accuracy,
      found.options.to_dict(),
    )


def _evaluators(config: Any, space: Any, workdir: pathlib.Path) -> list[running.Evaluate]:
  found, count = config.search, max(1, config.search.proxy.workers)
  if found.evaluator.name == "landscape":
    return [_landscape(found)] * count
  if found.evaluator.name == "table":
    return [proxy.Table(found.table, space, costs(found))] * count
  limits = found.limits.options.to_dict()
  return [
    proxy.Proxy(
      config,
      workdir / "children",
      execution=found.proxy.execution,
      devices=group,
      limits=limits,
      costs=costs(found),
    )
    for group in device_groups(jax.local_devices(), count)
  ]


def costs(found: Any) -> proxy.Costs | None:
  """Returns what gives a network's costs beside those that are counted. found: section `search`.

  Raises: UserError if `latency_table` is none.
  """
  return lut.load(found.latency_table).costs if found.latency_table else None


def device_groups(devices: Sequence[Any], count: int) -> list[list[Any]]:
  """Returns `count` disjoint groups, as many devices in each; fewer devices are shared.

  >>> device_groups([0, 1, 2, 3, 4], 2), device_groups([0], 2)
  ([[0, 1], [2, 3]], [[0], [0]])
  """
  size = len(devices) // count
  if not size:
    return [[devices[i % len(devices)]] for i in range(count)]
  return [list(devices[i * size : (i + 1) * size]) for i in range(count)]


def finished(found: Any, workdir: str | pathlib.Path) -> list[study_lib.Record]:
  """Returns all records of the search that ran in `workdir`. found: the section `search`.

  Raises: UserError if there is no such study, or it is of another space.
  """
  where = found.storage or str(pathlib.Path(workdir) / DATABASE)
  space = spaces_or_landscape(found)
  return study_lib.Study(space, where, name=found.study, identity=None, create=False).records()


def open_study(
  config: Any, made: Search, workdir: str | pathlib.Path, *, create: bool
) -> study_lib.Study:
  """Returns the study of `config`.

  create: whether it is made if it is not there.

  Raises: UserError if it is one of another space, config or code.
  """
  found = config.search
  leaves = configuration.flatten(json.loads(configuration.to_json(config)))
  free = tuple(f"{key}." for key in (*workdirs.FREE_KEYS, *section.FREE))
  kept = {k: v for k, v in leaves.items() if not f"{k}.".startswith(free)}
  digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]
  identity = {
    "algorithm": found.algorithm.name,
    "reward": found.reward.form,
    "seed": str(config.seed),
    "config": digest,
  }
  if not found.any_code:
    identity["code"] = parallel.agreement.code()["sources of effnets"]
  return study_lib.Study(
    made.space,
    found.storage or str(pathlib.Path(workdir) / DATABASE),
    name=found.study,
    identity=identity,
    create=create,
    patience=found.patience,
  )
