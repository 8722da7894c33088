"""Measures at embedded scale what RandAugment gains, and which strength suits what.

`python experiments/randaugment/measure.py`

Trains three sweeps (`get_config`) at five seeds each and writes `results.json` here. Resumable:
finished runs are not run again.
"""

import json
import pathlib

import ml_collections

from effnets import card, configuration, recipes

RUNS = pathlib.Path("runs/cards/randaugment")
LAYERS, MAGNITUDE, STEPS = 2, 6.0, 200
# Run -> its name on the card, and its augmentation.
ARMS = {
  "randaugment": (f"RandAugment (N {LAYERS}, M {MAGNITUDE:.0f}) and moves", {}),
  "moves": ("moves alone", {"randaugment": {"layers": 0}}),
  "nothing": ("nothing", {"randaugment": {"layers": 0}, "shift": 0}),
}
MAGNITUDES = (2, 4, 6, 8, 10)
# Row of the map -> its name on the card, width of the network and number of labelled digits.
CASES = {
  "base": ("width 0.25, 50 digits", 0.25, 50),
  "wider": ("width 0.75, 50 digits", 0.75, 50),
  "more": ("width 0.25, 100 digits", 0.25, 100),
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config of a sweep; `arg`: `arms`, `map` of strengths, or `learned` operations."""
  words = configuration.arguments(arg, words=["arms", "map", "learned"]).words
  config = configuration.base()
  recipes.small_wide_resnet(config, steps=STEPS)
  config.augment.randaugment.update({"layers": LAYERS, "magnitude": MAGNITUDE})
  seeds = tuple(range(5))
  if "learned" in words:
    recipes.learned_operations(config, held_out="validation", rate=10.0)
    config.pipeline = recipes.sweep(runs={"learned": {}}, seeds=seeds)
    return config.lock()
  if "map" not in words:
    runs = {name: {"augment": changes} for name, (_, changes) in ARMS.items()}
    config.pipeline = recipes.sweep(runs=runs, seeds=seeds)
    return config.lock()
  cases = {
    name: {
      "model": {"width": width},
      "data": {"options": {"labels": labels}},
      "train": {"steps": STEPS * labels // 50},
    }
    for name, (_, width, labels) in CASES.items()
  }
  strengths = {f"M{m}": {"augment": {"randaugment": {"magnitude": m}}} for m in MAGNITUDES}
  config.pipeline = recipes.sweep(axes={"case": cases, "magnitude": strengths}, seeds=seeds)
  return config.lock()


def _map(result):
  """Returns what a card takes from the sweep over cases and magnitudes."""
  cells = {
    words: {f"M {m}": result["runs"][f"{name}_M{m}"]["test_top1"] for m in MAGNITUDES}
    for name, (words, _, _) in CASES.items()
  }
  return {
    "seeds": result["seeds"],
    "map": {"axes": ["network and set", "M"], "values": list(MAGNITUDES), "cells": cells},
  }


def main() -> None:
  """Runs what is missing and writes `results.json`."""
  names = {run: name for run, (name, _) in ARMS.items()}
  randaugment, moves, nothing = names.values()
  base, wider, more = (words for words, _, _ in CASES.values())
  arms = card.run(f"{__file__}:arms", RUNS / "arms")
  strengths = card.run(f"{__file__}:map", RUNS / "map")
  learning = card.run(f"{__file__}:learned", RUNS / "learned")
  compared = card.from_sweep(arms, names)
  learned = "learned probabilities"
  others = [run["seconds"] for part in (strengths, learning) for run in part["runs"].values()]
  seconds = [sum(each) for each in zip(compared["seconds"], *others, strict=True)]
  results = {
    "title": "RandAugment (Cubuk et al. 2019, arXiv 1909.13719)",
    "claim": "Random operations of one strength beat the usual augmentation, without a search.",
    "command": (
      "python experiments/randaugment/measure.py\npython -m effnets.card randaugment\n"
      "python -m effnets.main --config=configs/randaugment.py:grid --workdir=runs/grid"
    ),
    "setting": (
      "A Wide-ResNet of three blocks (`wide_resnet_28_2` at width 0.5) on 50 labelled handwritten "
      f"digits of 12 pixels, 400 test digits, {STEPS} steps of batch 32 with the optimizer of the "
      "CIFAR recipes. Moves are by up to one pixel, what is padding and cropping in the paper. "
      "Each seed draws the initial weights and the order anew. N and M were not searched; the "
      "third command does that on validation digits."
    ),
    "figure": "test top-1",
    **compared,
    "seconds": seconds,
    "comparisons": [[randaugment, moves], [moves, nothing], [randaugment, nothing]],
    "more": [
      {
        "title": "The best strength",
        "claim": (
          "The best magnitude grows with the width of the network and with the size of the "
          "training set."
        ),
        "setting": (
          "The same, at five magnitudes: a thin network, one three times as wide, and the thin one "
          "on twice as many digits for twice as many steps, so that all train for 128 epochs. What "
          "is compared is the best magnitude of each seed."
        ),
        "figure": "test top-1",
        **_map(strengths),
        "comparisons": [[wider, base], [more, base]],
        "decisive": 2,
      },
      {
        "title": "Learned probabilities",
        "claim": (
          "Learning on held-out pictures how often each operation is drawn adds to equal "
          "probabilities, up to 0.6 points in the paper's table 6."
        ),
        "setting": (
          f"RandAugment as in the first table (N {LAYERS}, M {MAGNITUDE:.0f}); the probabilities "
          "learn, at ten times the network's rate, from the 200 validation digits, which the "
          "network does not learn from."
        ),
        "seeds": learning["seeds"],
        "figure": "test top-1",
        "arms": {
          learned: learning["runs"]["learned"]["test_top1"],
          randaugment: compared["arms"][randaugment],
        },
        "comparisons": [[learned, randaugment]],
      },
    ],
    "machine": card.machine(),
    "tried": [
      "400 digits for 200 steps, 16 epochs (one seed): the weakest magnitude is the best one, with "
      "97.0, 96.0, 92.5 and 88.8 % at M 2, 6, 10 and 14, because so short a run does not even fit "
      "its distorted training pictures.",
      "20 digits instead of 50, 200 steps (five seeds): 81.8, 80.5, 82.3 and 81.5 % at M 2, 6, 10 "
      "and 14, a flat curve without a best magnitude.",
      "M 2, 6, 10 and 14, the first grid: the best one of a seed is 6.0 for width 0.25 and "
      "6.8 ± 0.8 for width 0.75; 14 comes to 83.6 and 89.3 %. 4 and 8 took its place.",
    ],
    "paper": {
      "command": "python -m effnets.main --config=configs/randaugment.py:cifar10 --workdir=DIR",
      "table": [
        ["test accuracy (table 2)", "baseline", "AutoAugment", "RandAugment", "N", "M"],
        ["CIFAR-10, Wide-ResNet-28-2", "94.9", "95.9", "95.8", "3", "4"],
        ["CIFAR-10, Wide-ResNet-28-10", "96.1", "97.4", "97.3", "3", "5"],
        ["CIFAR-10, PyramidNet", "97.3", "98.5", "98.5", "3", "7"],
        ["CIFAR-100, Wide-ResNet-28-2", "75.4", "78.5", "78.3", "1", "2"],
        ["CIFAR-100, Wide-ResNet-28-10", "81.2", "82.9", "83.3", "2", "14"],
        ["SVHN core, Wide-ResNet-28-10", "96.9", "98.1", "98.3", "3", "9"],
        ["ImageNet, ResNet-50", "76.3", "77.6", "77.6", "2", "9"],
      ],
    },
    "differences": [
      "50 digits of 12 pixels instead of 50,000 pictures of 32, and a network of 0.07 million "
      "weights; nearest-neighbour rotations of so few pixels are coarse.",
      "The digits are grey, so that Color changes nothing, and fill their frame, so that moves cut "
      "into them.",
      "No mirroring, which would make other digits, and no Cutout.",
      "128 epochs, of two steps each, instead of 200 of 390.",
      "With learned probabilities the operations come after the moves, without before them; and "
      "they take 200 labelled digits that the other arms do not have.",
      "Other work ran on the two cores, so the times are too long, by three or more.",
    ],
  }
  path = pathlib.Path(__file__).parent / "results.json"
  path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
  main()
