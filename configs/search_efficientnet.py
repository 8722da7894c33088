"""The search of EfficientNet-B0 (Tan and Le 2019, arXiv 1905.11946), for `--mode=search`.

MnasNet's search with swish and multiply-adds instead of a latency: accuracy * (MAdds / T)^-0.07.
`configs/search_efficientnet.py`: a space of four narrow blocks, every child trained on 1,197
handwritten digits and judged on 200 others, T a million; 64 children of 100 steps, meant for 15
minutes on two cores. No child sees a test digit.
`configs/search_efficientnet.py:imagenet`: 5 epochs of ImageNet a child, 50,000 training images held
out, 8,000 children, T 400 million. The compound scaling of what is found is
configs/efficientnet.py's grid.
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
    recipes.imagenet(config, "mnas", target=400e6)
  else:
    recipes.digits(config, "mnas_tiny", target=1e6)
  config.search.space.options.activation = "swish"
  recipes.arguments(config, args)
  return config.lock()
