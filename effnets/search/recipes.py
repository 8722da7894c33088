"""Proxy tasks that several searches share, as changes to a config."""

from typing import Any

import ml_collections

from effnets import configuration, recipes
from effnets.search import network, section, sharing

HELD_OUT = 50_000
"""Training images of ImageNet that judge the children."""
HELD_OUT_COCO = 7_392
"""Training pictures of COCO that judge the children."""


def digits(config: ml_collections.ConfigDict, space: str, *, target: float) -> None:
  """Sets a search over 1,197 embedded digits, judged on 200 others, in steps of a second or less.

  target: multiply-adds of the reward.
  """
  config.search = section.defaults()
  recipes.small_images(config, steps=100)
  config.model = network.section(space)
  config.model.update({"dropout_rate": 0.0, "momentum": 0.9})
  config.batch_size = 32
  config.eval_batch_size = 200
  config.ema.decay = 0.0  # an average would lag behind so short a training
  # Few trials: independent choices learn from fewer samples than a recurrent policy.
  config.search.algorithm.update({"name": "factorised"})
  config.search.algorithm.options.update({"batch": 8, "learning_rate": 0.2})
  config.search.space.name = space
  config.search.reward.targets = (target,)
  config.search.trials = 64


def clutter(config: ml_collections.ConfigDict, space: str, *, target: float) -> None:
  """Sets a search over cluttered digits of 16 pixels, a child in 200 steps of a few milliseconds.

  target: multiply-adds of the reward.
  """
  config.search = section.defaults()
  recipes.small_clutter(config, steps=200)
  config.data.options.update({"canvas": 32, "clutter": 1})
  config.data.image_size = 16
  config.model = network.section(space)
  config.model.update({"dropout_rate": 0.0, "momentum": 0.9})
  config.optimizer.update(
    {"name": "adam", "learning_rate": 0.015, "decay": None, "momentum": None, "eps": None}
  )
  config.ema.decay = 0.0
  config.search.space.name = space
  config.search.reward.targets = (target,)


def imagenet(config: ml_collections.ConfigDict, space: str, *, target: float) -> None:
  """Sets MnasNet's search: 5 epochs of ImageNet a child, 8,000 children, PPO.

  target: multiply-adds of the reward.
  Source: Tan et al. 2019 (arXiv 1807.11626), section 5.
  """
  config.search = section.defaults()
  recipes.mobile_imagenet(config, "mnasnet_a1")
  config.model = network.section(space)
  config.model.update({"dropout_rate": 0.2, "dtype": "bfloat16"})
  config.data.split.update(
    {"train": f"train[{HELD_OUT}:]", "validation": f"train[:{HELD_OUT}]", "test": "validation"}
  )
  config.train.epochs = 5.0
  config.schedule.warmup_epochs = 0.5
  config.ema.decay = 0.0
  config.search.space.name = space
  config.search.algorithm.name = "ppo"
  config.search.reward.targets = (target,)
  config.search.proxy.execution = "loop"
  config.search.trials = 8000


def elsewhere(name: str = "", folder: str = "") -> dict[str, Any]:
  """Returns a fine-tuning of found classifiers, as overrides of `configuration.base()`.

  name: of `effnets.recipes.TRANSFER`, and folder as there; default: 300 steps on cluttered digits
  of 32 pixels, at the rate of configs/finetune.py.

  Raises: UserError as `effnets.recipes.transfer_set`.
  """
  base = configuration.base()
  made = configuration.base()
  if name:
    recipes.transfer_set(made, name, folder=folder)
    made.model.drop_path_rate = 0.0
  else:
    recipes.small_clutter(made, steps=300)
    made.optimizer = ml_collections.ConfigDict(
      {"name": "sgd", "learning_rate": 0.02, "momentum": 0.9, "nesterov": True}
    )
  return configuration.difference(made, base)


def scenes(config: ml_collections.ConfigDict, model: str, space: str, *, steps: int) -> None:
  """Sets a search of detectors over embedded scenes of one or two digits, judged on AP.

  All digits are of one class: where they are detectors learn in a few hundred steps, and differ in;
  which they are they do not. model: registered; what it has beside the searched part stays.
  """
  config.search = section.defaults()
  recipes.digit_scenes(config, model, steps=steps)
  config.data.options.update({"canvas": 64, "most": 2, "agnostic": True})
  config.data.image_size = 64
  config.batch_size = 16
  config.ema.decay = 0.0
  _detectors(config, space)
  config.search.algorithm.name = "factorised"
  config.search.algorithm.options.update({"batch": 2, "learning_rate": 0.2})


def films(config: ml_collections.ConfigDict, model: str, space: str, *, steps: int) -> None:
  """Sets a search of networks of clips over the embedded films, judged on top-1 of others.

  Children are cut from the graph of all edges by masks, so they are one program. model: registered;
  what it has beside the graph stays.
  """
  config.search = section.defaults()
  recipes.digit_actions(config, model, steps=steps)
  config.data.options.examples = 512
  config.ema.decay = 0.0
  _graphs(config, space)
  config.model.masked = True
  # One dilation: others would be other programs.
  config.search.space.options.dilations = (1,)
  config.search.algorithm.options.update({"population": 8, "tournament": 3})


def moments_in_time(config: ml_collections.ConfigDict, space: str, *, trials: int) -> None:
  """Sets AssembleNet's search: 10,000 steps of Moments in Time a child, guided evolution.

  Children are judged on a tenth of the training films.
  Source: Ryoo et al. 2020 (arXiv 1905.13209), section 3.3; steps, population and tournament are not
  certain.
  """
  config.search = section.defaults()
  recipes.assemblenet(config, "assemblenet_50")
  config.data.source = "videos:moments_in_time"
  config.data.split.update(
    {"train": "train[10%:]", "validation": "train[:10%]", "test": "validation"}
  )
  config.train.epochs, config.train.steps = 0.0, 10_000
  config.ema.decay = 0.0
  _graphs(config, space)
  config.search.algorithm.options.update({"population": 20, "tournament": 5})
  config.search.trials = trials


def _graphs(config: ml_collections.ConfigDict, space: str) -> None:
  network.into_space(config, space)
  config.search.space.name = space
  config.search.reward.update({"costs": (), "targets": ()})
  config.search.proxy.execution = "loop"
  config.search.algorithm.name = "guided_evolution"


def coco(config: ml_collections.ConfigDict, space: str, *, epochs: float, trials: int) -> None:
  """Makes the COCO recipe of `config` a search of `trials` children of `epochs` epochs each.

  Children are judged on training pictures that are held out.
  """
  config.search = section.defaults()
  held = HELD_OUT_COCO
  config.data.split.update(
    {"train": f"train[{held}:]", "validation": f"train[:{held}]", "test": "validation"}
  )
  config.train.steps = 0
  config.train.epochs = epochs
  config.ema.decay = 0.0
  _detectors(config, space)
  config.search.algorithm.name = "ppo"
  config.search.trials = trials


def _detectors(config: ml_collections.ConfigDict, space: str) -> None:
  network.into_space(config, space)
  config.search.space.name = space
  # The accuracy is AP, and that alone unless a config says more.
  config.search.reward.update({"costs": (), "targets": ()})
  # Every child is a graph of its own, so there are no parts to share.
  config.search.proxy.execution = "loop"


def arguments(config: ml_collections.ConfigDict, args: Any) -> None:
  """Sets what the arguments of all search configs say, as far as a config has them.

  `algorithm`, `trials`, `batch_size`, `target`, `latency`, a file of `effnets.search.lut`.
  """
  found = config.search
  if getattr(args, "latency", ""):
    found.latency_table = args.latency
    found.reward.update({"costs": ("latency",), "targets": (75.0,)})
    found.cost = "latency"
  if getattr(args, "target", 0.0):
    found.reward.targets = (args.target,)
  if args.algorithm:
    found.algorithm = ml_collections.ConfigDict({"name": args.algorithm, "options": {}})
  found.trials = args.trials or found.trials
  if args.batch_size:
    config.batch_size = args.batch_size


def one_shot(config: ml_collections.ConfigDict, *, long: dict[str, Any]) -> None:
  """Makes a search of classifiers one with shared weights; its target stays.

  long: overrides of the training of what is found. Source: TuNAS's released code, for the rest.
  """
  target = config.search.reward.targets[0]
  del config.search
  split = config.data.split
  config.data.unlabelled.update(
    {"source": config.data.source, "options": config.data.options.to_dict(), "ratio": 1.0}
  )
  config.data.unlabelled.split = split.validation
  config.task.name = sharing.TASK
  config.model.dropout_rate = 0.0
  config.optimizer.undecayed = (*config.optimizer.get("undecayed", ()), "^controller/")
  config.one_shot = ml_collections.ConfigDict(
    {
      "target": target,
      "slope": -0.1,
      "learning_rate": 4.8e-3,
      "idle": 0.25,
      "growth": 10.0,
      "warmup": 0.25,
      "architectures": 1,
      "decay": 0.95,
      "entropy": 0.0,
      "long": long,
    }
  )
