"""MixNet (Tan and Le 2019, arXiv 1907.09595).

`configs/mixnet.py`: a network of five mixed blocks on 1,200 handwritten digits.
`configs/mixnet.py:s` (`m`, `l`, `xl`, `xxl`): the paper's ImageNet recipe for that network, 350
epochs at batch 1024 as MnasNet's. The paper's top-1: s 75.8 %, m 77.0 %, l 78.9 %; xl and xxl are
timm's own.
`batch_size=`, `seed=` set the two that change most.
"""

import ml_collections

from effnets import configuration, models, recipes

MEMBERS = [name.removeprefix("mixnet_") for name in models.list_models("mixnet_[!t]*")]


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of a member, `imagenet`, `batch_size=`, `seed=`."""
  args = configuration.arguments(arg, words=["imagenet", *MEMBERS], batch_size=0, seed=0)
  config = configuration.base()
  config.seed = args.seed
  members = [word for word in args.words if word != "imagenet"]
  if args.words:
    recipes.mobile_imagenet(config, f"mixnet_{members[-1] if members else 's'}")
  else:
    _digits(config)
  if args.batch_size:
    config.batch_size = args.batch_size
  return config.lock()


def _digits(config):
  recipes.small_images(config, steps=400, model="mixnet_tiny")
  config.model.drop_path_rate = 0.0
  config.batch_size = 64
