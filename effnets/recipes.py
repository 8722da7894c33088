"""Training recipes that several papers share, as changes to a config."""

import ml_collections

from effnets import models
from effnets.pipelines import sweep


def efficientnet_imagenet(config: ml_collections.ConfigDict) -> None:
  """Sets data, optimizer, schedule and averaging of the EfficientNet papers' ImageNet runs.

  Model, image size and RandAugment are the caller's. All training images are trained on, so that
  epochs and schedule are the code's own, and what is reported is the last checkpoint. To choose the
  best one as the papers did, hold 25,022 images out: `--config.data.split.train=train[25022:]
  --config.data.split.validation=train[:25022]`.

  Source: Tan and Le 2019, section 5.2, and its official code (the sheet's section 4).
  """
  config.data.update(
    {
      "source": "imagenet2012",
      "split": {"train": "train", "validation": "validation", "test": "validation"},
      "workers": 16,
    }
  )
  config.augment.flip = True
  config.model.update({"drop_path_rate": 0.2, "dtype": "bfloat16"})
  config.batch_norm.group = "tpu"
  config.batch_size = 2048
  config.eval_batch_size = 2048
  config.train.epochs = 350.0
  config.optimizer.update(
    {"name": "rmsprop", "learning_rate": 0.016, "learning_rate_per_examples": 256}
  )
  config.optimizer.update({"decay": 0.9, "momentum": 0.9, "eps": 1e-3, "weight_decay": 1e-5})
  config.schedule.update(
    {"name": "exponential", "warmup_epochs": 5.0, "decay_epochs": 2.4, "decay_rate": 0.97}
  )
  config.ema.decay = 0.9999
  config.log_every_steps = 100


def small_images(config: ml_collections.ConfigDict, steps: int) -> None:
  """Sets the recipe of runs of a few hundred steps on 32-pixel images.

  The EfficientNet optimizer and rate, with averages short enough for such runs.
  """
  config.data.image_size = 32
  config.augment.shift = 2
  config.model.update({"name": "efficientnet_tiny", "momentum": 0.9})
  config.train.steps = steps
  config.optimizer.update(
    {"name": "rmsprop", "learning_rate": 0.016, "decay": 0.9, "momentum": 0.9, "eps": 1e-3}
  )
  config.optimizer.weight_decay = 1e-5
  config.schedule.update({"name": "cosine", "warmup_percent": 10.0})
  config.ema.decay = 0.99


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


def scaling_grid(
  config: ml_collections.ConfigDict,
  *,
  step: float = 0.05,
  tolerance: float = 0.1,
  seeds: tuple[int, ...] = (0,),
) -> None:
  """Makes `config` the search for the base of compound scaling: a sweep at coefficient 1.

  Every candidate multiplies depth, width and image size of `config`'s model by its three factors,
  and so its multiply-adds by about 2; the best one by validation accuracy is the base. Channels are
  rounded to 8 and blocks up, so small networks get near 2 only, which the ranking tells.

  Args: step, tolerance: of `models.scaling.grid`.
  Source: Tan and Le 2019, section 3.3, step 1.
  """
  own = models.entry(config.model.name).settings() | config.model.to_dict()
  runs = {}
  for base in models.scaling.grid(step=step, tolerance=tolerance):
    factors = models.scaling.compound(1.0, base, image_size=config.data.image_size)
    percents = (round(100 * factor) for factor in (base.alpha, base.beta, base.gamma))
    runs["depth{}_width{}_size{}".format(*percents)] = {
      "model": {name: own[name] * factors[name] for name in ("depth", "width")},
      "data": {"image_size": factors["image_size"]},
    }
  config.pipeline = sweep.settings(runs=runs, seeds=seeds)
