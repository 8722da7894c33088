"""SpineNet (Du et al. 2020, arXiv 1912.05027).

`configs/spinenet.py`: a tiny scale-permuted network with RetinaNet's heads on embedded scenes of
one to four handwritten digits.
`configs/spinenet.py:49` (`49s`, `96`, `143`, `143l`, `190`, `r0_sp53`, `mobile_49`, `mobile_49s`,
`mobile_49xs`): RetinaNet on COCO from scratch, `protocol=a`, `b` or `c`, the longest.
`--config.data.source=coco:PATH` reads COCO's own folders instead of TensorFlow Datasets.
`batch_size=`, `seed=` set the two that change most.
"""

import ml_collections

from effnets import configuration, errors, models, recipes

_PREFIX = "retinanet_spinenet_"
MEMBERS = [
  name.removeprefix(_PREFIX) for name in models.list_models(f"{_PREFIX}*") if "tiny" not in name
]
PROTOCOLS = ("a", "b", "c")


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  words = ["coco", "digit_scenes", *MEMBERS]
  args = configuration.arguments(arg, words=words, protocol="c", batch_size=0, seed=0)
  if args.protocol not in PROTOCOLS:
    raise errors.unknown("the config's argument protocol", args.protocol, "one", PROTOCOLS)
  config = configuration.base()
  config.seed = args.seed
  member = next((word for word in args.words if word in MEMBERS), "")
  if member or "coco" in args.words:
    recipes.spinenet_coco(config, f"{_PREFIX}{member or '49'}", args.protocol)
  else:
    recipes.digit_scenes(config, f"{_PREFIX}tiny", steps=1000)
  if args.batch_size:
    config.batch_size = args.batch_size
  return config.lock()
