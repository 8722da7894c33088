"""Tasks on pictures of a class, made from a config."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import ml_collections

from effnets import augment, errors, models, ops, parallel
from effnets.tasks import adversarial, classification, distillation, glimpses, learned_operations
from effnets.tasks import settings as common


def make_classification(
  config: Any,
  placement: parallel.Placement,
  num_classes: int,
  step_batch: int,
  kind: str = "classification",
) -> classification.Classification:
  """Returns the task of classification. Raises: UserError."""
  settings = config.model.to_dict()
  name = settings.pop("name")
  entry = models.entry(name)
  if entry.task != kind:
    known, words = models.list_models(task=kind), _KINDS[kind]
    raise errors.unknown("config.model.name", name, words, known, "`python -m effnets.zoo`")
  module = models.create(
    name,
    num_classes=num_classes,
    group=common.norm_group(config.batch_norm.group, placement, step_batch),
    **settings,
  ).clone(split=common.split(placement))
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
    policy=common.policy(config),
    label_smoothing=task.label_smoothing,
    temperature=task.temperature,
    mixup=task.mixup,
    cutmix=task.cutmix,
    cutmix_probability=task.cutmix_probability,
    mixup_group=task.mixup_group,
    dtype=jnp.dtype(config.model.dtype),
  )


_KINDS = {"classification": "a classifier", "glimpses": "a network that looks at patches"}


def make_glimpses(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int
) -> classification.Classification:
  """Returns the task of a network that looks at patches; `config.glimpses` says how it learns."""
  values = glimpses.settings(config)
  made = ml_collections.ConfigDict(config.to_dict())
  made.model.image_size = config.data.image_size
  plain = make_classification(made, placement, num_classes, step_batch, "glimpses")
  return glimpses.learning(plain, config.task.name, values)


def make_distillation(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int
) -> distillation.Distillation:
  """Returns the task of distillation. Raises: UserError."""
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
  plain = make_classification(config, placement, num_classes, step_batch)
  teachers = []
  for name in sorted(found.teachers):
    with errors.context(f"{key}.teachers.{name}"):
      # A frozen network of its own input: nothing of the student's training is its.
      own = ml_collections.ConfigDict(config.to_dict())
      own.model = ml_collections.ConfigDict(found.teachers[name].model.to_dict())
      own.data.update(found.teachers[name].data)
      teachers.append(make_classification(own, placement, num_classes, step_batch))
  fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
  return distillation.Distillation(
    **fields,
    teachers=tuple(teachers),
    soft_weight=found.weight,
    soft_temperature=found.temperature,
    ensemble=found.ensemble,
  )


_ADVERSARY = ("kind", "epsilon", "step", "steps", "targeted", "clean_start", "parts", "evaluated")


def make_advprop(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int
) -> adversarial.AdvProp:
  """Returns the task of training with an adversary. Raises: UserError."""
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
  plain = make_classification(config, placement, num_classes, step_batch)
  fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
  return adversarial.AdvProp(
    **fields, attack=attack, parts=parts, shared=sets == 1, evaluated=evaluated
  )


def check_held_out(config: Any, placement: parallel.Placement, step_batch: int) -> str:
  """Checks that every batch has as many held-out examples as others; returns the task's name.

  Raises: UserError.
  """
  name, held_out = f"config.task.name={config.task.name!r}", config.data.unlabelled
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
  return name


def make_learned_operations(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int
) -> learned_operations.LearnedOperations:
  """Returns the task of learned operations. Raises: UserError."""
  name = check_held_out(config, placement, step_batch)
  settings = config.augment.randaugment.to_dict()
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
  plain = make_classification(moves, placement, num_classes, step_batch // 2)
  fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
  return learned_operations.LearnedOperations(
    **fields, learned=augment.Learned(augment.RandAugment(**settings)), rate=rate
  )
