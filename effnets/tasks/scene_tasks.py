"""Tasks on scenes of objects and on pixels, made from a config."""

from typing import Any

import jax.numpy as jnp

from effnets import augment, errors, evaluation, models, parallel
from effnets.ops import nms
from effnets.tasks import detection, instances, regions, scenes, segmentation
from effnets.tasks import settings as common


def make_detection(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int
) -> detection.Detection:
  """Returns the task of detection. Raises: UserError."""
  recipe = common.fields(detection.Recipe, config.task.to_dict(), "config.task", but=("name",))
  kept, candidates = _suppression(config)
  shared = _scene_task(config, placement, num_classes, step_batch, slots=recipe.background)
  return detection.Detection(
    **shared, **kept, recipe=recipe, candidates=candidates, policy=box_policy(config)
  )


def make_instances(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int
) -> instances.Instances:
  """Returns the task of detection with masks. Raises: UserError."""
  recipe = common.fields(regions.Recipe, config.task.to_dict(), "config.task", but=("name",))
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
    rule = common.fields(nms.Rule, kept, "config.detections")
  return {"rule": rule, "voc": voc}, candidates


def make_segmentation(
  config: Any, placement: parallel.Placement, num_classes: int, step_batch: int
) -> segmentation.Segmentation:
  """Returns the task of segmentation. Raises: UserError."""
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
    group=common.norm_group(config.batch_norm.group, placement, step_batch),
    **model,
  ).clone(split=common.split(placement))
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
