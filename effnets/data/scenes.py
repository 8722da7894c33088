"""Pictures with objects: what a source of them gives, and how they come to one fixed size.

A scene is an example with, beside `image`, any of

  boxes     float32 (n, 4): y0 x0 y1 x1 in pixels of the picture
  classes   int32 (n,): from 0
  crowd     bool (n,): a region with several objects; no training target
  masks     uint8 (n, h, w): 1 where the object is
  semantic  uint8 (h, w): class of each pixel, 255 where it does not count

`label` is -1: a scene has no single class. The transforms here (`Jitter` and `SsdCrop` to train,
`Fit` to evaluate) give arrays of fixed shape:

  image     uint8 (H, W, 3): the picture at the top left, `fill` below and right of it
  boxes     float32 (m, 4): in pixels of that, 0 in padding
  classes   int32 (m,): -1 in padding
  objects   int32: how many there were; those above m, the smallest, are left out
  crowds    float32 (c, 4): boxes of crowds, if c > 0; 0 in padding
  masks     uint8 (m, s, s): each object's mask stretched over its box, if s > 0
  semantic  uint8 (H, W), if asked for
  size      int32 (2,): height and width of the picture inside of `image`
  scale     float32 (2,): pixels of `image` for each pixel of the file's picture, down and across
  original  int32 (2,): height and width of the file's picture

Source: input code of EfficientDet and of TensorFlow's detection models (aspect kept, padding at the
bottom and right). Three things differ from it: sizes are rounded and not cut to whole pixels, PIL
smooths where it shrinks, and the padding is the mean colour to the nearest of 256 levels.
"""

import dataclasses
import math

import numpy as np
from absl import logging
from jaxtyping import Float, UInt8
from PIL import Image

from effnets import errors
from effnets.data import decode, sources

# ImageNet's mean: nothing, after normalisation.
FILL = (124, 116, 104)
IGNORED = 255
BASES = ("target", "picture")

# Of `SsdCrop`.
_SHARES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
_ATTEMPTS = 50


@dataclasses.dataclass(frozen=True)
class _Sized:
  """What the transforms share.

  size: height and width of the result. max_objects: m. crowds: c. mask_size: s, 0 for no masks.
  semantic: whether scenes have, and keep, classes of pixels; objects: whether they have objects.
  keep_aspect: False stretches the picture to `size`, as mobile detectors do.
  fill: red, green, blue around the picture. interpolation: see `decode.resize`.
  """

  size: tuple[int, int]
  max_objects: int = 100
  crowds: int = 0
  mask_size: int = 0
  semantic: bool = False
  objects: bool = True
  keep_aspect: bool = True
  fill: tuple[int, int, int] = FILL
  interpolation: str = "bilinear"

  def __post_init__(self):
    if min(self.size) < 1 or self.max_objects < 1 or min(self.crowds, self.mask_size) < 0:
      raise ValueError(f"sizes must be at least 1, counts at least 0: {self}.")
    if self.interpolation not in decode.INTERPOLATIONS:
      raise ValueError(f"interpolation must be one of {decode.INTERPOLATIONS}: {self}.")

  @property
  def fields(self) -> tuple[str, ...]:
    """Names of the arrays that examples get beside `image`."""
    names = ["size", "scale", "original"]
    if self.objects:
      names += ["boxes", "classes", "objects"]
      names += ["crowds"] * (self.crowds > 0) + ["masks"] * (self.mask_size > 0)
    return (*names, *["semantic"] * self.semantic)


@dataclasses.dataclass(frozen=True)
class Fit(_Sized):
  """Evaluation: the whole picture as large as `size` allows; nothing is drawn.

  A box goes back to the file's picture by `back`.
  """

  def __call__(self, example: sources.Example, draw: decode.Draw | None = None) -> sources.Example:
    """Returns the example with arrays of fixed shape; see the module."""
    height, width = example["image"].shape[:2]
    ratios = _ratios(self.size, (height, width), 1.0, self.keep_aspect)
    return _placed(example, self, _Window.of((height, width), ratios, self.size, (0.0, 0.0), False))


@dataclasses.dataclass(frozen=True)
class Jitter(_Sized):
  """Training: the picture at a random scale, a random part of it where it is larger than `size`.

  low, high: range of the scale, uniform. step: above 0 only low, low + step, … are drawn.
  base: `target`   scale 1 is the largest that fits into `size`
    `picture`  scale 1 is the picture's own size (DeepLab)
  flip: probability of mirroring. least: objects whose part in sight is not higher and wider than
  this, in pixels, are left out.

  All draws of an example are from the stream `crop` at its position.
  """

  low: float = 0.1
  high: float = 2.0
  step: float = 0.0
  base: str = "target"
  flip: float = 0.5
  least: float = 0.0

  def __post_init__(self):
    super().__post_init__()
    if not 0 < self.low <= self.high or self.step < 0 or self.base not in BASES:
      raise ValueError(f"0 < low <= high, step >= 0, base one of {BASES}: {self}.")
    if not 0 <= self.flip <= 1 or self.least < 0:
      raise ValueError(f"flip must be a probability and least at least 0: {self}.")

  def __call__(self, example: sources.Example, draw: decode.Draw) -> sources.Example:
    """Returns the example with arrays of fixed shape; see the module."""
    # Four numbers whatever becomes of them: none moves another.
    turn, factor, down, across = draw("crop").random(4)
    if self.step:
      count = math.floor((self.high - self.low) / self.step + 1e-6) + 1
      factor = self.low + self.step * min(int(factor * count), count - 1)
    else:
      factor = self.low + factor * (self.high - self.low)
    sides = example["image"].shape[:2]
    if self.base == "picture":
      ratios = (factor, factor)
    else:
      ratios = _ratios(self.size, sides, factor, self.keep_aspect)
    window = _Window.of(sides, ratios, self.size, (down, across), turn < self.flip)
    return _placed(example, self, window, self.least)


@dataclasses.dataclass(frozen=True)
class SsdCrop(_Sized):
  """Training of mobile detectors: a random part of the picture, stretched to `size`.

  One of seven least shares is drawn, and parts (`area` of the picture's, width over height within
  `aspect`) until one holds that share of some object, 50 at most; after that, and with probability
  `whole`, it is all of the picture. Objects of which less than that share is in sight are left out.
  flip: probability of mirroring.

  Source: Liu et al. 2016 (SSD), and `ssd_random_crop` of the Object Detection API's settings, which
  has shares up to 1.
  """

  keep_aspect: bool = False
  area: tuple[float, float] = (0.1, 1.0)
  aspect: tuple[float, float] = (0.5, 2.0)
  whole: float = 0.15
  flip: float = 0.5

  def __post_init__(self):
    super().__post_init__()
    if not 0 < self.area[0] <= self.area[1] <= 1 or not 0 < self.aspect[0] <= self.aspect[1]:
      raise ValueError(f"area must be a range within (0, 1], aspect a range above 0: {self}.")
    if not 0 <= self.whole <= 1 or not 0 <= self.flip <= 1:
      raise ValueError(f"whole and flip must be probabilities: {self}.")

  def __call__(self, example: sources.Example, draw: decode.Draw) -> sources.Example:
    """Returns the example with arrays of fixed shape; see the module."""
    rng = draw("crop")
    turn, whole, which = rng.random(3)
    if whole >= self.whole:
      example = self._cut(example, _SHARES[int(which * len(_SHARES))], rng)
    sides = example["image"].shape[:2]
    ratios = _ratios(self.size, sides, 1.0, self.keep_aspect)
    return _placed(
      example, self, _Window.of(sides, ratios, self.size, (0.0, 0.0), turn < self.flip)
    )

  def _cut(self, example, share: float, rng: np.random.Generator) -> sources.Example:
    height, width = example["image"].shape[:2]
    boxes = np.asarray(example.get("boxes", np.zeros((0, 4))), np.float32)
    for _ in range(_ATTEMPTS):
      box = decode.random_box(height, width, rng, area=self.area, aspect=self.aspect, attempts=1)
      if box is None:
        continue
      top, left, h, w = box
      inside = np.clip(boxes, [top, left, top, left], [top + h, left + w, top + h, left + w])
      seen = _areas(inside) / np.maximum(_areas(boxes), 1e-9)
      if len(boxes) and not np.any(seen >= max(share, 1e-6)):
        continue
      kept = seen >= share
      rows, columns = slice(top, top + h), slice(left, left + w)
      cut = {**example, "image": example["image"][rows, columns]}
      if "boxes" in example:
        cut["boxes"] = (inside - [top, left, top, left])[kept].astype(np.float32)
      for name in ("classes", "crowd"):
        if name in example:
          cut[name] = example[name][kept]
      if "masks" in example:
        cut["masks"] = example["masks"][kept][:, rows, columns]
      if "semantic" in example:
        cut["semantic"] = example["semantic"][rows, columns]
      return cut
    return example


def back(
  boxes: Float[np.ndarray, "*n 4"],
  scale: Float[np.ndarray, "*b 2"],
  original: Float[np.ndarray, "*b 2"] | None = None,
) -> Float[np.ndarray, "*n 4"]:
  """Returns boxes of `Fit`'s images in pixels of the files' pictures; arrays of NumPy or JAX.

  scale, original: fields of those examples, with as many leading dimensions as `boxes` or fewer
  (then `n` follows them). original: cuts off what is outside; None leaves it.
  """
  more = boxes.ndim - scale.ndim
  whole = lambda x: x.reshape(*x.shape[:-1], *(1,) * more, 2)  # noqa: E731
  first, last = boxes[..., :2] / whole(scale), boxes[..., 2:] / whole(scale)
  namespace = boxes.__array_namespace__()
  if original is not None:
    first, last = (namespace.clip(x, 0, whole(original)) for x in (first, last))
  return namespace.concatenate([first, last], axis=-1)


@dataclasses.dataclass(frozen=True)
class _Window:
  """Where a picture goes.

  scale: exact pixels of the result for each of the picture, down and across. offset: of the part
  that is taken, size: of it, both in pixels of the result. mirrored: left to right, last.
  """

  scale: tuple[float, float]
  offset: tuple[int, int]
  size: tuple[int, int]
  mirrored: bool

  @classmethod
  def of(cls, sides, ratios, target, places, mirrored) -> "_Window":
    """Returns the window of a picture scaled by about `ratios`; places in [0, 1): of the part."""
    new = [max(1, round(side * ratio)) for side, ratio in zip(sides, ratios, strict=True)]
    size = tuple(map(min, new, target))
    offset = tuple(
      min(int(p * (n - s + 1)), n - s) for p, n, s in zip(places, new, size, strict=True)
    )
    return cls(tuple(n / s for n, s in zip(new, sides, strict=True)), offset, size, mirrored)

  def source(self, box, sides) -> tuple[float, float, float, float]:
    """Returns left, top, right, bottom in the picture of a box of the result."""
    y0, x0, y1, x1 = map(float, box)
    if self.mirrored:
      x0, x1 = self.size[1] - x1, self.size[1] - x0
    edges = []
    for low, high, axis in ((y0, y1, 0), (x0, x1, 1)):
      # A rounding error beyond the border is refused by PIL.
      edges.append(
        [
          min(max((edge + self.offset[axis]) / self.scale[axis], 0.0), sides[axis])
          for edge in (low, high)
        ]
      )
    return edges[1][0], edges[0][0], edges[1][1], edges[0][1]

  def moved(self, boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    """Returns boxes of the picture where they come to lie, cut off at the part that is taken."""
    moved = boxes.astype(np.float64).reshape(-1, 2, 2) * self.scale - self.offset
    moved = np.clip(moved, 0, self.size)
    if self.mirrored:
      moved[:, :, 1] = self.size[1] - moved[:, ::-1, 1]
    return moved.reshape(-1, 4).astype(np.float32)


def _ratios(size, sides, factor, keep_aspect) -> tuple[float, float]:
  ratios = tuple(factor * s / own for s, own in zip(size, sides, strict=True))
  return (min(ratios),) * 2 if keep_aspect else ratios


def _placed(
  example: sources.Example, how: _Sized, window: _Window, least: float = 0.0
) -> sources.Example:
  pixels = example["image"]
  sides = pixels.shape[:2]
  height, width = window.size
  whole = window.source((0, 0, height, width), sides)
  image = np.empty((*how.size, 3), np.uint8)
  image[:] = how.fill
  image[:height, :width] = _resampled(pixels, window, whole, (height, width), how.interpolation)
  found = {
    "image": image,
    "label": np.int32(-1),
    "size": np.array(window.size, np.int32),
    "scale": np.array(window.scale, np.float32),
    "original": np.array(sides, np.int32),
  }
  if how.objects:
    found.update(_objects(example, how, window, least))
  if how.semantic:
    semantic = np.full(how.size, IGNORED, np.uint8)
    classes = example.get("semantic")
    if classes is not None:
      semantic[:height, :width] = _resampled(classes, window, whole, (height, width), "nearest")
    found["semantic"] = semantic
  return found


def _objects(example, how: _Sized, window: _Window, least: float) -> dict[str, np.ndarray]:
  boxes = np.asarray(example.get("boxes", np.zeros((0, 4))), np.float32)
  classes = np.asarray(example.get("classes", np.zeros(0)), np.int32)
  crowd = np.asarray(example.get("crowd", np.zeros(len(boxes), bool)))
  moved = window.moved(boxes)
  sizes = moved[:, 2:] - moved[:, :2]
  seen = np.all(sizes > least, 1)
  rows = np.flatnonzero(seen & ~crowd)
  count = len(rows)
  if count > how.max_objects:
    logging.log_first_n(
      logging.WARNING,
      "%s: %d objects, of which the %d largest are kept (config.data.max_objects).",
      10,
      example.get("name", "a picture"),
      count,
      how.max_objects,
    )
    order = np.argsort(-np.prod(sizes[rows], 1), kind="stable")[: how.max_objects]
    rows = rows[np.sort(order)]
  found = {
    "boxes": np.zeros((how.max_objects, 4), np.float32),
    "classes": np.full(how.max_objects, -1, np.int32),
    "objects": np.int32(count),
  }
  found["boxes"][: len(rows)] = moved[rows]
  found["classes"][: len(rows)] = classes[rows]
  if how.crowds:
    regions = moved[seen & crowd]
    regions = regions[np.argsort(-_areas(regions), kind="stable")][: how.crowds]
    found["crowds"] = np.zeros((how.crowds, 4), np.float32)
    found["crowds"][: len(regions)] = regions
  if how.mask_size:
    side = how.mask_size
    if len(rows) and "masks" not in example:
      raise errors.UserError(
        f"config.data.scenes.mask_size={side}: {example.get('name', 'a picture')} has no masks; a "
        "COCO folder has them with --config.data.options.masks=True."
      )
    masks = found["masks"] = np.zeros((how.max_objects, side, side), np.uint8)
    for place, row in enumerate(rows):
      mask = example["masks"][row]
      part = window.source(moved[row], mask.shape)
      grey = _resampled(mask * np.uint8(255), window, part, (side, side), "bilinear")
      masks[place] = grey >= 128
  return found


def _areas(boxes: np.ndarray) -> np.ndarray:
  return np.prod(boxes[:, 2:] - boxes[:, :2], 1)


_FILTERS = {
  "nearest": Image.Resampling.NEAREST,
  "bilinear": Image.Resampling.BILINEAR,
  "bicubic": Image.Resampling.BICUBIC,
}


def _resampled(
  pixels: UInt8[np.ndarray, "h w *c"], window: _Window, part, size, interpolation: str
) -> UInt8[np.ndarray, "H W *c"]:
  """Returns the part (left, top, right, bottom) of the pixels at `size`, mirrored if that is so."""
  if part == (0, 0, pixels.shape[1], pixels.shape[0]) and tuple(size) == pixels.shape[:2]:
    found = pixels
  else:
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    found = np.asarray(picture.resize(size[::-1], _FILTERS[interpolation], box=part))
  return found[:, ::-1] if window.mirrored else found
