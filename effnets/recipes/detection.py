"""Training recipes of detectors."""

import ml_collections

from effnets import models


def detector(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets the registered detector `name`, its image size, and what a task on it takes.

  Matching, losses and suppression are RetinaNet's, in EfficientDet's numbers.
  Source: the sheet of detection, section 3.1.
  """
  entry = models.entry(name)
  config.data.image_size = entry.image_size
  config.model = ml_collections.ConfigDict(
    {
      "name": name,
      "drop_path_rate": entry.drop_path_rate,
      "padding": "SAME",
      "dtype": "float32",
      "remat": "none",
      "frozen_blocks": 0,
    }
  )
  config.task = ml_collections.ConfigDict(
    {
      "name": "detection",
      "positive": 0.5,
      "negative": 0.5,
      "force": "best",
      "scales": (1.0, 1.0, 1.0, 1.0),
      "background": False,
      "class_loss": "focal",
      "alpha": 0.25,
      "gamma": 1.5,
      "label_smoothing": 0.0,
      "delta": 0.1,
      "box_weight": 50.0,
      "skip_zeros": True,
      "normalizer": "plus_one",
    }
  )
  config.detections = ml_collections.ConfigDict(
    {
      "kind": "gaussian",
      "overlap": 0.5,
      "sigma": 0.5,
      "threshold": 0.001,
      "most": 100,
      "candidates": 5000,  # pairs of anchor and class; 0 takes all
      "shown": 0.4,  # least score of what is drawn
    }
  )
  config.data.scenes = ml_collections.ConfigDict(
    {
      "size": (),
      "max_objects": 100,
      "jitter": (0.1, 2.0),
      "flip": 0.5,
      "keep_aspect": True,
    }
  )
  config.augment = ml_collections.ConfigDict(
    {
      "autoaugment": {"policy": ""},
      "randaugment": {"layers": 0, "magnitude": 5.0, "operations": "detection10"},
    }
  )
  config.checkpoint.best_metric = "ap"


def coco(config: ml_collections.ConfigDict) -> None:
  """Sets COCO 2017: TFDS's, of which `validation` is judged. `--config.data.source=coco:PATH` reads
  the published folders.

  Classes are the 90 ids of categories less one, with gaps, as the published detectors count.
  """
  config.data.update(
    {
      "source": "coco/2017",
      "split": {"train": "train", "validation": "validation", "test": "validation"},
      "workers": 16,
    }
  )
  config.data.options.sparse = True
  config.checkpoint.update({"every_percent": 1.0, "keep": 3})
  config.evaluation.every_percent = 2.0
  config.log_every_steps = 100


def efficientdet_coco(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets EfficientDet's recipe on COCO for `name`, 300 epochs (d7 and d7x: 600).

  What keeps bfloat16 from NaN at this rate: losses, anchors and boxes are float32, each gradient is
  clipped and then all together, and warm-up begins at a twentieth.
  Source: Tan et al. 2020 (EfficientDet), section 5.1, and the official code, which clips.
  """
  detector(config, name)
  coco(config)
  config.model.dtype = "bfloat16"
  config.batch_size = 128
  config.eval_batch_size = 128
  # 32 images of the 4 on each of 32 cores, synchronised.
  config.batch_norm.group = "global"
  config.train.epochs = 600.0 if name.removeprefix("efficientdet_") in ("d7", "d7x") else 300.0
  config.optimizer.update(
    {"name": "sgd", "learning_rate": 0.08, "learning_rate_per_examples": 64, "momentum": 0.9}
  )
  config.optimizer.update({"nesterov": False, "weight_decay": 4e-5})
  # Kernels alone decay, and no weights of fusions.
  config.optimizer.undecayed = ("bias$", "fusion$")
  config.optimizer.update({"clip_each": 10.0, "clip_norm": 10.0})
  config.schedule.update({"name": "cosine", "warmup_epochs": 1.0, "warmup_start": 0.05})
  config.schedule.update({"decay_epochs": config.train.epochs - 1, "clamp": False})
  config.ema.decay = 0.9998


def digit_scenes(config: ml_collections.ConfigDict, name: str, *, steps: int) -> None:
  """Sets the embedded scenes of several digits, and a recipe of minutes for the detector `name`."""
  detector(config, name)
  config.data.source = "digit_scenes"
  # No mirroring: a mirrored 5 is a 2 to some. Scales as they come, and a little of both sides.
  config.data.scenes.update({"max_objects": 8, "jitter": (0.8, 1.25), "flip": 0.0})
  config.detections.update({"candidates": 1000, "most": 20})
  config.batch_size = 32
  config.eval_batch_size = 64
  config.train.steps = steps
  config.model.update({"momentum": 0.9})
  config.optimizer.update({"name": "adam", "learning_rate": 3e-3, "clip_norm": 10.0})
  config.schedule.update({"name": "cosine", "warmup_percent": 5.0})
  config.ema.decay = 0.99
