"""What several tasks take from a config."""

import dataclasses
from typing import Any

from effnets import augment, errors, ops, parallel


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


def fields(kind: Any, settings: dict[str, Any], key: str, but: tuple[str, ...] = ()) -> Any:
  """Returns the dataclass `kind` made of a config's section. Raises: UserError."""
  names = [field.name for field in dataclasses.fields(kind)]
  settings = {name: value for name, value in settings.items() if name not in but}
  for name in settings:
    if name not in names:
      raise errors.unknown(key, name, "a setting", names)
  return kind(**settings)
