"""What Noisy Student costs at any scale, on paper: storage and chip-hours from counts alone.

Nothing is opened, compiled or run. Networks are counted (`models.count`), everything that cannot be
is an assumption of the caller's and stands in the table.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from effnets import configuration, models
from effnets.pipelines import stages

# Forward, gradient of the activations, gradient of the weights.
_TRAINING_PASSES = 3
# With `remat="block"` the forward pass of the blocks is done again; `norm` repeats no convolution.
_REMAT_PASSES = 4
_BYTES = {"float32": 4, "float16": 2}


@dataclasses.dataclass(frozen=True)
class Assumptions:
  """What the estimate takes for granted.

  unlabelled, labelled: pictures of the two sets. classes: of the labels.
  entries: of the balanced set; 0: as many as are wanted, `per_class` for each class.
  distinct: pictures among them, which later rounds label anew; 0: all of them differ.
  picture_bytes: of one picture as it is stored, such as a JPEG file.
  chip: its name. peak: multiply-adds and additions a second that a chip does at best.
  training, inference: the shares of it that are reached.
  """

  unlabelled: int
  labelled: int = 1_281_167
  classes: int = 1000
  entries: int = 0
  distinct: int = 0
  picture_bytes: int = 110_000
  chip: str = "TPU v3"
  peak: float = 123e12
  training: float = 0.3
  inference: float = 0.4

  def hours(self, madds: float, *, share: float) -> float:
    """Returns chip-hours of so many multiply-adds, two operations each.

    >>> Assumptions(1, peak=1e12).hours(9e14, share=0.5)
    1.0
    """
    return 2 * madds / (self.peak * share) / 3600


@dataclasses.dataclass(frozen=True)
class Cost:
  """One step of the method. pictures: through the network. size: of them, in pixels.

  madds: of one picture, forward. hours: of chips. stored: bytes that it leaves on disk.
  """

  name: str
  network: str
  size: int
  pictures: float
  madds: float
  hours: float
  stored: float = 0.0


def costs(config: Any, assumed: Assumptions) -> list[Cost]:
  """Returns every training and labelling of a Noisy Student config, in order.

  Evaluations, restarts and reading are left out. Raises: UserError as `stages.configs`.
  """
  configs, labels = stages.configs(config), config.pipeline.labels
  wanted = assumed.entries or labels.per_class * assumed.classes
  distinct = assumed.distinct or min(wanted, assumed.unlabelled)
  soft = assumed.classes * _BYTES[labels.dtype] if labels.kind == "soft" else 0
  rows = []

  def train(name):
    if stages.given(config, name):
      return
    stage = configs[name]
    examples = _examples(stage, assumed)
    passes = _REMAT_PASSES if stage.model.remat == "block" else _TRAINING_PASSES
    madds = _madds(stage, assumed.classes)
    hours = assumed.hours(passes * madds * examples, share=assumed.training)
    rows.append(Cost(name, stage.model.name, stage.data.image_size, examples, madds, hours))

  def label(by, pictures, what, stored):
    stage = configs[by]
    madds = (1 + bool(labels.flip)) * (5 if labels.shift else 1) * _madds(stage, assumed.classes)
    hours = assumed.hours(madds * pictures, share=assumed.inference)
    size = stage.data.image_size
    rows.append(Cost(what, stage.model.name, size, pictures, madds, hours, stored))

  for name in configs:
    if name in ("teacher", "filter") or name in config.pipeline.more_teachers:
      train(name)
  teachers = ["teacher", *stages.more_teachers(config)]
  chosen = False
  for number, name in enumerate(stages.students(config)):
    by = [*teachers, *stages.students(config)[:number]] if labels.by == "all" else teachers
    if "filter" in configs and not chosen:
      # Class and confidence of every picture.
      label("filter", assumed.unlabelled, "choice by filter", 8 * assumed.unlabelled)
    chosen = chosen or "filter" in configs
    pictures = distinct if chosen else assumed.unlabelled
    for which in by:
      stored = wanted * (soft + 12) if which == by[-1] else 0
      label(which, pictures, f"labels of {name} by {which}", stored)
    chosen = chosen or labels.select == "first"
    for part in (name + stages.PRETRAINED, name):
      if part in configs:
        train(part)
    if labels.by == "last":
      teachers = [name]
  if "finetune" in configs:
    train("finetune")
  return rows


def _examples(stage: Any, assumed: Assumptions) -> float:
  """Returns how many pictures a training sees, of all sources; epochs count labelled ones."""
  labelled, unlabelled = configuration.step_batch(stage)
  if stage.train.steps:
    return stage.train.steps * (labelled + unlabelled)
  return stage.train.epochs * assumed.labelled * (1 + unlabelled / labelled)


def _madds(stage: Any, classes: int) -> int:
  settings = {k: v for k, v in stage.model.items() if k not in ("name", "remat", "frozen_blocks")}
  settings = tuple(sorted(settings.items()))
  return _counted(stage.model.name, classes, stage.data.image_size, settings)


@functools.lru_cache(maxsize=64)
def _counted(name: str, classes: int, size: int, settings: tuple[tuple[str, Any], ...]) -> int:
  module = models.create(name, num_classes=classes, **dict(settings))
  return models.count(module, size).madds


def table(config: Any, assumed: Assumptions) -> list[list[str]]:
  """Returns `costs` as rows of text, the first one the header, the last one the sum."""
  found = costs(config, assumed)
  rows = [["step", "network, pixels", "pictures", "GMAdds a picture", "chip-hours", "stored"]]
  for cost in found:
    rows.append(
      [
        cost.name,
        f"{cost.network}, {cost.size}",
        _short(cost.pictures),
        f"{cost.madds / 1e9:.3g}",
        f"{cost.hours:,.0f}",
        f"{_short(cost.stored)}B" if cost.stored else "",
      ]
    )
  pictures = assumed.unlabelled * assumed.picture_bytes
  rows.append(
    ["the unlabelled pictures", "", _short(assumed.unlabelled), "", "", f"{_short(pictures)}B"]
  )
  hours, stored = np.sum([[cost.hours, cost.stored] for cost in found], axis=0)
  rows.append(["all", "", "", "", f"{hours:,.0f}", f"{_short(stored + pictures)}B"])
  return rows


def _short(number: float) -> str:
  """Returns a number with three digits and M, G or T.

  >>> _short(81_000_000), _short(3.3e13), _short(5)
  ('81.0 M', '33.0 T', '5')
  """
  for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
    if number >= factor:
      return (
        f"{number / factor:.3g} {unit}"
        if number >= 100 * factor
        else f"{number / factor:.1f} {unit}"
      )
  return f"{number:.0f}"


def used(assumed: Assumptions, madds: float, *, chips: int, days: float) -> float:
  """Returns the share of the peak that so many multiply-adds mean in a time that was reported."""
  return assumed.hours(madds, share=1.0) / (chips * days * 24)
