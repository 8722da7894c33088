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
  "a1": ("MnasNet-A1", "mnasnet_a1"),
  "b1": ("MnasNet-B1", "mnasnet_b1"),
  "v2": ("MobileNetV2", "mobilenetv2"),
}
DEPTH = 0.3
WIDTH = 0.2


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the sweep's config; it takes no argument."""
  configuration.arguments(arg)
  config = configuration.base()
  recipes.few_labels(config, steps=300, model=ARMS["a1"][1])
  config.model.update({"depth": DEPTH, "width": WIDTH, "head": 128})
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
      f"The three published networks at width {WIDTH}, depth {DEPTH} (8 blocks each) and a head of "
      "128, with two halvings less for pictures of 32 pixels: 2.2 to 2.4 million multiply-adds; "
      "100 labelled handwritten digits, 400 test digits, 300 steps of batch 32; each seed draws "
      "the initial weights and the order anew."
    ),
    "figure": "test top-1",
    **card.from_sweep(card.run(__file__, RUNS), names),
    "comparisons": [[a1, v2], [b1, v2], [a1, b1]],
    "decisive": 3,
    "machine": card.machine(),
    "tried": [
      "Digits of 40 to 48 pixels, with and without fragments of others beside them "
      "(`cluttered_digits`), 200 and 250 steps, RMSProp and Adam: A1 and B1 stay near chance, at "
      "10 to 18 % (one seed each).",
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
      "300 steps on digits instead of 350 epochs of ImageNet; batch norm averages over 10 steps "
      "instead of 100.",
    ],
  }
  path = pathlib.Path(__file__).parent / "results.json"
  path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
  main()
