"""The search of MnasNet (Tan et al. 2019, arXiv 1807.11626), for `--mode=search`.

`configs/search_mnasnet.py`: a space of four narrow blocks, every child trained on 1,197 handwritten
digits and judged on 200 others; at most fifteen minutes on two cores. No child sees a test digit.
`configs/search_mnasnet.py:imagenet`: the paper's search: 5 epochs of ImageNet a child, 50,000
training images held out, 8,000 children, the soft reward at 75 ms (`target=22` for the small
network). Latencies come from `config.search.latency_table`, which `python -m effnets.search.lut`
makes; without it the cost is multiply-adds, at the paper's 312 million.
`algorithm=ppo` (reinforce, factorised, evolution, random, ...), `trials=`, `seed=`, `batch_size=`,
`latency=FILE` set what changes most.

The best networks are trained in full by configs/retrain.py.
"""

import ml_collections

from effnets import configuration, recipes
from effnets.search import network, section

EXAMPLES = 1_281_167
HELD_OUT = 50_000


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  args = configuration.arguments(
    arg, words=["imagenet"], algorithm="", trials=0, seed=0, batch_size=0, target=0.0, latency=""
  )
  config = configuration.base()
  config.search = section.defaults()
  config.seed = args.seed
  if "imagenet" in args.words:
    _imagenet(config)
  else:
    _digits(config)
  found = config.search
  if args.latency:
    found.latency_table = args.latency
    found.reward.update({"costs": ("latency",), "targets": (75.0,)})
    found.cost = "latency"
  if args.target:
    found.reward.targets = (args.target,)
  if args.algorithm:
    found.algorithm = ml_collections.ConfigDict({"name": args.algorithm, "options": {}})
  found.trials = args.trials or found.trials
  if args.batch_size:
    config.batch_size = args.batch_size
  return config.lock()


def _digits(config):
  recipes.small_images(config, steps=100)
  config.model = network.section("mnas_tiny")
  config.model.update({"dropout_rate": 0.0, "momentum": 0.9})
  config.batch_size = 32
  config.eval_batch_size = 200
  config.ema.decay = 0.0  # an average would lag behind so short a training
  # Few trials: independent choices learn from fewer samples than a recurrent policy.
  config.search.algorithm.update({"name": "factorised"})
  config.search.algorithm.options.update({"batch": 8, "learning_rate": 0.2})
  config.search.reward.targets = (1e6,)
  config.search.trials = 64


def _imagenet(config):
  recipes.mobile_imagenet(config, "mnasnet_a1")
  config.model = network.section("mnas")
  config.model.update({"dropout_rate": 0.2, "dtype": "bfloat16"})
  config.data.split.update(
    {"train": f"train[{HELD_OUT}:]", "validation": f"train[:{HELD_OUT}]", "test": "validation"}
  )
  config.train.epochs = 5.0
  config.schedule.warmup_epochs = 0.5
  config.ema.decay = 0.0
  config.search.space.name = "mnas"
  config.search.algorithm.name = "ppo"
  config.search.reward.targets = (312e6,)
  config.search.proxy.execution = "loop"
  config.search.trials = 8000
