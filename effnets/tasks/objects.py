"""What tasks that find objects in scenes share: the figures of what they found."""

import dataclasses
from typing import Any

import numpy as np

from effnets import evaluation
from effnets.tasks import scenes


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectTask(scenes.SceneTask):
  """A task whose `predict` gives `boxes` (b, k, 4), `scores` and `classes` (b, k), -1: padding.

  Boxes are y0 x0 y1 x1 in pixels of the file's picture.

  voc: a rule of `evaluation.voc` by which `voc_map` is found too; "" for none. The others: see
  `scenes.SceneTask`.
  """

  voc: str = ""

  @property
  def figures(self) -> tuple[str, ...]:
    """Names of the figures that `evaluate` returns: COCO's twelve, and `voc_map` if asked for."""
    from effnets.evaluation import detection as judge

    return (*judge.COCO_FIGURES, *["voc_map"] * bool(self.voc))

  def evaluate(
    self, outputs: dict[str, np.ndarray], examples: dict[str, np.ndarray], source: Any
  ) -> dict[str, float]:
    """Returns COCO's figures, by what `source` knows of its pictures."""
    return self.judged(self.results(outputs, examples, source), examples, source)[0]

  def judged(
    self, found: list[dict[str, Any]], examples: dict[str, np.ndarray], source: Any
  ) -> tuple[dict[str, float], dict[str, float]]:
    """Returns COCO's figures and each class's AP of what `results` gave."""
    from effnets.evaluation import detection as judge  # brings the official tool

    truth = source.truth(examples["index"].tolist())
    figures, per_class = judge.average_precision(truth, found)
    if self.voc:
      figures["voc_map"] = evaluation.voc.average_precision(truth, found, rule=self.voc)[0]
    return figures, per_class

  def results(
    self, outputs: dict[str, np.ndarray], examples: dict[str, np.ndarray], source: Any
  ) -> list[dict[str, Any]]:
    """Returns outputs of `predict` as COCO's result file has them."""
    from effnets.evaluation import detection as judge

    return judge.results(
      outputs["boxes"],
      outputs["scores"],
      outputs["classes"],
      image_ids=[source.image_ids[i] for i in examples["index"].tolist()],
      category_ids=source.category_ids,
      masks=self._masks(outputs, examples),
    )

  def _masks(self, outputs: dict[str, np.ndarray], examples: dict[str, np.ndarray]) -> Any:
    """Returns the RLE of every detection of every picture; None: there are no masks."""
    del outputs, examples
