"""RandAugment (Cubuk et al. 2019, arXiv 1909.13719), and AutoAugment beside it.

`configs/randaugment.py`: a small Wide-ResNet on 50 handwritten digits with two operations of
magnitude 6; under a minute on two CPU cores, about 89 % of the test digits right.
`configs/randaugment.py:grid`: the search for N and M on the same digits, with its heat map in
`plots/sweep.png`; about five minutes.
`configs/randaugment.py:cifar10` (`cifar100`, `svhn_core`, `svhn`, `imagenet`): the paper's recipe
with the N and M that it found, for the data set's first network or another one:
`cifar10,shake_shake_26_2x96d`, `cifar10,pyramidnet_272`, `svhn,wide_resnet_28_2`, `imagenet,b7`.
The paper's accuracies for the first networks: 97.3, 83.3, 98.3, 99.0 and 77.6 %.
`configs/randaugment.py:coco` (`r200`): RetinaNet with ResNet-101 (200) on COCO; the paper's AP is
40.1 (41.9) %. `digit_scenes`: a tiny one on the embedded scenes of digits, an AP of 0.56 on the
test scenes.
`configs/randaugment.py:cifar10,grid`: the search on training pictures that are held out.
`policy=none` or `policy=autoaugment`: the paper's baselines; `policy=learned` learns on held-out
pictures how often each operation is drawn. `batch_size=`, `seed=` set the two that change most.
"""

from typing import NamedTuple

import ml_collections

from effnets import configuration, errors, recipes


class _Recipe(NamedTuple):
  """One line of the sheet's section 4; N and M as they were found."""

  epochs: int
  batch_size: int
  learning_rate: float
  weight_decay: float
  layers: int
  magnitude: float


_SHAKE = _Recipe(1800, 128, 0.01, 1e-3, 3, 9)
_SMALL = {
  "cifar10": {
    "wide_resnet_28_10": _Recipe(200, 128, 0.1, 5e-4, 3, 5),
    "wide_resnet_28_2": _Recipe(200, 128, 0.1, 5e-4, 3, 4),
    # The paper trained the middle one of these.
    "shake_shake_26_2x32d": _SHAKE,
    "shake_shake_26_2x96d": _SHAKE,
    "shake_shake_26_2x112d": _SHAKE,
    "pyramidnet_272": _Recipe(1800, 64, 0.05, 5e-5, 3, 7),
  },
  "cifar100": {
    "wide_resnet_28_10": _Recipe(200, 128, 0.1, 5e-4, 2, 14),
    "wide_resnet_28_2": _Recipe(200, 128, 0.1, 5e-4, 1, 2),
  },
  "svhn_core": {
    "wide_resnet_28_10": _Recipe(200, 128, 5e-3, 5e-3, 3, 9),
    "wide_resnet_28_2": _Recipe(200, 128, 5e-3, 5e-3, 3, 9),
  },
  "svhn": {
    "wide_resnet_28_10": _Recipe(160, 128, 5e-3, 1e-3, 3, 7),
    "wide_resnet_28_2": _Recipe(160, 128, 5e-3, 1e-3, 3, 5),
  },
}
_IMAGENET = {"resnet50": (2, 9), "b5": (2, 17), "b7": (2, 28), "b8": (2, 28)}
# N and M that the paper tried.
_GRIDS = {
  "digits": ((1, 2, 3), (2, 6, 10, 14)),
  "cifar10": ((3,), (4, 5, 7, 9, 11)),
  "cifar100": ((1, 2), (2, 6, 10, 14)),
  "svhn_core": ((3,), (5, 7, 9, 11)),
  "svhn": ((3,), (5, 7, 9, 11)),
  "resnet50": ((1, 2, 3), (5, 7, 9, 11, 13, 15)),
  "b5": ((2, 3), (8, 11, 14, 17, 21)),
  "b7": ((2, 3), (17, 25, 28, 31)),
  "b8": ((2, 3), (17, 25, 28, 31)),
}
_NETWORKS = {name: tuple(networks) for name, networks in {**_SMALL, "imagenet": _IMAGENET}.items()}
# RetinaNets, and RandAugment's magnitude of one layer.
_RETINANETS = {"r101": 5, "r200": 6}
_POLICIES = ("randaugment", "learned", "autoaugment", "none")


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  networks = dict.fromkeys(name for names in _NETWORKS.values() for name in names)
  args = configuration.arguments(
    arg,
    words=["coco", "digit_scenes", "digits", "grid", *_RETINANETS, *_NETWORKS, *networks],
    policy="randaugment",
    batch_size=0,
    seed=0,
  )
  if args.policy not in _POLICIES:
    raise errors.unknown("the config's argument policy", args.policy, "a policy", _POLICIES)
  grid = "grid" in args.words
  if grid and args.policy != "randaugment":
    raise errors.UserError(
      f"the config's argument policy={args.policy!r} has no N and M, which grid searches."
    )
  config = configuration.base()
  config.seed = args.seed
  if any(word in ("coco", "digit_scenes", *_RETINANETS) for word in args.words):
    return _scenes(config, args)
  data, network = _chosen(args.words, networks)
  if data == "digits":
    layers, magnitude = _digits(config, args.policy)
  elif data == "imagenet":
    layers, magnitude = _imagenet(config, network, args, grid)
  else:
    layers, magnitude = _small(config, data, network, args, grid)
  if args.policy in ("randaugment", "learned"):
    config.augment.randaugment.update({"layers": layers, "magnitude": float(magnitude)})
  if args.batch_size:
    config.batch_size = args.batch_size
  if grid:
    tried = _GRIDS[network if data == "imagenet" else data]
    recipes.randaugment_grid(config, *tried, seeds=(args.seed,))
  return config.lock()


def _chosen(words, networks):
  """Returns the data set and the network that the words name, together or one of them alone."""
  network = next((word for word in words if word in networks), None)
  data = next((word for word in words if word in ("digits", *_NETWORKS)), None)
  if data is None:
    data = next((d for d, n in _NETWORKS.items() if network in n), "digits")
  valid = _NETWORKS.get(data, ())
  if network is not None and network not in valid:
    others = f"takes one of {', '.join(valid)}" if valid else "has a network of its own"
    raise errors.UserError(
      f"the config's argument {network!r} does not go with {data!r}, which {others}."
    )
  return data, network or next(iter(valid), "")


def _scenes(config, args):
  named = next((word for word in args.words if word in _RETINANETS), "")
  body = named or "r101"
  if "digit_scenes" in args.words:
    if named:
      raise errors.UserError(
        f"the config's argument {named!r} does not go with 'digit_scenes', which has a network of "
        "its own."
      )
    recipes.digit_scenes(config, "retinanet_tiny", steps=1000)
  else:
    recipes.retinanet_coco(config, f"retinanet_{body}")
  if args.policy == "randaugment":
    config.augment.randaugment.update({"layers": 1, "magnitude": float(_RETINANETS[body])})
  elif args.policy == "autoaugment":
    config.augment.autoaugment.policy = "v0"
  elif args.policy == "learned":
    raise errors.UserError("the config's argument policy='learned' does not go with boxes.")
  if args.batch_size:
    config.batch_size = args.batch_size
  return config.lock()


def _digits(config, policy):
  recipes.small_wide_resnet(config, steps=200)
  if policy == "learned":
    recipes.learned_operations(config, held_out="validation", rate=10.0)
  if policy == "autoaugment":
    config.augment.autoaugment.policy = "svhn"
  return 2, 6


def _small(config, data, network, args, grid):
  recipe = _SMALL[data][network]
  recipes.residual(
    config, network, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay
  )
  config.batch_size = args.batch_size or recipe.batch_size
  learned = args.policy == "learned"
  held_out = 5000 if grid or learned else 0
  recipes.small_set(config, data, policy=args.policy, epochs=recipe.epochs, held_out=held_out)
  if learned:
    recipes.learned_operations(config, held_out=config.data.split.validation)
  config.checkpoint.every_percent = 2.0
  config.evaluation.every_percent = 2.0
  config.log_every_steps = 100
  return recipe.layers, recipe.magnitude


def _imagenet(config, network, args, grid):
  policy = args.policy
  if network == "resnet50":
    recipes.resnet_imagenet(config, batch_size=args.batch_size or 4096)
  else:
    recipes.efficientnet_imagenet(config)
    recipes.one_model(config, f"efficientnet_{network}")
    # Not told of B8, which is of the code alone.
    config.batch_size = config.eval_batch_size = 4096
  if policy == "autoaugment":
    config.augment.autoaugment.policy = "v0"
  if policy == "learned":
    recipes.learned_operations(config, held_out="train[:25022]")
  if grid or policy == "learned":
    config.data.split.update({"train": "train[25022:]", "validation": "train[:25022]"})
  return _IMAGENET[network]
