"""Configs: loading, overriding and checking them. The fields that all have are in `defaults`."""

import ast
import importlib.util
import json
import math
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ml_collections

from effnets import errors
from effnets.defaults import base as base

# Sections that may get keys which `base` does not have; whoever reads them knows the valid ones.
_OPEN = re.compile(
  r"(adversary|learning|model|optimizer|schedule|augment(\.\w+)?|([\w.]+\.)?options)\.\w+"
)
# Sections of a pipeline that hold overrides of the whole config, for one stage or run.
_STAGE = re.compile(
  r"(pipeline\.(?:teacher|filter|single|multi|student|pretrain|tune|finetune|represent|locate|reinforce|reinforce_only|dram|full|patches|(?:students|more_teachers)\.\w+|runs\.\w+|axes\.\w+\.\w+)\.)([\w.]+)"
)

_POSITIVE = (lambda v: v >= 1, "at least 1")
_NATURAL = (lambda v: v >= 0, "at least 0")
_PERCENT = (lambda v: 0 <= v <= 100, "from 0 to 100")
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
  "seed": (lambda v: 0 <= v < 2**32, f"from 0 to {2**32 - 1}"),
  "batch_size": _POSITIVE,
  "eval_batch_size": _POSITIVE,
  "accumulate": _POSITIVE,
  "log_every_steps": _POSITIVE,
  "train.steps": _NATURAL,
  "train.epochs": _NATURAL,
  "task.label_smoothing": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
  "task.temperature": (lambda v: v > 0, "above 0"),
  "task.mixup": _NATURAL,
  "task.cutmix": _NATURAL,
  "task.cutmix_probability": (lambda v: 0 <= v <= 1, "from 0 to 1"),
  "task.mixup_group": _POSITIVE,
  "data.image_size": _POSITIVE,
  "data.crop_padding": (lambda v: v >= -1, "at least 0, or -1 for the model's own"),
  "data.crop_fraction": (lambda v: 0 <= v <= 1, "from 0 (off) to 1"),
  "data.max_unreadable": (lambda v: 0 <= v <= 1, "from 0 to 1"),
  "data.threads": _POSITIVE,
  "data.workers": _NATURAL,
  "data.unlabelled.ratio": _NATURAL,
  "data.unlabelled.weight": _NATURAL,
  "ema.decay": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
  "few_shot.draws": _POSITIVE,
  "few_shot.l2": (
    lambda v: all(isinstance(x, int | float) and x > 0 for x in v),
    "numbers above 0, such as (1.0,), or () for a range of them",
  ),
  "few_shot.shots": (
    lambda v: len(v) > 0 and all(isinstance(x, int) and x >= 1 for x in v),
    "whole numbers of at least 1, such as (1, 5, 10)",
  ),
  "sharding.min_size": _NATURAL,
  "processes.count": _NATURAL,
  "processes.index": (lambda v: v >= -1, "at least -1"),
  "checkpoint.keep": _POSITIVE,
  "checkpoint.every_percent": _PERCENT,
  "evaluation.every_percent": _PERCENT,
  "export.batch_size": _POSITIVE,
  "export.calibration_examples": _POSITIVE,
  "export.accuracy_examples": _NATURAL,
  "plan.fraction": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
  "plan.examples": _NATURAL,
  "plan.classes": _NATURAL,
  "profile.start": _NATURAL,
  "profile.steps": _NATURAL,
  "robustness.attack_steps": (lambda v: 1 <= v <= 500, "from 1 to 500"),
  "robustness.difficulty": (lambda v: 1 <= v <= 3, "from 1 to 3"),
  "robustness.examples": _NATURAL,
  "robustness.release": (lambda v: v in (224, 299), "224 or 299"),
  "robustness.seed": (lambda v: 0 <= v < 2**32, f"from 0 to {2**32 - 1}"),
  "robustness.sequence_examples": _NATURAL,
}
_CHOICES = {
  "checkpoint.best_mode": ("max", "min"),
  "data.interpolation": ("", "bilinear", "bicubic"),
  "data.resize": ("crop", "squash"),
  "evaluation.checkpoint": ("best", "last"),
  "export.format": ("onnx", "savedmodel", "stablehlo", "tflite"),
}
_OF_TASK = ("augment", "model", "task")
_LABEL_TASKS = ("classification", "advprop", "learned_operations")


def task_sections(task: str) -> tuple[str, ...]:
  """Returns the sections of `base` that a task fills in its own way, without its defaults."""
  return () if task in _LABEL_TASKS else _OF_TASK


def load(text: str) -> ml_collections.ConfigDict:
  """Returns the config of `FILE[:ARG]`, unlocked.

  FILE is a path or, where there is no such file, the name of a config that comes with the package
  (`noisy_student.py`, `configs/noisy_student.py`).

  Raises: UserError if there is none, or if it is no config; a Python error inside is told with its
    file and line.
  """
  name, colon, arg = text.partition(":")
  file = _find(name)
  try:
    spec = importlib.util.spec_from_file_location(f"effnets_config_{file.stem}", file)
    if spec is None:
      raise errors.UserError(f"--config={name} is no Python file; its name should end in .py.")
    module = importlib.util.module_from_spec(spec)
    # Bytecode beside somebody's config would be a stranger there.
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
      spec.loader.exec_module(module)
    finally:
      sys.dont_write_bytecode = before
    if not callable(getattr(module, "get_config", None)):
      raise errors.UserError(f"--config={name} defines no function get_config(arg).")
    config = module.get_config(*([arg] if colon else []))
  except errors.UserError:
    raise
  except Exception as error:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    where = f"{name}, line {line}" if line else name
    raise errors.UserError(f"--config: {where}: {type(error).__name__}: {error}.") from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise errors.UserError(
      f"--config={name}: get_config returns {type(config).__name__}, not a ConfigDict; start from "
      "effnets.configuration.base()."
    )
  missing = sorted(flatten(base()).keys() - flatten(config).keys())
  missing = [k for k in missing if not any(f.startswith(f"{k}.") for f in flatten(config))]
  own = task_sections(flatten(config).get("task.name", ""))
  missing = [k for k in missing if k.endswith(".name") or k.partition(".")[0] not in own]
  if missing:
    raise errors.UserError(
      f"--config={name}: config.{missing[0]} is missing; start from effnets.configuration.base()."
    )
  return ml_collections.ConfigDict(config.to_dict())


def _find(name: str) -> pathlib.Path:
  file, known = pathlib.Path(name), shipped()
  if file.is_file():
    return file
  if file.name in known and file.parent in (pathlib.Path("."), pathlib.Path("configs")):
    return known[file.name]
  raise errors.unknown("--config", name, "a file", [f"configs/{option}" for option in known])


def override(config: ml_collections.ConfigDict, key: str, text: str) -> None:
  """Sets `config.key` to the value that `text` stands for, read with the type of the present one.

  Sections that their readers check (`model`, `optimizer`, `schedule`, `augment`, `options`) take
  new keys,
  whose value is a Python literal or else a word, and `None` for "not given". A pipeline's stages
  take every key of the config, such as `pipeline.teacher.train.steps`.

  Raises: UserError if there is no such key, or `text` is not of its type.

  >>> config = base()
  >>> override(config, "train.steps", "300")
  >>> config.train.steps
  300
  """
  stage = _STAGE.fullmatch(key)
  if stage is not None and key.split(".")[1] not in config.pipeline:
    stage = None
  prefix, inner = stage.groups() if stage else ("", key)
  known = flatten(config)
  inner_open = _OPEN.fullmatch(inner) is not None
  present = known.get(key, known.get(inner))
  if isinstance(present, ml_collections.ConfigDict) or any(k.startswith(f"{key}.") for k in known):
    inside = [k for k in known if k.startswith(f"{key}.")] or [f"{key}.KEY"]
    first = f"{key}.name" if f"{key}.name" in inside else inside[0]
    raise errors.UserError(
      f"config.{key}={text!r}: this is a section; set its keys, such as --config.{first}=VALUE."
    )
  if inner not in known and not inner_open:
    options = [k for k in known if not (prefix and k.startswith("pipeline."))]
    raise _unknown(f"config.{prefix}", inner, text, options)
  if inner_open and text.lower() == "none":
    value = None
  else:
    value = _parse(f"config.{key}", text, present)
  *sections, last = key.split(".")
  with config.unlocked(), config.ignore_type():
    target = config
    for name in sections:
      if name not in target:
        target[name] = ml_collections.ConfigDict()
      target = target[name]
    target[last] = value


def merge(config: ml_collections.ConfigDict, overrides: Mapping[str, Any], *, key: str) -> None:
  """Sets what `overrides` has, section by section, in `config`.

  key: how messages call `overrides`, such as `config.pipeline.teacher`.

  Raises: UserError for a key that is not in `config`, or a value of another type.
  """
  known = flatten(config)

  def visit(target, values, path):
    for name, value in values.items():
      inner = ".".join((*path, name))
      present = target.get(name)
      if isinstance(present, ml_collections.ConfigDict) and hasattr(value, "items"):
        visit(present, value, (*path, name))
        continue
      if name not in target and not _OPEN.fullmatch(inner):
        raise _unknown(f"{key}.", inner, value, known)
      none = value is None and _OPEN.fullmatch(inner)
      if not none and present is not None and not _same_kind(value, present):
        raise errors.UserError(
          f"{key}.{inner}={value!r} is not of type {type(present).__name__}, such as {present!r}."
        )
      target[name] = float(value) if isinstance(present, float) and not none else value

  with config.unlocked(), config.ignore_type():
    visit(config, overrides, ())


def difference(config: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the overrides with which `merge` makes `config` of `other`, section by section.

  What `config` has not is left out.

  >>> config = base()
  >>> config.train.steps = 300
  >>> difference(config, base())
  {'train': {'steps': 300}}
  """
  known, found = flatten(other), {}
  for key, value in flatten(config).items():
    empty = isinstance(value, ml_collections.ConfigDict | dict)
    if empty or (key in known and known[key] == value):
      continue
    *sections, last = key.split(".")
    target = found
    for name in sections:
      target = target.setdefault(name, {})
    target[last] = value
  return found


def _unknown(prefix: str, key: str, value: Any, known: Iterable[str]) -> errors.UserError:
  """Returns the error for a key that is none of `known`."""
  # Often the last name is right and its section is missing.
  last = key.rpartition(".")[2]
  close = [k for k in known if k.rpartition(".")[2] == last] or errors.nearest(key, known)
  nearest = f" Nearest: {', '.join(prefix + k for k in close[:3])}." if close else ""
  value = value.to_dict() if isinstance(value, ml_collections.ConfigDict) else value
  return errors.UserError(
    f"{prefix}{key}={value!r} is not a setting.{nearest} All: the config file and "
    "effnets/defaults.py."
  )


def _same_kind(value: Any, present: Any) -> bool:
  if isinstance(value, bool) or isinstance(present, bool):
    return isinstance(value, bool) and isinstance(present, bool)
  kinds = {float: (int, float), tuple: (tuple, list), list: (tuple, list)}
  return isinstance(value, kinds.get(type(present), type(present)))


def check(config: ml_collections.ConfigDict) -> None:
  """Checks the settings of `base` as far as they can be judged without data and devices.

  Raises: UserError with the key, its value and what would be right.
  """
  leaves = flatten(config)
  for key, value in leaves.items():
    if isinstance(value, float) and not math.isfinite(value):
      raise errors.UserError(f"config.{key}={value!r} should be a finite number.")
  for key, (valid, words) in _RANGES.items():
    if key in leaves and not valid(leaves[key]):
      raise errors.UserError(f"config.{key}={leaves[key]!r} should be {words}.")
  for key, options in _CHOICES.items():
    if leaves[key] not in options:
      raise errors.unknown(f"config.{key}", leaves[key], "one of its values", options)
  given = {unit: value for unit, value in config.train.items() if value}
  if len(given) != 1:
    shown = " and ".join(f"config.train.{k}={v!r}" for k, v in given.items())
    raise errors.UserError(
      f"{shown} are both given; set one of them to 0."
      if given
      else "config.train.steps and config.train.epochs are both 0; one says how long to train."
    )
  for key in ("data.mean", "data.std"):
    values = leaves[key]
    numbers = all(isinstance(v, int | float) and 0 <= v <= 1 for v in values)
    if len(values) not in (0, 3) or not numbers or (key == "data.std" and 0 in values):
      raise errors.UserError(
        f"config.{key}={values!r} should be three numbers up to 1, such as (0.5, 0.5, 0.5), or "
        "empty for the model's own."
      )
  for rule in config.sharding.rules:
    try:
      pattern, _ = rule
      re.compile(pattern)
    except (TypeError, ValueError, re.error) as error:
      raise errors.UserError(
        f"config.sharding.rules: {rule!r} is not a pair of a regular expression and a tactic, such "
        "as ('.*', 'fsdp')."
      ) from error
  processes = config.processes
  if processes.coordinator and not 0 <= processes.index < processes.count:
    raise errors.UserError(
      f"config.processes.coordinator={processes.coordinator!r} needs config.processes.count and "
      f"config.processes.index from 0 to count - 1; they are {processes.count} and "
      f"{processes.index}."
    )


def arguments(arg: str | None, words: Iterable[str] = (), **defaults: Any) -> Any:
  """Returns the parsed argument of a config file, `config.py:ARG`, as a ConfigDict.

  Args:
    arg: comma list of bare words and `key=value`; None or empty is no argument.
    words: bare words that are allowed; the result's `words` holds those given, in order.
    **defaults: keys with their defaults; a value is read with its default's type.

  Raises: UserError for a word or key that is not there, or a value of another type.

  >>> a = arguments("imagenet,batch_size=64", words=["digits", "imagenet"], batch_size=32)
  >>> a.words, a.batch_size
  (('imagenet',), 64)
  """
  words, given, values = list(words), [], dict(defaults)
  for part in filter(None, (p.strip() for p in (arg or "").split(","))):
    key, equals, text = part.partition("=")
    if not equals:
      if key not in words:
        options = [*words, *(f"{k}=..." for k in defaults)]
        raise errors.unknown("the config's argument", part, "a word that it knows", options)
      given.append(key)
      continue
    if key not in defaults:
      raise errors.unknown("the config's argument", key, "a key that it knows", defaults)
    values[key] = _parse(f"the config's argument {key}", text, defaults[key])
  return ml_collections.FrozenConfigDict({**values, "words": tuple(given)})


def _parse(key: str, text: str, present: Any) -> Any:
  """Returns what `text` stands for, read with the type of `present`."""
  kind = type(present)
  try:
    if kind is bool:
      return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    if kind in (int, float, str):
      return kind(text)
    value = ast.literal_eval(text)
    if kind in (tuple, list):
      if not isinstance(value, tuple | list):
        raise ValueError(text)
      return tuple(value)
    return value
  except (ValueError, KeyError, SyntaxError) as error:
    if present is None:
      return text
    such = f", such as {present!r}" if present != () else ""
    raise errors.UserError(f"{key}={text!r} is not of type {kind.__name__}{such}.") from error


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Returns `{"a.b": value}` of all leaves, in sorted order."""
  leaves = {}
  for key in sorted(config):
    value = config[key]
    if isinstance(value, ml_collections.ConfigDict | dict) and len(value):
      leaves.update(flatten(value, f"{prefix}{key}."))
    else:
      leaves[prefix + key] = value
  return leaves


def to_json(config: ml_collections.ConfigDict) -> str:
  """Returns the resolved config as indented JSON with sorted keys."""
  return json.dumps(json.loads(config.to_json_best_effort()), indent=2, sort_keys=True) + "\n"


def step_batch(config: ml_collections.ConfigDict) -> tuple[int, int]:
  """Returns how many labelled and unlabelled examples one step draws."""
  ratio = config.data.unlabelled.ratio if config.data.unlabelled.source else 0.0
  # A product such as 30 * 0.1 lies just above the integer that is meant.
  return config.batch_size, math.ceil(config.batch_size * ratio - 1e-6)


def shipped() -> dict[str, pathlib.Path]:
  """Returns file name -> path of the configs that come with the package or its checkout."""
  package = pathlib.Path(__file__).parent
  for folder in (package / "configs", package.parent / "configs"):
    files = sorted(folder.glob("*.py")) if folder.is_dir() else []
    if files:
      return {file.name: file for file in files if file.stem != "__init__"}
  return {}
