"""The search of SpineNet (Du et al. 2020, arXiv 1912.05027), for `--mode=search`.

The order of scales, two parents for each block, offsets and kinds; the reward is AP alone.
`configs/search_spinenet.py`: four intermediate blocks and outputs on levels 3 to 6, RetinaNet's
heads, every child trained to find the digits in scenes of one or two, all of one class, and judged
on others; 12 children of 200 steps, meant for 15 minutes on two cores, half of which is compiling.
No child sees a test digit.
`configs/search_spinenet.py:coco`: the paper's proxy: channels times 0.25, alpha 0.25, a head of 64,
512 pixels, 5 epochs of COCO a child at batch 256, 7,392 training pictures held out, 14,000
children. `--config.data.source=coco:PATH` reads COCO's own folders.
`algorithm=ppo` (reinforce, factorised, evolution, random, ...), `trials=`, `seed=`, `batch_size=`
set what changes most. The best networks are trained in full by `configs/retrain.py:spinenet`.
"""

import ml_collections

from effnets import configuration
from effnets import recipes as whole
from effnets.search import recipes


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  args = configuration.arguments(arg, words=["coco"], algorithm="", trials=0, seed=0, batch_size=0)
  config = configuration.base()
  config.seed = args.seed
  if "coco" in args.words:
    _coco(config)
  else:
    recipes.scenes(config, "retinanet_spinenet_tiny", "spinenet_tiny", steps=200)
    config.search.trials = 12
  recipes.arguments(config, args)
  return config.lock()


def _coco(config):
  whole.spinenet_coco(config, "retinanet_spinenet_proxy", "a")
  recipes.coco(config, "spinenet", epochs=5.0, trials=14_000)
  config.schedule.update({"name": "cosine", "warmup_steps": 500, "boundaries_steps": None})
