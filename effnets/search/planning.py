"""What the trainings of a search are, for a plan of them."""

import dataclasses
from typing import Any

import ml_collections

from effnets import errors
from effnets.search import akd, network, proxy, settings


@dataclasses.dataclass(frozen=True)
class Children:
  """The trainings of a search. config: of one. count: how many there are."""

  config: Any
  count: int


def children(config: Any) -> dict[str, Children]:
  """Returns the children of every search of `config` by its arm; of a single search by "".

  One network stands for all: the first that is published in the space, or else its first one.

  Raises: UserError for a search that trains nothing, or a teacher that is yet to be trained.
  """
  found = config.search
  if found.evaluator.name != "proxy":
    raise errors.UserError(
      f"config.search.evaluator.name={found.evaluator.name!r} trains nothing, so there is nothing "
      "to plan."
    )
  arms, count = {"": config}, found.trials
  if "akd" in config:
    arms, count = _arms(config), count * len(config.akd.seeds)
  space = settings.spaces_or_landscape(found)
  tokens = network.first(space)
  return {
    name: Children(proxy.child(made, space, tokens, made.seed), count)
    for name, made in arms.items()
  }


def _arms(config: Any) -> dict[str, ml_collections.ConfigDict]:
  made = {}
  for arm, teachers in akd.plan(config).arms.items():
    named = {}
    for name in teachers:
      named[name] = config.akd.teachers[name].get("weights", "")
      if not named[name]:
        raise errors.UserError(
          f"config.akd.teachers.{name} is yet to be trained; a plan takes teachers with `weights`."
        )
    made[arm] = akd.searched(config, named)
  return made
