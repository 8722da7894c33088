"""The search of MnasNet (Tan et al. 2019, arXiv 1807.11626), for `--mode=search`.

`configs/search_mnasnet.py`: a space of four narrow blocks, every child trained on 1,197 handwritten
digits and judged on 200 others; meant for 15 minutes on two cores. No child sees a test digit.
`configs/search_mnasnet.py:clutter`: the same space on digits among clutter, 200 steps a child: all
networks learn plain digits in the end, these tell them apart.
`configs/search_mnasnet.py:imagenet`: the paper's search: 5 epochs of ImageNet a child, 50,000
training images held out, 8,000 children, the soft reward at 75 ms (`target=22` for the small
network). Latencies come from `config.search.latency_table`, which `python -m effnets.search.lut`
makes; without it the cost is multiply-adds, at the paper's 312 million.
`algorithm=ppo` (reinforce, factorised, evolution, random, ...), `trials=`, `seed=`, `batch_size=`,
`latency=FILE` set what changes most.

The best networks are trained in full by configs/retrain.py.
"""

import ml_collections

from effnets import configuration
from effnets.search import recipes


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  args = configuration.arguments(
    arg,
    words=["clutter", "imagenet"],
    algorithm="",
    trials=0,
    seed=0,
    batch_size=0,
    target=0.0,
    latency="",
  )
  config = configuration.base()
  config.seed = args.seed
  if "imagenet" in args.words:
    recipes.imagenet(config, "mnas", target=312e6)
  elif "clutter" in args.words:
    recipes.clutter(config, "mnas_tiny", target=1e6)
    config.data.image_size = 32
    config.search.trials = 64
  else:
    recipes.digits(config, "mnas_tiny", target=1e6)
  recipes.arguments(config, args)
  return config.lock()
