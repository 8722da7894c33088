"""Training recipes that several papers share, as changes to a config."""

import ml_collections

from effnets import models


def imagenet(config: ml_collections.ConfigDict) -> None:
  """Sets what all recipes of this group of papers share: ImageNet, RMSProp, averaging, bookkeeping.

  Model, batch size and image size are the caller's. All training images are trained on, so that
  epochs and schedule are the code's own, and what is reported is the last checkpoint. To choose the
  best one as the papers did, hold 25,022 images out: `--config.data.split.train=train[25022:]
  --config.data.split.validation=train[:25022]`.

  Source: Tan and Le 2019 (EfficientNet), section 5.2, Tan et al. 2019 (MnasNet), section 5, and
  their official code (the sheets' sections 4).
  """
  config.data.update(
    {
      "source": "imagenet2012",
      "split": {"train": "train", "validation": "validation", "test": "validation"},
      "workers": 16,
    }
  )
  config.augment.flip = True
  config.train.epochs = 350.0
  config.optimizer.update(
    {"name": "rmsprop", "learning_rate": 0.016, "learning_rate_per_examples": 256}
  )
  config.optimizer.update({"decay": 0.9, "momentum": 0.9, "eps": 1e-3, "weight_decay": 1e-5})
  config.schedule.update(
    {"name": "exponential", "warmup_epochs": 5.0, "decay_epochs": 2.4, "decay_rate": 0.97}
  )
  config.ema.decay = 0.9999
  config.checkpoint.update({"every_percent": 1.0, "keep": 3})
  config.evaluation.every_percent = 1.0
  config.log_every_steps = 100


def efficientnet_imagenet(config: ml_collections.ConfigDict) -> None:
  """Sets data, optimizer, schedule and averaging of the EfficientNet papers' ImageNet runs.

  Model, image size and RandAugment are the caller's. Source: see `imagenet`.
  """
  imagenet(config)
  config.model.update({"drop_path_rate": 0.2, "dtype": "bfloat16"})
  config.batch_norm.group = "tpu"
  config.batch_size = 2048
  config.eval_batch_size = 2048


def mobile_imagenet(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets the ImageNet recipe of MnasNet, which MixNet's code uses too, for the model `name`.

  Dropout is the model's own: 0.2, MixNet-M and -L 0.25, MnasNet-small none. (The code's default
  config says 0.2 for all, the files that its runs were made with take it back.)

  Source: see `imagenet`; Tan and Le 2019 (MixNet), section 4.
  """
  imagenet(config)
  one_model(config, name)
  config.model.drop_path_rate = 0.0
  config.batch_size = 1024
  config.eval_batch_size = 1024


def one_model(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets model, image size and dropout to those of the registered model `name`."""
  entry = models.entry(name)
  config.data.image_size = entry.image_size
  config.model.update({"name": name, "dropout_rate": entry.dropout_rate})


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
