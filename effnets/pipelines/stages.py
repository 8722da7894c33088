"""The trainings of Noisy Student: from `config.pipeline` to the config of each of them.

Its sections, every one but the last two an override of the whole config:

  teacher        of the first teacher, trained on the labelled data alone
  more_teachers  name -> others, which label together with it, probabilities averaged
  filter         the network that chooses pictures; empty: whoever labels them chooses them
  students       name -> students; they follow one another by name, student_2 before student_10
  pretrain, tune if `training` is separate: of the first and of the second half of a student
  finetune       the last stage, without noise; empty for none
  labels         see `labelling`
  controls       further trainings with the first student's labels, to compare with

and its settings:

  given          comma list of teachers, or filter, that are not trained: the `weights` that their
                 section names are taken as they are
  from_teacher   comma list of students that start from their teacher's weights
  training       joint: labelled and pseudo-labelled pictures in every batch; separate: a student is
                 trained on pseudo-labelled ones first, then on labelled ones
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import ml_collections
from jaxtyping import PyTree

from effnets import configuration, errors, models, weights

_NO_MODEL_NOISE = {"model": {"dropout_rate": 0.0, "drop_path_rate": 0.0}}
_NO_INPUT_NOISE = {
  "task": {"mixup": 0.0, "cutmix": 0.0},
  "augment": {
    "flip": False,
    "shift": 0,
    "cutout": 0,
    "erasing": {"probability": 0.0},
    "autoaugment": {"policy": ""},
    "randaugment": {"layers": 0},
  },
}
NO_NOISE = {**_NO_MODEL_NOISE, **_NO_INPUT_NOISE}
"""Overrides that switch off every source of noise: of the model and of the input."""

# Controls: what becomes of the first student's config. What else makes them is in `noisy_student`.
_CONTROLS: dict[str, Any] = {
  "no_noise": NO_NOISE,
  "no_model_noise": _NO_MODEL_NOISE,
  "no_input_noise": _NO_INPUT_NOISE,
  "noisy_teacher": {},
  "hard_labels": {},
  "separate": {},
  "no_unlabelled": {},
}
CONTROLS = tuple(_CONTROLS)
TRAININGS = ("joint", "separate")

PSEUDO_LABELS = "pseudo_labels"
"""What students have as `config.data.unlabelled.source`."""

PRETRAINED = "_pretrained"
"""How the name of the first half of a separate training ends."""

_SECTIONS = {
  "name": None,
  "teacher": None,
  "more_teachers": None,
  "filter": None,
  "given": None,
  "students": None,
  "from_teacher": None,
  "training": None,
  "pretrain": None,
  "tune": None,
  "finetune": None,
  "labels": (
    "source",
    "options",
    "split",
    "kind",
    "min_confidence",
    "per_class",
    "upsample",
    "use_all",
    "select",
    "by",
    "noise",
    "flip",
    "shift",
    "shards",
    "batch_size",
    "dtype",
  ),
  "controls": CONTROLS,
}


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


def configs(config: Any) -> dict[str, ml_collections.ConfigDict]:
  """Returns the resolved config of every training of the pipeline, by stage name, in order.

  Raises: UserError if `config.pipeline` names no student, or sets what is not there.
  """
  pipeline = config.pipeline
  _check_settings("config.pipeline", pipeline, tuple(_SECTIONS))
  for section, settings in _SECTIONS.items():
    if settings:
      _check_settings(f"config.pipeline.{section}", pipeline[section], settings)
  if pipeline.training not in TRAININGS:
    key = "config.pipeline.training"
    raise errors.unknown(key, pipeline.training, "a way to train students", TRAININGS)
  for section in ("more_teachers", "students"):
    _check_section(f"config.pipeline.{section}", pipeline[section])
  if not len(pipeline.students):
    raise errors.UserError(
      "config.pipeline.students is empty; name at least one, such as {'student_1': {}}."
    )
  for name in _names(pipeline.from_teacher):
    if name not in pipeline.students:
      key = "config.pipeline.from_teacher"
      raise errors.unknown(key, name, "a student", students(config))
  stages: dict[str, Any] = {"teacher": _override(config, ["teacher"], labelled_only=True)}
  for section in ("more_teachers", "students"):
    for name in pipeline[section]:
      reserved = ("teacher", "filter", "finetune", *CONTROLS)
      taken = name in reserved or (section == "students" and name in pipeline.more_teachers)
      if not name.isidentifier() or taken or name.endswith(PRETRAINED):
        raise errors.UserError(
          f"config.pipeline.{section}.{name}: a stage's name is a word, and not another stage's."
        )
  for name in more_teachers(config):
    stages[name] = _override(config, [f"more_teachers.{name}"], labelled_only=True)
  _check_section("config.pipeline.filter", pipeline.filter)
  if len(pipeline.filter):
    stages["filter"] = _override(config, ["filter"], labelled_only=True)
  for name in _names(pipeline.given):
    if name not in stages:
      raise errors.unknown("config.pipeline.given", name, "a teacher or the filter", stages)
    if not stages[name].weights:
      raise errors.UserError(
        f"config.pipeline.given={pipeline.given!r}: the section of {name} names no weights; set "
        "its `weights`, such as 'run:DIR'."
      )
  for name in students(config):
    stages |= _student(config, name, f"students.{name}", pipeline.training)
  first = f"students.{students(config)[0]}"
  for name, changes in _CONTROLS.items():
    if pipeline.controls[name]:
      how = "separate" if name == "separate" else pipeline.training
      only = name == "no_unlabelled"
      stages |= _student(config, name, first, "joint" if only else how, changes, only)
  _check_section("config.pipeline.finetune", pipeline.finetune)
  if len(pipeline.finetune):
    last = f"students.{students(config)[-1]}"
    stages["finetune"] = _override(config, [last], ["finetune"], NO_NOISE, labelled_only=True)
  return stages


def students(config: Any) -> list[str]:
  """Returns the students' names, those that end in a number by it."""
  return sorted(config.pipeline.students, key=models.registry.natural)


def more_teachers(config: Any) -> list[str]:
  """Returns the names of the teachers beside `teacher`, in the same order."""
  return sorted(config.pipeline.more_teachers, key=models.registry.natural)


def from_teacher(config: Any, name: str) -> bool:
  """Returns whether the student `name` starts from its teacher's weights."""
  return name in _names(config.pipeline.from_teacher)


def given(config: Any, name: str) -> bool:
  """Returns whether the stage `name` is not trained but taken as it is."""
  return name in _names(config.pipeline.given)


def _names(text: str) -> list[str]:
  return list(filter(None, (part.strip() for part in text.split(","))))


def _student(
  config: Any,
  name: str,
  section: str,
  how: str,
  changes: Any = None,
  labelled_only: bool = False,
) -> dict[str, Any]:
  """Returns the one or two trainings of a student, by name."""
  if how == "joint":
    made = _override(config, [section], more=changes, labelled_only=labelled_only, name=name)
    return {name: made}
  first = name + PRETRAINED
  joint = _override(config, [section], more=changes, name=first)
  alone = {"batch_size": configuration.step_batch(joint)[1] or joint.batch_size}
  return {
    first: _override(
      config, [section], ["pretrain"], {**(changes or {}), **alone}, labelled_only=True, name=first
    ),
    name: _override(config, [section], ["tune"], changes, labelled_only=True, name=name),
  }


def _check_section(key: str, section: Any) -> None:
  if not isinstance(section, ml_collections.ConfigDict):
    raise errors.UserError(f"{key}={section!r} is not a section; write {{}} for no changes.")


def _check_settings(key: str, section: Any, names: Sequence[str]) -> None:
  if not isinstance(section, ml_collections.ConfigDict):
    raise errors.UserError(f"{key}={section!r} is not a section; its keys are {', '.join(names)}.")
  for name in section:
    if name not in names:
      raise errors.unknown(key, name, "a setting", names)
  for name in names:
    if name not in section:
      raise errors.UserError(
        f"{key}.{name} is missing; see effnets/recipes/pipelines.py, noisy_student."
      )


def _override(
  config: Any,
  first: Sequence[str],
  then: Sequence[str] = (),
  more: Any = None,
  labelled_only: bool = False,
  name: str = "",
) -> Any:
  """Returns `config` with the sections `first` of its pipeline, `more`, and those of `then`.

  name: of the stage, for messages; default: that of the last section.
  """
  stage = ml_collections.ConfigDict(config.to_dict())
  stage.pipeline = ml_collections.ConfigDict({"name": ""})

  def apply(names):
    for section in names:
      overrides = config.pipeline
      for part in section.split("."):
        overrides = overrides[part]
      key = f"config.pipeline.{section}"
      _check_section(key, overrides)
      if overrides.get("weights"):
        with errors.context(key):
          weights.configure(stage, str(overrides.weights))
      configuration.merge(stage, overrides, key=key)

  apply(first)
  if more is not None:
    configuration.merge(stage, more, key="changes")
  apply(then)
  if labelled_only:
    stage.data.unlabelled.source = ""
    stage.data.unlabelled.ratio = 0.0
  with errors.context(f"stage {name or [*first, *then][-1].rpartition('.')[2]}"):
    configuration.check(stage)
  return stage.lock()
