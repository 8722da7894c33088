"""Runs of minutes on the embedded digits."""

import ml_collections

from effnets.recipes import detection
from effnets.recipes.classification import PIL_OPERATIONS, residual


def small_images(
  config: ml_collections.ConfigDict, steps: int, *, model: str = "efficientnet_tiny"
) -> None:
  """Sets the recipe of runs of a few hundred steps on 32-pixel images.

  The EfficientNet optimizer and rate, with averages short enough for such runs.
  """
  config.data.image_size = 32
  config.augment.shift = 2
  config.model.update({"name": model, "momentum": 0.9})
  config.train.steps = steps
  config.optimizer.update(
    {"name": "rmsprop", "learning_rate": 0.016, "decay": 0.9, "momentum": 0.9, "eps": 1e-3}
  )
  config.optimizer.weight_decay = 1e-5
  config.schedule.update({"name": "cosine", "warmup_percent": 10.0})
  config.ema.decay = 0.99


def digits(config: ml_collections.ConfigDict, model: str, *, steps: int = 400) -> None:
  """Sets all labelled handwritten digits for `model`, such as the body of a detector to be."""
  small_images(config, steps, model=model)
  config.data.source = "digits"
  config.batch_size = 64


def few_labels(config: ml_collections.ConfigDict, steps: int, *, model: str) -> None:
  """Sets 100 labelled handwritten digits and the recipe of comparisons of small models on them.

  So few that a good model has a few per cent of errors left to lose.
  """
  small_images(config, steps, model=model)
  config.data.options.labels = 100
  config.data.split.train = "labelled"
  config.model.update({"small_images": True, "drop_path_rate": 0.0})
  config.batch_size = 32
  config.evaluation.every_percent = 100.0
  config.checkpoint.update({"every_percent": 100.0, "keep": 1})
  config.tensorboard = False


def small_wide_resnet(config: ml_collections.ConfigDict, steps: int) -> None:
  """Sets 50 labelled handwritten digits of 12 pixels and a Wide-ResNet of three blocks for them.

  Network, optimizer and augmentation are those of the CIFAR recipes, as far as so few steps allow.
  The digits were scanned at 8 pixels.
  """
  residual(config, "wide_resnet_28_2", learning_rate=0.1, weight_decay=5e-4)
  config.model.update({"depth": 0.25, "width": 0.5})
  config.data.image_size = 12
  config.data.options.labels = 50
  config.data.split.train = "labelled"
  # In pixels, thus less than what 32 take.
  config.augment.update({"operations_first": True, "shift": 1})
  config.augment.randaugment.update({**PIL_OPERATIONS, "translate_const": 3.75})
  config.train.steps = steps
  config.batch_size = 32
  config.evaluation.every_percent = 100.0
  config.checkpoint.update({"every_percent": 100.0, "keep": 1})
  config.tensorboard = False


def small_clutter(config: ml_collections.ConfigDict, steps: int) -> None:
  """Sets `cluttered_digits` and the recipe of comparisons of small models in few steps.

  Models this small do not overfit within hundreds of steps, so nothing regularises them. The canvas
  has 64 pixels, so `data.image_size` decides how much of a digit is seen.
  """
  small_images(config, steps)
  config.data.source = "cluttered_digits"
  config.data.options.update({"clutter": 4, "digits": "large"})
  config.augment.shift = 0
  config.model.update({"dropout_rate": 0.0, "drop_path_rate": 0.0})
  config.task.label_smoothing = 0.0
  config.batch_size = 32
  config.eval_batch_size = 400
  config.evaluation.every_percent = 100.0
  config.checkpoint.update({"every_percent": 100.0, "keep": 1})
  config.tensorboard = False


def few_scenes(
  config: ml_collections.ConfigDict, name: str, *, steps: int, body: str, pixels: bool = False
) -> None:
  """Sets scenes of one or two digits and the recipe of comparisons of small detectors on them.

  What is a digit a network of this size learns in a thousand steps, which digit it is not: bodies
  come from `body`, the workdir of a `digits` run. pixels: classes of pixels instead of boxes.
  """
  recipe = detection.digit_scenes_seg if pixels else detection.digit_scenes
  recipe(config, name, steps=steps)
  config.data.options.update({"canvas": 64, "most": 2})
  config.data.image_size = 64
  config.weights = f"run:{body}"
  config.batch_size = 16
  config.evaluation.every_percent = 100.0
  config.checkpoint.update({"every_percent": 100.0, "keep": 1})
  config.tensorboard = False
