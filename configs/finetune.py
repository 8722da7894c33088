"""Fine-tuning on pictures of your own.

`configs/finetune.py:folder=PATH`: published EfficientNet-B0 weights, fetched from the Hugging Face
hub, on the pictures PATH/CLASS/*.jpg, of which 15 % of each class are kept for validation and 15 %
for the test, or on PATH/train/CLASS/*.jpg and the same below `validation` and `test`.
`weights=NAME:SOURCE`: other weights, such as `tf_mixnet_s.in1k:model.safetensors`;
`weights=run:DIR`: those of a run of your own.
`linear_probe`: trains the classifier alone; everything below it stays as it is.
`configs/finetune.py`: the same recipe on 100 handwritten digits, from scratch; half a minute of CPU
time, three quarters of the test digits right.
`epochs=`, `batch_size=`, `seed=` set the three that change most.
"""

import ml_collections

from effnets import configuration, errors, weights

_WEIGHTS = "tf_efficientnet_b0.ns_jft_in1k"


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the word and the keys above."""
  args = configuration.arguments(
    arg, words=["linear_probe"], folder="", weights="", epochs=20.0, batch_size=32, seed=0
  )
  config = configuration.base()
  config.seed = args.seed
  if args.folder:
    config.data.source = f"folder:{args.folder}"
    config.data.options = {"hold_out": 15}
    config.augment.flip = True
  else:
    config.data.split.train = "labelled"
    config.augment.shift = 2
  start = args.weights or (_WEIGHTS if args.folder else "")
  if start:
    weights.configure(config, start)
    config.new_head = True
  # A few hundred steps have to be enough for the moments of the new pictures.
  config.model.momentum = 0.9
  config.batch_size = args.batch_size
  config.eval_batch_size = 64
  config.train.epochs = args.epochs
  config.log_every_steps = 10
  config.schedule.update({"name": "cosine", "warmup_percent": 10.0})
  if "linear_probe" in args.words:
    if not start:
      raise errors.UserError(
        "the config's argument linear_probe needs a trained network: weights=NAME:SOURCE, or "
        "weights=run:DIR for a run of your own."
      )
    config.model.update({"frozen_blocks": -1, "dropout_rate": 0.0, "drop_path_rate": 0.0})
    config.optimizer.update({"name": "adam", "learning_rate": 0.01})
    config.task.label_smoothing = 0.0
  else:
    config.optimizer.update({"name": "sgd", "learning_rate": 0.02, "weight_decay": 1e-5})
    config.optimizer.update({"momentum": 0.9, "nesterov": True})
  return config.lock()
