"""MnasFPN (Chen et al. 2020, arXiv 1912.01106).

`configs/mnasfpn.py`: the found cells, thin, over a tiny body on embedded scenes of one to four
handwritten digits; 1,000 steps, an AP of 0.56 on the test scenes (seed 0).
`configs/mnasfpn.py:mobilenetv2` (`mobilenetv2_070`, `mobilenetv3_large`, …): the released recipe on
COCO. `--config.data.source=coco:PATH` reads COCO's own folders instead of TensorFlow Datasets.
`batch_size=`, `seed=` set the two that change most.
"""

import ml_collections

from effnets import configuration, models, recipes

MEMBERS = [
  name.removeprefix("mnasfpn_") for name in models.list_models("mnasfpn_*") if "tiny" not in name
]


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  words = ["coco", "digit_scenes", *MEMBERS]
  args = configuration.arguments(arg, words=words, batch_size=0, seed=0)
  config = configuration.base()
  config.seed = args.seed
  member = next((word for word in args.words if word in MEMBERS), "")
  if member or "coco" in args.words:
    recipes.mnasfpn_coco(config, f"mnasfpn_{member or 'mobilenetv2'}")
  else:
    recipes.digit_scenes(config, "mnasfpn_tiny", steps=1000)
    recipes.ssd_losses(config)
  if args.batch_size:
    config.batch_size = args.batch_size
  return config.lock()
