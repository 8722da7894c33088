"""EfficientNet (Tan and Le 2019, arXiv 1905.11946).

`configs/efficientnet.py`: the smallest member on 1,200 handwritten digits, about a minute on two
CPU cores, over 95 % of the test digits right.
`configs/efficientnet.py:b0` (to `b8`, `l2`): the paper's ImageNet recipe for that member, 350
epochs at batch 2048 on a TPU pod slice; the paper's top-1 for b0 is 77.1 %, for b7 84.3 %.
`batch_size=`, `seed=` set the two that change most.
"""

import ml_collections

from effnets import configuration, models

MEMBERS = [*(f"b{i}" for i in range(9)), "l2"]

# Official RandAugment strengths (layers, magnitude); the smaller members train without.
_RANDAUGMENT = {"b5": (2, 17.0), "b7": (2, 28.0), "b8": (2, 28.0), "l2": (2, 28.0)}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of a member, `imagenet`, `batch_size=`, `seed=`."""
  args = configuration.arguments(arg, words=["imagenet", *MEMBERS], batch_size=0, seed=0)
  config = configuration.base()
  config.seed = args.seed
  members = [word for word in args.words if word != "imagenet"]
  if args.words:
    _imagenet(config, members[-1] if members else "b0")
  else:
    _digits(config)
  if args.batch_size:
    config.batch_size = args.batch_size
  return config.lock()


def _digits(config):
  config.data.update({"source": "digits", "image_size": 32})
  config.augment.shift = 2
  config.model.update({"name": "efficientnet_tiny"})
  config.model.momentum = 0.9
  config.batch_size = 64
  config.train.steps = 400
  config.optimizer.update(
    {"name": "rmsprop", "learning_rate": 0.016, "decay": 0.9, "momentum": 0.9, "eps": 1e-3}
  )
  config.optimizer.weight_decay = 1e-5
  config.schedule.update({"name": "cosine", "warmup_percent": 10.0})
  config.ema.decay = 0.99


def _imagenet(config, member):
  entry = models.entry(f"efficientnet_{member}")
  config.data.update(
    {
      "source": "imagenet2012",
      "split": {"train": "train", "validation": "validation", "test": "validation"},
      "image_size": entry.image_size,
      "workers": 16,
    }
  )
  config.augment.flip = True
  layers, magnitude = _RANDAUGMENT.get(member, (0, 9.0))
  config.augment.randaugment.update({"layers": layers, "magnitude": magnitude})
  config.model.update({"name": entry.name, "dropout_rate": entry.dropout_rate})
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
  config.checkpoint.update({"every_percent": 1.0, "keep": 3})
  config.evaluation.every_percent = 1.0
  config.log_every_steps = 100
