"""ImageNet and the 32-pixel sets: the training recipes that several papers share."""

import dataclasses

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


def resnet_imagenet(config: ml_collections.ConfigDict, batch_size: int = 4096) -> None:
  """Sets the ImageNet recipe of ResNet-50 for RandAugment, 180 epochs, as 32 TPU cores take it.

  Source: Cubuk et al. 2019 (RandAugment), appendix, and the official ResNet code, whose numbers of
  steps these are at 4096 and 1024.
  """
  imagenet(config)
  one_model(config, "resnet50")
  config.model.update({"drop_path_rate": 0.0, "dtype": "bfloat16"})
  config.task.label_smoothing = 0.0
  config.batch_size = config.eval_batch_size = batch_size
  config.train.update({"epochs": 0.0, "steps": 56_304 * 4096 // batch_size})
  config.optimizer = ml_collections.ConfigDict(
    {"name": "sgd", "learning_rate": 0.1, "learning_rate_per_examples": 256, "momentum": 0.9}
  )
  config.optimizer.update({"nesterov": True, "weight_decay": 1e-4})
  config.schedule = ml_collections.ConfigDict(
    {
      "name": "step",
      "warmup_percent": 100 * 5 / 90,
      "boundaries_percent": tuple(100 * epoch / 90 for epoch in (30, 60, 80)),
      "factor": 0.1,
    }
  )
  config.ema.decay = 0.0


@dataclasses.dataclass(frozen=True)
class SmallSet:
  """A set of pictures of 32 pixels, and how AutoAugment and RandAugment treat it.

  tfds: its name in TensorFlow Datasets. train, examples: TFDS's split, and how many it has. mean,
  std: per channel. moved: whether pictures are moved by up to 4 pixels and mirrored. cutout: side
  of the square. policy: its AutoAugment policy.
  """

  tfds: str
  train: str
  examples: int
  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  moved: bool
  cutout: int
  policy: str


# The paper's operations, as the CIFAR code reads a magnitude: all grow stronger with it.
PIL_OPERATIONS = {"operations": "paper14", "increasing": True, "fixed_contrast": True}
_CIFAR = {
  "mean": (0.49139968, 0.48215841, 0.44653091),
  "std": (0.24703223, 0.24348513, 0.26158784),
  "moved": True,
  "cutout": 16,
  "policy": "cifar10",
}
_SVHN = {
  "mean": (0.4377, 0.4438, 0.4728),
  "std": (0.1980, 0.2010, 0.1970),
  "moved": False,
  "cutout": 20,
  "policy": "svhn",
}
SMALL_SETS = {
  "cifar10": SmallSet("cifar10", "train", 50_000, **_CIFAR),
  "cifar100": SmallSet("cifar100", "train", 50_000, **_CIFAR),
  "svhn_core": SmallSet("svhn_cropped", "train", 73_257, **_SVHN),
  "svhn": SmallSet("svhn_cropped", "train+extra", 604_388, **_SVHN),
}


def small_set(
  config: ml_collections.ConfigDict, name: str, *, policy: str, epochs: int, held_out: int = 0
) -> None:
  """Sets data, augmentation and length of a run on one of `SMALL_SETS`, whose `batch_size` is set.

  The order is the CIFAR code's: policy, move, mirror, square; what moves in, and the square, have
  the mean colour, which is zero where the network looks. An epoch is whole steps.

  Args:
    policy: `none` (no square either: the papers' baseline), `autoaugment`, or `randaugment` or
      `learned`, whose layers and magnitude are the caller's; operations are as in the CIFAR code.
    held_out: examples at the beginning of the training set that are the validation split.
  """
  found = SMALL_SETS[name]
  first, *more = found.train.split("+")
  train = "+".join([f"{first}[{held_out}:]" if held_out else first, *more])
  validation = f"{first}[:{held_out}]" if held_out else "test"
  config.data.update({"source": found.tfds, "image_size": 32, "mean": found.mean, "std": found.std})
  config.data.split.update({"train": train, "validation": validation, "test": "test"})
  colour = tuple(round(255 * value) for value in found.mean)
  augmentation = config.augment
  augmentation.operations_first = True
  if found.moved:
    augmentation.update({"shift": 4, "shift_fill": colour, "flip": True})
  if policy != "none":
    augmentation.update({"cutout": found.cutout, "cutout_fill": colour})
  if policy == "autoaugment":
    augmentation.autoaugment.policy = found.policy
  if policy in ("randaugment", "learned"):
    augmentation.randaugment.update({**PIL_OPERATIONS, "translate_const": 10.0})
  config.train.steps = epochs * ((found.examples - held_out) // config.batch_size)


def residual(
  config: ml_collections.ConfigDict, name: str, *, learning_rate: float, weight_decay: float
) -> None:
  """Sets a network of `models.cifar` and how the CIFAR code trains it.

  Nesterov momentum, cosine step by step, gradients clipped, L2 on all variables, norms' too.
  Source: Cubuk et al. 2018 (AutoAugment), official code.
  """
  one_model(config, name)
  config.model.drop_path_rate = models.entry(name).drop_path_rate
  config.task.label_smoothing = 0.0
  config.optimizer.update(
    {"name": "sgd", "learning_rate": learning_rate, "momentum": 0.9, "nesterov": True}
  )
  config.optimizer.update({"weight_decay": weight_decay, "decay_norms": True, "clip_norm": 5.0})
  config.schedule.name = "cosine"


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
