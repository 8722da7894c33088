"""Born-again multi-task networks: single teachers, students that learn from them, and controls.

`config.pipeline` has `name: "bam"`, `seeds`, `runs` (a comma list of those below) and overrides of
the whole config:

  single   of trainings on one task
  multi    of trainings on all tasks at once
  student  of those with a teacher, after the other two; another `model`, or other `weights`, which
           bring their network, makes a smaller student

Runs, as the paper calls them:

  single                one network for every task, gold labels alone
  multi                 one network for all tasks, gold labels alone
  single_single         students of one task, from `single` networks
  single_multi          a student of all tasks, from `single` networks: BAM
  multi_multi           a student of all tasks, from a `multi` network
  single_multi_fixed    `single_multi` whose targets keep `task.gold_weight` of the gold labels
  single_multi_teacher  `single_multi` with the teachers' targets alone

Every training has a folder of its own, RUN/seed_S or RUN/seed_S/TASK, is skipped when its
`result.json` is there, and resumes inside when it was cut off; so are targets/RUN/seed_S/TASK, what
a teacher says of the training set, with its provenance. A teacher is always of the student's seed.
Source: Clark et al. 2019 (arXiv 1907.04829), section 3.
"""

import dataclasses
import pathlib
import statistics
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
from rich import box, table, text
from rich import console as rich_console

from effnets import configuration, data, errors, evaluation, parallel, training, weights, workdirs
from effnets.data import glue, targets

_SECTIONS = ("single", "multi", "student")
_SETTINGS = ("name", "runs", "seeds", *_SECTIONS)
_PARTS = ("validation", "test")


@dataclasses.dataclass(frozen=True)
class Run:
  """A kind of network. student: `single` or `multi`. teacher: a run, or None. changes: of it."""

  student: str
  teacher: str | None = None
  changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


RUNS: Mapping[str, Run] = {
  "single": Run("single"),
  "multi": Run("multi"),
  "single_single": Run("single", "single"),
  "single_multi": Run("multi", "single"),
  "multi_multi": Run("multi", "multi"),
  "single_multi_fixed": Run("multi", "single", {"task": {"distillation": "fixed"}}),
  "single_multi_teacher": Run(
    "multi", "single", {"task": {"distillation": "fixed", "gold_weight": 0.0}}
  ),
}


def run(config: Any, workdir: str, console: rich_console.Console) -> dict[str, Any]:
  """Trains what is missing, prints the table and returns what `result.json` holds.

  That is, by run, one value a seed of every figure (`validation_average`, `test_rte_accuracy`, …)
  and of the `seconds`; and `seeds`, `seconds`, `tasks`.

  Raises: UserError for a mistake in any training's config, before the first one starts.
  """
  path, pipeline = pathlib.Path(workdir), _Pipeline(config, pathlib.Path(workdir))
  pipeline.check()
  parallel.on_first(lambda: workdirs.claim(path, config, free=("pipeline.runs", "pipeline.seeds")))
  # Seed by seed, so that a matrix that was cut off can be compared.
  found: dict[str, list[dict[str, Any]]] = {name: [] for name in pipeline.runs}
  for seed in pipeline.seeds:
    for name in pipeline.runs:
      found[name].append(pipeline.figures(name, seed))
  rows = {
    name: {key: [figures[key] for figures in seeds] for key in seeds[0]}
    for name, seeds in found.items()
  }
  result = {
    "runs": rows,
    "seeds": list(pipeline.seeds),
    "tasks": {task.name: list(task.metrics) for task in pipeline.tasks},
    "seconds": round(pipeline.seconds(), 1),
  }
  training.results.write(path, result)
  if jax.process_index() == 0:
    evaluation.comparison.bars(
      {
        task: {name: by_task(row, task, result["tasks"], "test") for name, row in rows.items()}
        for task in ("average", *result["tasks"])
      },
      path / "plots" / "bam.png",
      label="test score, median of seeds",
    )
    console.print(_table(result, config))
  return result


def by_task(
  row: Mapping[str, Any], task: str, tasks: Mapping[str, Any], part: str = "test"
) -> list[float]:
  """Returns one value a seed of a run: the mean of a task's metrics, or the `average` of tasks.

  row: of the result's `runs`. tasks: of the result. part: `validation` or `test`.
  """
  if task == "average":
    return list(row[f"{part}_average"])
  values = [row[f"{part}_{task}_{metric}"] for metric in tasks[task]]
  return [statistics.fmean(each) for each in zip(*values, strict=True)]


def planned_stages(config: Any) -> dict[str, tuple[Any, bool]]:
  """Returns the config of every training at the first seed, and whether it has a teacher."""
  pipeline = _Pipeline(config, pathlib.Path())
  return {
    "_".join(filter(None, (name, task))): (
      pipeline.config(name, pipeline.seeds[0], task),
      RUNS[name].teacher is not None,
    )
    for name in pipeline.needed()
    for task in pipeline.parts(name)
  }


def last_stage(config: Any, workdir: str | pathlib.Path) -> tuple[Any, pathlib.Path]:
  """Returns config and folder of the last run that has a network of all tasks, at any seed.

  Failing that, of the first task's network.

  Raises: UserError if there is none yet, or `config.pipeline` is wrong.
  """
  pipeline = _Pipeline(config, pathlib.Path(workdir))
  order = sorted(reversed(pipeline.needed()), key=lambda name: RUNS[name].student != "multi")
  for name in order:
    for seed in pipeline.seeds:
      for task in pipeline.parts(name):
        folder = pipeline.folder(name, seed, task)
        if training.checkpoints.present(folder / "checkpoints"):
          return pipeline.config(name, seed, task), folder
  raise errors.UserError(f"--workdir={workdir} holds no checkpoints; train there first.")


class _Pipeline:
  """The trainings of one matrix, in its folder. runs, seeds, tasks: as the config asks for them."""

  def __init__(self, config: Any, path: pathlib.Path):
    """Raises: UserError if `config.pipeline` sets what is not there."""
    self._config, self._path = config, path
    settings = config.pipeline
    for name in settings:
      if name not in _SETTINGS:
        raise errors.unknown("config.pipeline", name, "a setting", _SETTINGS)
    for name in _SETTINGS:
      if name not in settings:
        raise errors.UserError(f"config.pipeline.{name} is missing; see recipes.bam.")
    for name in _SECTIONS:
      if not isinstance(settings[name], ml_collections.ConfigDict):
        raise errors.UserError(
          f"config.pipeline.{name}={settings[name]!r} is not a section; write {{}} for no changes."
        )
    self.runs = tuple(part.strip() for part in str(settings.runs).split(",") if part.strip())
    for name in self.runs:
      if name not in RUNS:
        raise errors.unknown("config.pipeline.runs", name, "a run", RUNS)
    if not self.runs or len(set(self.runs)) < len(self.runs):
      raise errors.UserError(
        f"config.pipeline.runs={settings.runs!r} should name each run once, such as "
        "'single,multi,single_multi'."
      )
    self.seeds = settings.seeds
    if not isinstance(self.seeds, tuple | list) or not self.seeds:
      raise errors.UserError(
        f"config.pipeline.seeds={self.seeds!r} should be whole numbers, such as (0, 1)."
      )
    self.tasks = data.texts.tasks_of(config.data.options.to_dict())
    if config.task.name != "text":
      raise errors.UserError(
        f"config.task.name={config.task.name!r} does not go with config.pipeline.name='bam', which "
        "trains 'text'."
      )
    self._sources: dict[str, data.texts.Texts] = {}

  def needed(self) -> list[str]:
    """Returns the runs and their teachers, teachers first."""
    found = [RUNS[name].teacher for name in self.runs if RUNS[name].teacher]
    return list(dict.fromkeys([*found, *self.runs]))

  def parts(self, name: str) -> tuple[str, ...]:
    """Returns the tasks that a run has networks of their own for; one empty name if it has one."""
    alone = RUNS[name].student == "single"
    return tuple(task.name for task in self.tasks) if alone else ("",)

  def folder(self, name: str, seed: int, task: str) -> pathlib.Path:
    """Returns where a training lives."""
    return self._path / name / f"seed_{seed}" / task

  def config(self, name: str, seed: int, task: str) -> Any:
    """Returns the config of a training. Raises: UserError if it is wrong."""
    made = ml_collections.ConfigDict(self._config.to_dict())
    made.pipeline = ml_collections.ConfigDict({"name": ""})
    kind = RUNS[name]
    for section in (kind.student, *(("student",) if kind.teacher else ())):
      key, overrides = f"config.pipeline.{section}", self._config.pipeline[section]
      if overrides.get("weights"):
        with errors.context(key), made.unlocked(), made.ignore_type():
          weights.configure(made, str(overrides.weights))
      configuration.merge(made, overrides, key=key)
    configuration.merge(made, kind.changes, key="changes")
    made.seed = seed
    if task:
      with made.unlocked(), made.ignore_type():
        made.data.options.tasks = task
    with errors.context(f"run {name}"):
      configuration.check(made)
    return made.lock()

  def check(self) -> None:
    """Checks the config of every training at the first seed. Raises: UserError."""
    for name in self.needed():
      for task in self.parts(name):
        with errors.context(f"run {name}"):
          config = self.config(name, self.seeds[0], task)
          training.prepare(config, {config.data.source: self._source(config)})

  def _source(self, config: Any) -> data.texts.Texts:
    """Returns the training set of a config, which many trainings share."""
    key = str(config.data.options)
    if key not in self._sources:
      self._sources[key] = training.inputs.evaluation(config, "train")
    return self._sources[key]

  def figures(self, name: str, seed: int) -> dict[str, float]:
    """Returns the figures of a run on every part, trained if need be, and the seconds it took."""
    found = [self._train(name, seed, task) for task in self.parts(name)]
    split = self.config(name, seed, self.parts(name)[0]).data.split
    metrics = {task.name: task.metrics for task in self.tasks}
    told: dict[str, float] = {}
    for part in _PARTS:
      together: dict[str, float] = {}
      for result in found:
        together |= result["figures"][split[part]]
      together["average"] = evaluation.glue.average(together, metrics)
      together["truncated"] = sum(r["figures"][split[part]]["truncated"] for r in found)
      together["examples"] = sum(r["figures"][split[part]]["examples"] for r in found)
      told |= {f"{part}_{key}": value for key, value in together.items()}
    return {**told, "seconds": round(sum(result["seconds"] for result in found), 1)}

  def seconds(self) -> float:
    """Returns what all trainings took, teachers that are no runs of their own too."""
    results = (
      training.results.read(self.folder(name, seed, task))
      for name in self.needed()
      for seed in self.seeds
      for task in self.parts(name)
    )
    return sum(result["seconds"] for result in results if result)

  def _train(self, name: str, seed: int, task: str) -> dict[str, Any]:
    """Returns the figures and seconds of a training, from its folder if it is finished."""
    config, folder = self.config(name, seed, task), self.folder(name, seed, task)
    finished = training.results.read(folder)
    if finished is not None:
      workdirs.check_same_run(folder, config)
      return finished
    source = self._source(config)
    if RUNS[name].teacher:
      source = source.taught(self._targets(RUNS[name].teacher, seed, source))
    title = " ".join(filter(None, (name, task, f"seed {seed}")))
    sources = {config.data.source: source}
    result = training.train(config, folder, name=title, sources=sources)
    told = {"figures": result.figures, "steps": result.steps, "seconds": result.seconds}
    training.results.write(folder, told)
    return told

  def _targets(
    self, teacher: str, seed: int, source: data.texts.Texts
  ) -> dict[str, targets.Targets]:
    """Returns what the teacher says of the tasks of a training set, by task."""
    found = {}
    for task in source.tasks:
      folder = self._path / "targets" / teacher / f"seed_{seed}" / task.name
      stored = targets.read(folder)
      if stored is None:
        self._label(teacher, seed, task)
        stored = targets.read(folder)
      found[task.name] = stored
    return found

  def _label(self, teacher: str, seed: int, task: glue.Task) -> None:
    """Stores what the teacher says of the training sets that it has seen, `task`'s among them."""
    own = task.name if RUNS[teacher].student == "single" else ""
    self._train(teacher, seed, own)
    config, folder = self.config(teacher, seed, own), self.folder(teacher, seed, own)
    trained = training.results.restore(config, folder)
    source = self._source(config).plain()
    predictor = training.evaluator.create(config, trained.task, trained.placement)
    outputs, examples = predictor.all(trained.variables, source)
    for number, problem in enumerate(source.tasks):
      rows = examples["task"] == number
      found = targets.Targets(
        problem.name,
        problem.labels,
        trained.task.of_task(outputs["logits"], problem.name)[rows],
        source.digests(number),
        {
          "teacher": str(folder.relative_to(self._path)),
          "run": teacher,
          "seed": seed,
          "step": trained.step,
          "model": config.model.to_dict(),
          "source": config.data.source,
          "split": config.data.split.train,
          "length": source.length,
        },
      )
      where = self._path / "targets" / teacher / f"seed_{seed}" / problem.name
      parallel.on_first(lambda where=where, found=found: targets.write(where, found))


def _table(result: dict[str, Any], config: Any) -> table.Table:
  """Returns medians over seeds, in percent: one row a run, one column a task."""
  seeds = result["seeds"]
  rows = table.Table(
    title=f"BAM, {config.data.source}, {config.data.split.test} split, {len(seeds)} seed(s)",
    box=box.SIMPLE_HEAD,
    title_justify="left",
    caption="Medians over seeds in percent; of tasks with two metrics, of their mean.",
    caption_justify="left",
    padding=(0, 1, 0, 0),
  )
  columns = ("average", *result["tasks"])
  rows.add_column("run", overflow="fold")
  for column in columns:
    rows.add_column(column, justify="right", no_wrap=True)
  for name, row in result["runs"].items():
    medians = (statistics.median(by_task(row, c, result["tasks"])) for c in columns)
    rows.add_row(text.Text(name, overflow="fold"), *(f"{100 * value:.1f}" for value in medians))
  return rows
