"""Noisy Student training: teacher, un-noised pseudo-labels, noised students, and the controls.

Source: Xie et al. 2020 (arXiv 1911.04252), algorithm 1, with the filtering and balancing of its
official code; the last stage is the train-test resolution fix (Touvron et al. 2019, 1906.06423).

Every stage lives in a folder of its own below the workdir and is skipped when its `result.json`
is there; a stage that was cut off resumes inside.
"""

import dataclasses
import json
import pathlib
import time
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from jaxtyping import PyTree
from rich import console as rich_console

from effnets import configuration, data, errors, tasks, training
from effnets.pipelines import pseudo_labels

NO_NOISE = {
  "model": {"dropout_rate": 0.0, "drop_path_rate": 0.0},
  "augment": {"flip": False, "shift": 0, "randaugment": {"layers": 0}},
}
"""Overrides that switch off every source of noise: of the model and of the input."""

PSEUDO_LABELS = "pseudo_labels"
"""What students have as `config.data.unlabelled.source`."""


@dataclasses.dataclass(frozen=True)
class Stage:
  """One training of the pipeline. figures: split -> figures. variables: those that evaluate."""

  name: str
  config: ml_collections.ConfigDict
  figures: dict[str, dict[str, float]]
  variables: PyTree


@dataclasses.dataclass(frozen=True)
class Labels:
  """A stored pseudo-labelled set. figures: entries, distinct examples, share of right labels."""

  source: data.Source
  figures: dict[str, float]


def run(config: Any, workdir: str, console: rich_console.Console) -> dict[str, Any]:
  """Runs all stages, prints the final table and returns what `result.json` holds.

  `config.pipeline` has `teacher` and `students` (name -> overrides of the config, in order),
  `labels` (kind, min_confidence, per_class, upsample), `finetune` (overrides, or empty for no such
  stage) and `controls` (no_noise, no_unlabelled).

  Raises: UserError for a mistake in any stage's config, before the first one starts.
  """
  started = time.perf_counter()
  path = pathlib.Path(workdir)
  if jax.process_index() == 0:
    configuration.claim_workdir(path, config)
  stages = stage_configs(config)
  for name, stage in stages.items():
    training.check(stage, key=f"stage {name}")

  unlabelled = _unlabelled(config)
  for name, stage in stages.items():
    with errors.context(f"stage {name}"):
      training.prepare(stage, sources={PSEUDO_LABELS: unlabelled})

  teacher = _train("teacher", stages["teacher"], path)
  students: list[Stage] = []
  labels: dict[str, Labels] = {}
  for name in config.pipeline.students:
    previous = students[-1] if students else teacher
    labels[name] = _label(previous, unlabelled, stages[name], config, path / f"labels_{name}")
    students.append(_train(name, stages[name], path, labels[name]))

  controls = {}
  first = next(iter(config.pipeline.students))
  if config.pipeline.controls.no_noise:
    controls["no_noise"] = _train("no_noise", stages["no_noise"], path, labels[first])
  if config.pipeline.controls.no_unlabelled:
    controls["no_unlabelled"] = _train("no_unlabelled", stages["no_unlabelled"], path)
  last = students[-1]
  finetuned = None
  if "finetune" in stages:
    finetuned = _train("finetune", stages["finetune"], path, initial=last.variables)

  result = {
    "teacher": _summary(teacher),
    "students": [dict(_summary(s), labels=labels[s.name].figures) for s in students],
    "controls": {name: _summary(stage) for name, stage in controls.items()},
    "finetuned": None if finetuned is None else _summary(finetuned),
    "seed": config.seed,
    "seconds": round(_seconds(path, time.perf_counter() - started), 1),
  }
  if jax.process_index() == 0:
    training.write_result(path, result)
    everyone = [teacher, *students, *controls.values(), *([finetuned] if finetuned else [])]
    training.plots.curves(
      {s.name: path / s.name / "metrics.jsonl" for s in everyone}, path / "plots" / "curves.png"
    )
    console.print(_table(everyone, result))
  return result


def stage_configs(config: Any) -> dict[str, ml_collections.ConfigDict]:
  """Returns the resolved config of every training of the pipeline, by stage name, in order.

  Raises: UserError if `config.pipeline` names no student, or sets what is not there.
  """
  pipeline = config.pipeline
  if not len(pipeline.students):
    raise errors.UserError("config.pipeline.students is empty; name at least one student.")
  stages = {"teacher": _override(config, pipeline.teacher, labelled_only=True)}
  for name, overrides in pipeline.students.items():
    if not name.isidentifier() or name in ("teacher", "finetune", "no_noise", "no_unlabelled"):
      raise errors.UserError(
        f"config.pipeline.students.{name}: a stage's name is a word, and not another stage's."
      )
    stages[name] = _override(config, overrides)
  first = next(iter(pipeline.students.values()))
  stages["no_noise"] = _override(config, first, NO_NOISE)
  stages["no_unlabelled"] = _override(config, first, labelled_only=True)
  if len(pipeline.finetune):
    last = list(pipeline.students.values())[-1]
    stages["finetune"] = _override(config, last, NO_NOISE, pipeline.finetune, labelled_only=True)
  for name in ("no_noise", "no_unlabelled"):
    if not pipeline.controls[name]:
      del stages[name]
  return stages


def _override(config: Any, *overrides: Any, labelled_only: bool = False) -> Any:
  stage = ml_collections.ConfigDict(config.to_dict())
  stage.pipeline = ml_collections.ConfigDict({"name": ""})
  with stage.unlocked():
    for more in overrides:
      try:
        stage.update(more.to_dict() if hasattr(more, "to_dict") else more)
      except (TypeError, KeyError, AttributeError) as error:
        raise errors.UserError(f"config.pipeline: {error}") from error
  if labelled_only:
    stage.data.unlabelled.source = ""
    stage.data.unlabelled.ratio = 0.0
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
  if (folder / training.RESULT).exists():
    figures = json.loads((folder / training.RESULT).read_text())["figures"]
    return Stage(name, config, figures, training.restore_variables(config, folder))
  result = training.train(
    config,
    folder,
    name=name,
    initial=initial,
    sources={} if labels is None else {PSEUDO_LABELS: labels.source},
  )
  if jax.process_index() == 0:
    training.write_result(
      folder, {"figures": result.figures, "steps": result.steps, "seconds": result.seconds}
    )
  return Stage(name, config, result.figures, result.variables)


def _unlabelled(config: Any) -> data.Source:
  labels = config.pipeline.labels
  if labels.kind not in ("soft", "hard"):
    raise errors.unknown("config.pipeline.labels.kind", labels.kind, "a kind", ("soft", "hard"))
  return training.open_source(config, labels.source or config.data.source, labels.split)


def _label(
  teacher: Stage, unlabelled: data.Source, student: Any, config: Any, folder: pathlib.Path
) -> Labels:
  """Returns the set that `teacher` labelled for a student, written to `folder` if need be.

  The teacher predicts with its averaged weights, on un-augmented centre crops, at its own
  resolution.
  """
  settings = config.pipeline.labels
  if not (folder / "provenance.json").exists():
    started = time.perf_counter()
    probabilities = training.predict_probabilities(teacher.config, teacher.variables, unlabelled)
    selection = pseudo_labels.select(
      probabilities,
      min_confidence=settings.min_confidence,
      per_class=settings.per_class,
      upsample=settings.upsample,
      seed=config.seed,
    )
    ...
