"""Mean intersection over union of classes of pixels, over a whole set.

`ops.masks.confusion` counts pixels on the device, picture by picture; here they become figures.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

SEGMENTATION_FIGURES = ("miou", "pixel_accuracy")


def iou(counts: Int[np.ndarray, "k k"]) -> Float[np.ndarray, " k"]:
  """Returns each class's intersection over union, NaN for one that neither occurs nor was seen.

  >>> iou(np.array([[50, 2, 3], [4, 30, 1], [0, 5, 5]])).round(6).tolist()
  [0.847458, 0.714286, 0.357143]
  """
  counts = np.asarray(counts, np.float64)
  hits = np.diagonal(counts)
  union = counts.sum(0) + counts.sum(1) - hits
  return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def segmentation(
  confusions: Int[np.ndarray, "n k k"], *, class_names: Sequence[str] = ()
) -> tuple[dict[str, float], dict[str, float]]:
  """Returns figures over all n pictures, and the IoU of each class by name.

  miou: of the set's sum of confusions, not a mean over pictures; over classes that occur in labels
    or predictions. NaN if no pixel counts. pixel_accuracy: share of pixels taken for what they are.
  A class that does not occur has an IoU of NaN.

  Source: DeepLab's streaming metric.
  """
  total = np.asarray(confusions).astype(np.int64).sum(0)
  per_class = iou(total)
  there = per_class[~np.isnan(per_class)]
  pixels = total.sum()
  figures = {
    "miou": float(there.mean()) if there.size else float("nan"),
    "pixel_accuracy": float(np.trace(total) / pixels) if pixels else float("nan"),
  }
  names = class_names or [str(k) for k in range(len(per_class))]
  return figures, dict(zip(names, per_class.tolist(), strict=True))
