"""EfficientNet (Tan and Le 2019, arXiv 1905.11946).

`configs/efficientnet.py`: the smallest member on 1,200 handwritten digits, about a minute on two
CPU cores, over 95 % of the test digits right.
`configs/efficientnet.py:b0` (to `b8`, `l2`): the paper's ImageNet recipe for that member, 350
epochs at batch 2048 on a TPU pod slice; the paper's top-1 for b0 is 77.1 %, for b7 84.3 %.
`configs/efficientnet.py:b4,transfer=cars`: published ImageNet weights
fine-tuned on cifar10, cifar100, birdsnap, cars, flowers, aircraft, pets or food. `recipe=google`
instead of `kornblith`; `weights=NAME:SOURCE` for others than the hub's; `folder=PATH` for pictures
that TensorFlow Datasets has not (birdsnap, aircraft).
`configs/efficientnet.py:grid`: the search for depth, width and resolution factors of compound
scaling (section 3.3) around the smallest member on cluttered digits; `grid,b0` around B0 on
ImageNet. Prints the candidates by validation accuracy; `step=0.05` is the finer grid of 108.
`batch_size=`, `seed=` set the two that change most.
"""

import ml_collections

from effnets import configuration, models, recipes

MEMBERS = [*(f"b{i}" for i in range(9)), "l2"]

# Official RandAugment strengths (layers, magnitude); the smaller members train without.
_RANDAUGMENT = {"b5": (2, 17.0), "b7": (2, 28.0), "b8": (2, 28.0), "l2": (2, 28.0)}

# The weights that the transfers start from: plain training where it was published.
_WEIGHTS = {f"b{i}": f"tf_efficientnet_b{i}.in1k" for i in range(6)} | {
  "b6": "tf_efficientnet_b6.aa_in1k",
  "b7": "tf_efficientnet_b7.aa_in1k",
  "b8": "tf_efficientnet_b8.ra_in1k",
  "l2": "tf_efficientnet_l2.ns_jft_in1k",
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  args = recipes.arguments(arg, words=["imagenet", "grid", *MEMBERS], step=0.1)
  config = configuration.base()
  config.seed = args.seed
  member = next((word for word in args.words if word in MEMBERS), "b0")
  if args.transfer:
    recipes.transfer(config, args, default=_WEIGHTS.get(member, ""))
  elif args.words == ("grid",):
    recipes.small_clutter(config, steps=250)
    config.model.width = 0.5
  elif args.words:
    _imagenet(config, member)
  else:
    recipes.digits(config, "efficientnet_tiny")
  if "grid" in args.words:
    recipes.scaling_grid(config, step=args.step, seeds=(args.seed,))
  if args.batch_size:
    config.batch_size = args.batch_size
  return config.lock()


def _imagenet(config, member):
  recipes.efficientnet_imagenet(config)
  entry = models.entry(f"efficientnet_{member}")
  layers, magnitude = _RANDAUGMENT.get(member, (0, 9.0))
  recipes.one_model(config, entry.name)
  config.augment.randaugment.update({"layers": layers, "magnitude": magnitude})
