"""The matrix of teachers and students: is the best student of one teacher that of another?

`config.akd.matrix` has

  students  random networks of the space, all different; 0 is off
  within    how far their cost may be from the search's target, as a share of it

Source: Liu et al. 2020 (arXiv 1911.09074), who show a few random students under several teachers;
which figures sum it up is this project's.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from effnets import errors, evaluation, training
from effnets.search import cost, lut, network, rewards, spaces

PICTURE = "plots/matrix.png"
TRIES = 10_000
"""Random networks among which students of the right cost are looked for."""
_SETTINGS = ("students", "within")

Tokens = tuple[int, ...]


def check(found: Any) -> None:
  """Checks `config.akd.matrix`. Raises: UserError for what is none."""
  for name in found:
    if name not in _SETTINGS:
      raise errors.unknown("config.akd.matrix", name, "a setting", _SETTINGS)
  for name in _SETTINGS:
    if name not in found:
      raise errors.UserError(f"config.akd.matrix.{name} is missing; start from configs/akd.py.")
  if found.students < 0 or found.students == 1:
    raise errors.UserError(
      f"config.akd.matrix.students={found.students} should be 0, for no matrix, or at least 2: one "
      "student has no rank."
    )
  if not found.within > 0:
    raise errors.UserError(
      f"config.akd.matrix.within={found.within} is a share of the search's target, such as 0.1."
    )


def choose(config: Any) -> list[dict[str, Any]]:
  """Returns the students of `config`: their `tokens`, `params`, `madds`, and the cost searched by.

  Raises: UserError if the search has no target, or the space not enough such networks.
  """
  found = config.search
  if not len(found.reward.costs):
    raise errors.UserError(
      "config.search.reward.costs is empty: students of config.akd.matrix are alike in the first "
      "of these costs, such as ('madds',)."
    )
  space = spaces.create(found.space.name, **found.space.options.to_dict())
  name, target = found.reward.costs[0], found.reward.targets[0]
  price = _costs(config, space)
  tokens = draw(
    space,
    lambda tokens: price(tokens)[name],
    target,
    count=config.akd.matrix.students,
    within=config.akd.matrix.within,
    seed=config.seed,
    what=name,
  )
  return [{"tokens": list(each), **price(each)} for each in tokens]


def _costs(config: Any, space: Any) -> Callable[[Tokens], dict[str, float]]:
  """Returns what gives every cost of a network, as the search counts it, by name."""
  classes = training.inputs.evaluation(config, "validation").num_classes
  more = network.counted(config, space)
  table = lut.load(config.search.latency_table) if config.search.latency_table else None
  known = {"params", "madds"} | ({"latency"} if table else set())
  for name in config.search.reward.costs:
    if name not in known:
      raise errors.unknown("config.search.reward.costs", name, "a cost that is measured", known)

  def price(tokens):
    found = cost.of(space, tokens, image_size=config.data.image_size, num_classes=classes, **more)
    timed = table.costs(space, tokens) if table else {}
    return {"params": found.params, "madds": found.madds, **timed}

  return price


def draw(
  space: Any,
  price: Callable[[Tokens], float],
  target: float,
  *,
  count: int,
  within: float,
  seed: int,
  what: str = "cost",
) -> list[Tokens]:
  """Returns `count` different random networks that cost from (1 - within) to (1 + within) target.

  A larger count, or share, has those of a smaller count among its own draws in the same order.
  what: `price`, in words.

  Raises: UserError if there are not as many among `TRIES` random networks.
  """
  rng, seen, found = np.random.default_rng(seed), {}, []
  for _ in range(TRIES):
    tokens = space.sample(rng)
    key = space.key(tokens)
    if key in seen:
      continue
    seen[key] = price(tokens)
    if abs(seen[key] - target) <= within * target:
      found.append(tokens)
      if len(found) == count:
        return found
  low, high = np.percentile(list(seen.values()), (10, 90))
  raise errors.UserError(
    f"config.akd.matrix.students={count}: of {len(seen):,} random networks of {space.name!r} "
    f"{len(found)} have {what} within {within:.0%} of the search's target, {target:,.4g}; raise "
    "config.akd.matrix.within, or set config.search.reward.targets where there are more: four "
    f"fifths of all have {low:,.4g} to {high:,.4g}."
  )


def figures(table: Mapping[str, Sequence[float]]) -> dict[str, Any]:
  """Returns what a table says of teachers: for each the figures of the same students, in order.

  `best`: by teacher the number of its best student, from 1, the first of equals. `spread`: by
  teacher the best figure less the worst. `tau`: by teacher and other teacher Kendall's rank
  correlation (tau-b, 0 if one of them finds all students equal).

  >>> found = figures({"a": [0.5, 0.75], "b": [0.75, 0.5]})
  >>> found["best"], found["spread"]["a"], found["tau"]["a"]
  ({'a': 2, 'b': 1}, 0.25, {'b': -1.0})
  """
  columns = {name: np.asarray(values, np.float64) for name, values in table.items()}
  return {
    "best": {name: int(values.argmax()) + 1 for name, values in columns.items()},
    "spread": {name: float(np.ptp(values)) for name, values in columns.items()},
    "tau": {
      name: {other: rewards.kendall(values, columns[other]) for other in columns if other != name}
      for name, values in columns.items()
    },
  }


def run(
  students: Sequence[Mapping[str, Any]],
  teachers: Sequence[str],
  seeds: Sequence[int],
  train: Callable[[Tokens, str, int], float],
) -> dict[str, Any]:
  """Returns every student under every teacher.

  `students`, as given; `figures`: by teacher, for each student a list of its figures, one a seed;
  and `figures` of the means over seeds.

  train: (tokens, teacher, seed) -> test figure.
  """
  rows = {
    teacher: [
      [train(tuple(student["tokens"]), teacher, seed) for seed in seeds] for student in students
    ]
    for teacher in teachers
  }
  means = {teacher: [float(np.mean(each)) for each in row] for teacher, row in rows.items()}
  return {"students": list(students), "figures": rows, **figures(means)}


def picture(result: Mapping[str, Any], path: pathlib.Path, *, label: str) -> None:
  """Draws what `run` returned to the PNG file `path`. label: what the figures are."""
  cells = {
    (teacher, str(number)): values
    for teacher, row in result["figures"].items()
    for number, values in enumerate(row, 1)
  }
  evaluation.comparison.heat_map(cells, path, label=label, axes=("teacher", "student"))
