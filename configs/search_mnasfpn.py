"""The search of MnasFPN (Chen et al. 2020, arXiv 1912.01106), for `--mode=search`.

The cell of a feature pyramid: inputs, levels, widths, kernels and fusions of its blocks, of which
those that no output needs are left out. The reward is AP * (cost / T)^-0.3.
`configs/search_mnasfpn.py`: a narrow cell over a tiny body, every child trained to find the digits
in scenes of one or two, all of one class, and judged on others, the cost multiply-adds; eight
children of 200 steps, meant for 15 minutes on two cores, most of which is compiling. No child sees
a test digit.
`configs/search_mnasfpn.py:coco`: the paper's proxy: the cell three times on MobileNetV2 at the
final 320 pixels, 20 epochs of COCO a child at batch 64, 7,392 training pictures held out, 10,000
children; multiply-adds stand in for the phone's latency, T 800 million, which moves no ranking.
`--config.data.source=coco:PATH` reads COCO's own folders.
`algorithm=ppo` (reinforce, factorised, evolution, random, ...), `trials=`, `seed=`, `batch_size=`,
`target=` set what changes most. The best networks are trained in full by
`configs/retrain.py:mnasfpn`.
"""

import ml_collections

from effnets import configuration
from effnets import recipes as whole
from effnets.search import recipes


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  args = configuration.arguments(
    arg, words=["coco"], algorithm="", trials=0, seed=0, batch_size=0, target=0.0
  )
  config = configuration.base()
  config.seed = args.seed
  if "coco" in args.words:
    _coco(config)
    target = 800e6
  else:
    recipes.scenes(config, "mnasfpn_tiny", "mnasfpn_tiny", steps=200)
    whole.ssd_losses(config)
    config.search.trials = 8
    target = 10e6
  config.search.reward.update({"costs": ("madds",), "targets": (target,)})
  config.search.reward.options.exponent = -0.3
  recipes.arguments(config, args)
  return config.lock()


def _coco(config):
  whole.mnasfpn_coco(config, "mnasfpn_mobilenetv2")
  recipes.coco(config, "mnasfpn", epochs=20.0, trials=10_000)
  config.model.repeats = 3
  config.batch_size = config.eval_batch_size = 64
  # One epoch of warm-up to a rate of 0.4, a tenth of it for the last fifth.
  config.optimizer.update({"learning_rate": 0.4, "learning_rate_per_examples": 64})
  config.schedule.update({"name": "step", "warmup_steps": 1733, "warmup_start": 0.1})
  config.schedule.boundaries_steps = (27_724,)
