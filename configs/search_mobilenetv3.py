"""The searches of MobileNetV3 (Howard et al. 2019, arXiv 1905.02244), for `--mode=search`.

`configs/search_mobilenetv3.py`: Small's reward, accuracy * (cost / T)^-0.15, over a space of four
narrow blocks, every child trained on 1,197 handwritten digits and judged on 200 others; 64 children
of 100 steps, meant for 15 minutes on two cores. No child sees a test digit.
`configs/search_mobilenetv3.py:imagenet`: Small's search: from scratch, around MnasNet-small's
widths, 5 epochs of ImageNet a child, 50,000 training images held out, 8,000 children; the paper
does not print T, which is 60 million multiply-adds here. `imagenet,large`: Large's, which found
MnasNet-A1 again: the exponent -0.07, T 312 million. Latencies come from
`config.search.latency_table`, which `python -m effnets.search.lut` makes; `latency=FILE,target=`
give it and its T.
The paper's networks were then shrunk layer by layer; their last stage and where h-swish stands were
made by hand.
`algorithm=ppo` (reinforce, factorised, evolution, random, ...), `trials=`, `seed=`, `batch_size=`
set what changes most. The best networks are trained in full by configs/retrain.py.
"""

import ml_collections

from effnets import configuration
from effnets.search import recipes


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  args = configuration.arguments(
    arg,
    words=["imagenet", "large"],
    algorithm="",
    trials=0,
    seed=0,
    batch_size=0,
    target=0.0,
    latency="",
  )
  config = configuration.base()
  config.seed = args.seed
  large = "large" in args.words
  if "imagenet" in args.words:
    space, target = ("mnas", 312e6) if large else ("mnas_small", 60e6)
    recipes.imagenet(config, space, target=target)
  else:
    recipes.digits(config, "mnas_tiny", target=1e6)
  config.search.reward.options.exponent = -0.07 if large else -0.15
  recipes.arguments(config, args)
  return config.lock()
