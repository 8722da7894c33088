"""Tasks on texts and films, made from a config."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import ml_collections

from effnets import data, errors, models, parallel
from effnets.tasks import prediction, text, video
from effnets.tasks import settings as common


def make_text(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int
) -> text.Text:
  """Returns the task of texts. Raises: UserError."""
  del step_batch
  settings = config.task.to_dict()
  settings.pop("name")
  head_dropout = settings.pop("dropout_rate", 0.1)
  for key, options in (("distillation", text.DISTILLATION), ("reduction", text.REDUCTIONS)):
    if settings.get(key, options[0]) not in options:
      raise errors.unknown(f"config.task.{key}", settings[key], "one of its values", options)
  for key, valid, words in (
    ("gold_weight", lambda v: 0 <= v <= 1, "from 0, the teacher alone, to 1"),
    ("temperature", lambda v: 0 < v < math.inf, "above 0"),
  ):
    value = settings.get(key, 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not valid(value):
      raise errors.UserError(f"config.task.{key}={value!r} should be a number {words}.")
  if not 0 <= head_dropout < 1:
    raise errors.UserError(f"config.task.dropout_rate={head_dropout!r} is outside [0, 1).")
  fields = {f.name for f in dataclasses.fields(text.Text)} & {
    "distillation",
    "gold_weight",
    "temperature",
    "reduction",
  }
  for key in settings:
    if key not in fields:
      raise errors.unknown("config.task", key, "a setting", (*fields, "dropout_rate"))
  model = config.model.to_dict()
  name = model.pop("name")
  if models.entry(name).task != "text":
    known = models.list_models(task="text")
    raise errors.unknown("config.model.name", name, "an encoder of texts", known)
  encoder = models.create(name, **model)
  options = config.data.options.to_dict()
  problems = data.texts.tasks_of(options)
  length = data.texts.length_of(config.data.source, options)
  if length > encoder.positions:
    raise errors.UserError(
      f"config.data.options.length={length} is more than the {encoder.positions} positions of "
      f"{name}."
    )
  units = sum(problem.units for problem in problems)
  if num_classes != units:
    raise errors.UserError(
      f"config.data.options.tasks have {units} outputs, the data or the run has {num_classes}."
    )
  return text.Text(
    module=models.bert.WithHeads(
      encoder, tuple((problem.name, problem.units) for problem in problems), head_dropout
    ),
    placement=placement,
    problems=problems,
    length=length,
    step_texts=config.batch_size,
    **settings,
  )


_VIDEO = ("name", "labels", "label_smoothing", "views")
_MOVING = ("shift", "cutout", "autoaugment", "randaugment", "erasing", "crop")


def make_video(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int
) -> video.Video:
  """Returns the task of classes of films. Raises: UserError."""
  task, clips = config.task.to_dict(), video.settings(config)
  for key in task:
    if key not in _VIDEO:
      raise errors.unknown("config.task", key, "a setting of this task", _VIDEO)
  for key, default, options in (
    ("labels", "one", ("one", "several")),
    ("views", "mean", video.VIEWS),
  ):
    if task.setdefault(key, default) not in options:
      raise errors.unknown(f"config.task.{key}", task[key], "one of its values", options)
  smoothing, several = task.get("label_smoothing", 0.0), task["labels"] == "several"
  if not 0 <= smoothing < 1 or (several and smoothing):
    words = "0, since films are of several classes" if several else "at least 0 and below 1"
    raise errors.UserError(f"config.task.label_smoothing={smoothing} should be {words}.")
  model = config.model.to_dict()
  name = model.pop("name")
  entry = models.entry(name)
  if entry.task != "video":
    raise errors.unknown(
      "config.model.name", name, "a model for clips", models.list_models(task="video")
    )
  given = clips["flow"] != "none"
  if model.get("flow", "given" if given else "layer") != ("given" if given else "layer"):
    raise errors.UserError(
      f"config.model.flow={model['flow']!r} does not go with config.data.clips.flow="
      f"{clips['flow']!r}: 'given' needs 'stored' or 'dis', 'layer' needs 'none'."
    )
  sizes = {"frames": clips["frames"], "image_size": config.data.image_size}
  for key, value in sizes.items():
    if model.setdefault(key, value) != value:
      where = "config.data.clips.frames" if key == "frames" else "config.data.image_size"
      raise errors.UserError(f"config.model.{key}={model[key]} differs from {where}={value}.")
  module = models.create(
    name,
    num_classes=num_classes,
    group=common.norm_group(config.batch_norm.group, placement, step_batch),
    **{**model, "flow": "given" if given else "layer"},
  ).clone(split=common.split(placement))
  if given and not module.takes_flow:
    raise errors.UserError(
      f"config.data.clips.flow={clips['flow']!r}: the graph of {name} has no stem that reads flow; "
      "set it to 'none'."
    )
  settings = config.augment.to_dict()
  flip = settings.pop("flip", 0.0)
  if isinstance(flip, bool):
    flip = 0.5 * flip
  if not isinstance(flip, int | float) or not 0 <= flip <= 1:
    raise errors.UserError(f"config.augment.flip={flip!r} should be a probability, in [0, 1].")
  made = common.policy(ml_collections.ConfigDict({"augment": settings}))
  moved = [key for key in _MOVING if _is_on(settings.get(key))]
  if given and moved:
    raise errors.UserError(
      f"config.augment.{moved[0]} moves or covers pixels, which given flow does not follow; leave "
      "it out, or let the network compute flow: config.data.clips.flow='none'."
    )
  return video.Video(
    module=module,
    placement=placement,
    num_classes=num_classes,
    mean=tuple(config.data.mean) or entry.mean,
    std=tuple(config.data.std) or entry.std,
    several=several,
    policy=made,
    flip=float(flip),
    label_smoothing=smoothing,
    views=task["views"],
    dtype=jnp.dtype(module.dtype),
  )


def make_prediction(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int
) -> prediction.Prediction:
  """Returns the task of films that are continued. Raises: UserError."""
  del num_classes
  group = common.norm_group(config.batch_norm.group, placement, step_batch)
  return prediction.create(config, placement, group=group, split=common.split(placement))


def _is_on(setting: Any) -> bool:
  """Returns whether a setting of `config.augment` does anything."""
  if not isinstance(setting, dict):
    return bool(setting)
  return bool(setting.get("policy") or setting.get("layers") or setting.get("probability"))
