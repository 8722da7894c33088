"""Configs: the argument grammar of `configs/*.py`, the common fields, the workdir they claim."""

import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from effnets import errors

# What a restart of the same run may change: where and how it runs, not what it computes.
FREE_KEYS = (
  "checkpoint",
  "data.threads",
  "data.workers",
  "execution",
  "log_every_steps",
  "mesh",
  "processes",
  "sharding",
  "tensorboard",
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
    values[key] = _parse(key, text, type(defaults[key]))
  return ml_collections.FrozenConfigDict({**values, "words": tuple(given)})


def _parse(key: str, text: str, kind: type) -> Any:
  if kind is bool:
    choices = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() in choices:
      return choices[text.lower()]
  else:
    try:
      return kind(text)
    except ValueError:
      pass
  raise errors.UserError(f"the config's argument {key}={text!r} is not of type {kind.__name__}.")


def base() -> ml_collections.ConfigDict:
  """Returns the fields that every config has, with defaults for a small classification run."""
  config = ml_collections.ConfigDict()
  config.pipeline = ml_collections.ConfigDict({"name": ""})  # several stages, or none
  config.seed = 0

  config.task = ml_collections.ConfigDict(
    {
      "name": "classification",
      "label_smoothing": 0.1,
      "temperature": 1.0,  # of soft labels
      "mixup": 0.0,  # alpha; 0 is off
      "mixup_group": 2,  # images, contiguous, within which pairs are made
    }
  )
  config.data = ml_collections.ConfigDict(
    {
      "source": "digits",
      "options": {},  # of the source, such as `data_dir` of TFDS or `labels` of digits
      "split": {"train": "train", "validation": "validation", "test": "test"},
      "image_size": 32,
      "crop_padding": 32,  # evaluation crop: size / (size + crop_padding) of the shorter side
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
      },
    }
  )
  config.augment = ml_collections.ConfigDict(
    {
      "flip": False,
      "shift": 0,  # pixels of random translation
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
  return config.batch_size, math.ceil(config.batch_size * ratio)


def claim_workdir(workdir: str | pathlib.Path, config: ml_collections.ConfigDict) -> pathlib.Path:
  """Makes `workdir` this run's own, writes `config.json` into it and returns its path.

  Raises: UserError if it cannot be written, holds something that is no run, or a run whose config
    computes something else.
  """
  path = pathlib.Path(workdir)
  try:
    path.mkdir(parents=True, exist_ok=True)
    probe = path / ".writable"
    probe.touch()
    probe.unlink()
  except OSError as error:
    raise errors.UserError(f"--workdir={path} cannot be written: {error.strerror}.") from error
  file = path / "config.json"
  if not file.exists():
    # What a run leaves that died before its first write is not foreign.
    own = ("events.jsonl", "tb", ".writable", "config.tmp")
    strangers = sorted(p.name for p in path.iterdir() if p.name not in own)
    if strangers:
      raise errors.UserError(
        f"--workdir={path} is not empty and holds no run of effnets (no config.json; found "
        f"{', '.join(strangers[:3])}); give an empty or new folder."
      )
  else:
    _check_same_run(path, file, config)
  temporary = file.with_suffix(".tmp")
  temporary.write_text(to_json(config))
  temporary.replace(file)
  return path


def _check_same_run(path: pathlib.Path, file: pathlib.Path, config: Any) -> None:
  try:
    old = flatten(json.loads(file.read_text()))
  except (ValueError, TypeError) as error:
    raise errors.UserError(
      f"--workdir={path}: its config.json cannot be read ({error}); it is no run of effnets."
    ) from error
  new = flatten(json.loads(to_json(config)))
  free = tuple(f"{key}." for key in FREE_KEYS)
  changed = [
    key
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key) and not f"{key}.".startswith(free)
  ]
  if changed:
    shown = "; ".join(f"config.{k}: {old.get(k)!r} there, {new.get(k)!r} now" for k in changed[:4])
    more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    raise errors.UserError(
      f"--workdir={path} holds a run of another config ({shown}{more}); give the same config or "
      "another workdir."
    )


def shipped() -> dict[str, pathlib.Path]:
  """Returns file name -> path of the configs that come with the package or its checkout."""
  package = pathlib.Path(__file__).parent
  for folder in (package / "configs", package.parent / "configs"):
    files = sorted(folder.glob("*.py")) if folder.is_dir() else []
    if files:
      return {file.name: file for file in files if file.stem != "__init__"}
  return {}
