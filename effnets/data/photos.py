"""The embedded photos: tiles of the two pictures that scikit-learn installs, 224 pixels square.

They have no labels (-1): a model is judged by whether it says the same of a tile after a change.
"""

import functools

import numpy as np
from jaxtyping import UInt8

from effnets.data import sources

_SIDE = 224
_ROWS, _COLUMNS = 2, 3


class Photos:
  """Twelve overlapping tiles, six of each photo, row by row."""

  name = "photos"
  num_classes = 0
  class_names = ()
  image_size = _SIDE

  def __len__(self) -> int:
    return len(_tiles())

  def __getitem__(self, index: int) -> sources.Example:
    return {"image": _tiles()[index], "label": np.int32(-1)}


@functools.cache
def _tiles() -> UInt8[np.ndarray, "n 224 224 3"]:
  from sklearn import datasets  # seconds that others need not wait

  tiles = []
  for photo in datasets.load_sample_images().images:
    height, width = photo.shape[:2]
    for top in np.linspace(0, height - _SIDE, _ROWS).astype(int):
      for left in np.linspace(0, width - _SIDE, _COLUMNS).astype(int):
        tiles.append(photo[top : top + _SIDE, left : left + _SIDE])
  return np.stack(tiles)
