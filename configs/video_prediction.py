"""Video prediction by large stochastic recurrent networks, SVG' (Villegas et al. 2019, 1911.01655).

`configs/video_prediction.py`: a tiny SVG' on the embedded `moving_digits`, whose bounces nobody can
foresee; minutes of CPU time. 300 steps of it (seed 0) took four minutes of one core: of ten samples
the best had an SSIM of 0.47 and 15.2 dB, the last given frame held still 0.31 and 12.8 dB; digits
are blurs that go on, and turn in several ways. It does 600.
`moving_digits_actions`: digits are steered, and their actions known.
`lstm`, `cnn`: the network without latents, and without recurrence too; `svg_lp`: with plain LSTMs
over vectors. `k=`, `m=`: factors of the channels of encoder and decoder, and of the recurrent nets.
Clips, samples and truth are `plots/prediction.gif` and `plots/prediction.png` afterwards.
`configs/video_prediction.py:towel_pick`, `human36m`, `kitti`: the paper's settings as far as they
are known, 64 pixels, K=5 and M=3 (`k=1,m=1` is the smallest); the data are
`--config.data.source=robot:PATH`, `human36m:PATH` and `kitti:PATH`. FVD needs
`--config.task.i3d=FILE`, VGG's cosine `--config.task.vgg16=FILE`, see docs/video.md.
`configs/video_prediction.py:bair`: SVG-LP as its own paper has it, `robot:PATH` again.
`batch_size=`, `seed=`, `steps=` set the three that change most.
"""

import ml_collections

from effnets import configuration, errors, recipes

_DATA = ("moving_digits", "moving_digits_actions", "towel_pick", "human36m", "kitti", "bair")
_KINDS = ("lstm", "cnn", "svg_lp")
# Frames that are given, told in training, told in tests.
_FRAMES = {"towel_pick": (2, 10, 18), "human36m": (5, 10, 20), "kitti": (5, 10, 25)}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  args = configuration.arguments(
    arg, words=[*_DATA, *_KINDS], seed=0, batch_size=0, steps=0, k=0.0, m=0.0
  )
  config = configuration.base()
  config.seed = args.seed
  chosen = [word for word in args.words if word in _DATA] or ["moving_digits"]
  kinds = [word for word in args.words if word in _KINDS]
  for words, what in ((chosen, "data sets"), (kinds, "kinds of networks")):
    if len(words) > 1:
      raise errors.UserError(f"the config's argument names several {what}: {', '.join(words)}.")
  data, kind = chosen[0], (kinds or [""])[0]
  name = {"": "svg_prime", "svg_lp": "svg_lp"}.get(kind, f"svg_prime_{kind}")
  if data.startswith("moving_digits"):
    actions = data.endswith("actions")
    recipes.moving_digits(config, f"{name}_tiny", steps=args.steps or 600, actions=actions)
  elif data == "bair":
    if kind not in ("", "svg_lp"):
      raise errors.UserError(f"the config's argument {kind!r} does not go with 'bair'.")
    _bair(config)
  else:
    recipes.svg_prime(config, name, **dict(zip(_TIMES, _FRAMES[data], strict=True)))
    if kind != "svg_lp":
      config.model.update({"k": 5.0, "m": 3.0})
    _films(config, data)
  for key in ("k", "m"):
    if args[key]:
      config.model[key] = args[key]
  if args.batch_size:
    config.batch_size = args.batch_size
  if args.steps:
    config.train.steps = args.steps
  return config.lock()


_TIMES = ("context", "horizon", "test_horizon")


def _films(config, data):
  if data == "towel_pick":
    config.data.source = "robot:towel_pick_30k"
    config.model.actions = 4
    return
  config.data.source = f"{data}:{data}"
  # Long films are tested in parts, one after the other.
  window = sum(_FRAMES[data][::2])
  if data == "human36m":
    config.data.clips.stride = 4
    window = 4 * (window - 1) + 1
  else:
    config.augment.flip = 0.5
  config.data.options.window = window


def _bair(config):
  recipes.svg_prime(config, "svg_lp", context=2, horizon=10, test_horizon=28)
  config.data.source = "robot:softmotion30_44k"
  config.task.loss = "l2"
  # The same moments and skips as the official code.
  config.model.update({"latent": 64, "skips": "official", "bn_mode": "batch", "dtype": "float32"})
  config.model.remat = "none"
  config.batch_size = 100
  config.train.steps = 180_000
  config.optimizer.learning_rate = 2e-3
