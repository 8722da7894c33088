"""Configs: the fields they all have; loading, overriding and checking them."""

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
    "effnets/configuration.py."
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


def base() -> ml_collections.ConfigDict:
  """Returns the fields that every config has, with defaults for a small classification run."""
  config = ml_collections.ConfigDict()
  config.pipeline = ml_collections.ConfigDict({"name": ""})  # several stages, or none
  config.seed = 0
  # To start from or to evaluate: NAME[:SOURCE] of a weight set, or run:DIR for a run of one's own.
  config.weights = ""
  config.new_head = False  # whether their classifier may be replaced if the classes differ
  config.input = ""  # a picture, or a folder of them, for `--mode=predict`
  config.class_names = ""  # a file, one name a line; empty: the data's, or ImageNet's if 1,000

  config.task = ml_collections.ConfigDict(
    {
      "name": "classification",
      "label_smoothing": 0.1,
      "temperature": 1.0,  # of soft labels
      "mixup": 0.0,  # alpha; 0 is off
      "cutmix": 0.0,  # alpha; 0 is off
      "cutmix_probability": 1.0,  # of an example; the others get mixup, if it is on
      "mixup_group": 2,  # images, contiguous, within which pairs are made
    }
  )
  config.data = ml_collections.ConfigDict(
    {
      "source": "digits",
      "options": {},  # of the source, such as `data_dir` of TFDS or `labels` of digits
      "split": {"train": "train", "validation": "validation", "test": "test"},
      "image_size": 32,
      # Evaluation crop: size / (size + crop_padding) of the shorter side; -1 is the model's own.
      "crop_padding": -1,
      "crop_fraction": 0.0,  # instead of crop_padding, if not 0
      "resize": "crop",  # or squash: the whole picture made square, then cut on all sides
      "interpolation": "",  # bilinear or bicubic; empty, as below: the model's own
      "mean": (),
      "std": (),
      "random_crop": True,  # inception-style crop where the host decodes pictures
      "max_unreadable": 0.01,  # share of unreadable examples that stops the run
      "threads": 4,
      "workers": 0,  # processes that decode; 0 uses threads only
      # A second source in every batch; `ratio` of its examples per example of the first.
      "unlabelled": {
        "source": "",
        "options": {},
        "split": "unlabelled",
        "ratio": 0.0,
        "weight": 0.0,  # of its mean loss; 0 is `ratio`, as the papers' code has it
        # Whether the two are averaged, as if over the whole batch, where the code adds them up.
        "average": False,
      },
    }
  )
  config.augment = ml_collections.ConfigDict(
    {
      "flip": False,
      "shift": 0,  # pixels of random translation
      "cutout": 0,  # side of the square in pixels
      "erasing": {"probability": 0.0},
      "autoaugment": {"policy": ""},
      "randaugment": {
        "layers": 0,
        "magnitude": 9.0,
        "operations": "code16",
        "cutout_const": 40.0,
        "translate_const": 100.0,
      },
    }
  )
  config.model = ml_collections.ConfigDict(
    {
      "name": "efficientnet_tiny",
      "dropout_rate": 0.2,
      "drop_path_rate": 0.2,
      "padding": "SAME",
      "dtype": "float32",
      "remat": "none",
      "frozen_blocks": 0,
    }
  )
  config.batch_norm = ml_collections.ConfigDict({"group": "local"})  # local, global or images
  config.batch_size = 64  # labelled examples per step, over all devices
  config.eval_batch_size = 256
  config.train = ml_collections.ConfigDict({"steps": 0, "epochs": 0.0})  # exactly one is not 0
  config.accumulate = 1
  config.optimizer = ml_collections.ConfigDict()
  config.schedule = ml_collections.ConfigDict()
  config.ema = ml_collections.ConfigDict({"decay": 0.0})  # 0 keeps no average

  config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1, "space": 1})
  config.execution = "jit"
  config.sharding = ml_collections.ConfigDict({"rules": (), "min_size": 0})  # empty: the defaults
  config.processes = ml_collections.ConfigDict({"coordinator": "", "count": 0, "index": -1})

  config.checkpoint = ml_collections.ConfigDict(
    {"every_percent": 20.0, "keep": 2, "best_metric": "top1", "best_mode": "max"}
  )
  config.evaluation = ml_collections.ConfigDict(
    {"every_percent": 20.0, "checkpoint": "last"}  # which one `--mode=evaluate` takes, or best
  )
  # `--mode=few_shot`: numbers of examples per class; how often each is drawn; the network's end
  # point; penalties to choose from.
  config.few_shot = ml_collections.ConfigDict(
    {"shots": (1, 5, 10), "draws": 5, "features": "pooled_features", "l2": ()}
  )
  config.export = ml_collections.ConfigDict(  # for `--mode=export`
    {
      "format": "stablehlo",  # onnx, savedmodel, stablehlo or tflite
      "path": "",  # a folder; empty: export/FORMAT in the workdir
      "batch_size": 1,  # of tflite and of detectors; other programs take any
      "suppression": True,  # of a detector's program: inside; else it ends with every anchor
      "int8": False,  # of tflite: weights and activations in eight bits
      "calibration_examples": 200,  # training images that decide the ranges of int8
      "accuracy_examples": 10_000,  # test images that tell what int8 loses; 0 takes all
    }
  )
  config.plan = ml_collections.ConfigDict(  # for `--mode=plan`
    {
      "topology": "v5e-16",  # a slice of TPUs by its usual name, cpu:N, or gpu
      "stage": "",  # of a pipeline; empty: every one
      "fraction": 0.4,  # of the roofline that the run is taken to reach
      "search_batch": False,  # look for the largest batch that fits
      "layouts": False,  # look at other layouts even if this one fits
      # Of a data set that is not here, if its size is not known.
      "examples": 0,
      "classes": 0,
    }
  )
  # What `--mode=robustness` measures on `data.split.test`; names stand in comma lists.
  config.robustness = ml_collections.ConfigDict(
    {
      "suites": "corruptions,sequences,attacks",  # also photos, which needs no data
      "corruptions": "",  # empty: the 15 of the mCE; all: the four others too
      "severities": (1, 2, 3, 4, 5),
      "folder": "",  # pictures that are corrupted already: PATH/CORRUPTION/SEVERITY/CLASS/IMAGE
      "frost": "",  # a folder with photos of frost, without which that corruption is skipped
      "sequences": "",  # empty: the ten of the mFR; all: the others too
      "films": "",  # of them, as published: PATH/PERTURBATION/CLASS/FILM; `examples` says how many
      "difficulty": 1,  # of sequences, up to 3
      "attacks": "fgsm,pgd",
      "epsilons": (1.0, 2.0, 4.0, 8.0, 16.0),  # in levels of 255
      "attack_steps": 10,  # of pgd, ifgsm and gd, each 2.5 epsilon / steps long
      "imagenet_a": "",  # its folder
      "stylized": "",  # a folder of pictures in another style, PATH/CLASS/IMAGE
      "release": 224,  # or 299: size of pictures before they are corrupted, if theirs differ
      "examples": 0,  # of the split, evenly spread; 0: all
      "sequence_examples": 50,  # of which sequences are made; 0: all
      "seed": 0,
      "reference": "",  # robustness.json of the model to compare with; empty: AlexNet's figures
    }
  )
  # Updates that JAX's profiler looks at, counted from the start: `tensorboard --logdir=DIR/tb`.
  config.profile = ml_collections.ConfigDict({"start": 10, "steps": 0})
  config.log_every_steps = 20
  config.tensorboard = True
  return config


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
