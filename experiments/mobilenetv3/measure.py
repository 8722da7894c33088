"""Measures at embedded scale what the parts of MobileNetV3 do, and its segmentation head.

`python experiments/mobilenetv3/measure.py`

Trains the ablations at five seeds as a sweep, and LR-ASPP and R-ASPP on one body at three
(`get_config`), measures their latency on this CPU, and writes `results.json` here. Resumable:
finished runs are not run again.
"""

import json
import pathlib
from typing import Any

import ml_collections

from effnets import card, configuration, models, recipes

RUNS = pathlib.Path("runs/cards/mobilenetv3")
NAMES = {
  "full": "squeeze-excitation and h-swish",
  "no_squeeze": "without squeeze-excitation",
  "no_hard_swish": "without h-swish: ReLU",
  "neither": "without both",
}
CHANGES = {
  "full": {},
  "no_squeeze": {"squeeze": False},
  "no_hard_swish": {"activation": "relu"},
  "neither": {"squeeze": False, "activation": "relu"},
}
IMAGE_SIZE = 48
WIDTH = 0.5
ROUNDS = 40


# Run of the second sweep -> its name on the card.
HEADS = {"lraspp": "LR-ASPP", "raspp": "R-ASPP"}
HEAD_SEEDS, HEAD_STEPS = (0, 1, 2), 600
BODY = RUNS / "body"


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the ablations' config, with `body` that of a body, with a head that of its sweep."""
  args = configuration.arguments(arg, words=["body", *HEADS])
  config = configuration.base()
  if args.words == ("body",):
    recipes.digits(config, "mobilenetv3_tiny")
  elif args.words:
    (head,) = args.words
    recipes.few_scenes(config, f"{head}_tiny", steps=HEAD_STEPS, body=str(BODY), pixels=True)
    config.pipeline = recipes.sweep(runs={head: {}}, seeds=HEAD_SEEDS, metric="miou")
  else:
    _ablations(config)
  return config.lock()


def _ablations(config: ml_collections.ConfigDict) -> None:
  recipes.small_clutter(config, steps=250)
  config.data.image_size = IMAGE_SIZE
  config.data.options = ml_collections.ConfigDict({"canvas": IMAGE_SIZE, "clutter": 4})
  config.model.update({"name": "mobilenetv3_tiny", "width": WIDTH})
  runs = {name: {"model": changes} for name, changes in CHANGES.items()}
  config.pipeline = recipes.sweep(runs=runs, seeds=tuple(range(5)))


def latencies(name: str, **settings) -> dict[str, str]:
  """Returns the latency of every ablation of a model."""
  arms = {NAMES[arm]: models.create(name, **settings, **c) for arm, c in CHANGES.items()}
  return card.latencies(arms, rounds=ROUNDS)


def segmentation() -> dict[str, Any]:
  """Returns the part of the card on LR-ASPP, running what is missing."""
  card.run(f"{__file__}:body", BODY)
  runs = {head: card.run(f"{__file__}:{head}", RUNS / head)["runs"][head] for head in HEADS}
  merged = {"seeds": list(HEAD_SEEDS), "runs": runs}
  taken = card.from_sweep(merged, HEADS, figure="test_miou")
  taken["columns"]["latency of it"] = card.latencies(
    {n: models.create(f"{h}_tiny", image_size=64, num_classes=11) for h, n in HEADS.items()}
  )
  taken["columns"]["latency on Large, 512 x 512"] = card.latencies(
    {n: models.create(f"{h}_mobilenetv3_large", image_size=512) for h, n in HEADS.items()},
    rounds=20,
  )
  lite, full = HEADS.values()
  del taken["seconds"]
  return {
    "title": "LR-ASPP",
    "claim": "LR-ASPP is as good as R-ASPP or better, and faster.",
    "setting": (
      "Both heads on `mobilenetv3_tiny` at output stride 8, classes of the pixels of scenes of one "
      f"or two handwritten digits (`digit_scenes`, 64 pixels, 2,048 scenes), {HEAD_STEPS} steps of "
      "batch 16; 512 test scenes; the body starts from 400 steps on single digits."
    ),
    "figure": "test mIoU",
    **taken,
    "comparisons": [[lite, full]],
    "decisive": 1,
  }


def main() -> None:
  """Runs what is missing and writes `results.json`."""
  taken = card.from_sweep(card.run(__file__, RUNS), NAMES)
  taken["columns"]["latency of it"] = latencies(
    "mobilenetv3_tiny", image_size=IMAGE_SIZE, width=WIDTH, num_classes=10
  )
  taken["columns"]["latency of Large, 224 pixels"] = latencies("mobilenetv3_large")
  both, no_squeeze, no_hard_swish, neither = NAMES.values()
  results = {
    "title": "MobileNetV3 (Howard et al. 2019, arXiv 1905.02244)",
    "claim": (
      "Squeeze-excitation and h-swish each raise the accuracy of the same network; neither adds "
      "multiply-adds to speak of, h-swish costs little time, squeeze-excitation some."
    ),
    "command": ("python experiments/mobilenetv3/measure.py\npython -m effnets.card mobilenetv3"),
    "setting": (
      f"`mobilenetv3_tiny` at width {WIDTH}, made of the paper's blocks, on cluttered digits of "
      f"{IMAGE_SIZE} pixels (one whole digit among 4 fragments, 4,788 training pictures), 250 "
      "steps of batch 32; each seed draws the initial weights and the order anew. Latency: one "
      f"image, float32, median of {ROUNDS} interleaved rounds on this CPU, and the ratio to the "
      "first arm, of the trained network and of the published Large. The machine also did other "
      "work, so the ratios tell more than the milliseconds."
    ),
    "figure": "test top-1",
    **taken,
    "comparisons": [
      [both, no_squeeze],
      [both, no_hard_swish],
      [both, neither],
      [no_hard_swish, neither],
      [no_squeeze, neither],
    ],
    "decisive": 2,
    "more": [segmentation()],
    "machine": card.machine(),
    "tried": [
      "The published Small at width 0.35: its kernels start at 0.008 and its batch norms average "
      "over many steps, so 300 steps leave it at chance. The tiny member starts at the usual size.",
      "8 fragments instead of 4, batch 64, with dropout, stochastic depth and label smoothing: the "
      "full network comes to 27 % in 250 steps (one seed), too little to lose much.",
    ],
    "paper": {
      "command": 'python -m effnets.zoo "mobilenetv3_large*"',
      "table": [
        ["Large, ImageNet", "top-1", "latency on Pixel 1"],
        ["MnasNet-A1, where it starts from", "75.2", "about 72 ms"],
        ["+ squeeze-excitation of a quarter", "75.5", "about 72 ms"],
        ["+ h-swish", "76.1", "about 72 ms (79 not optimised)"],
        ["Large as published", "75.2", "51.4 ms (57.5 not optimised)"],
        ["Large, ReLU everywhere", "74.5", "50.5 ms"],
        ["Large, h-swish from 16 channels on", "75.4", "53.5 ms (68.9 not optimised)"],
        ["Large minimalistic (3x3, ReLU, no squeeze-excitation)", "72.3", ""],
      ],
    },
    "differences": [
      "A network of six blocks and 41 thousand weights on digits instead of Large on ImageNet; no "
      "search and no NetAdapt.",
      "`without squeeze-excitation` leaves the layers out and changes nothing else; the paper adds "
      "them to another network.",
      "Latency is that of a compiled JAX program on a server CPU, not of a phone.",
    ],
  }
  path = pathlib.Path(__file__).parent / "results.json"
  path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
  main()
