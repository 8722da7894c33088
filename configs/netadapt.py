"""NetAdapt (Yang et al. 2018, arXiv 1804.03230) as MobileNetV3 uses it, for `--mode=search`.

A trained network grows narrower, block by block, wherever that costs the least accuracy, until it
costs as little as asked; weights are inherited.
`configs/netadapt.py`: `efficientnet_tiny` on the embedded digits, trained, then narrowed to half
its multiply-adds in steps of a tenth, 20 updates a proposal; what comes out is trained from the
inherited and from fresh weights. Judged on the validation split, tested on digits that had no part.
`configs/netadapt.py:imagenet`: MnasNet-A1 (`model=NAME`: any other classifier of the zoo) to 219M
of its 312M multiply-adds, which is MobileNetV3-Large's count, steps of 1 %, 10,000 updates a
proposal; `--config.weights=NAME:SOURCE` takes trained weights instead of training it first.
`cost=latency` counts milliseconds of the layers on this machine instead; `target=0.5` is a share
of the network's own cost. `batch_size=`, `seed=` set the two that change most.
"""

import ml_collections

from effnets import configuration, recipes


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  args = configuration.arguments(
    arg, words=["imagenet"], model="", cost="madds", target=0.0, batch_size=0, seed=0
  )
  config = configuration.base()
  config.seed = args.seed
  if "imagenet" in args.words:
    recipes.mobile_imagenet(config, args.model or "mnasnet_a1")
    held = 50_000
    config.data.split.update(
      {"train": f"train[{held}:]", "validation": f"train[:{held}]", "test": "validation"}
    )
    settings = {"target": args.target or 0.703, "delta": 0.01, "execution": "loop"}
    rate = config.optimizer.learning_rate / 10
    short = {"train": {"steps": 10_000, "epochs": 0.0}, "optimizer": {"learning_rate": rate}}
    long = {}
  else:
    recipes.digits(config, args.model or "efficientnet_tiny")
    settings = {"target": args.target or 0.5, "delta": 0.1, "execution": "shared"}
    rate = config.optimizer.learning_rate / 4
    short = {"train": {"steps": 20}, "ema": {"decay": 0.0}, "optimizer": {"learning_rate": rate}}
    short["model"] = {"drop_path_rate": 0.0}
    long = {"train": {"steps": 200}}
  config.netadapt = ml_collections.ConfigDict(
    {
      **settings,
      "cost": args.cost,
      "decay": 1.0,
      "choice": "ratio",
      "multiple": 8,
      "short": short,
      "long": long,
    }
  )
  if args.batch_size:
    config.batch_size = args.batch_size
  return config.lock()
