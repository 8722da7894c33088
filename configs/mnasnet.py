"""MnasNet (Tan et al. 2019, arXiv 1807.11626).

`configs/mnasnet.py`: A1, thin and shallow, on 1,200 handwritten digits; a minute and a half of CPU
time, 99 % of the test digits right.
`configs/mnasnet.py:a1` (`b1`, `small`, a multiplier such as `a1_075`): the paper's ImageNet recipe
for that network, 350 epochs at batch 1024. The paper's top-1 for a1 is 75.2 %, for b1 74.5 %.
`configs/mnasnet.py:a1,transfer=cars`: published ImageNet weights
fine-tuned on cifar10, cifar100, birdsnap, cars, flowers, aircraft, pets or food. `recipe=google`
instead of `kornblith`; `weights=NAME:SOURCE` for others than the hub's; `folder=PATH` for pictures
that TensorFlow Datasets has not (birdsnap, aircraft).
`configs/mnasnet.py:coco`: `ssdlite_mnasnet_a1` on COCO, trained as SSDLite on MobileNetV2.
`digit_scenes`: a tiny one on the embedded scenes of digits, with the same losses; four minutes of
CPU time, an AP of 0.44 on the test scenes.
`batch_size=`, `seed=` set the two that change most.
"""

import ml_collections

from effnets import configuration, models, recipes

MEMBERS = [name.removeprefix("mnasnet_") for name in models.list_models("mnasnet_*")]

# The weights that the transfers start from, timm's own: Google's are not among its sets.
_WEIGHTS = {
  "a1": "semnasnet_100.rmsp_in1k",
  "a1_075": "semnasnet_075.rmsp_in1k",
  "b1": "mnasnet_100.rmsp_in1k",
  "small": "mnasnet_small.lamb_in1k",
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  args = recipes.arguments(arg, words=["coco", "digit_scenes", "imagenet", *MEMBERS])
  config = configuration.base()
  config.seed = args.seed
  member = next((word for word in args.words if word in MEMBERS), "a1")
  if "coco" in args.words:
    recipes.ssdlite_coco(config, "ssdlite_mnasnet_a1")
  elif "digit_scenes" in args.words:
    recipes.ssdlite_digit_scenes(config, "ssdlite_mnasnet_tiny")
  elif args.transfer:
    recipes.transfer(config, args, default=_WEIGHTS.get(member, ""))
  elif args.words:
    recipes.mobile_imagenet(config, f"mnasnet_{member}")
  else:
    _digits(config)
  if args.batch_size:
    config.batch_size = args.batch_size
  return config.lock()


def _digits(config):
  recipes.small_images(config, steps=400, model="mnasnet_a1")
  # Two halvings less and three quarters of the channels away, for pictures of 32 pixels.
  config.model.update({"small_images": True, "width": 0.25, "depth": 0.3, "head": 128})
  config.model.drop_path_rate = 0.0
  config.batch_size = 64
