"""Human3.6M as films to predict: `human36m:PATH`, PATH/SUBJECT/…/FILM, SUBJECT from S1 to S11.

A film is a video file as the data set has them (S1/Videos/Directions.54138969.mp4) or a folder of
its frames. Subjects 1, 5, 6, 7 and 8 are `train`; 9 and 11 are `test`, and `validation` too, since
there is no third part. Options: `window`, see `frames`; `validation`: subjects of `train`, such as
("S8",), that are kept from it for validation.
"""

from collections.abc import Mapping
from typing import Any

from effnets import errors
from effnets.data import frames, sources

TRAIN, TEST = ("S1", "S5", "S6", "S7", "S8"), ("S9", "S11")


def open_split(
  argument: str, split: str, *, options: Mapping[str, Any], key: str, split_key: str
) -> frames.Frames:
  """Returns one split of the folder `argument`; options: see the module.

  Raises: errors.UserError if path, split or option is wrong, or there are no films.
  """
  sources.check_options(options, ("validation", "window"), kind="human36m", key=key)
  kept = tuple(options.get("validation", ()))
  for name in kept:
    if name not in TRAIN:
      raise errors.unknown(f"{key}.options.validation", name, "a subject of training", TRAIN)
  subjects = {
    "train": tuple(name for name in TRAIN if name not in kept),
    "validation": kept or TEST,
    "test": TEST,
  }
  if split not in subjects:
    raise errors.unknown(split_key, split, "a split of human36m", subjects)
  expected = f"PATH/SUBJECT/…/FILM with SUBJECT one of {', '.join(subjects[split])}"
  parent = frames.root("human36m", argument, key=key, expected=expected)
  paths = [path for name in subjects[split] for path in frames.below(parent / name)]
  return frames.create(
    "human36m",
    argument,
    split,
    paths,
    window=frames.window(options, key=key),
    key=key,
    expected=expected,
  )
