"""Runs on clips: minutes on the embedded films, the recipes of AssembleNet and of SVG'."""

import ml_collections

from effnets import models


def clips(config: ml_collections.ConfigDict, name: str, *, labels: str = "one") -> None:
  """Sets the task on clips and the model `name`. labels: `one`, or `several` classes a film."""
  entry = models.entry(name)
  config.task = ml_collections.ConfigDict(
    {"name": "video", "labels": labels, "label_smoothing": 0.0, "views": "mean"}
  )
  config.augment = ml_collections.ConfigDict({"flip": 0.0})
  config.model = ml_collections.ConfigDict(
    {"name": name, "dtype": "float32", "remat": "none", "dropout_rate": entry.dropout_rate}
  )
  config.data.image_size = entry.image_size
  config.data.crop_padding = 0
  config.data.clips = ml_collections.ConfigDict(
    {
      "frames": entry.frames,
      "stride": 1,
      "speed": (1.0, 1.0),  # range of a random factor of the stride, in training
      "views": 1,  # clips of a film in evaluation, and crops of each, 1 or 3
      "crops": 1,
      "area": (0.49, 1.0),  # of random crops, one for all frames
      "aspect": (0.5, 2.0),
      "flow": "none",  # beside the frames: stored, dis, or none, where flow stems compute their own
      "bound": 20.0,  # of flow, in pixels a frame, that become 1
      "labels": "film",  # or those of what happens in the clip
      "short": "loop",  # films shorter than a clip: loop, hold or refuse
    }
  )
  if labels == "several":
    config.checkpoint.best_metric = "map"


def digit_actions(
  config: ml_collections.ConfigDict, name: str, *, steps: int, labels: str = "one"
) -> None:
  """Sets the embedded films and a recipe of minutes for the tiny model `name`."""
  clips(config, name, labels=labels)
  config.data.source = "digit_actions"
  if labels == "several":
    config.data.options.actions = 2
  # All of every picture: cut at random, growing and shrinking would look the same.
  config.data.clips.update({"area": (1.0, 1.0), "aspect": (1.0, 1.0), "views": 2})
  # The largest motion is of two pixels.
  config.data.clips.bound = 4.0
  config.batch_size = 32
  config.eval_batch_size = 64
  config.train.steps = steps
  config.optimizer.update({"name": "adam", "learning_rate": 0.004, "weight_decay": 1e-4})
  config.schedule.update({"name": "cosine", "warmup_percent": 10.0})


def assemblenet(config: ml_collections.ConfigDict, name: str, *, labels: str = "one") -> None:
  """Sets what the large runs on films share, for the model `name`; the data are the caller's.

  32 frames of 224 pixels in training, batch 1024, 44 epochs of Nesterov momentum on a cosine from
  1.6, five of them to warm up; no decay of norms and edges.
  Source: the Model Garden's Kinetics-600 settings of AssembleNet.
  """
  clips(config, name, labels=labels)
  config.model.update({"dtype": "bfloat16", "remat": "block"})
  config.augment.flip = 0.5
  config.data.clips.views = 5
  config.data.update({"workers": 16, "crop_padding": 32})
  config.batch_norm.group = "tpu"
  config.batch_size = 1024
  config.eval_batch_size = 256
  config.train.epochs = 44.0
  config.optimizer.update({"name": "sgd", "learning_rate": 1.6, "momentum": 0.9, "nesterov": True})
  config.optimizer.update(
    {"learning_rate_per_examples": 1024, "weight_decay": 1e-4, "undecayed": ("bias$", "edges$")}
  )
  config.schedule.update({"name": "cosine", "warmup_epochs": 5.0})
  config.checkpoint.update({"every_percent": 2.0, "keep": 3})
  config.evaluation.every_percent = 10.0


def prediction(
  config: ml_collections.ConfigDict,
  name: str,
  *,
  context: int,
  horizon: int,
  test_horizon: int,
  latent: int = 10,
) -> None:
  """Sets the prediction of films and the model `name`: so many frames given, so many to tell."""
  entry = models.entry(name)
  config.task = ml_collections.ConfigDict(
    {
      "name": "prediction",
      "context": context,
      "horizon": horizon,  # frames told in training, and in evaluation
      "test_horizon": test_horizon,
      "loss": "l1",  # or l2
      "beta": 1e-4,  # of the divergence, summed over the latent's channels and places
      "samples": 100,  # futures of every clip in evaluation
      "span": "predicted",  # frames of which features are compared; or all, with the context
      "i3d": "",  # a file of I3D's weights for FVD, and of VGG16's for its cosine; empty: without
      "vgg16": "",
    }
  )
  config.augment = ml_collections.ConfigDict({"flip": 0.0})
  config.model = ml_collections.ConfigDict(
    {
      "name": name,
      "dtype": "float32",
      "remat": "none",
      "latent": latent,
      "actions": 0,  # numbers of an action; 0: they are not read
      "skips": "context",  # of the frame that helps to draw: context, official or last
      "bn_mode": "running",  # of sampling; batch, as the official code has it
    }
  )
  config.data.image_size = entry.image_size
  config.data.clips = ml_collections.ConfigDict(
    {
      "stride": 1,
      "short": "refuse",  # films shorter than a clip; or hold, which lets the last frame stand
    }
  )
  config.optimizer.update({"name": "adam", "learning_rate": 3e-4, "clip_norm": 100.0})
  config.schedule.update({"name": "constant"})
  config.checkpoint.best_metric = "ssim_best"


def moving_digits(
  config: ml_collections.ConfigDict, name: str, *, steps: int, actions: bool = False
) -> None:
  """Sets the embedded films and a recipe of minutes for the tiny model `name`."""
  prediction(config, name, context=3, horizon=5, test_horizon=10, latent=4)
  config.data.source = "moving_digits"
  if actions:
    config.data.options.actions = 1
    config.model.actions = 2
  config.data.options.held_out = 96
  config.task.samples = 10
  config.batch_size = 8
  config.eval_batch_size = 32
  config.train.steps = steps
  config.optimizer.learning_rate = 2e-3
  config.schedule.update({"name": "cosine", "warmup_percent": 5.0})
  config.evaluation.every_percent = 50.0


def svg_prime(
  config: ml_collections.ConfigDict,
  name: str,
  *,
  context: int,
  horizon: int,
  test_horizon: int,
) -> None:
  """Sets what the large runs on films share, for the model `name`; the data are the caller's.

  Batch 32, Adam at 3e-4 without decay of the rate, 300,000 steps, L1 and 1e-4 of the divergence.
  Source: the sizes of SVG', as far as they are known; the rate of an unofficial code.
  """
  prediction(config, name, context=context, horizon=horizon, test_horizon=test_horizon)
  config.model.update({"dtype": "bfloat16", "remat": "block"})
  config.data.update({"workers": 16})
  config.batch_norm.group = "global"
  config.batch_size = 32
  config.eval_batch_size = 32
  config.train.steps = 300_000
  config.checkpoint.update({"every_percent": 2.0, "keep": 3})
  config.evaluation.every_percent = 10.0
