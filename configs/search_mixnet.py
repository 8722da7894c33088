"""The search of MixNet (Tan and Le 2019, arXiv 1907.09595), for `--mode=search`.

Kernels of every size from 3 to 11 in one depthwise convolution, their channels split equally.
`configs/search_mixnet.py`: two stages of mixed blocks, every child trained on 1,197 handwritten
digits and judged on 200 others; 48 children of 100 steps, meant for 15 minutes on two cores. No
child sees a test digit.
`configs/search_mixnet.py:imagenet`: the space of MixNet-S, searched on ImageNet itself: 5 epochs a
child, 50,000 training images held out, 8,000 children, accuracy * (MAdds / T)^-0.07 with T 256
million, what MixNet-S has. M is another width of the same, L is M times 1.3.
`algorithm=ppo` (reinforce, factorised, evolution, random, ...), `trials=`, `seed=`, `batch_size=`,
`target=` set what changes most. The best networks are trained in full by configs/retrain.py.
"""

import ml_collections

from effnets import configuration
from effnets.search import recipes


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  args = configuration.arguments(
    arg, words=["imagenet"], algorithm="", trials=0, seed=0, batch_size=0, target=0.0
  )
  config = configuration.base()
  config.seed = args.seed
  if "imagenet" in args.words:
    recipes.imagenet(config, "mixnet", target=256e6)
  else:
    recipes.digits(config, "mixnet_tiny", target=1.5e6)
    config.search.trials = 48
  recipes.arguments(config, args)
  return config.lock()
