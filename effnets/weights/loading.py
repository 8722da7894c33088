"""Weight sets of classifiers and detectors by one name and one call."""

import os

from effnets.weights import convert, detectors, files


def is_detector(name: str) -> bool:
  """Returns whether `name` is that of a detector's weight set, as its source spells it."""
  return name.removeprefix("effdet/") in detectors.list_detectors()


def load(
  name: str,
  source: str | os.PathLike[str],
  *,
  num_classes: int | None = None,
  replace_head: bool = False,
  seed: int = 0,
) -> convert.Imported:
  """Returns a weight set that is in a file or on the Hugging Face hub.

  Args:
    name: in the source's spelling, tag included: `tf_efficientnet_b0.ns_jft_in1k`; of a paper's
      own checkpoint, `efficientnet-b0.noisystudent`; of a detector, `tf_efficientdet_d0`,
      `efficientdet-d0`.
    source: see `files.read`. The others: see `from_timm`, `from_tensorflow`, `from_effdet`.
  Raises: UserError as `files.read` and they; for a wrong name before anything is read.
  """
  how = {"num_classes": num_classes, "replace_head": replace_head, "seed": seed}
  if not is_detector(name):
    return convert.load(name, source, **how)
  official = detectors.find(name).official
  take = detectors.from_official if official else detectors.from_effdet
  return take(name, files.read(source), **how)
