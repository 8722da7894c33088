"""EfficientDet (Tan et al. 2020, arXiv 1911.09070).

`configs/efficientdet.py`: a tiny member on embedded scenes of one to four handwritten digits; six
minutes on two CPU cores, an AP of 0.58 on the test scenes.
`configs/efficientdet.py:d0` (… `d7`, `d7x`, `lite0` … `lite4`): the paper's recipe on COCO from
scratch. `--config.data.source=coco:PATH` reads COCO's own folders instead of TensorFlow Datasets.
`batch_size=`, `seed=` set the two that change most.
"""

import ml_collections

from effnets import configuration, models, recipes

MEMBERS = [name.removeprefix("efficientdet_") for name in models.list_models("efficientdet_[dl]*")]


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  args = configuration.arguments(
    arg, words=["coco", "digit_scenes", *MEMBERS], batch_size=0, seed=0
  )
  config = configuration.base()
  config.seed = args.seed
  member = next((word for word in args.words if word in MEMBERS), "")
  if member or "coco" in args.words:
    recipes.efficientdet_coco(config, f"efficientdet_{member or 'd0'}")
  else:
    recipes.digit_scenes(config, "efficientdet_tiny", steps=1000)
  if args.batch_size:
    config.batch_size = args.batch_size
  return config.lock()
