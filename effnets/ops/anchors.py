"""Anchor boxes of detectors, from the image's size alone.

A level l of a pyramid has ceil(size / 2**l) cells each way, at any image size; a cell is
size / cells pixels. Boxes are y0 x0 y1 x1 in pixels of the image and are not clipped to it. Their
order is level, row, column, then the shape within a cell: that of a head's channels.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

RATIOS = tuple((math.sqrt(ratio), 1 / math.sqrt(ratio)) for ratio in (1.0, 2.0, 0.5))
"""Factors of width and height for the ratios 1, 2 and 1/2 of width to height."""

ROUNDED = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
"""Those of EfficientDet's first released weights."""


def cells(image_size: int | tuple[int, int], level: int) -> tuple[int, int]:
  """Returns height and width of a pyramid's level, in cells.

  >>> cells(320, 7), cells((512, 96), 3)
  ((3, 3), (64, 12))
  """
  height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
  return -(-height // 2**level), -(-width // 2**level)


def _placed(
  image_size: tuple[int, int], grid: tuple[int, int], shapes: Float[np.ndarray, "a 2"]
) -> Float[np.ndarray, "n 4"]:
  """Returns boxes of `shapes` (height, width in pixels) around the centre of every cell."""
  ys, xs = (
    (np.arange(count) + 0.5) * (size / count) for size, count in zip(image_size, grid, strict=True)
  )
  centres = np.stack(np.meshgrid(ys, xs, indexing="ij"), -1)[:, :, None]
  corners = np.concatenate([centres - shapes / 2, centres + shapes / 2], -1)
  return corners.reshape(-1, 4)


@dataclasses.dataclass(frozen=True)
class Grid:
  """Anchors of several octaves and aspects in every cell of several levels.

  levels: of the pyramid. scale: side of a level's smallest square, in cells; or one per level.
  octaves: sizes 2**(i / octaves), i = 0, 1, ..., of each aspect. aspects: factors of width and
  height. aspect_first: all octaves of an aspect follow each other, not all aspects of an octave.
  Source: Lin et al. 2017 (arXiv 1708.02002), section 4; the order is that of each code.
  """

  levels: tuple[int, ...] = (3, 4, 5, 6, 7)
  scale: float | tuple[float, ...] = 4.0
  octaves: int = 3
  aspects: tuple[tuple[float, float], ...] = RATIOS
  aspect_first: bool = False

  def counts(self) -> tuple[int, ...]:
    """Returns the anchors of one cell, for every level."""
    return (self.octaves * len(self.aspects),) * len(self.levels)

  def _shapes(self) -> Iterator[tuple[float, tuple[float, float]]]:
    octaves = [2 ** (index / self.octaves) for index in range(self.octaves)]
    if self.aspect_first:
      return ((octave, aspect) for aspect in self.aspects for octave in octaves)
    return itertools.product(octaves, self.aspects)

  def boxes(self, image_size: int | tuple[int, int]) -> Float[np.ndarray, "n 4"]:
    """Returns the anchors of an image of `image_size` (height, width), float32.

    >>> Grid(levels=(3,)).boxes(512)[0].tolist()
    [-12.0, -12.0, 20.0, 20.0]
    """
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    scales = self.scale
    if not isinstance(scales, Sequence):
      scales = (scales,) * len(self.levels)
    found = []
    for level, scale in zip(self.levels, scales, strict=True):
      grid = cells(size, level)
      cell = [side / count for side, count in zip(size, grid, strict=True)]
      shapes = [
        (scale * octave * cell[0] * high, scale * octave * cell[1] * wide)
        for octave, (wide, high) in self._shapes()
      ]
      found.append(_placed(size, grid, np.asarray(shapes)))
    return np.concatenate(found).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Default:
  """SSD's default boxes: a scale per map, as a fraction of the image, and several aspects.

  levels: of the maps, each half as large as the one before. smallest, largest: scale of the first
  and the last map. reduced: the first map has three boxes, of scales 0.1 and 0.2.
  Source: Liu et al. 2016 (arXiv 1512.02325), section 2.2; defaults: TensorFlow's detection API.
  """

  levels: tuple[int, ...] = (4, 5, 6, 7, 8, 9)
  smallest: float = 0.2
  largest: float = 0.95
  reduced: bool = True

  def counts(self) -> tuple[int, ...]:
    """Returns the anchors of one cell, for every level."""
    return tuple(len(shapes) for shapes in self.shapes())

  def shapes(self) -> list[list[tuple[float, float]]]:
    """Returns height and width of every box of every map, as fractions of the image.

    >>> [round(side, 6) for side in Default().shapes()[1][1]]
    [0.247487, 0.494975]
    """
    last = len(self.levels) - 1
    scales = [
      self.smallest + (self.largest - self.smallest) * index / max(last, 1)
      for index in range(last + 1)
    ]
    found = []
    for index, (scale, following) in enumerate(itertools.pairwise((*scales, 1.0))):
      if index == 0 and self.reduced:
        boxes = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
      else:
        boxes = [(scale, ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 0.3333)]
        boxes.append((math.sqrt(scale * following), 1.0))
      found.append([(side / math.sqrt(ratio), side * math.sqrt(ratio)) for side, ratio in boxes])
    return found

  def boxes(self, image_size: int | tuple[int, int]) -> Float[np.ndarray, "n 4"]:
    """Returns the anchors of an image of `image_size` (height, width), float32, in pixels."""
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    found = [
      _placed(size, cells(size, level), np.asarray(shapes) * np.asarray(size))
      for level, shapes in zip(self.levels, self.shapes(), strict=True)
    ]
    return np.concatenate(found).astype(np.float32)
