"""Measures at embedded scale what RandAugment gains, and which strength suits what.

`python experiments/randaugment/measure.py`

Trains two sweeps (`get_config`) at five seeds each and writes `results.json` here. Resumable:
finished runs are not run again.
"""

import pathlib

import ml_collections

from effnets import configuration, recipes

RUNS = pathlib.Path("runs/cards/randaugment")
LAYERS, MAGNITUDE = 2, 6.0
# Run -> its name on the card, and its augmentation.
ARMS = {
  "randaugment": ("RandAugment, N 2, M 6, and moves", {}),
  "moves": ("moves alone", {"randaugment": {"layers": 0}}),
  "nothing": ("nothing", {"randaugment": {"layers": 0}, "shift": 0}),
}
MAGNITUDES = (2, 6, 10, 14)
WIDTHS = {"thin": 0.25, "wide": 0.75}
LABELS = {"few": 50, "many": 400}
STEPS = 200


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config of a sweep; `arg`: `arms`, or `map` of strengths."""
  (word,) = configuration.arguments(arg, words=["arms", "map"]).words or ("arms",)
  config = configuration.base()
  recipes.small_wide_resnet(config, steps=STEPS)
  config.augment.randaugment.update({"layers": LAYERS, "magnitude": MAGNITUDE})
  seeds = tuple(range(5))
  if word == "arms":
    runs = {name: {"augment": changes} for name, (_, changes) in ARMS.items()}
    config.pipeline = recipes.sweep(runs=runs, seeds=seeds)
    return config.lock()
  rows = {
    f"{size}_{network}": {"model": {"width": width}, "data": {"options": {"labels": labels}}}
    for size, labels in LABELS.items()
    for network, width in WIDTHS.items()
  }
  strengths = {f"M{m}": {"augment": {"randaugment": {"magnitude": m}}} for m in MAGNITUDES}
  config.pipeline = recipes.sweep(axes={"case": rows, "magnitude": strengths}, seeds=seeds)
  return config.lock()
