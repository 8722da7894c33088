"""MobileNetV3 (Howard et al. 2019, arXiv 1905.02244).

`configs/mobilenetv3.py`: Small, thin and shallow, on 1,200 handwritten digits; two minutes of CPU
time, 98 % of the test digits right.
`configs/mobilenetv3.py:large` (`small`, `large_minimal`, a multiplier such as `large_075`): the
ImageNet recipe of the code that the paper's weights come from; 75.2 % top-1 for large, 67.5 % for
small. `large,paper` takes the few settings that the paper itself prints.
`configs/mobilenetv3.py:large,transfer=cars`: published ImageNet weights
fine-tuned on cifar10, cifar100, birdsnap, cars, flowers, aircraft, pets or food. `recipe=google`
instead of `kornblith`; `weights=NAME:SOURCE` for others than the hub's; `folder=PATH` for pictures
that TensorFlow Datasets has not (birdsnap, aircraft).
`configs/mobilenetv3.py:coco` (`coco,small`): SSDLite on COCO; `cityscapes` (`cityscapes,small`):
LR-ASPP on Cityscapes, whose folder is `--config.data.source=segmentation:PATH`. The embedded scenes
of digits: `digit_scenes` (an AP of 0.38 on the test scenes) and, for classes of pixels,
`digit_scenes_seg` (a mean IoU of 0.60).
`batch_size=`, `seed=` set the two that change most.
"""

import ml_collections

from effnets import configuration, errors, models, recipes

MEMBERS = [name.removeprefix("mobilenetv3_") for name in models.list_models("mobilenetv3_*")]

# The weights that the transfers start from: Google's where timm has them.
_WEIGHTS = {
  "large": "tf_mobilenetv3_large_100.in1k",
  "large_075": "tf_mobilenetv3_large_075.in1k",
  "large_150d": "mobilenetv3_large_150d.ra4_e3600_r256_in1k",
  "large_minimal": "tf_mobilenetv3_large_minimal_100.in1k",
  "small": "tf_mobilenetv3_small_100.in1k",
  "small_050": "mobilenetv3_small_050.lamb_in1k",
  "small_075": "tf_mobilenetv3_small_075.in1k",
  "small_minimal": "tf_mobilenetv3_small_minimal_100.in1k",
}

_SCENES = ("coco", "cityscapes", "digit_scenes", "digit_scenes_seg")


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  args = recipes.arguments(arg, words=["imagenet", "paper", *_SCENES, *MEMBERS])
  config = configuration.base()
  config.seed = args.seed
  member = next((word for word in args.words if word in MEMBERS), "large")
  scenes = next((word for word in args.words if word in _SCENES), "")
  if scenes:
    _scenes(config, scenes, member)
  elif args.transfer:
    recipes.transfer(config, args, default=_WEIGHTS.get(member, ""))
  elif args.words:
    _imagenet(config, member)
    if "paper" in args.words:
      _paper(config)
  else:
    _digits(config)
  if args.batch_size:
    config.batch_size = args.batch_size
  return config.lock()


def _scenes(config, scenes, member):
  if scenes.startswith("digit_scenes"):
    if scenes == "digit_scenes":
      recipes.ssdlite_digit_scenes(config, "ssdlite_tiny", steps=700)
    else:
      recipes.digit_scenes_seg(config, "lraspp_tiny", steps=600)
    return
  if member not in ("large", "small"):
    raise errors.UserError(f"the config's argument {member!r} does not go with {scenes!r}.")
  if scenes == "coco":
    recipes.ssdlite_coco(config, f"ssdlite_mobilenetv3_{member}")
  else:
    recipes.cityscapes(config, f"lraspp_mobilenetv3_{member}")


def _digits(config):
  recipes.small_images(config, steps=500, model="mobilenetv3_small")
  # Its kernels start near zero, so it starts slowly.
  config.optimizer.learning_rate = 0.03
  # Two halvings less and half of the channels away, for pictures of 32 pixels.
  config.model.update({"small_images": True, "width": 0.5, "depth": 0.5})
  config.model.update({"head": 96, "hidden": 128, "drop_path_rate": 0.0})
  config.batch_size = 64


def _imagenet(config, member):
  recipes.mobile_imagenet(config, f"mobilenetv3_{member}")
  config.augment.colour = {"brightness": 32.0, "saturation": (0.5, 1.5)}
  # 192 images on each of the four chips of a 2x2 slice, 0.16 for all of them together.
  config.batch_size = 768
  config.optimizer.update({"learning_rate": 0.16, "learning_rate_per_examples": 768, "eps": 2e-3})
  # L2 is on the kernels of ordinary convolutions alone there.
  config.optimizer.undecayed = ("depthwise/", "bias$")
  config.schedule.update({"decay_epochs": 3.0, "decay_rate": 0.99})
  # Neither paper nor code says how long; after this long the rate is an eighth of its peak.
  config.train.epochs = 600.0


def _paper(config):
  config.batch_size = 4096
  config.eval_batch_size = 4096
  config.optimizer.update({"learning_rate": 0.1, "learning_rate_per_examples": 4096})
  config.model.momentum = 0.99
