"""What tasks that find objects in scenes share: the figures of what they found."""

from typing import Any

import numpy as np

from effnets.tasks import scenes


class ObjectTask(scenes.SceneTask):
  """A task whose `predict` gives `boxes` (b, k, 4), `scores` and `classes` (b, k), -1: padding.

  Boxes are y0 x0 y1 x1 in pixels of the file's picture.
  """

  @property
  def figures(self) -> tuple[str, ...]:
    """Names of the figures that `evaluate` returns: COCO's twelve."""
    from effnets.evaluation import detection as judge

    return judge.COCO_FIGURES

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

    return judge.average_precision(source.truth(examples["index"].tolist()), found)

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
