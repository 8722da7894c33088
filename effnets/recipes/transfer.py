"""Arguments of classification papers' configs, and their transfers to small sets."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import ml_collections

from effnets import configuration, errors, models, weights

_ARGUMENT = "the config's argument"
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
  _known(args.transfer, args.recipe, args.folder)
  if not (args.weights or default):
    raise errors.UserError(
      f"{_ARGUMENT} transfer={args.transfer!r}: no weights of this network were published; give "
      "those to start from as weights=NAME:SOURCE or weights=run:DIR."
    )
  weights.configure(config, args.weights or default)
  config.new_head = True
  entry = models.entry(config.model.name)
  config.model.update({"dropout_rate": entry.dropout_rate, "drop_path_rate": entry.drop_path_rate})
  transfer_set(config, args.transfer, recipe=args.recipe, folder=args.folder)


def _known(name: str, recipe: str, folder: str) -> TransferSet:
  found = TRANSFER.get(name)
  if found is None:
    raise errors.unknown(f"{_ARGUMENT} transfer", name, "a data set", TRANSFER)
  if recipe not in _RECIPES:
    raise errors.unknown(f"{_ARGUMENT} recipe", recipe, "a recipe", _RECIPES)
  if not (found.tfds or folder):
    raise errors.UserError(
      f"{_ARGUMENT} transfer={name!r}: TensorFlow Datasets has no such set; give its "
      "pictures as folder=PATH, with PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg."
    )
  return found


def transfer_set(
  config: ml_collections.ConfigDict, name: str, *, recipe: str = "kornblith", folder: str = ""
) -> None:
  """Sets what `transfer` does but for the weights and their network: pictures and training.

  Raises: UserError for an unknown set or recipe, or a set that TFDS has not without a folder.
  """
  found = _known(name, recipe, folder)
  splits = ("train", "test") if folder else (found.train_split, found.test_split)
  config.data.update(
    {
      "source": f"folder:{folder}" if folder else found.tfds,
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
  _RECIPES[recipe](config, found.train)


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
