"""Architecture-aware distillation: searches guided by teachers, and one without beside them.

`config.akd` has

  teachers  name -> overrides of the config, trained first; or with `weights`, taken as they are
  searches  comma list of arms: `plain`, the conventional search, names of teachers, or several with
            a + between them, which teach together
  seeds     of every search
  top       networks of each search that are trained in full
  retrain   overrides of the config of those trainings; students' seeds are those of the searches
  weight, temperature, ensemble   of the distillation, see `tasks.Distillation`
  matrix    random students under every teacher, see `akd_matrix`; trained as `retrain` says
  transfer  overrides of `configuration.base()`: a training on other data, which begins at the
            variables of a trained student; nothing is off

The arms share space, number of trials, steps and seeds; the only difference is the loss. The best
networks of every arm are then trained in full twice, without a teacher and with it: with that of
their search, or, if that had none, of the first one that had; without such a search, the first
teacher. Everything has a folder of its own, and what is finished is kept; `matrix` and `transfer`
may be added to an experiment that is finished.

Source: Liu et al. 2020 (arXiv 1911.09074).
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from effnets import configuration, errors, evaluation, training, weights, workdirs
from effnets.search import akd_matrix, akd_structure, network, spaces, trainings

PLAIN = "plain"
RESULT, STRUCTURE, STUDENTS = "akd.json", "plots/structure.png", "plots/students.png"
TRANSFER = "plots/transfer.png"
HOW = ("plain", "taught")
"""How a student is trained."""
_SETTINGS = (
  "ensemble",
  "matrix",
  "retrain",
  "searches",
  "seeds",
  "teachers",
  "temperature",
  "top",
  "transfer",
  "weight",
)
# What another start may have changed: neither alters what is there.
_FREE = ("akd.matrix", "akd.transfer")

Search = Callable[[Any, str], Any]
"""(config, workdir): a whole search, which leaves its best.json there."""


@dataclasses.dataclass(frozen=True)
class Plan:
  """What `config.akd` comes to.

  arms: the teachers of every search, none for `plain`. tutors: those of its students.
  """

  teachers: dict[str, Any]
  arms: dict[str, tuple[str, ...]]
  tutors: dict[str, tuple[str, ...]]
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
  if PLAIN in found.teachers:
    raise errors.UserError(
      f"config.akd.teachers.{PLAIN}: this is what the search without a teacher is called; take "
      "another name."
    )
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
  akd_matrix.check(found.matrix)
  if len(found.transfer):
    configuration.check(_elsewhere(config))
  first = next(filter(None, arms.values()), (next(iter(found.teachers)),))
  tutors = {arm: taught or first for arm, taught in arms.items()}
  return Plan(dict(found.teachers), arms, tutors, tuple(found.seeds), found.top)


def _elsewhere(config: Any, start: str = "") -> ml_collections.ConfigDict:
  """Returns the config of a training on the other data. start: what `config.weights` is to name."""
  made = configuration.base()
  for key in ("execution", "mesh", "sharding"):
    made[key] = ml_collections.ConfigDict(config.to_dict())[key]
  if start:
    weights.configure(made, start)
  made.new_head = True
  configuration.merge(made, config.akd.transfer, key="config.akd.transfer")
  return made


def _base(config: Any) -> ml_collections.ConfigDict:
  """Returns the config of a search without the sections that are the experiment's."""
  made = ml_collections.ConfigDict(config.to_dict())
  del made["akd"]
  return made


def _teach(config: Any, akd: Any, named: dict[str, str]) -> None:
  settings = {key: akd[key] for key in ("weight", "temperature", "ensemble")}
  training.teachers.configure(config, named, **settings)


def searched(config: Any, teachers: Mapping[str, str]) -> ml_collections.ConfigDict:
  """Returns the config of a search whose children learn from `teachers`, weights by name."""
  made = _base(config)
  if teachers:
    _teach(made, config.akd, dict(teachers))
  return made


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
  return f"run:{folder}", trainings.finished(made, folder, f"teacher {name}")


def run(
  config: Any, workdir: str | pathlib.Path, search: Search, say: Callable[[str], None]
) -> Any:
  """Runs the experiment of `config` in `workdir`, and returns what `akd.json` holds.

  That is: `teachers`, their test figures; `students`, by arm a list of trained networks with their
  `plain` and `taught` figure on the test split; `structure`, see `akd_structure.structure`;
  `matrix`, see `akd_matrix.run`; `transfer`, what the `data` and the `figure` were, and by arm the
  same `students` with the figures that they came to there.

  Raises: UserError for a mistake in the config.
  """
  path, wanted = pathlib.Path(workdir), plan(config)
  # There may not be enough of them, which is said before anything is trained.
  chosen = akd_matrix.choose(config) if config.akd.matrix.students else []
  workdirs.claim(path, config, free=_FREE)
  sources, teachers = {}, {}
  for name in wanted.teachers:
    sources[name], teachers[name] = train_teacher(config, name, path)
    say(f"teacher {name}: {sources[name]}")
  folders = {
    (arm, seed): path / "searches" / f"{arm}_{seed}" for seed in wanted.seeds for arm in wanted.arms
  }
  for (arm, seed), folder in folders.items():
    made = searched(config, {name: sources[name] for name in wanted.arms[arm]})
    made.seed = seed
    say(f"search {arm}, seed {seed}")
    search(made.lock(), str(folder))
  students = _students(config, wanted, folders, sources, path)
  result = {
    "teachers": teachers,
    "students": students,
    "structure": akd_structure.compare(folders, config.search, path / STRUCTURE),
  }
  metric = config.checkpoint.best_metric
  _draw(students, path / STUDENTS, f"test {metric}")
  if chosen:
    result["matrix"] = _matrix(config, wanted, chosen, sources, path)
    akd_matrix.picture(result["matrix"], path / akd_matrix.PICTURE, label=f"test {metric}")
  if len(config.akd.transfer):
    found = result["transfer"] = _transfer(config, students, path)
    label = f"test {found['figure']} on {found['data']}"
    _draw(found["students"], path / TRANSFER, label)
  workdirs.write(path, RESULT, json.dumps(result, indent=2) + "\n")
  return result


def _draw(students: Mapping[str, Any], path: pathlib.Path, label: str) -> None:
  rows = {
    f"{arm}, {how}": [row[how] for row in rows] for arm, rows in students.items() for how in HOW
  }
  evaluation.comparison.dots(rows, path, label=label)


def _in_full(
  config: Any, space: Any, tokens: tuple[int, ...], seed: int, teachers: dict[str, str]
) -> ml_collections.ConfigDict:
  """Returns the config of one network's training in full, with `teachers` if there are any."""
  made = _base(config)
  del made["search"]
  configuration.merge(made, config.akd.retrain, key="config.akd.retrain")
  made.seed = seed
  if teachers:
    _teach(made, config.akd, teachers)
  network.set_tokens(made, space, tokens)
  return made


def _students(
  config: Any,
  wanted: Plan,
  folders: Mapping[tuple[str, int], pathlib.Path],
  sources: Mapping[str, str],
  path: pathlib.Path,
) -> dict[str, list[dict[str, Any]]]:
  """Returns by arm the best networks of its searches, trained in full without and with teachers."""
  students: dict[str, list[dict[str, Any]]] = {arm: [] for arm in wanted.arms}
  for (arm, seed), folder in folders.items():
    found = json.loads((folder / "best.json").read_text(encoding="utf-8"))
    options = json.loads(found["space"]["space_options"] or "{}")
    space = spaces.create(found["space"]["space"], **options)
    named = {name: sources[name] for name in wanted.tutors[arm]}
    for rank, row in enumerate(found["top"][: wanted.top], 1):
      name = f"{arm}_{seed}_{rank}"
      figures = {"name": name, "tokens": row["tokens"], "reward": row["reward"], "seed": seed}
      figures |= {key: row["values"].get(key) for key in ("madds", "params")}
      for how, teachers in zip(HOW, ({}, named), strict=True):
        made = _in_full(config, space, tuple(row["tokens"]), seed, teachers)
        test = trainings.finished(made, path / "students" / name / how, f"{name}, {how}")
        figures[how] = test[config.checkpoint.best_metric]
      students[arm].append(figures)
  return students


def _matrix(
  config: Any,
  wanted: Plan,
  chosen: list[dict[str, Any]],
  sources: Mapping[str, str],
  path: pathlib.Path,
) -> dict[str, Any]:
  """Returns the chosen students under every teacher and without one."""
  found = config.search.space
  space = spaces.create(found.name, **found.options.to_dict())

  def train(tokens, teacher, seed):
    teachers = {} if teacher == PLAIN else {teacher: sources[teacher]}
    made = _in_full(config, space, tokens, seed, teachers)
    # By the network, so that another number of students finds what is trained already.
    folder = path / "matrix" / space.key(tokens) / f"{teacher}_{seed}"
    return trainings.finished(made, folder, f"matrix, {teacher}")[config.checkpoint.best_metric]

  return akd_matrix.run(chosen, (PLAIN, *wanted.teachers), wanted.seeds, train)


def _transfer(
  config: Any, students: Mapping[str, list[dict[str, Any]]], path: pathlib.Path
) -> dict[str, Any]:
  """Returns the trained students' figures on other data, where they start from what they are."""
  found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in students}
  for arm, rows in students.items():
    for row in rows:
      name, figures = row["name"], {"name": row["name"], "seed": row["seed"]}
      for how in HOW:
        made = _elsewhere(config, f"run:{path / 'students' / name / how}")
        made.seed = row["seed"]
        test = trainings.finished(made, path / "transfer" / name / how, f"{name}, {how}, transfer")
        figures[how] = test[made.checkpoint.best_metric]
      found[arm].append(figures)
  made = _elsewhere(config)
  return {"data": made.data.source, "figure": made.checkpoint.best_metric, "students": found}
