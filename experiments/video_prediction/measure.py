"""Measures at embedded scale what capacity, recurrence and latents are worth in video prediction.

`python experiments/video_prediction/measure.py`

Trains SVG' in two sizes, and the networks without latents and without recurrence too, on
`moving_digits`, whose bounces are random, three seeds each, as a sweep (`get_config`), and writes
`results.json` here. Resumable: finished runs are not run again.
"""

import json
import pathlib
import sys

import ml_collections

from effnets import card, configuration, recipes

RUNS = pathlib.Path("runs/cards/video_prediction")
SEEDS = (0, 1, 2)
STEPS = 400
SMALL = {"k": 0.125, "m": 0.0625}
LARGE = {"k": 0.25, "m": 0.125}
# Run -> its name on the card, and what of the model differs.
ARMS = {
  "large": ("SVG', K=1/4, M=1/8", LARGE),
  "small": ("SVG', K=1/8, M=1/16", SMALL),
  "lstm": ("LSTM, K=1/4, M=1/8", {**LARGE, "kind": "recurrent"}),
  "cnn": ("CNN, K=1/4, M=1/8", {**LARGE, "kind": "feedforward"}),
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the sweep's config; `steps=`, `films=` of tests and `seeds=` shrink it for a try."""
  args = configuration.arguments(arg, steps=STEPS, films=128, seeds=len(SEEDS))
  config = configuration.base()
  recipes.moving_digits(config, "svg_prime_tiny", steps=args.steps)
  config.data.options.held_out = args.films
  config.evaluation.every_percent = 100.0
  config.checkpoint.update({"every_percent": 25.0, "keep": 1})
  config.tensorboard = False
  runs = {name: {"model": changes} for name, (_, changes) in ARMS.items()}
  config.pipeline = recipes.sweep(runs=runs, seeds=SEEDS[: args.seeds], metric="ssim_best")
  return config.lock()


def main(argument: str = "") -> None:
  """Runs what is missing and writes `results.json`. argument: of `get_config`, for a try."""
  names = {run: name for run, (name, _) in ARMS.items()}
  large, small, lstm, cnn = names.values()
  config = f"{__file__}:{argument}" if argument else __file__
  found = card.run(config, RUNS / (argument.replace("=", "_").replace(",", "_") or "whole"))
  distances = {
    # Higher is better on a card.
    name: [-value / 100 for value in found["runs"][run]["test_frechet_digits"]]
    for run, name in names.items()
  }
  likeness = card.from_sweep(found, names, figure="test_ssim_best")
  pick = lambda arms, *chosen: {name: arms[name] for name in chosen}  # noqa: E731
  setting = (
    "`moving_digits`: one digit on 32x32 pixels that turns at random wherever it meets a wall; "
    f"3 frames are given, 5 told in training, 10 in tests; {STEPS} steps of batch 8, L1 and 1e-4 "
    "of the divergence; 10 futures of each of 128 test films; each seed draws the initial weights "
    "and the order anew."
  )
  results = {
    "title": "Video prediction with large stochastic RNNs, SVG' (Villegas et al. 2019, 1911.01655)",
    "claim": "A larger network's best future is more like the truth.",
    "command": (
      "python experiments/video_prediction/measure.py\npython -m effnets.card video_prediction"
    ),
    "setting": setting,
    "figure": "SSIM of the best of 10 futures",
    **{**likeness, "arms": pick(likeness["arms"], large, small)},
    "comparisons": [[large, small]],
    "more": [
      {
        "title": "Distance of the set of futures",
        "claim": "A larger network's futures, as a set, are nearer to true ones.",
        "setting": (
          "The same runs. The figure is minus the Fréchet distance over features of the small "
          "network that comes with the package, over 100: higher is better. It is no FVD and "
          "compares with no published figure."
        ),
        "figure": "minus the Fréchet distance (digits), / 100",
        "arms": pick(distances, large, small),
        "comparisons": [[large, small]],
      },
      {
        "title": "What latents and recurrence are worth",
        "claim": (
          "Where the future is not certain, a stochastic recurrent network's futures are nearer to "
          "true ones than those of a recurrent network, and of one without recurrence."
        ),
        "setting": "The same runs and figure, at one size.",
        "figure": "minus the Fréchet distance (digits), / 100",
        "arms": pick(distances, large, lstm, cnn),
        "comparisons": [[large, lstm], [large, cnn]],
        "decisive": 2,
      },
      {
        "title": "Best of ten",
        "claim": "Its best future of ten is more like the truth than the one future of the others.",
        "setting": "The same runs. A network without latents has one future.",
        "figure": "SSIM of the best of 10 futures",
        "arms": pick(likeness["arms"], large, lstm, cnn),
        "comparisons": [[large, lstm], [large, cnn]],
        "decisive": 2,
      },
    ],
    "machine": card.machine(),
    "paper": {
      "command": "python -m effnets.main --config=configs/video_prediction.py:human36m "
      "--config.data.source=human36m:PATH --workdir=DIR",
      "table": [
        ["", "SVG' against LSTM and CNN, each at several sizes"],
        ["towel pick, Human3.6M, KITTI", "larger is better; SVG' is best (FVD, PSNR, SSIM, VGG)"],
      ],
    },
    "differences": [
      "A digit of 16 pixels, networks of some hundred thousand parameters, and minutes of training "
      "instead of days on many chips.",
      "Kernels start from 1 / fan_in: the official N(0, 0.02) is made for hundreds of channels.",
      "The paper's figures of single sizes are not repeated here: they could not be read again.",
    ],
  }
  path = pathlib.Path(__file__).parent / "results.json"
  if argument:
    path = RUNS / "try.json"
  path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
  main(*sys.argv[1:2])
