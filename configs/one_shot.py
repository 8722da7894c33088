"""One-shot search (Bender et al. 2020, TuNAS), for `--mode=search`: all networks in one.

The weights of a network that holds a whole space are trained, in each step through the masks of an
architecture that a controller samples; the controller learns from accuracy on held-out pictures
less 0.1 * |MAdds / T - 1|. One program, compiled once. What it finds is trained alone afterwards.
`configs/one_shot.py`: the 512 networks of `mnas_micro` on cluttered digits of 16 pixels, a few
minutes on two cores; experiments/search/table.jsonl tells what each of them is worth.
`configs/one_shot.py:digits`: `mnas_tiny`, four narrow blocks, on handwritten digits of 32 pixels.
`configs/one_shot.py:imagenet`: MnasNet's space on ImageNet, 90 epochs at batch 4096, 50,000
training images held out to judge, T what MnasNet-A1 has; then 350 epochs of what it finds.
`target=` is T in multiply-adds; `steps=`, `batch_size=`, `seed=` set what changes most. Any
space whose blocks have MnasNet's decisions: `--config.model.space=mnas_small`.
"""

import ml_collections

from effnets import configuration
from effnets.search import recipes


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  args = configuration.arguments(
    arg, words=["digits", "imagenet"], target=0.0, steps=0, batch_size=0, seed=0
  )
  config = configuration.base()
  config.seed = args.seed
  if "imagenet" in args.words:
    recipes.imagenet(config, "mnas", target=312e6)
    config.train.epochs = 90.0
    config.batch_size = 4096
    long = {"train": {"epochs": 350.0}, "batch_size": 1024, "ema": {"decay": 0.9999}}
    long["model"] = {"dropout_rate": 0.2}
  elif "digits" in args.words:
    recipes.digits(config, "mnas_tiny", target=1e6)
    config.train.steps = 600
    long = {"train": {"steps": 400}}
  else:
    recipes.clutter(config, "mnas_micro", target=180e3)
    config.train.steps = 3000
    long = {"train": {"steps": 1000}}
  recipes.one_shot(config, long=long)
  if args.target:
    config.one_shot.target = args.target
  if args.steps:
    config.train.update({"steps": args.steps, "epochs": 0.0})
  if args.batch_size:
    config.batch_size = args.batch_size
  return config.lock()
