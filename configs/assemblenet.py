"""AssembleNet (Ryoo et al. 2020, arXiv 1905.13209).

`configs/assemblenet.py`: a tiny over-connected graph of RGB and flow streams with learned edges, on
the embedded `digit_actions`; minutes of CPU time. Chance is 12.5 %; 250 steps of it got all of the
512 test films right (seed 0). `digit_actions_several`: two
digits move in every film, which thus is of two classes: mean average precision. `model=NAME`:
`video_resnet_tiny` or `two_stream_tiny`, or any other of `python -m effnets.zoo "*tiny"` for clips.
`configs/assemblenet.py:moments_in_time` (`moments_in_time,101`): one of 339 classes; the folder is
`--config.data.source=videos:PATH`. Published: 33.9 % top-1 for AssembleNet-50, 34.3 % for -101.
`configs/assemblenet.py:charades` (`charades,101`): several of 157 classes;
`--config.data.source=charades:PATH --config.weights=run:DIR`, the workdir of a run on
`moments_in_time`. Published: 58.6 % mean average precision for AssembleNet-101.
Flow that is computed beforehand: `python -m effnets.prepare flow:videos:PATH DIR`, then
`--config.data.options.flow=DIR --config.data.clips.flow=stored`.
`batch_size=`, `seed=` set the two that change most.
"""

import ml_collections

from effnets import configuration, errors, recipes

_DATA = ("digit_actions", "digit_actions_several", "moments_in_time", "charades")


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  args = configuration.arguments(
    arg, words=[*_DATA, "50", "101"], seed=0, batch_size=0, model="", steps=0
  )
  config = configuration.base()
  config.seed = args.seed
  chosen = [word for word in args.words if word in _DATA] or ["digit_actions"]
  if len(chosen) > 1:
    raise errors.UserError(f"the config's argument names several data sets: {', '.join(chosen)}.")
  depth = next((word for word in args.words if word in ("50", "101")), "")
  if chosen[0].startswith("digit_actions"):
    if depth:
      raise errors.UserError(f"the config's argument {depth!r} does not go with {chosen[0]!r}.")
    several = chosen[0].endswith("several")
    recipes.digit_actions(
      config,
      args.model or "assemblenet_tiny",
      steps=args.steps or 300,
      labels="several" if several else "one",
    )
  elif chosen[0] == "moments_in_time":
    recipes.assemblenet(config, args.model or f"assemblenet_{depth or 50}")
    config.data.source = "videos:moments_in_time"
    config.data.split.test = "validation"
  else:
    _charades(config, args.model or f"assemblenet_{depth or 50}")
  if args.batch_size:
    config.batch_size = args.batch_size
  return config.lock()


def _charades(config, name):
  recipes.assemblenet(config, name, labels="several")
  config.data.source = "charades:charades"
  config.data.split.update({"validation": "validation", "test": "validation"})
  # Longer clips at about 8 frames a second, of what happens in them; dropout as the sheet advises.
  config.data.image_size = 256
  config.data.clips.update({"frames": 64, "stride": 3, "labels": "clip", "views": 8})
  config.task.views = "max"
  config.model.update({"dropout_rate": 0.5, "pool": "softmax"})
  config.new_head = True
  config.batch_size = 128
  config.optimizer.update({"learning_rate": 0.1, "learning_rate_per_examples": 256})
