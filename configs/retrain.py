"""Trains what a search has found, in full: `--config=configs/retrain.py --config.arch=best.json`.

`config.arch` is the best.json that `--mode=search` left; `best.json:2` is its second network.
`configs/retrain.py`: 400 steps on the embedded digits, tested on digits that the search never saw.
`configs/retrain.py:imagenet`: MnasNet's ImageNet recipe, 350 epochs at batch 1024.
`configs/retrain.py:spinenet` (`mnasfpn`): a detector, 1,000 steps on the embedded scenes of digits;
`spinenet,coco` (`mnasfpn,coco`): its paper's recipe on COCO.
`configs/retrain.py:assemblenet`: a network of clips, 300 steps on the embedded films;
`assemblenet,moments_in_time`: the paper's recipe.
The argument `arch=best.json,top=3` takes the best three, compared at `seeds=2` seeds each.
`batch_size=`, `seed=` set the two that change most.
"""

import ml_collections

from effnets import configuration, errors, recipes
from effnets.search import network

DETECTORS = ("spinenet", "mnasfpn")


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  args = configuration.arguments(
    arg,
    words=["imagenet", "coco", "assemblenet", "moments_in_time", *DETECTORS],
    arch="",
    top=0,
    seeds=1,
    batch_size=0,
    seed=0,
  )
  config = configuration.base()
  config.seed = args.seed
  config.arch = ""
  detector = next((word for word in args.words if word in DETECTORS), "")
  if detector:
    _detector(config, detector, large="coco" in args.words)
  elif "assemblenet" in args.words:
    _clips(config, large="moments_in_time" in args.words)
  elif "imagenet" in args.words:
    recipes.mobile_imagenet(config, "mnasnet_a1")
    config.model = network.section("mnas")
    config.model.update({"dropout_rate": 0.2, "dtype": "bfloat16"})
  elif "coco" in args.words:
    raise errors.UserError("the config's argument coco goes with spinenet or mnasfpn.")
  elif "moments_in_time" in args.words:
    raise errors.UserError("the config's argument moments_in_time goes with assemblenet.")
  else:
    recipes.small_images(config, steps=400)
    config.model = network.section("mnas_tiny")
    config.model.update({"dropout_rate": 0.2, "momentum": 0.9})
  if args.batch_size:
    config.batch_size = args.batch_size
  if args.arch:
    network.configure(config, args.arch)
  if args.top:
    _compare(config, args)
  return config.lock()


def _detector(config, name, *, large):
  if name == "spinenet" and large:
    recipes.spinenet_coco(config, "retinanet_spinenet_49", "c")
  elif name == "spinenet":
    recipes.digit_scenes(config, "retinanet_spinenet_tiny", steps=1000)
  elif large:
    recipes.mnasfpn_coco(config, "mnasfpn_mobilenetv2")
  else:
    recipes.digit_scenes(config, "mnasfpn_tiny", steps=1000)
    recipes.ssd_losses(config)
  network.into_space(config, name if large else f"{name}_tiny")


def _clips(config, *, large):
  if large:
    recipes.assemblenet(config, "assemblenet_50")
    config.data.source = "videos:moments_in_time"
    config.data.split.test = "validation"
  else:
    recipes.digit_actions(config, "assemblenet_tiny", steps=300)
  network.into_space(config, "assemblenet" if large else "assemblenet_tiny")


def _compare(config, args):
  if not args.arch:
    raise errors.UserError("the config's argument top needs arch=FILE, the best.json of a search.")
  runs = {}
  for rank in range(1, args.top + 1):
    one = ml_collections.ConfigDict(config.to_dict())
    network.configure(one, f"{args.arch}:{rank}")
    runs[f"rank_{rank}"] = {"model": {"tokens": one.model.tokens}}
    # All of one space.
    network.configure(config, f"{args.arch}:{rank}")
  metric = config.checkpoint.best_metric
  seeds = range(args.seed, args.seed + args.seeds)
  config.pipeline = recipes.sweep(runs=runs, seeds=seeds, metric=metric)
