"""Pictures without labels as a source: `pictures:PATH`, all in the folder PATH and below it.

For sets that a teacher labels: no class folders are needed, and what their names are does not
matter. There is one split, `all`, also called `train` and `unlabelled`.
"""

from collections.abc import Mapping
from typing import Any

from effnets import errors
from effnets.data import folder, sources

_SPLITS = ("all", "train", "unlabelled")


def open_split(
  argument: str, split: str, *, options: Mapping[str, Any], key: str, split_key: str
) -> folder.Folder:
  """Returns the pictures below the folder `argument`; labels are -1, there are no classes.

  Raises: errors.UserError if there are none, or for another split or an option.
  """
  sources.check_options(options, (), kind="a folder of pictures", key=key)
  if split not in _SPLITS:
    raise errors.unknown(split_key, split, "a split of pictures", _SPLITS)
  return folder.pictures(argument, key=f"{key}.source=pictures")
