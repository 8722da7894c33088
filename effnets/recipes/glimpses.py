"""Saccader's runs: on ImageNet as its paper has them, and on digits among clutter in minutes."""

from collections.abc import Mapping
from typing import Any

import ml_collections

from effnets import models

POLICIES = ",".join(models.saccader.POLICIES)


def saccader(
  *,
  stages: str = "represent,locate,reinforce",
  evaluation: Mapping[str, Any] | None = None,
  classifier_weights: str = "",
  **sections: Any,
) -> ml_collections.ConfigDict:
  """Returns the `config.pipeline` of a Saccader, see `effnets/pipelines/saccader.py`.

  Args: stages: comma list. evaluation: what differs. sections: of stages, overrides of the config.
  """
  names = ("represent", "locate", "reinforce", "reinforce_only", "dram", "full", "patches")
  usual = {"glimpses": 12, "policies": POLICIES, "sizes": (), "pictures": 8}
  return ml_collections.ConfigDict(
    {
      "name": "saccader",
      "stages": stages,
      **{name: sections.pop(name, {}) for name in names},
      "evaluation": {**usual, **(evaluation or {})},
      "classifier_weights": classifier_weights,
      **sections,
    }
  )


def bagnet(size: int) -> dict[str, Any]:
  """Returns the `config.model` of the BagNet with patches of `size` pixels, 9, 17, 33 or 77.

  What makes it is named, so that a Saccader on it has it too.
  """
  name = f"bagnet_{size}"
  known = models.entry(name).settings()
  return {"name": name, "kernel3": known["kernel3"], "low_dimension": known["low_dimension"]}


def patch_network(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets the network of patches `name` and the settings of how a Saccader learns.

  Weight decay, of kernels alone, is in the loss of the stages with glimpses, with a factor for each
  part; the first stage takes it from the optimizer.
  """
  entry = models.entry(name)
  config.data.update({"image_size": entry.image_size, "crop_padding": entry.crop_padding})
  config.model.update({"name": name, "padding": "VALID", "dropout_rate": 0.0})
  config.model.drop_path_rate = 0.0
  config.task.label_smoothing = 0.0
  config.glimpses = ml_collections.ConfigDict(
    {
      "mask": "targets",
      "samples": 2,
      "reward": "01",
      "reinforce_weight": 1.0,
      "cross_entropy_weight": 1.0,
      "decay": 8e-5,
      "location_decay": 8e-5,
    }
  )


def saccader_imagenet(config: ml_collections.ConfigDict, *, epochs: float = 120.0) -> None:
  """Sets the paper's three stages on ImageNet at 224 pixels, BagNet-77-lowD.

  The code that was published has no training scripts: batch, rates, warm-up and epochs are what the
  project takes the paper to say, to be tuned on a part of the training set.
  """
  config.data.update(
    {
      "source": "imagenet2012",
      "split": {"train": "train[10000:]", "validation": "train[:10000]", "test": "validation"},
      "interpolation": "bicubic",
      "workers": 16,
    }
  )
  patch_network(config, "bagnet_77_lowd")
  config.augment.flip = True
  config.model.dtype = "bfloat16"
  config.batch_size = config.eval_batch_size = 1024
  config.train.epochs = epochs
  config.optimizer.update({"name": "sgd", "learning_rate": 1.6, "momentum": 0.9, "nesterov": True})
  config.optimizer.update({"weight_decay": 8e-5, "undecayed": ("bias$",)})
  config.schedule.update({"name": "cosine", "warmup_epochs": 10.0})
  config.checkpoint.update({"every_percent": 1.0, "keep": 3})
  config.evaluation.every_percent = 2.0
  config.log_every_steps = 100
  # What a location network is taught has no labels, and its decay is in the loss.
  glimpses = {"weight_decay": 0.0}
  config.pipeline = saccader(
    locate={
      "model": {"name": "saccader", "glimpses": 12},
      "optimizer": {"learning_rate": 0.2, **glimpses},
    },
    reinforce={
      "model": {"name": "saccader", "glimpses": 6},
      "optimizer": {"learning_rate": 0.01, **glimpses},
    },
    dram={
      "model": {"name": "dram", "glimpses": 8},
      "optimizer": {"learning_rate": 0.8, **glimpses},
      "glimpses": {"samples": 1, "reinforce_weight": 0.1, "location_decay": 0.0},
    },
    full={"model": {"name": "resnet50"}, "optimizer": {"learning_rate": 1.6}},
  )


def saccader_patches(
  config: ml_collections.ConfigDict, classifier: str, *, image_size: int, **network: Any
) -> None:
  """Adds the stage that classifies the Saccader's patches, cut from pictures of `image_size`.

  classifier: a network of the zoo. network: its settings, such as `dropout_rate`.
  Source: section 4 of the paper, where it is NASNet-A-Large on 113 of 331 pixels.
  """
  pipeline, small = config.pipeline, config.data.image_size
  name = f"{pipeline.reinforce.model.name.partition('_')[0]}_classifier"
  kept = {k: v for k, v in config.model.items() if k in models.entry("saccader").settings()}
  locator = {**kept, **pipeline.reinforce.model.to_dict()}
  own = {"dtype": config.model.dtype}
  pipeline.patches = ml_collections.ConfigDict(
    {
      "model": {
        "name": name,
        "locator": locator.pop("name"),
        "locator_settings": locator,
        "locator_size": small,
        "classifier": classifier,
        "classifier_settings": {**own, **network},
      },
      "data": {"image_size": image_size, "crop_padding": image_size // 10},
    }
  )
  pipeline.stages += ",patches"


def saccader_digits(config: ml_collections.ConfigDict, *, steps: int = 800) -> None:
  """Sets whole digits of 24 to 40 pixels among fragments of others, on 64, and patches of 9.

  steps: of the first stage. Where to look is learned in half as many, policy gradient takes more.
  A patch shows a stroke, and it takes several to tell digits apart. What stage two learns are the
  highest scores, which lie beside each other and tell the same; which of them go together is left
  for policy gradient. With patches that see a whole digit one is enough, and nothing is left.
  Controls that begin anew have as many steps as all stages that change the network of patches; DRAM
  has patches of 17, larger than those of the Saccader.
  """
  config.data.source = "cluttered_digits"
  config.data.options.update({"canvas": 64, "digits": "large", "copies": 10, "clutter": 8})
  patch_network(config, "bagnet_mini")
  # The last blocks have 1x1 convolutions alone.
  config.model.kernel3 = (1, 1, 0)
  config.glimpses.update({"decay": 1e-5, "location_decay": 1e-5})
  config.batch_size = 32
  config.eval_batch_size = 200
  config.train.steps = steps
  config.optimizer.update({"name": "adam", "learning_rate": 0.01})
  config.schedule.update({"name": "cosine", "warmup_percent": 10.0})
  config.evaluation.every_percent = 100.0
  config.checkpoint.update({"every_percent": 50.0, "keep": 1})
  config.tensorboard = False
  saccades = {"name": "saccader_mini", "glimpses": 6}
  more = max(1, 5 * steps // 4)
  config.pipeline = saccader(
    locate={
      "model": {**saccades, "glimpses": 8},
      "train": {"steps": max(1, steps // 2)},
      "optimizer": {"learning_rate": 0.003},
    },
    reinforce={
      "model": saccades,
      "train": {"steps": more},
      "optimizer": {"learning_rate": 0.003},
    },
    dram={
      "model": {"name": "dram_mini", "glimpses": 6},
      "train": {"steps": steps + more},
      "optimizer": {"learning_rate": 0.001},
      "glimpses": {"samples": 1, "reinforce_weight": 0.1, "location_decay": 0.0},
    },
    full={
      "model": {"name": "efficientnet_tiny", "momentum": 0.9},
      "train": {"steps": steps + more},
      "optimizer": {"learning_rate": 0.01},
    },
    evaluation={"glimpses": 12},
  )
