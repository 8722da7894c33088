"""Training recipes that several papers share, as changes to a config."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from effnets import configuration, errors, models, weights

# What the configs of classification papers take beside their words; the last three go with
# `transfer`.
_ARGUMENTS = {
  "batch_size": 0,
  "seed": 0,
  "transfer": "",
  "recipe": "kornblith",
  "folder": "",
  "weights": "",
}


@dataclasses.dataclass(frozen=True)
class TransferSet:
  """One of the eight sets to which the EfficientNet paper transfers.

  tfds: its name in TensorFlow Datasets, empty if it is not there. classes, train, test: how many.
  train_split, test_split: TFDS's, of all training pictures and of those that are judged. metric:
  the figure that is reported.
  """

  tfds: str
  classes: int
  train: int
  test: int
  train_split: str = "train"
  test_split: str = "test"
  metric: str = "top1"


# Source: Tan and Le 2019, section 5.3; the figures that are reported: Kornblith et al. 2019.
TRANSFER = {
  "cifar10": TransferSet("cifar10", 10, 50_000, 10_000),
  "cifar100": TransferSet("cifar100", 100, 50_000, 10_000),
  "birdsnap": TransferSet("", 500, 47_386, 2_443),
  "cars": TransferSet("cars196", 196, 8_144, 8_041),
  "flowers": TransferSet(
    "oxford_flowers102", 102, 2_040, 6_149, "train+validation", metric="mean_per_class"
  ),
  "aircraft": TransferSet("", 100, 6_667, 3_333, metric="mean_per_class"),
  # The paper prints 3,369 test pictures; the set has 3,669.
  "pets": TransferSet("oxford_iiit_pet", 37, 3_680, 3_669, metric="mean_per_class"),
  "food": TransferSet("food101", 101, 75_750, 25_250, test_split="validation"),
}


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
_PIL = {"operations": "paper14", "increasing": True, "fixed_contrast": True}
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
    augmentation.randaugment.update({**_PIL, "translate_const": 10.0})
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
  config.augment.randaugment.update({**_PIL, "translate_const": 3.75})
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


def sweep(
  *,
  runs: Mapping[str, Any] | None = None,
  axes: Mapping[str, Mapping[str, Any]] | None = None,
  seeds: Sequence[int] = (0,),
  metric: str = "top1",
) -> ml_collections.ConfigDict:
  """Returns the `config.pipeline` of a sweep, see `effnets/pipelines/sweep.py`.

  Args:
    runs: name -> overrides of the config. axes: axis -> such; every combination is a run. One of
      the two. seeds: of every run. metric: the validation figure that ranks the runs.
  """
  settings = {"runs": dict(runs or {}), "axes": dict(axes or {}), "seeds": tuple(seeds)}
  return ml_collections.ConfigDict({"name": "sweep", **settings, "metric": metric})


def noisy_student(
  *, teacher: Any, students: Mapping[str, Any], labels: Mapping[str, Any], **more: Any
) -> ml_collections.ConfigDict:
  """Returns the `config.pipeline` of Noisy Student; `effnets/pipelines/stages.py` tells its keys.

  Args:
    teacher: overrides of the config. students: name -> such. labels: `source` and what else differs
      from the paper's way. more: other sections; controls that are not named are off.
  Source: Xie et al. 2020, section 3.1, and its official code.
  """
  pipeline = ml_collections.ConfigDict(
    {
      "name": "noisy_student",
      "teacher": teacher,
      "more_teachers": {},
      "filter": {},
      "given": "",
      "students": students,
      "from_teacher": "",
      "training": "joint",
      "pretrain": {},
      "tune": {},
      "finetune": {},
      "labels": {
        "source": "",
        "options": {},
        "split": "train",
        "kind": "soft",
        "min_confidence": 0.3,
        "per_class": 130_000,
        "upsample": True,
        "use_all": False,
        "select": "first",
        "by": "last",
        "noise": False,
        "flip": False,
        "shift": 0,
        "shards": 0,
        "batch_size": 64,
        "dtype": "float16",
      },
      "controls": {
        "no_noise": False,
        "no_model_noise": False,
        "no_input_noise": False,
        "noisy_teacher": False,
        "hard_labels": False,
        "separate": False,
        "no_unlabelled": False,
      },
    }
  )
  pipeline.update({"labels": dict(labels), **more})
  return pipeline


def randaugment_grid(
  config: ml_collections.ConfigDict,
  layers: Sequence[int],
  magnitudes: Sequence[float],
  *,
  seeds: Sequence[int] = (0,),
) -> None:
  """Makes `config` the search for RandAugment's N and M: a sweep over both.

  Source: Cubuk et al. 2019 (arXiv 1909.13719), section 3.
  """

  def values(letter, key, numbers):
    return {f"{letter}{number}": {"augment": {"randaugment": {key: number}}} for number in numbers}

  axes = {"layers": values("N", "layers", layers)}
  axes["magnitude"] = values("M", "magnitude", magnitudes)
  config.pipeline = sweep(axes=axes, seeds=seeds)


def learned_operations(
  config: ml_collections.ConfigDict, *, held_out: str, rate: float = 1.0
) -> None:
  """Makes `config` learn how often RandAugment draws each operation, on examples that are held out.

  Args: held_out: split of the config's data, with labels. rate: see `tasks.learned_operations`.
  """
  config.task.name = "learned_operations"
  config.learning = ml_collections.ConfigDict({"rate": rate})
  config.data.unlabelled.update({"source": config.data.source, "split": held_out, "ratio": 1.0})
  config.augment.operations_first = False
  config.optimizer.undecayed = ("^operations/",)


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
  config.pipeline = sweep(runs=runs, seeds=seeds)


def arguments(arg: str | None, words: Iterable[str], **more: Any) -> Any:
  """Returns the parsed argument of a classification paper's config, see `configuration.arguments`.

  Beside `words`: `batch_size=`, `seed=`, those of `transfer`, and `more` with their defaults.

  Raises: UserError, also for an argument of a transfer without one.
  """
  args = configuration.arguments(arg, words=words, **_ARGUMENTS, **more)
  idle = [key for key in ("recipe", "folder", "weights") if args[key] != _ARGUMENTS[key]]
  if idle and not args.transfer:
    raise errors.UserError(
      f"the config's argument {idle[0]}={args[idle[0]]!r} goes with transfer=SET, one of "
      f"{', '.join(TRANSFER)}; your own pictures go with configs/finetune.py:folder=PATH."
    )
  return args


def transfer(config: ml_collections.ConfigDict, args: Any, *, default: str) -> None:
  """Sets the fine-tuning of imported weights on one of the sets of `TRANSFER`.

  Args:
    args: of `arguments`: `transfer`, the set; `recipe`, `kornblith` or `google`; `folder`, for
      a set that lies as PATH/train/CLASS/IMAGE and PATH/test/CLASS/IMAGE instead of in TFDS, as
      birdsnap and aircraft have to; `weights`, NAME[:SOURCE] to start from.
    default: the weights to start from if `args` names none, empty if none were published.

  The test pictures are the validation split too and what is reported is the last checkpoint; to
  choose settings, hold training pictures out:
  `--config.data.split.train=train[:90%] --config.data.split.validation=train[90%:]`.

  Raises: UserError for an unknown set or recipe, a set that TFDS has not without a folder, or no
    weights.
  Source: Tan and Le 2019, section 5.3 (the sheet's section 4).
  """
  found, argument = TRANSFER.get(args.transfer), "the config's argument"
  if found is None:
    raise errors.unknown(f"{argument} transfer", args.transfer, "a data set", TRANSFER)
  if args.recipe not in _RECIPES:
    raise errors.unknown(f"{argument} recipe", args.recipe, "a recipe", _RECIPES)
  if not (found.tfds or args.folder):
    raise errors.UserError(
      f"{argument} transfer={args.transfer!r}: TensorFlow Datasets has no such set; give its "
      "pictures as folder=PATH, with PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg."
    )
  if not (args.weights or default):
    raise errors.UserError(
      f"{argument} transfer={args.transfer!r}: no weights of this network were published; give "
      "those to start from as weights=NAME:SOURCE or weights=run:DIR."
    )
  weights.configure(config, args.weights or default)
  config.new_head = True
  entry = models.entry(config.model.name)
  config.model.update({"dropout_rate": entry.dropout_rate, "drop_path_rate": entry.drop_path_rate})
  splits = ("train", "test") if args.folder else (found.train_split, found.test_split)
  config.data.update(
    {
      "source": f"folder:{args.folder}" if args.folder else found.tfds,
      "split": {"train": splits[0], "validation": splits[1], "test": splits[1]},
      "workers": 4,
    }
  )
  config.augment.flip = True
  if found.tfds.startswith("cifar"):
    # Pictures of one size are not cut by the host.
    config.augment.crop = {"area": (0.08, 1.0), "aspect": (3 / 4, 4 / 3)}
  config.checkpoint.update({"every_percent": 5.0, "best_metric": found.metric})
  config.evaluation.every_percent = 5.0
  config.log_every_steps = 100
  _RECIPES[args.recipe](config, found.train)


def _kornblith(config, train):
  """Kornblith et al. 2019, appendix: what the EfficientNet paper says it follows."""
  config.batch_size = 256
  config.train.steps = 20_000
  # Both were chosen for each set, on held-out pictures: rates from 1e-4 to 1e-1, weight decay over
  # rate from 1e-6 to 1e-3 or none, seven of each in equal factors.
  config.optimizer.update({"name": "sgd", "learning_rate": 0.01, "weight_decay": 1e-5})
  config.optimizer.update({"momentum": 0.9, "nesterov": True})
  config.schedule.name = "cosine"
  config.task.label_smoothing = 0.0
  config.model.momentum = max(1 - 10 / (train / config.batch_size), 0.9)


def _google(config, train):
  """The fine-tuning of google/automl, written for EfficientNetV2, which takes these models too."""
  config.batch_size = 512
  config.train.steps = max(10_000, 15 * train // config.batch_size)
  config.optimizer.update(
    {"name": "rmsprop", "learning_rate": 0.0005, "learning_rate_per_examples": 256}
  )
  config.optimizer.update({"decay": 0.9, "momentum": 0.9, "eps": 1e-3, "weight_decay": 1e-5})
  config.optimizer.undecayed = ("bias$",)
  config.schedule.update({"name": "constant", "warmup_epochs": 1.0})
  config.ema.decay = 0.9996
  config.model.dropout_rate = 0.0


_RECIPES = {"kornblith": _kornblith, "google": _google}
