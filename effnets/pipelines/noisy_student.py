"""Noisy Student training: teacher, un-noised pseudo-labels, noised students, and the controls.

Source: Xie et al. 2020 (arXiv 1911.04252), algorithm 1, with the filtering and balancing of its
official code; the last stage is the train-test resolution fix (Touvron et al. 2019, 1906.06423).

Every stage lives in a folder of its own below the workdir and is skipped when its `result.json`
is there; a stage that was cut off resumes inside.
"""

import dataclasses
import pathlib
import time
from typing import Any

import jax
import ml_collections
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from rich import box, table, text
from rich import console as rich_console

from effnets import configuration, data, errors, models, parallel, training, workdirs
from effnets.pipelines import pseudo_labels

NO_NOISE = {
  "task": {"mixup": 0.0, "cutmix": 0.0},
  "model": {"dropout_rate": 0.0, "drop_path_rate": 0.0},
  "augment": {
    "flip": False,
    "shift": 0,
    "cutout": 0,
    "erasing": {"probability": 0.0},
    "autoaugment": {"policy": ""},
    "randaugment": {"layers": 0},
  },
}
"""Overrides that switch off every source of noise: of the model and of the input."""

KINDS = ("soft", "hard")

_SETTINGS = {
  "name": None,
  "teacher": None,
  "students": None,
  "finetune": None,
  "labels": ("source", "options", "split", "kind", "min_confidence", "per_class", "upsample"),
  "controls": ("no_noise", "no_unlabelled"),
}

PSEUDO_LABELS = "pseudo_labels"
"""What students have as `config.data.unlabelled.source`."""


@dataclasses.dataclass(frozen=True)
class Stage:
  """One training of the pipeline.

  figures: split -> figures. variables: those that evaluate. earlier: seconds that it took in
  another start of the pipeline, 0 if it was trained in this one.
  """

  name: str
  config: ml_collections.ConfigDict
  figures: dict[str, dict[str, float]]
  variables: PyTree
  earlier: float = 0.0


@dataclasses.dataclass(frozen=True)
class Labels:
  """A stored pseudo-labelled set. figures: entries, distinct examples, share of right labels."""

  source: data.Source
  figures: dict[str, float]


def run(config: Any, workdir: str, console: rich_console.Console) -> dict[str, Any]:
  """Runs all stages, prints the final table and returns what `result.json` holds.

  `config.pipeline` has `teacher` and `students` (name -> overrides of the config; a config keeps
  no order, so they follow one another by name, student_2 before student_10),
  `labels` (kind, min_confidence, per_class, upsample), `finetune` (overrides, or empty for no such
  stage) and `controls` (no_noise, no_unlabelled).

  Raises: UserError for a mistake in any stage's config, before the first one starts.
  """
  started = time.perf_counter()
  path = pathlib.Path(workdir)
  stages = stage_configs(config)
  unlabelled = _unlabelled(config)
  for name, stage in stages.items():
    with errors.context(f"stage {name}"):
      training.prepare(stage, sources={PSEUDO_LABELS: unlabelled})
  parallel.on_first(lambda: workdirs.claim(path, config))

  teacher = _train("teacher", stages["teacher"], path)
  students: list[Stage] = []
  labels: dict[str, Labels] = {}
  for name in _students(config):
    previous = students[-1] if students else teacher
    labels[name] = _label(previous, unlabelled, config, path / f"labels_{name}")
    students.append(_train(name, stages[name], path, labels[name]))

  controls = {}
  first = _students(config)[0]
  if config.pipeline.controls.no_noise:
    controls["no_noise"] = _train("no_noise", stages["no_noise"], path, labels[first])
  if config.pipeline.controls.no_unlabelled:
    controls["no_unlabelled"] = _train("no_unlabelled", stages["no_unlabelled"], path)
  last = students[-1]
  finetuned = None
  if "finetune" in stages:
    finetuned = _train("finetune", stages["finetune"], path, initial=last.variables)

  everyone = [teacher, *students, *controls.values(), *([finetuned] if finetuned else [])]
  seconds = time.perf_counter() - started + sum(stage.earlier for stage in everyone)
  result = {
    "teacher": _summary(teacher),
    "students": [dict(_summary(s), labels=labels[s.name].figures) for s in students],
    "controls": {name: _summary(stage) for name, stage in controls.items()},
    "finetuned": None if finetuned is None else _summary(finetuned),
    "seed": config.seed,
    "seconds": round(seconds, 1),
  }
  training.results.write(path, result)
  if jax.process_index() == 0:
    training.plots.curves(
      {s.name: path / s.name / "metrics.jsonl" for s in everyone}, path / "plots" / "curves.png"
    )
    console.print(_table(result, config))
  return result


def stage_configs(config: Any) -> dict[str, ml_collections.ConfigDict]:
  """Returns the resolved config of every training of the pipeline, by stage name, in order.

  Raises: UserError if `config.pipeline` names no student, or sets what is not there.
  """
  pipeline = config.pipeline
  _check_settings("config.pipeline", pipeline, tuple(_SETTINGS))
  for section, settings in _SETTINGS.items():
    if settings:
      _check_settings(f"config.pipeline.{section}", pipeline[section], settings)
  if not len(pipeline.students):
    raise errors.UserError(
      "config.pipeline.students is empty; name at least one, such as {'student_1': {}}."
    )
  stages = {"teacher": _override(config, ["teacher"], labelled_only=True)}
  names = [f"students.{name}" for name in _students(config)]
  for name in _students(config):
    if not name.isidentifier() or name in ("teacher", "finetune", "no_noise", "no_unlabelled"):
      raise errors.UserError(
        f"config.pipeline.students.{name}: a stage's name is a word, and not another stage's."
      )
    stages[name] = _override(config, [f"students.{name}"])
  if pipeline.controls.no_noise:
    stages["no_noise"] = _override(config, names[:1], more=NO_NOISE)
  if pipeline.controls.no_unlabelled:
    stages["no_unlabelled"] = _override(config, names[:1], labelled_only=True)
  if len(pipeline.finetune):
    stages["finetune"] = _override(config, names[-1:], ["finetune"], NO_NOISE, labelled_only=True)
  return stages


def planned_stages(config: Any) -> dict[str, tuple[Any, bool]]:
  """Returns config of every training, and whether its unlabelled pictures carry probabilities."""
  soft = config.pipeline.labels.kind == "soft"
  return {name: (stage, soft) for name, stage in stage_configs(config).items()}


def last_stage(config: Any, workdir: str | pathlib.Path) -> tuple[Any, pathlib.Path]:
  """Returns config and folder of the furthest model that the pipeline in `workdir` has come to.

  That is the fine-tuned student, else the last student that has a checkpoint, else the teacher.

  Raises: UserError if not even the teacher has a checkpoint, or `config.pipeline` is wrong.
  """
  path = pathlib.Path(workdir)
  stages = stage_configs(config)
  for name in ("finetune", *reversed(_students(config)), "teacher"):
    if name in stages and training.checkpoints.present(path / name / "checkpoints"):
      return stages[name], path / name
  raise errors.UserError(f"--workdir={path} holds no checkpoints; train there first.")


def _students(config: Any) -> list[str]:
  """Returns the students' names, those that end in a number by it."""
  return sorted(config.pipeline.students, key=models.registry.natural)


def _check_settings(key: str, section: Any, names: tuple[str, ...]) -> None:
  if not isinstance(section, ml_collections.ConfigDict):
    raise errors.UserError(f"{key}={section!r} is not a section; its keys are {', '.join(names)}.")
  for name in section:
    if name not in names:
      raise errors.unknown(key, name, "a setting", names)
  for name in names:
    if name not in section:
      raise errors.UserError(f"{key}.{name} is missing; see configs/noisy_student.py.")


def _override(
  config: Any,
  first: list[str],
  then: list[str] | None = None,
  more: Any = None,
  labelled_only: bool = False,
) -> Any:
  """Returns `config` with the sections `first` of its pipeline, `more`, and those of `then`."""
  stage = ml_collections.ConfigDict(config.to_dict())
  stage.pipeline = ml_collections.ConfigDict({"name": ""})

  def apply(names):
    for name in names:
      overrides = config.pipeline
      for part in name.split("."):
        overrides = overrides[part]
      key = f"config.pipeline.{name}"
      if not isinstance(overrides, ml_collections.ConfigDict):
        raise errors.UserError(f"{key}={overrides!r} is not a section; write {{}} for no changes.")
      configuration.merge(stage, overrides, key=key)

  apply(first)
  if more is not None:
    configuration.merge(stage, more, key="NO_NOISE")
  apply(then or [])
  if labelled_only:
    stage.data.unlabelled.source = ""
    stage.data.unlabelled.ratio = 0.0
  name = (then or first)[-1]
  with errors.context(f"stage {name.rpartition('.')[2]}"):
    configuration.check(stage)
  return stage.lock()


def _train(
  name: str,
  config: Any,
  path: pathlib.Path,
  labels: Labels | None = None,
  initial: PyTree | None = None,
) -> Stage:
  """Returns the trained stage, from its folder if it is finished."""
  folder = path / name
  finished = training.results.read(folder)
  if finished is not None:
    variables = training.results.restore(config, folder).variables
    return Stage(name, config, finished["figures"], variables, finished["seconds"])
  result = training.train(
    config,
    folder,
    name=name,
    initial=initial,
    sources={} if labels is None else {PSEUDO_LABELS: labels.source},
  )
  figures = {"figures": result.figures, "steps": result.steps, "seconds": result.seconds}
  training.results.write(folder, figures)
  return Stage(name, config, result.figures, result.variables)


def _unlabelled(config: Any) -> data.Source:
  """Returns the pictures to be labelled, every setting of their labels checked."""
  labels = config.pipeline.labels
  if labels.kind not in KINDS:
    raise errors.unknown("config.pipeline.labels.kind", labels.kind, "a kind of label", KINDS)
  pseudo_labels.check(min_confidence=labels.min_confidence, per_class=labels.per_class)
  if not labels.source:
    raise errors.UserError(
      "config.pipeline.labels.source is empty; give the pictures to be labelled, such as "
      "'folder:PATH' or the name of a TFDS data set."
    )
  return data.open_source(
    labels.source, labels.split, options=labels.options.to_dict(), key="config.pipeline.labels"
  )


def _label(teacher: Stage, unlabelled: data.Source, config: Any, folder: pathlib.Path) -> Labels:
  """Returns the set that `teacher` labelled, written to `folder` unless it is there.

  The teacher predicts with its averaged weights, on un-augmented centre crops, at its own
  resolution. The set holds every kept picture as often as balancing wants it.
  """
  settings = config.pipeline.labels
  if data.records.read_manifest(folder) is None:
    probabilities = training.results.probabilities(teacher.config, teacher.variables, unlabelled)
    selection = pseudo_labels.select(
      probabilities,
      min_confidence=settings.min_confidence,
      per_class=settings.per_class,
      upsample=settings.upsample,
      seed=config.seed,
    )
    if jax.process_index() == 0:
      data.records.write(
        folder,
        pseudo_labels.examples(probabilities, selection, soft=settings.kind == "soft"),
        {
          "teacher": teacher.name,
          "teacher_figures": teacher.figures,
          "source": unlabelled.name,
          "settings": settings.to_dict(),
          "seed": config.seed,
          "figures": pseudo_labels.figures(selection),
        },
        class_names=unlabelled.class_names,
        images={
          "images": settings.source,
          "images_split": settings.split,
          "images_options": settings.options.to_dict(),
        },
      )
    multihost_utils.sync_global_devices(f"labels of {teacher.name}")
  source = data.open_source(f"records:{folder}", "all")
  return Labels(source, source.provenance["figures"])


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
  others = [*result["students"], *result["controls"].values(), result["finetuned"]]
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
