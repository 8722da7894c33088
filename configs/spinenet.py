"""SpineNet (Du et al. 2020, arXiv 1912.05027).

`configs/spinenet.py`: a tiny scale-permuted network with RetinaNet's heads on embedded scenes of
one to four handwritten digits; an AP of 0.52 on the test scenes. `configs/spinenet.py:mask_rcnn`:
with Mask R-CNN's, on the same; an AP of 0.50 of boxes and 0.41 of masks.
`configs/spinenet.py:49` (`49s`, `96`, `143`, `143l`, `190`, `r0_sp53`, `mobile_49`, `mobile_49s`,
`mobile_49xs`): RetinaNet on COCO from scratch, `protocol=a`, `b` or `c`, the longest.
`configs/spinenet.py:mask_rcnn,49` (`49s`, `96`, `143`, `190`): Mask R-CNN on COCO from scratch,
protocol B (190: its own); `mask_rcnn,r50`, `mask_rcnn,r101`: ResNet with a pyramid, 12 epochs.
`--config.data.source=coco:PATH` reads COCO's own folders instead of TensorFlow Datasets, which has
no masks. `batch_size=`, `seed=` set the two that change most.
"""

import ml_collections

from effnets import configuration, errors, models, recipes

_PREFIX, _MASKS = "retinanet_spinenet_", "mask_rcnn_spinenet_"
_SPINENETS, _WITH_MASKS = (
  [name.removeprefix(prefix) for name in models.list_models(f"{prefix}*") if "tiny" not in name]
  for prefix in (_PREFIX, _MASKS)
)
_RESNETS = ("r50", "r101")
MEMBERS = [*_SPINENETS, *_RESNETS]
PROTOCOLS = ("a", "b", "c")


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  words = ["coco", "digit_scenes", "mask_rcnn", *MEMBERS]
  args = configuration.arguments(arg, words=words, protocol="c", batch_size=0, seed=0)
  if args.protocol not in PROTOCOLS:
    raise errors.unknown("the config's argument protocol", args.protocol, "one", PROTOCOLS)
  config = configuration.base()
  config.seed = args.seed
  member = next((word for word in args.words if word in MEMBERS), "")
  large, masks = member or "coco" in args.words, "mask_rcnn" in args.words
  known = [*_WITH_MASKS, *_RESNETS] if masks else _SPINENETS
  if member and member not in known:
    kind = "a member with mask_rcnn" if masks else "a member without mask_rcnn"
    raise errors.unknown("the config's argument", member, kind, known)
  if masks and member in _RESNETS:
    recipes.mask_rcnn_coco(config, f"mask_rcnn_{member}")
  elif masks and large:
    recipes.mask_rcnn_spinenet_coco(config, f"{_MASKS}{member or '49'}")
  elif masks:
    recipes.digit_scenes_masks(config, f"{_MASKS}tiny", steps=600)
  elif large:
    recipes.spinenet_coco(config, f"{_PREFIX}{member or '49'}", args.protocol)
  else:
    recipes.digit_scenes(config, f"{_PREFIX}tiny", steps=1000)
  if args.batch_size:
    config.batch_size = args.batch_size
  return config.lock()
