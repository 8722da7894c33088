"""The search of AssembleNet (Ryoo et al. 2020, arXiv 1905.13209), for `--mode=search`.

Which streams meet where: evolution whose children keep the edges to which training gave large
weights and draw others anew.
`configs/search_assemblenet.py`: edges of a graph of two stems and five nodes; every child trains on
embedded films of moving digits and is judged on others; 16 children, meant for 15 minutes on two
cores. All of them are one program: edges are switched off by variables. No child sees a test film.
`configs/search_assemblenet.py:moments_in_time`: nodes of the published graph, edges and temporal
dilations, 10,000 steps a child, 200 children; the folder is `--config.data.source=videos:PATH`.
`moments_in_time,growing`: nodes of a level split and merge too, and share its filters.
`algorithm=random` (reinforce, evolution, ppo, ...), `trials=`, `seed=`, `batch_size=` set what
changes most; `--config.search.algorithm.options.threshold=none` keeps as many edges, but any. The
best networks are trained in full by `configs/retrain.py:assemblenet`.
"""

import ml_collections

from effnets import configuration, errors
from effnets.search import recipes


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  words = ["moments_in_time", "growing"]
  args = configuration.arguments(arg, words=words, algorithm="", trials=0, seed=0, batch_size=0)
  config = configuration.base()
  config.seed = args.seed
  growing = "growing" in args.words
  if growing and "moments_in_time" not in args.words:
    raise errors.UserError("the config's argument 'growing' goes with 'moments_in_time'.")
  if "moments_in_time" in args.words:
    space = "assemblenet_growing" if growing else "assemblenet"
    recipes.moments_in_time(config, space, trials=200)
  else:
    recipes.films(config, "assemblenet_tiny", "assemblenet_tiny", steps=60)
    config.search.trials = 16
  recipes.arguments(config, args)
  return config.lock()
