"""MixNet (Tan and Le 2019, arXiv 1907.09595).

`configs/mixnet.py`: a network of five mixed blocks on 1,200 handwritten digits; a minute and
a half of CPU time, 99 % of the test digits right.
`configs/mixnet.py:s` (`m`, `l`, `xl`, `xxl`): the paper's ImageNet recipe for that network, 350
epochs at batch 1024 as MnasNet's. The paper's top-1: s 75.8 %, m 77.0 %, l 78.9 %; xl and xxl are
timm's own.
`configs/mixnet.py:s,transfer=cars`: published ImageNet weights
fine-tuned on cifar10, cifar100, birdsnap, cars, flowers, aircraft, pets or food. `recipe=google`
instead of `kornblith`; `weights=NAME:SOURCE` for others than the hub's; `folder=PATH` for pictures
that TensorFlow Datasets has not (birdsnap, aircraft).
`configs/mixnet.py:coco`: `ssdlite_mixnet_s` on COCO, trained as SSDLite on MobileNetV2.
`digit_scenes`: a tiny one on the embedded scenes of digits, with the same losses: an AP of 0.49 on
the test scenes.
`batch_size=`, `seed=` set the two that change most.
"""

import ml_collections

from effnets import configuration, models, recipes

MEMBERS = [name.removeprefix("mixnet_") for name in models.list_models("mixnet_[!t]*")]

# The weights that the transfers start from: Google's where there are any.
_WEIGHTS = {name: f"tf_mixnet_{name}.in1k" for name in ("s", "m", "l")}
_WEIGHTS["xl"] = "mixnet_xl.ra_in1k"


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  args = recipes.arguments(arg, words=["coco", "digit_scenes", "imagenet", *MEMBERS])
  config = configuration.base()
  config.seed = args.seed
  member = next((word for word in args.words if word in MEMBERS), "s")
  if "coco" in args.words:
    recipes.ssdlite_coco(config, "ssdlite_mixnet_s")
  elif "digit_scenes" in args.words:
    recipes.ssdlite_digit_scenes(config, "ssdlite_mixnet_tiny")
  elif args.transfer:
    recipes.transfer(config, args, default=_WEIGHTS.get(member, ""))
  elif args.words:
    recipes.mobile_imagenet(config, f"mixnet_{member}")
  else:
    _digits(config)
  if args.batch_size:
    config.batch_size = args.batch_size
  return config.lock()


def _digits(config):
  recipes.small_images(config, steps=400, model="mixnet_tiny")
  config.model.drop_path_rate = 0.0
  config.batch_size = 64
