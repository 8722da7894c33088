"""Architecture-aware distillation: searches guided by teachers, and one without beside them.

`config.akd` has

  teachers  name -> overrides of the config, trained first; or with `weights`, taken as they are
  searches  comma list of arms: `plain`, the conventional search, names of teachers, or several with
            a + between them, which teach together
  seeds     of every search
  top       networks of each search that are trained in full
  retrain   overrides of the config of those trainings; students' seeds are those of the searches
  weight, temperature, ensemble   of the distillation, see `tasks.Distillation`

The arms share space, number of trials, steps and seeds; the only difference is the loss. The best
networks of every arm are then trained in full twice, without a teacher and with it: with that of
their search, or the first one. Everything has a folder of its own, and what is finished is kept.

Source: Liu et al. 2020 (arXiv 1911.09074); the structural measure is this project's.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
import numpy as np
from jaxtyping import Float, Int

from effnets import configuration, errors, evaluation, training, workdirs
from effnets.search import network, spaces

PLAIN = "plain"
RESULT, STRUCTURE, STUDENTS = "akd.json", "plots/structure.png", "plots/students.png"
_SETTINGS = (
  "ensemble",
  "retrain",
  "searches",
  "seeds",
  "teachers",
  "temperature",
  "top",
  "weight",
)

Search = Callable[[Any, str], Any]
"""(config, workdir): a whole search, which leaves its best.json there."""


@dataclasses.dataclass(frozen=True)
class Plan:
  """What `config.akd` comes to. arms: the teachers of every search, none for `plain`."""

  teachers: dict[str, Any]
  arms: dict[str, tuple[str, ...]]
  seeds: tuple[int, ...]
  top: int


def plan(config: Any) -> Plan:
  """Returns the experiment of `config`, checked.

  Raises: UserError for what is none.
  """
  found = config.akd
  for name in found:
    if name not in _SETTINGS:
      raise errors.unknown("config.akd", name, "a setting", _SETTINGS)
  for name in _SETTINGS:
    if name not in found:
      raise errors.UserError(f"config.akd.{name} is missing; start from configs/akd.py.")
  if not len(found.teachers):
    raise errors.UserError("config.akd.teachers is empty; name at least one.")
  arms = {}
  for arm in str(found.searches).split(","):
    taught = () if arm == PLAIN else tuple(arm.split("+"))
    for name in taught:
      if name not in found.teachers:
        known = [PLAIN, *found.teachers]
        raise errors.unknown("config.akd.searches", name, "plain or a teacher", known)
    arms[arm] = taught
  if found.top < 1 or not found.seeds:
    raise errors.UserError(
      f"config.akd.top={found.top} and config.akd.seeds={found.seeds}: at least one network of one "
      "search is trained in full."
    )
  return Plan(dict(found.teachers), arms, tuple(found.seeds), found.top)


def _base(config: Any) -> ml_collections.ConfigDict:
  """Returns the config of a search without the sections that are the experiment's."""
  made = ml_collections.ConfigDict(config.to_dict())
  del made["akd"]
  return made


def _teach(config: Any, akd: Any, named: dict[str, str]) -> None:
  settings = {key: akd[key] for key in ("weight", "temperature", "ensemble")}
  training.teachers.configure(config, named, **settings)


def train_teacher(config: Any, name: str, path: pathlib.Path) -> tuple[str, dict[str, float]]:
  """Returns the weights of a teacher, trained if none are named, and its test figures."""
  given = ml_collections.ConfigDict(config.akd.teachers[name].to_dict())
  if given.get("weights"):
    return given.weights, {}
  made = _base(config)
  del made["search"]
  if "name" in given.get("model", {}):
    made.model = configuration.base().model  # not what a network of the space has
  configuration.merge(made, given, key=f"config.akd.teachers.{name}")
  folder = path / "teachers" / name
  return f"run:{folder}", _trained(made, folder, f"teacher {name}")


def _trained(config: Any, folder: pathlib.Path, name: str) -> dict[str, float]:
  """Returns the test figures of a training, from its folder if it is finished."""
  done = training.results.read(folder)
  if done is None:
    config = ml_collections.ConfigDict(config.to_dict()).lock()
    result = training.train(config, folder, name=name)
    done = {"figures": result.figures, "steps": result.steps, "seconds": result.seconds}
    training.results.write(folder, done)
  return done["figures"][config.data.split.test]


def run(
  config: Any, workdir: str | pathlib.Path, search: Search, say: Callable[[str], None]
) -> Any:
  """Runs the experiment of `config` in `workdir`, and returns what `akd.json` holds.

  That is: `teachers`, their test figures; `students`, by arm a list of trained networks with their
  `plain` and `taught` figure on the test split; `structure`, see `structure`.

  Raises: UserError for a mistake in the config.
  """
  path, wanted = pathlib.Path(workdir), plan(config)
  workdirs.claim(path, config)
  weights, teachers = {}, {}
  for name in wanted.teachers:
    weights[name], teachers[name] = train_teacher(config, name, path)
    say(f"teacher {name}: {weights[name]}")
  best: dict[tuple[str, int], dict[str, Any]] = {}
  for seed in wanted.seeds:
    for arm, taught in wanted.arms.items():
      made = _base(config)
      made.seed = seed
      if taught:
        _teach(made, config.akd, {name: weights[name] for name in taught})
      folder = path / "searches" / f"{arm}_{seed}"
      say(f"search {arm}, seed {seed}")
      search(made.lock(), str(folder))
      best[arm, seed] = json.loads((folder / "best.json").read_text(encoding="utf-8"))
  students = {arm: [] for arm in wanted.arms}
  for (arm, seed), found in best.items():
    for rank, row in enumerate(found["top"][: wanted.top], 1):
      named = {name: weights[name] for name in wanted.arms[arm] or (next(iter(weights)),)}
      students[arm].append(_student(config, named, found, row, path / "students", arm, seed, rank))
  result = {
    "teachers": teachers,
    "students": students,
    "structure": _structure(path, wanted, config.search),
  }
  workdirs.write(path, RESULT, json.dumps(result, indent=2) + "\n")
  rows = {
    f"{arm}, {how}": [row[how] for row in rows]
    for arm, rows in students.items()
    for how in ("plain", "taught")
  }
  evaluation.comparison.dots(rows, path / STUDENTS, label="test " + config.checkpoint.best_metric)
  return result


def _student(
  config: Any,
  teachers: dict[str, str],
  found: dict[str, Any],
  row: dict[str, Any],
  path: pathlib.Path,
  arm: str,
  seed: int,
  rank: int,
) -> dict[str, Any]:
  """Returns one network trained in full without and with its teachers."""
  space = spaces.create(
    found["space"]["space"], **json.loads(found["space"]["space_options"] or "{}")
  )
  figures: dict[str, Any] = {"tokens": row["tokens"], "reward": row["reward"], "seed": seed}
  figures |= {name: row["values"].get(name) for name in ("madds", "params")}
  for how in ("plain", "taught"):
    made = _base(config)
    del made["search"]
    configuration.merge(made, config.akd.retrain, key="config.akd.retrain")
    made.seed = seed
    if how == "taught":
      _teach(made, config.akd, teachers)
    network.set_tokens(made, space, tuple(row["tokens"]))
    name = f"{arm}_{seed}_{rank}"
    test = _trained(made, path / name / how, f"{name}, {how}")
    figures[how] = test[config.checkpoint.best_metric]
  return figures


def _structure(path: pathlib.Path, wanted: Plan, found: Any) -> dict[str, Any]:
  """Returns and draws what the searches' best networks have in common and apart."""
  from effnets.search import study as study_lib
  from effnets.search.settings import DATABASE, spaces_or_landscape

  space, tokens, arms, seeds = spaces_or_landscape(found), [], [], []
  for arm in wanted.arms:
    for seed in wanted.seeds:
      where = str(path / "searches" / f"{arm}_{seed}" / DATABASE)
      study = study_lib.Study(space, where, name=found.study, identity=None, create=False)
      ranked = study_lib.ranking(study.records(), found.cost)
      best = ranked[: max(2, len(ranked) // 4)]
      tokens += [record.tokens for record in best]
      arms += [arm] * len(best)
      seeds += [seed] * len(best)
  made = structure(space, np.array(tokens), arms, seeds)
  _draw(made.pop("map"), arms, seeds, path / STRUCTURE)
  return made


def structure(
  space: Any, tokens: Int[np.ndarray, "n d"], arms: Sequence[str], seeds: Sequence[int]
) -> dict[str, Any]:
  """Returns whether searches by one teacher resemble each other more than those by one seed.

  `by_arm`, `by_seed`: silhouettes on Hamming distance in the tokens; `choices`: by decision and arm
  the share of each choice; `map`: the first two principal components of the tokens as one-hots.
  """
  distance = (tokens[:, None] != tokens[None]).mean(-1)
  wide = np.concatenate(
    [np.eye(arity)[column] for arity, column in zip(space.arities, tokens.T, strict=True)], -1
  )
  centred = wide - wide.mean(0)
  _, _, directions = np.linalg.svd(centred, full_matrices=False)
  shares: dict[str, dict[str, list[float]]] = {}
  for place, decision in enumerate(space.decisions):
    shares[decision.name] = {
      arm: [
        round(float(np.mean(tokens[np.array(arms) == arm, place] == token)), 4)
        for token in range(len(decision.choices))
      ]
      for arm in dict.fromkeys(arms)
    }
  return {
    "networks": len(tokens),
    "by_arm": silhouette(distance, arms),
    "by_seed": silhouette(distance, seeds),
    "choices": shares,
    "map": centred @ directions[:2].T,
  }


def silhouette(distance: Float[np.ndarray, "n n"], labels: Sequence[Any]) -> float | None:
  """Returns the mean silhouette of the points' groups, in [-1, 1]; None for a single group.

  Of a point: (b - a) / max(a, b), with a its mean distance from others of its group, b that from
  the nearest other group; 0 for one that is alone. Source: Rousseeuw 1987.

  >>> line = np.abs(np.subtract.outer([0.0, 1.0, 10.0, 11.0], [0.0, 1.0, 10.0, 11.0]))
  >>> round(silhouette(line, "aabb"), 4)
  0.8997
  """
  labels = np.array([str(label) for label in labels])
  groups = np.unique(labels)
  if len(groups) < 2:
    return None
  found = []
  for place, label in enumerate(labels):
    own = labels == label
    if own.sum() == 1:
      found.append(0.0)
      continue
    inside = distance[place, own].sum() / (own.sum() - 1)
    outside = min(distance[place, labels == other].mean() for other in groups if other != label)
    found.append((outside - inside) / max(inside, outside, 1e-12))
  return float(np.mean(found))


def _draw(
  places: Float[np.ndarray, "n c"], arms: Sequence[str], seeds: Sequence[int], path: pathlib.Path
) -> None:
  from matplotlib import figure
  from matplotlib.backends import backend_agg

  made = figure.Figure(figsize=(5.6, 4.2), layout="constrained")
  backend_agg.FigureCanvasAgg(made)
  axes = made.subplots()
  colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
  for number, arm in enumerate(dict.fromkeys(arms)):
    for shape, seed in zip("osD^v" * 10, dict.fromkeys(seeds), strict=False):
      chosen = (np.array(arms) == arm) & (np.array(seeds) == seed)
      if places.shape[1] > 1 and chosen.any():
        label = f"{arm}, seed {seed}"
        colour = colours[number % len(colours)]
        axes.scatter(*places[chosen, :2].T, s=22, c=colour, marker=shape, label=label, alpha=0.8)
  axes.set(xlabel="first principal component", ylabel="second")
  axes.legend(fontsize=8)
  path.parent.mkdir(parents=True, exist_ok=True)
  made.savefig(path, dpi=120)
