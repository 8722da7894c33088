"""Measures at embedded scale MnasNet-A1 against MnasNet-B1 and MobileNetV2 at equal multiply-adds.

`python experiments/mnasnet/measure.py`

Trains the three at five seeds as a sweep (`get_config`) and writes `results.json` here. Resumable:
finished runs are not run again.
"""

import json
import pathlib

import ml_collections

from effnets import card, configuration, recipes

RUNS = pathlib.Path("runs/cards/mnasnet")
# Run -> its name on the card, and its model.
ARMS = {
  "a1": ("MnasNet-A1", "mnasnet_a1_035"),
  "b1": ("MnasNet-B1", "mnasnet_b1_035"),
  "v2": ("MobileNetV2", "mobilenetv2_035"),
}
IMAGE_SIZE = 40
DEPTH = 0.3


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the sweep's config; it takes no argument."""
  configuration.arguments(arg)
  config = configuration.base()
  recipes.small_clutter(config, steps=200)
  config.data.image_size = IMAGE_SIZE
  config.data.options.update({"canvas": IMAGE_SIZE, "clutter": 0})
  # RMSProp at its usual rate hardly learns in so few steps here.
  config.optimizer = ml_collections.ConfigDict({"name": "adam", "learning_rate": 0.003})
  config.model.depth = DEPTH
  runs = {name: {"model": {"name": model}} for name, (_, model) in ARMS.items()}
  config.pipeline = recipes.sweep(runs=runs, seeds=tuple(range(5)))
  return config.lock()


def main() -> None:
  """Runs what is missing and writes `results.json`."""
  names = {run: name for run, (name, _) in ARMS.items()}
  a1, b1, v2 = names.values()
  results = {
    "title": "MnasNet (Tan et al. 2019, arXiv 1807.11626)",
    "claim": (
      "At equal multiply-adds, the searched networks beat MobileNetV2, and the one with "
      "squeeze-excitation in its search space (A1) beats the one without (B1)."
    ),
    "command": "python experiments/mnasnet/measure.py\npython -m effnets.card mnasnet",
    "setting": (
      f"The three published networks at multiplier 0.35 and depth {DEPTH} (8 blocks each), on "
      f"digits of 15 to 25 pixels anywhere on a canvas of {IMAGE_SIZE} (`cluttered_digits` without "
      "fragments, 4,788 training pictures), 200 steps of batch 32 with Adam; each seed draws the "
      "initial weights and the order anew."
    ),
    "figure": "test top-1",
    **card.from_sweep(card.run_sweep(__file__, RUNS), names),
    "comparisons": [[a1, v2], [b1, v2], [a1, b1]],
    "decisive": 3,
    "machine": card.machine(),
    "tried": [
      "Four fragments beside the digit: A1 stays near chance for 250 steps, with RMSProp at 0.016 "
      "(10 %) and with Adam (12 %; one seed each).",
    ],
    "paper": {
      "command": 'python -m effnets.zoo "mnasnet*"',
      "table": [
        ["ImageNet", "multiply-adds", "top-1", "latency on Pixel 1"],
        ["MnasNet-A1", "312M", "75.2", "78 ms"],
        ["MnasNet-B1", "", "74.5", "77 ms"],
        ["MobileNetV2", "300M", "72.0", "75 ms"],
        ["MnasNet-A1, 0.35", "63M", "64.1", "22.8 ms"],
        ["MobileNetV2, 0.35", "59M", "60.3", "21.4 ms"],
      ],
    },
    "differences": [
      "What is compared are the published networks; the search itself, with its latency on a "
      "phone, is not run here.",
      "Depth 0.3 leaves one block a stage, two in the longest one: the searched numbers of layers "
      "are lost, kernels, expansions, widths and squeeze-excitation stay.",
      "200 steps on digits instead of 350 epochs of ImageNet; batch norm averages over 10 steps "
      "instead of 100, and nothing regularises.",
    ],
  }
  path = pathlib.Path(__file__).parent / "results.json"
  path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
  main()
