"""Noisy Student training: teachers, their un-noised labels, noised students, and the controls.

Source: Xie et al. 2020 (arXiv 1911.04252), algorithm 1, with the filtering and balancing of its
official code; the last stage is the train-test resolution fix (Touvron et al. 2019, 1906.06423).

Every training lives in a folder of its own below the workdir and is skipped when its `result.json`
is there; one that was cut off resumes inside. So does a labelling, `labels_STUDENT`. What can be
set is told in `stages.py`, and of labels in `labelling.py`.
"""

import dataclasses
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
from jaxtyping import PyTree
from rich import box, table, text
from rich import console as rich_console

from effnets import data, errors, parallel, training, workdirs
from effnets.pipelines import labelling, stages
from effnets.pipelines.stages import PRETRAINED, PSEUDO_LABELS, Stage


@dataclasses.dataclass(frozen=True)
class Labels:
  """A stored pseudo-labelled set. figures: entries, distinct examples and more, see `labelling`."""

  source: data.Source
  folder: pathlib.Path
  figures: dict[str, Any]


def run(config: Any, workdir: str, console: rich_console.Console) -> dict[str, Any]:
  """Runs all stages, prints the final table and returns what `result.json` holds.

  Raises: UserError for a mistake in any stage's config, before the first one starts.
  """
  started, path = time.perf_counter(), pathlib.Path(workdir)
  pipeline = _Pipeline(config, path)
  # A finished pipeline may get further controls.
  parallel.on_first(lambda: workdirs.claim(path, config, free=("pipeline.controls",)))

  if "filter" in pipeline.configs:
    pipeline.train("filter")
  teacher = pipeline.train("teacher")
  teachers = [teacher, *map(pipeline.train, stages.more_teachers(config))]
  students: list[Stage] = []
  for name in stages.students(config):
    if config.pipeline.labels.by == "all":
      labellers = [*teachers, *students]
    else:
      labellers = students[-1:] or teachers
    labels = pipeline.label(name, labellers)
    initial = labellers[-1] if students else teacher
    students.append(pipeline.train_student(name, labels, initial))
  first = students[0].name
  controls = [pipeline.control(name, first, teachers) for name in pipeline.controls]
  finetuned = None
  if "finetune" in pipeline.configs:
    finetuned = pipeline.train("finetune", initial=students[-1].variables)

  trained = pipeline.trained
  told = {stage.name for stage in (teacher, *students, *controls, finetuned or teacher)}
  seconds = time.perf_counter() - started + sum(stage.earlier for stage in trained.values())
  result = {
    "teacher": _summary(teacher),
    "students": [dict(_summary(s), labels=pipeline.labels[s.name].figures) for s in students],
    "controls": {stage.name: _summary(stage) for stage in controls},
    "finetuned": None if finetuned is None else _summary(finetuned),
    "others": {name: _summary(stage) for name, stage in trained.items() if name not in told},
    "seed": config.seed,
    "seconds": round(seconds, 1),
  }
  training.results.write(path, result)
  if jax.process_index() == 0:
    curves = {name: path / name / "metrics.jsonl" for name in trained if name not in pipeline.given}
    training.plots.curves(curves, path / "plots" / "curves.png")
    console.print(_table(result, config))
  return result


def planned_stages(config: Any) -> dict[str, tuple[Any, bool]]:
  """Returns config of every training, and whether its unlabelled pictures carry probabilities."""
  soft = config.pipeline.labels.kind == "soft"
  found = stages.configs(config)
  return {name: (stage, soft and name != "hard_labels") for name, stage in found.items()}


def last_stage(config: Any, workdir: str | pathlib.Path) -> tuple[Any, pathlib.Path]:
  """Returns config and folder of the furthest model that the pipeline in `workdir` has come to.

  That is the fine-tuned student, else the last student that has a checkpoint, else the teacher.

  Raises: UserError if not even the teacher has a checkpoint, or `config.pipeline` is wrong.
  """
  path = pathlib.Path(workdir)
  configs = stages.configs(config)
  for name in ("finetune", *reversed(stages.students(config)), "teacher"):
    if name in configs and training.checkpoints.present(path / name / "checkpoints"):
      return configs[name], path / name
  raise errors.UserError(f"--workdir={path} holds no checkpoints; train there first.")


class _Pipeline:
  """The stages of one run, in its folder. trained, labels: what is done so far, by name."""

  def __init__(self, config: Any, path: pathlib.Path):
    """Opens the data and checks every stage. Raises: UserError for a mistake in any of them."""
    self.config, self.path = config, path
    self.configs = stages.configs(config)
    self.controls = [name for name in stages.CONTROLS if config.pipeline.controls[name]]
    self.trained: dict[str, Stage] = {}
    self.labels: dict[str, Labels] = {}
    labelling.check(config.pipeline.labels)
    self._check_controls()
    labelled = training.inputs.evaluation(self.configs["teacher"], "train")
    self.pictures = labelling.Pictures(config.pipeline.labels, labelled.class_names)
    self.given, made = {}, {}
    for name, stage in self.configs.items():
      with errors.context(f"stage {name}"):
        if stages.given(config, name):
          self.given[name] = made[name] = self._take(stage)
        else:
          made[name] = training.prepare(stage, sources=_sources(name, stage, self.pictures))
    before = "teacher"
    for name in stages.students(config):
      if stages.from_teacher(config, name) and not _same_network(made[name], made[before]):
        raise errors.UserError(
          f"config.pipeline.from_teacher={config.pipeline.from_teacher!r}: {name} is another "
          f"network than {before}, whose weights cannot start it; leave it out."
        )
      before = name

  def _take(self, config: Any) -> training.results.Trained:
    """Returns a network that is not trained here."""
    taken = training.start.imported(config)
    if taken.task.num_classes != self.pictures.num_classes:
      raise errors.UserError(
        f"config.weights={config.weights!r} are of {taken.task.num_classes} classes, "
        f"config.data.source={config.data.source!r} has {self.pictures.num_classes}."
      )
    return taken

  def _check_controls(self) -> None:
    pipeline = self.config.pipeline
    for name, key, always in (
      ("hard_labels", "labels.kind", pipeline.labels.kind == "hard"),
      ("noisy_teacher", "labels.noise", pipeline.labels.noise),
      ("separate", "training", pipeline.training == "separate"),
    ):
      if name in self.controls and always:
        raise errors.UserError(
          f"config.pipeline.controls.{name}=True compares nothing, since config.pipeline.{key} "
          "says the same of every student; switch one of them off."
        )

  def train(self, name: str, labels: Labels | None = None, initial: PyTree | None = None) -> Stage:
    """Returns the trained stage, from its folder if it is finished."""
    config, folder = self.configs[name], self.path / name
    finished = training.results.read(folder)
    if name in self.given:
      taken = self.given[name]
      figures = _judged(taken) if finished is None else finished["figures"]
      training.results.write(folder, {"figures": figures, "steps": 0, "seconds": 0.0})
      stage = Stage(name, config, figures, taken.variables)
    elif finished is not None:
      variables = training.results.restore(config, folder).variables
      stage = Stage(name, config, finished["figures"], variables, finished["seconds"])
    else:
      sources = {} if labels is None else _sources(name, config, labels.source)
      result = training.train(config, folder, name=name, initial=initial, sources=sources)
      figures = {"figures": result.figures, "steps": result.steps, "seconds": result.seconds}
      training.results.write(folder, figures)
      stage = Stage(name, config, result.figures, result.variables)
    self.trained[name] = stage
    return stage

  def train_student(self, name: str, labels: Labels, teacher: Stage) -> Stage:
    """Returns the student that learns from `labels`, in one training or in two."""
    initial = teacher.variables if stages.from_teacher(self.config, name) else None
    if name + PRETRAINED not in self.configs:
      return self.train(name, labels, initial)
    before = self.train(name + PRETRAINED, labels, initial)
    return self.train(name, initial=before.variables)

  def label(self, name: str, teachers: list[Stage], settings: Any = None) -> Labels:
    """Returns the set that `teachers` label for the training `name`.

    settings: `config.pipeline.labels` if nothing else is given. Where the filter has chosen before,
    or the first choice is to stay, it does.
    """
    settings = settings or self.config.pipeline.labels
    folder, earlier = self.path / f"labels_{name}", next(iter(self.labels.values()), None)
    if data.records.read_manifest(folder) is None:
      again = earlier is not None and ("filter" in self.configs or settings.select == "first")
      labeller = self._labeller(teachers, settings)
      if again:
        chooser = None
      elif "filter" in self.configs:
        chooser = self._labeller([self.trained["filter"]], self.config.pipeline.labels)
      else:
        chooser = labeller
      labelling.run(
        labelling.Round(
          folder,
          self.pictures,
          settings,
          labeller,
          chooser,
          earlier=earlier.folder if again else None,
          seed=self.config.seed,
        )
      )
    source = data.open_source(f"records:{folder}", "all")
    self.labels[name] = Labels(source, folder, source.provenance["figures"])
    return self.labels[name]

  def _labeller(self, teachers: list[Stage], settings: Any) -> labelling.Labeller:
    classes = self.pictures.num_classes
    return labelling.Labeller(teachers, settings, classes=classes, seed=self.config.seed)

  def control(self, name: str, first: str, teachers: list[Stage]) -> Stage:
    """Returns a control: the student `first` with something else. teachers: of that student."""
    labels = self.labels[first]
    if name == "no_unlabelled":
      return self.train(name)
    if name == "noisy_teacher":
      settings = ml_collections.ConfigDict(self.config.pipeline.labels.to_dict())
      settings.noise = True
      labels = self.label(name, teachers, settings)
    elif name == "hard_labels":
      source = data.open_source(f"records:{labels.folder}", "all", options={"soft": False})
      labels = dataclasses.replace(labels, source=source)
    return self.train_student(name, labels, teachers[0])


def _sources(name: str, config: Any, pictures: Any) -> Mapping[str, Any]:
  """Returns what stands for the labelled set in the training `name`, by the config's name for it.

  A first half of two trains on nothing else.
  """
  return {config.data.source if name.endswith(PRETRAINED) else PSEUDO_LABELS: pictures}


def _judged(taken: training.results.Trained) -> dict[str, dict[str, float]]:
  """Returns the figures of a network on the splits that every training ends with."""
  predictor, figures = training.evaluator.create(taken.config, taken.task, taken.placement), {}
  for part in ("validation", "test"):
    source = training.inputs.evaluation(taken.config, part)
    transform = training.inputs.evaluation_transform(taken.config, source)
    split = taken.config.data.split[part]
    figures[split] = predictor.evaluate(taken.variables, source, transform)
  return figures


def _same_network(one: Any, other: Any) -> bool:
  """Returns whether the tasks of two stages have variables of equal names and shapes."""
  first, second = one.task.abstract(), other.task.abstract()
  shape = lambda leaf: leaf.shape  # noqa: E731
  return jax.tree.map(shape, first) == jax.tree.map(shape, second)


def _summary(stage: Stage) -> dict[str, Any]:
  """Returns the flat figures of a stage: `test_top1`, `validation_top1`, ..., and its model.

  Named by the split's part in the run, whatever the data set calls it.
  """
  figures = {
    f"{part}_{name}": value
    for part in ("validation", "test")
    for name, value in stage.figures[stage.config.data.split[part]].items()
  }
  return {"stage": stage.name, "model": stage.config.model.name, **figures}


def _table(result: dict[str, Any], config: Any) -> table.Table:
  """Returns the final table, at most 80 characters wide: one row a stage."""
  rows = table.Table(
    title=(
      f"Noisy Student, {config.data.source}, {config.data.split.test} split, seed {config.seed}"
    ),
    box=box.SIMPLE_HEAD,
    title_justify="left",
    caption="gain: top-1 over the teacher's. labels: pseudo-labelled examples trained on.",
    caption_justify="left",
  )
  for column in ("stage", "model", "labels", "top-1", "gain", "cross-entropy"):
    words = column in ("stage", "model")
    rows.add_column(column, justify="left" if words else "right", no_wrap=not words)
  teacher = result["teacher"]
  others = [
    *result["others"].values(),
    *result["students"],
    *result["controls"].values(),
    result["finetuned"],
  ]
  for summary in [teacher, *filter(None, others)]:
    gain = summary["test_top1"] - teacher["test_top1"]
    rows.add_row(
      text.Text(summary["stage"], overflow="fold"),
      text.Text(summary["model"], overflow="fold"),
      str(summary["labels"]["entries"]) if "labels" in summary else "",
      f"{summary['test_top1']:.2%}",
      "" if summary is teacher else f"{gain:+.2%}",
      f"{summary['test_cross_entropy']:.3f}",
    )
  return rows
