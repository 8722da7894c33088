"""Builds the task that a config names."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import ml_collections

from effnets import augment, data, errors, evaluation, models, ops, parallel
from effnets.ops import nms
from effnets.tasks import (
  adversarial,
  base,
  classification,
  detection,
  distillation,
  glimpses,
  instances,
  learned_operations,
  prediction,
  regions,
  scenes,
  segmentation,
  text,
  video,
)


def create(
  config: Any,
  placement: parallel.Placement,
  *,
  num_classes: int,
  step_batch: int,
  total_steps: int = 0,
) -> base.Task:
  """Returns the task of `config`.

  Args:
    num_classes: of the data. step_batch: examples in one forward pass, over all devices.
    total_steps: of the training, for losses that change on the way; 0 if nothing is trained.

  Raises: UserError for a name or value that is none.
  """
  if config.task.name not in _TASKS:
    raise errors.unknown("config.task.name", config.task.name, "a task", _TASKS)
  made = _TASKS[config.task.name](config, placement, num_classes, step_batch)
  if isinstance(made, text.Text):
    made = dataclasses.replace(made, total_steps=total_steps)
  return made


def norm_group(setting: str | int, placement: parallel.Placement, step_batch: int) -> ops.Group:
  """Returns the batch-norm group of `config.batch_norm.group`.

  setting: who averages together.
    local: each device its own part of the batch.
    global: the whole batch.
    tpu: as the papers' TPU code, local up to 8 devices, else groups of max(8, devices // 8).
    a number: that many images.
  step_batch: examples in one forward pass, over all devices.

  Raises: UserError if groups of that size do not tile the batch and its parts.
  """
  key, shards = "config.batch_norm.group", placement.batch_shards
  local = step_batch // shards
  if setting == "local":
    images = local
  elif setting == "global":
    images = step_batch
  elif setting == "tpu":
    images = local if shards <= 8 else local * max(8, shards // 8)
  else:
    try:
      images = int(setting)
    except ValueError:
      options = ("local", "global", "tpu", "a number of images")
      raise errors.unknown(key, setting, "a batch-norm group", options) from None
  fits = 0 < images <= step_batch and step_batch % images == 0
  if not fits or (images % local and local % images):
    raise errors.UserError(
      f"{key}={setting}: {images} images do not tile a batch of {step_batch} over {shards} "
      f"device(s) of {local}; give a divisor of {local} or a multiple of it that divides "
      f"{step_batch}."
    )
  if placement.execution == "shard_map":
    return ops.Group(images, parallel.BATCH_AXES, shards)
  return ops.Group(images)


def split(placement: parallel.Placement) -> ops.Split | None:
  """Returns how a model's images lie on the mesh if their height is split, else None."""
  if placement.execution == "shard_map" or placement.mesh.shape["space"] == 1:
    return None
  return ops.Split(placement.mesh, parallel.BATCH_AXES, "space")


def _classification(
  config: Any,
  placement: parallel.Placement,
  num_classes: int,
  step_batch: int,
  kind: str = "classification",
) -> classification.Classification:
  settings = config.model.to_dict()
  name = settings.pop("name")
  entry = models.entry(name)
  if entry.task != kind:
    known, words = models.list_models(task=kind), _KINDS[kind]
    raise errors.unknown("config.model.name", name, words, known, "`python -m effnets.zoo`")
  module = models.create(
    name,
    num_classes=num_classes,
    group=norm_group(config.batch_norm.group, placement, step_batch),
    **settings,
  ).clone(split=split(placement))
  task = config.task
  if not 0 <= task.label_smoothing < 1:
    raise errors.UserError(
      f"config.task.label_smoothing={task.label_smoothing} is outside [0, 1); usual: 0.1."
    )
  if task.temperature <= 0:
    raise errors.UserError(
      f"config.task.temperature={task.temperature} is not positive; 1 leaves soft labels alone."
    )
  if (task.mixup or task.cutmix) and (step_batch // placement.batch_shards) % task.mixup_group:
    raise errors.UserError(
      f"config.task.mixup_group={task.mixup_group} does not divide the "
      f"{step_batch // placement.batch_shards} images of a device; 2 always does for even numbers."
    )
  return classification.Classification(
    module=module,
    placement=placement,
    image_size=config.data.image_size,
    num_classes=num_classes,
    mean=tuple(config.data.mean) or entry.mean,
    std=tuple(config.data.std) or entry.std,
    policy=policy(config),
    label_smoothing=task.label_smoothing,
    temperature=task.temperature,
    mixup=task.mixup,
    cutmix=task.cutmix,
    cutmix_probability=task.cutmix_probability,
    mixup_group=task.mixup_group,
    dtype=jnp.dtype(config.model.dtype),
  )


# What models of a task are called in messages.
_KINDS = {"classification": "a classifier", "glimpses": "a network that looks at patches"}


def _glimpses(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int
) -> classification.Classification:
  """Returns the task of a network that looks at patches; `config.glimpses` says how it learns."""
  values = glimpses.settings(config)
  made = ml_collections.ConfigDict(config.to_dict())
  made.model.image_size = config.data.image_size
  plain = _classification(made, placement, num_classes, step_batch, "glimpses")
  return glimpses.learning(plain, config.task.name, values)


def _distillation(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int
) -> distillation.Distillation:
  key = "config.distillation"
  if key.removeprefix("config.") not in config:
    raise errors.UserError(
      f"{key} is missing, which config.task.name='distillation' needs; start from configs/akd.py."
    )
  found = config.distillation
  known = ("ensemble", "teachers", "temperature", "weight")
  for name in found:
    if name not in known:
      raise errors.unknown(key, name, "a setting", known)
  if not 0 <= found.weight <= 1:
    raise errors.UserError(f"{key}.weight={found.weight} is outside [0, 1]; usual: 0.9.")
  if found.temperature <= 0:
    raise errors.UserError(f"{key}.temperature={found.temperature} is not positive; usual: 1.")
  if found.ensemble not in distillation.ENSEMBLES:
    raise errors.unknown(f"{key}.ensemble", found.ensemble, "an average", distillation.ENSEMBLES)
  if not len(found.teachers):
    raise errors.UserError(f"{key}.teachers is empty; a student needs at least one.")
  plain = _classification(config, placement, num_classes, step_batch)
  teachers = []
  for name in sorted(found.teachers):
    with errors.context(f"{key}.teachers.{name}"):
      # A frozen network of its own input: nothing of the student's training is its.
      own = ml_collections.ConfigDict(config.to_dict())
      own.model = ml_collections.ConfigDict(found.teachers[name].model.to_dict())
      own.data.update(found.teachers[name].data)
      teachers.append(_classification(own, placement, num_classes, step_batch))
  fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
  return distillation.Distillation(
    **fields,
    teachers=tuple(teachers),
    soft_weight=found.weight,
    soft_temperature=found.temperature,
    ensemble=found.ensemble,
  )


_ADVERSARY = ("kind", "epsilon", "step", "steps", "targeted", "clean_start", "parts", "evaluated")


def _advprop(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int
) -> adversarial.AdvProp:
  if "adversary" not in config:
    raise errors.UserError(
      "config.adversary is missing, which config.task.name='advprop' needs; start from "
      "configs/advprop.py."
    )
  settings = config.adversary.to_dict()
  for name in settings:
    if name not in _ADVERSARY:
      raise errors.unknown("config.adversary", name, "a setting", _ADVERSARY)
  parts, evaluated = tuple(settings.pop("parts")), settings.pop("evaluated")
  for name in parts:
    if name not in adversarial.PARTS:
      raise errors.unknown("config.adversary.parts", name, "a part", adversarial.PARTS)
  if settings["kind"] not in ops.attacks.KINDS:
    key = "config.adversary.kind"
    raise errors.unknown(key, settings["kind"], "an attack", ops.attacks.KINDS)
  try:
    attack = ops.attacks.Attack(**settings)
  except ValueError as error:
    raise errors.UserError(f"config.adversary.{error}") from error
  sets = config.model.get("norm_sets", 1)
  if len(set(parts)) != len(parts) or not parts or sets not in (1, len(parts)):
    raise errors.UserError(
      f"config.model.norm_sets={sets} does not go with config.adversary.parts={parts!r}: one set "
      "for each part, which are all different, or 1 for all of them."
    )
  if not 0 <= evaluated < sets:
    raise errors.UserError(
      f"config.adversary.evaluated={evaluated} should be from 0 to {sets - 1}, a set of norms."
    )
  if config.task.mixup or config.task.cutmix:
    key = "mixup" if config.task.mixup else "cutmix"
    raise errors.UserError(
      f"config.task.{key}={config.task[key]} does not go with config.task.name='advprop', whose "
      "targets are classes; set it to 0."
    )
  plain = _classification(config, placement, num_classes, step_batch)
  fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
  return adversarial.AdvProp(
    **fields, attack=attack, parts=parts, shared=sets == 1, evaluated=evaluated
  )


def policy(config: Any) -> augment.policy.Policy | None:
  """Returns the device-side augmentation of `config`; None if nothing is switched on.

  Raises: UserError for a setting that is none or out of range, also of what is off.
  """
  settings = config.augment.to_dict()
  # Each of these has one setting that switches it off.
  for name, switch, value in (
    ("autoaugment", "policy", "v0"),
    ("randaugment", "layers", 1),
    ("erasing", "probability", 1.0),
  ):
    section = settings.get(name)
    if section is None:
      continue
    if not section[switch]:
      augment.create({name: {**section, switch: value}})
      settings[name] = None
  made = augment.create(settings)
  on = ("crop", "flip", "colour", "shift", "autoaugment", "randaugment", "cutout", "erasing")
  return made if any(settings.get(name) for name in on) else None


def _learned_operations(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int
) -> learned_operations.LearnedOperations:
  name = "config.task.name='learned_operations'"
  held_out, settings = config.data.unlabelled, config.augment.randaugment.to_dict()
  if not held_out.source or held_out.ratio != 1:
    raise errors.UserError(
      f"config.data.unlabelled.source={held_out.source!r} with ratio={held_out.ratio!r}: {name} "
      "takes as many held-out, labelled examples from there as it trains on; set ratio to 1."
    )
  if step_batch % (2 * placement.batch_shards) or config.accumulate > 1:
    raise errors.UserError(
      f"config.accumulate={config.accumulate} with config.batch_size={config.batch_size}: {name} "
      "takes whole batches, an even number of examples, held-out ones too, on every device."
    )
  for key, value, off in (
    ("augment.randaugment.layers", settings["layers"], not settings["layers"]),
    ("augment.operations_first", True, config.augment.get("operations_first", False)),
    ("task.mixup", config.task.mixup, config.task.mixup),
    ("task.cutmix", config.task.cutmix, config.task.cutmix),
  ):
    if off:
      good = {"layers": 2, "operations_first": False}.get(key.rpartition(".")[2], 0.0)
      raise errors.UserError(f"config.{key}={value!r} does not go with {name}; set it to {good}.")
  learning = config.get("learning", ml_collections.ConfigDict()).to_dict()
  for key in learning:
    if key != "rate":
      raise errors.unknown("config.learning", key, "a setting", ("rate",))
  rate = learning.get("rate", 1.0)
  if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
    raise errors.UserError(f"config.learning.rate={rate!r} is not a number above 0, such as 1.0.")
  augment.create({"randaugment": settings})
  moves = ml_collections.ConfigDict(config.to_dict())
  moves.augment.randaugment.layers = 0
  # Each half of the batch goes through the network by itself.
  plain = _classification(moves, placement, num_classes, step_batch // 2)
  fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
  return learned_operations.LearnedOperations(
    **fields, learned=augment.Learned(augment.RandAugment(**settings)), rate=rate
  )


def _detection(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int
) -> detection.Detection:
  recipe = _fields(detection.Recipe, config.task.to_dict(), "config.task", but=("name",))
  kept, candidates = _suppression(config)
  shared = _scene_task(config, placement, num_classes, step_batch, slots=recipe.background)
  return detection.Detection(
    **shared, **kept, recipe=recipe, candidates=candidates, policy=box_policy(config)
  )


def _instances(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int
) -> instances.Instances:
  recipe = _fields(regions.Recipe, config.task.to_dict(), "config.task", but=("name",))
  kept, candidates = _suppression(config)
  if candidates:
    raise errors.UserError(
      f"config.detections.candidates={candidates}: config.task.name='instances' takes all of its "
      "regions; set it to 0."
    )
  if box_policy(config) is not None:
    raise errors.UserError(
      "config.augment: policies move boxes and no masks, which config.task.name='instances' is "
      "taught; set config.augment.randaugment.layers to 0 and config.augment.autoaugment.policy to "
      "''."
    )
  if not scenes.settings(config)["mask_size"]:
    raise errors.UserError(
      "config.data.scenes.mask_size=0: config.task.name='instances' is taught masks; usual: 112."
    )
  shared = _scene_task(config, placement, num_classes, step_batch, slots=1)
  return instances.Instances(**shared, **kept, recipe=recipe)


def _suppression(config: Any) -> tuple[dict[str, Any], int]:
  """Returns fields of a task from `config.detections`, and how many candidates meet.

  Raises: UserError.
  """
  if "detections" not in config:
    raise errors.UserError(
      f"config.detections is missing, which config.task.name={config.task.name!r} needs; start "
      "from configs/efficientdet.py."
    )
  kept = config.detections.to_dict()
  candidates = kept.pop("candidates", 0)
  kept.pop("shown", None)  # of those who draw
  if not isinstance(candidates, int) or candidates < 0:
    raise errors.UserError(
      f"config.detections.candidates={candidates!r} should be a whole number, 0 for all."
    )
  voc = kept.pop("voc", "")
  if voc and voc not in evaluation.voc.RULES:
    raise errors.unknown("config.detections.voc", voc, "a rule", evaluation.voc.RULES)
  with errors.context("config.detections"):
    rule = _fields(nms.Rule, kept, "config.detections")
  return {"rule": rule, "voc": voc}, candidates


def _segmentation(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int
) -> segmentation.Segmentation:
  shared = _scene_task(config, placement, num_classes, step_batch)
  given = {name: value for name, value in config.task.to_dict().items() if name != "name"}
  known = ("label_smoothing", "hard_share", "hard_steps", "scales", "mirror")
  for name in given:
    if name not in known:
      raise errors.unknown("config.task", name, "a setting", known)
  made = segmentation.Segmentation(**shared, **given)
  key, steps, scales = "config.task", made.hard_steps, made.scales
  if not 0 <= made.label_smoothing < 1:
    raise errors.UserError(f"{key}.label_smoothing={made.label_smoothing} is outside [0, 1).")
  if not 0 < made.hard_share <= 1:
    raise errors.UserError(f"{key}.hard_share={made.hard_share} is outside (0, 1]; 1 takes all.")
  if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
    raise errors.UserError(f"{key}.hard_steps={steps!r} should be a whole number, 0 for none.")
  if not isinstance(scales, tuple) or not scales or not all(0 < s <= 4 for s in scales):
    raise errors.UserError(
      f"{key}.scales={scales!r} should be numbers in (0, 4], such as (0.75, 1.0, 1.25)."
    )
  return made


def _text(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int
) -> text.Text:
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
# Settings of `config.augment` that move pixels, which given flow would have to follow.
_MOVING = ("shift", "cutout", "autoaugment", "randaugment", "erasing", "crop")


def _video(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int
) -> video.Video:
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
    group=norm_group(config.batch_norm.group, placement, step_batch),
    **{**model, "flow": "given" if given else "layer"},
  ).clone(split=split(placement))
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
  made = policy(ml_collections.ConfigDict({"augment": settings}))
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


def _prediction(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int
) -> prediction.Prediction:
  del num_classes
  group = norm_group(config.batch_norm.group, placement, step_batch)
  return prediction.create(config, placement, group=group, split=split(placement))


def _is_on(setting: Any) -> bool:
  """Returns whether a setting of `config.augment` does anything."""
  if not isinstance(setting, dict):
    return bool(setting)
  return bool(setting.get("policy") or setting.get("layers") or setting.get("probability"))


def _scene_task(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int, *, slots: int = 0
) -> dict[str, Any]:
  """Returns the fields of `scenes.SceneTask`. slots: logits beside those of classes."""
  model = config.model.to_dict()
  name = model.pop("name")
  entry = models.entry(name)
  if entry.task != config.task.name:
    known = models.list_models(task=config.task.name)
    raise errors.unknown("config.model.name", name, f"a model for {config.task.name}", known)
  module = models.create(
    name,
    num_classes=num_classes + slots,
    group=norm_group(config.batch_norm.group, placement, step_batch),
    **model,
  ).clone(split=split(placement))
  return {
    "module": module,
    "placement": placement,
    "image_size": scenes.image_size(config),
    "num_classes": num_classes,
    "mean": tuple(config.data.mean) or entry.mean,
    "std": tuple(config.data.std) or entry.std,
    "dtype": jnp.dtype(config.model.dtype),
    "exact_padding": scenes.settings(config)["fill"] == "mean",
  }


def _fields(kind: Any, settings: dict[str, Any], key: str, but: tuple[str, ...] = ()) -> Any:
  """Returns the dataclass `kind` made of a config's section. Raises: UserError."""
  names = [field.name for field in dataclasses.fields(kind)]
  settings = {name: value for name, value in settings.items() if name not in but}
  for name in settings:
    if name not in names:
      raise errors.unknown(key, name, "a setting", names)
  return kind(**settings)


def box_policy(config: Any) -> Any:
  """Returns the device-side augmentation of images with boxes, or None. Raises: UserError."""
  settings = config.augment.to_dict()
  learned, drawn = settings.get("autoaugment", {}), settings.get("randaugment", {})
  if learned.get("policy"):
    if drawn.get("layers"):
      raise errors.UserError(
        "config.augment.autoaugment.policy and config.augment.randaugment.layers are both on; "
        "boxes take one of them."
      )
    return augment.detection.AutoAugment(**learned)
  if drawn.get("layers"):
    return augment.detection.RandAugment(**drawn)
  return None


def transform(config: Any, *, training: bool) -> Any:
  """Returns what brings scenes, or films, of a task to one size; None for other tasks."""
  if config.task.name == "prediction":
    return prediction.transform(config, training=training)
  if config.task.name == "video":
    return video.transform(config, training=training)
  reads = _SCENES.get(config.task.name)
  return reads and scenes.transform(config, training=training, **reads)


# Tasks whose pictures keep their boxes, and what they read of them.
_SCENES = {
  "detection": {"objects": True, "semantic": False},
  "instances": {"objects": True, "semantic": False},
  "segmentation": {"objects": False, "semantic": True},
}

_TASKS = {
  "classification": _classification,
  "detection": _detection,
  "instances": _instances,
  "segmentation": _segmentation,
  "advprop": _advprop,
  "distillation": _distillation,
  "location": _glimpses,
  "patches": _glimpses,
  "reinforcement": _glimpses,
  "learned_operations": _learned_operations,
  "prediction": _prediction,
  "text": _text,
  "video": _video,
}
