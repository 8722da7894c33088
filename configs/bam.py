"""Born-again multi-task networks, BAM (Clark et al. 2019, arXiv 1907.04829).

`configs/bam.py`: eight small sentence tasks of an invented language, a network for each, one for
all, and students of these with teacher annealing; some five minutes on two CPU cores. Tasks with
few examples gain from being trained with others.
`configs/bam.py:glue,folder=PATH`: the paper's matrix on the folder of GLUE's download; with
--config.weights=bert:PATH, from the folder of a BERT checkpoint of Google or Hugging Face, which
brings network and vocabulary. BERT-large: 84.0 single, 85.5 multi, 86.0 single to multi on the dev
sets in the paper; days of an accelerator.
`configs/bam.py:seeds=3` runs every network at so many seeds.
"""

import ml_collections

from effnets import configuration, errors, recipes


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  words = ["toy_glue", "glue"]
  args = configuration.arguments(arg, words=words, folder="glue", seeds=0, seed=0)
  config = configuration.base()
  if args.seeds < 0:
    raise errors.UserError(f"the config's argument seeds={args.seeds} should be at least 1.")
  if "glue" in args.words:
    _glue(config, args.folder)
    count = args.seeds or 3
  else:
    recipes.texts.toy_glue(config, steps=450)
    config.pipeline = recipes.bam(
      single={"train": {"steps": 150}},
      runs="single,multi,single_single,single_multi,multi_multi",
    )
    count = args.seeds or 1
  config.seed = args.seed
  config.pipeline.seeds = tuple(range(args.seed, args.seed + count))
  return config.lock()


def _glue(config, folder):
  """The official code's settings for tasks alone, and for all of them."""
  recipes.texts.fine_tuning(config, model="bert_large", learning_rate=1e-4, batch_size=128)
  config.data.source = f"glue:{folder}"
  config.data.options.update({"length": 128, "sampling": "copies", "sizes": "paper"})
  config.model.dtype = "bfloat16"
  config.train.epochs = 6.0
  config.eval_batch_size = 512
  config.log_every_steps = 100
  single = {"batch_size": 32, "train": {"epochs": 3.0}, "optimizer": {"learning_rate": 5e-5}}
  config.pipeline = recipes.bam(single=single)
