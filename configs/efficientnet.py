"""EfficientNet (Tan and Le 2019, arXiv 1905.11946).

`configs/efficientnet.py`: the smallest member on 1,200 handwritten digits, about a minute on two
CPU cores, over 95 % of the test digits right.
`configs/efficientnet.py:b0` (to `b8`, `l2`): the paper's ImageNet recipe for that member, 350
epochs at batch 2048 on a TPU pod slice; the paper's top-1 for b0 is 77.1 %, for b7 84.3 %.
`batch_size=`, `seed=` set the two that change most.
"""

import ml_collections

from effnets import configuration, models, recipes

MEMBERS = [*(f"b{i}" for i in range(9)), "l2"]

# Official RandAugment strengths (layers, magnitude); the smaller members train without.
_RANDAUGMENT = {"b5": (2, 17.0), "b7": (2, 28.0), "b8": (2, 28.0), "l2": (2, 28.0)}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of a member, `imagenet`, `batch_size=`, `seed=`."""
  args = configuration.arguments(arg, words=["imagenet", *MEMBERS], batch_size=0, seed=0)
  config = configuration.base()
  config.seed = args.seed
  members = [word for word in args.words if word != "imagenet"]
  if args.words:
    _imagenet(config, members[-1] if members else "b0")
  else:
    _digits(config)
  if args.batch_size:
    config.batch_size = args.batch_size
  return config.lock()


def _digits(config):
  recipes.small_images(config, steps=400)
  config.data.source = "digits"
  config.batch_size = 64


def _imagenet(config, member):
  recipes.efficientnet_imagenet(config)
  entry = models.entry(f"efficientnet_{member}")
  layers, magnitude = _RANDAUGMENT.get(member, (0, 9.0))
  recipes.one_model(config, entry.name)
  config.augment.randaugment.update({"layers": layers, "magnitude": magnitude})
