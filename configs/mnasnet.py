"""MnasNet (Tan et al. 2019, arXiv 1807.11626).

`configs/mnasnet.py`: A1, thin and shallow, on 1,200 handwritten digits.
`configs/mnasnet.py:a1` (`b1`, `small`, a multiplier such as `a1_075`): the paper's ImageNet recipe
for that network, 350 epochs at batch 1024. The paper's top-1 for a1 is 75.2 %, for b1 74.5 %.
`batch_size=`, `seed=` set the two that change most.
"""

import ml_collections

from effnets import configuration, models, recipes

MEMBERS = [name.removeprefix("mnasnet_") for name in models.list_models("mnasnet_*")]


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of a member, `imagenet`, `batch_size=`, `seed=`."""
  args = configuration.arguments(arg, words=["imagenet", *MEMBERS], batch_size=0, seed=0)
  config = configuration.base()
  config.seed = args.seed
  members = [word for word in args.words if word != "imagenet"]
  if args.words:
    recipes.mobile_imagenet(config, f"mnasnet_{members[-1] if members else 'a1'}")
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
