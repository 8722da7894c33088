"""The image operations of RandAugment and AutoAugment, exact on uint8 pixels.

Every operation works on one picture whose three channels are packed into one 32-bit word per pixel
(`pack`, `unpack`): a geometric operation then gathers one word instead of three bytes, a colour
operation is one loop over words, and the grey level is computed once per pixel. On CPU this is
two to six times as fast as the same arithmetic on h w c bytes.

The arithmetic is that of the published code in float32, written so that the result does not depend
on whether the compiler fuses a multiplication with an addition: wherever a product is added to
something, it is formed from two exact halves (`_product`). So a picture comes out the same alone,
in a batch, in a loop and on every mesh.

Source: the official EfficientNet code's operations as described in Cubuk et al. 2019
(arXiv 1909.13719) and Cubuk et al. 2018 (arXiv 1805.09501).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from effnets import errors

FILL = 128  # raw grey before normalisation, as published; not the data set's mean

_SHIFTS = (0, 8, 16)
_ALL = np.uint32(0xFFFFFF)
_ONES = np.uint32(0x010101)
# The largest float32 below one half: adding it and cutting off the fraction rounds half up and
# leaves the float just below one half at zero, which adding 0.5 would not.
_ALMOST_HALF = np.float32(0.49999997)

Pixels = UInt32[Array, "h w"]


class Inputs(NamedTuple):
  """What an operation takes beside the pixels.

  values: two float32 scalars; the argument and 0, or cosine and sine for `rotate`.
  centre: row and column of the centre of `cutout`, int32. fill: packed colour of uncovered pixels.
  """

  values: Float[Array, "2"]
  centre: Int[Array, "2"]
  fill: UInt32[Array, ""]


class Operation(NamedTuple):
  """One entry of `OPERATIONS`.

  function: (pixels, inputs) -> pixels. unit: of the argument, empty when there is none.
  signed: whether RandAugment draws the argument's sign.
  """

  function: Callable[[Pixels, Inputs], Pixels]
  unit: str = ""
  signed: bool = False


def pack(images: UInt8[Array, "*b h w 3"]) -> UInt32[Array, "*b h w"]:
  """Returns one word per pixel, red in the lowest byte; the highest byte is zero."""
  if images.dtype != jnp.uint8 or images.ndim < 3 or images.shape[-1] != 3:
    raise ValueError(
      f"images are {images.dtype}{list(images.shape)}; augmentation takes uint8 pixels in "
      "[0, 255] of shape (..., h, w, 3). Augment before normalisation."
    )
  # A fourth byte and a reinterpretation: four times as fast on CPU as shifting three slices.
  padding = [(0, 0)] * (images.ndim - 1) + [(0, 1)]
  return jax.lax.bitcast_convert_type(jnp.pad(images, padding), jnp.uint32)


def unpack(pixels: UInt32[Array, "*b h w"]) -> UInt8[Array, "*b h w 3"]:
  """Returns the images of `pack`."""
  return (pixels[..., None] >> np.array(_SHIFTS, np.uint32)).astype(jnp.uint8)


def pack_fill(fill: int | Sequence[int]) -> np.uint32:
  """Returns the packed colour of one grey level or of red, green, blue, each in [0, 255]."""
  levels = [fill] * 3 if isinstance(fill, (int, np.integer)) else list(fill)
  if len(levels) != 3 or not all(0 <= int(level) <= 255 for level in levels):
    raise ValueError(f"fill={fill!r} is neither a level in [0, 255] nor three of them.")
  return np.uint32(sum(int(level) << shift for level, shift in zip(levels, _SHIFTS, strict=True)))


def _channels(pixels: Pixels) -> list[Int[Array, "h w"]]:
  return [((pixels >> shift) & 255).astype(jnp.int32) for shift in _SHIFTS]


def _join(channels: Sequence[Int[Array, "h w"]]) -> Pixels:
  red, green, blue = (channel.astype(jnp.uint32) for channel in channels)
  return red | (green << 8) | (blue << 16)


def _product(factor: Float[Array, ""], integers: Float[Array, "*n"]) -> Float[Array, "*n"]:
  """Returns float32(factor * integers), fused or not; |integers| < 4096, whole numbers.

  The upper 12 bits of the factor and the rest each give an exact product, so their sum is rounded
  once, whether or not the compiler turns it into a fused multiply-add.
  """
  bits = jax.lax.bitcast_convert_type(factor, jnp.uint32) & jnp.uint32(0xFFFFF000)
  upper = jax.lax.bitcast_convert_type(bits, jnp.float32)
  return upper * integers + (factor - upper) * integers


def _to_levels(values: Float[Array, "*n"]) -> Int[Array, "*n"]:
  return jnp.clip(values, 0.0, 255.0).astype(jnp.int32)


def _blend(
  degenerate: Int[Array, "*n"], levels: Int[Array, "*n"], factor: Float[Array, ""]
) -> Int[Array, "*n"]:
  """Returns degenerate + factor * (levels - degenerate), clipped and cut to whole levels.

  The published code does not clip for 0 < factor < 1, where nothing can leave [0, 255] anyway.
  """
  difference = (levels - degenerate).astype(jnp.float32)
  return _to_levels(degenerate.astype(jnp.float32) + _product(factor, difference))


def _whole(value: Float[Array, ""]) -> Int[Array, ""]:
  return value.astype(jnp.int32)


def _identity(pixels, inputs):
  del inputs
  return pixels


def _autocontrast(pixels, inputs):
  del inputs
  stretched = []
  for levels in _channels(pixels):
    low, high = jnp.min(levels), jnp.max(levels)
    scale = 255.0 / jnp.maximum(high - low, 1).astype(jnp.float32)
    offset = _product(scale, low.astype(jnp.float32))
    values = _product(scale, levels.astype(jnp.float32)) - offset
    stretched.append(jnp.where(high > low, _to_levels(values), levels))
  return _join(stretched)


def equalize(pixels: Pixels, counted: Int[Array, "h w"] | int = 1) -> Pixels:
  """Returns the pixels with each channel's histogram flattened; `counted` 0 leaves a pixel out."""
  channels = _channels(pixels)
  counted = jnp.broadcast_to(jnp.asarray(counted, jnp.int32), pixels.shape).reshape(-1)
  counts = jnp.stack(
    [
      jnp.zeros(256, jnp.int32).at[levels.reshape(-1)].add(counted, mode="promise_in_bounds")
      for levels in channels
    ]
  )
  level = jnp.arange(256)
  last = jnp.max(jnp.where(counts > 0, level, 0), axis=1, keepdims=True)
  step = jnp.sum(jnp.where(level == last, 0, counts), axis=1, keepdims=True) // 255
  # Counts of all darker levels as a matrix product: exact in float32 below 2**24 pixels, and it
  # keeps the compiler from recomputing a running sum at every pixel.
  darker = jnp.dot(
    counts.astype(jnp.float32),
    (level[:, None] < level).astype(jnp.float32),
    precision=jax.lax.Precision.HIGHEST,
  ).astype(jnp.int32)
  values = jnp.minimum(255, (darker + step // 2) // jnp.maximum(step, 1))
  values = jnp.where(step > 0, values, level)
  # Written through a scatter for the same reason: the table is made once, not once per pixel.
  index = jnp.arange(3 * 256)
  table = jnp.zeros(3 * 256, jnp.int32).at[index].set(values.reshape(-1), unique_indices=True)
  return _join(
    [table.at[levels + 256 * c].get(mode="promise_in_bounds") for c, levels in enumerate(channels)]
  )


def _equalize(pixels, inputs):
  del inputs
  return equalize(pixels)


def _invert(pixels, inputs):
  del inputs
  return pixels ^ _ALL


def _posterize(pixels, inputs):
  # The shift 8 - bits is a uint8 that wraps and is then limited to 7, so 0, 1 and 9 or more bits
  # all keep the highest bit only, and 8 bits keep everything.
  shift = jnp.minimum((8 - _whole(inputs.values[0])) & 255, 7).astype(jnp.uint32)
  return pixels & (((jnp.uint32(255) << shift) & 255) * _ONES)


def _solarize(pixels, inputs):
  threshold = _whole(inputs.values[0]) & 255  # a uint8: 256 becomes 0 and inverts everything
  return _join([jnp.where(v < threshold, v, 255 - v) for v in _channels(pixels)])


def _solarize_add(pixels, inputs):
  addition = _whole(inputs.values[0])
  return _join([jnp.where(v < 128, jnp.clip(v + addition, 0, 255), v) for v in _channels(pixels)])


def _grey(channels: Sequence[Int[Array, "h w"]]) -> Int[Array, "h w"]:
  """Returns the grey levels trunc(255.5 / 255 * (0.2989 r + 0.587 g + 0.114 b)).

  The weighted sum is a whole number of ten-thousandths; one rounding remains.
  """
  red, green, blue = channels
  weighted = (2989 * red + 5870 * green + 1140 * blue).astype(jnp.float32)
  return (weighted * np.float32(255.5 / 255 / 10_000)).astype(jnp.int32)


def _color(pixels, inputs):
  channels = _channels(pixels)
  grey = _grey(channels)
  return _join([_blend(grey, levels, inputs.values[0]) for levels in channels])


def _contrast(pixels, inputs):
  # The published code averages the 256 histogram counts instead of the grey levels, so its
  # constant image depends on the size of the picture only.
  degenerate = jnp.int32(min(255, pixels.size // 256))
  return _join([_blend(degenerate, levels, inputs.values[0]) for levels in _channels(pixels)])


def _contrast_fixed(pixels, inputs):
  channels = _channels(pixels)
  mean = (jnp.sum(_grey(channels).astype(jnp.uint32)) // pixels.size).astype(jnp.int32)
  return _join([_blend(mean, levels, inputs.values[0]) for levels in channels])


def _brightness(pixels, inputs):
  black = jnp.int32(0)
  return _join([_blend(black, levels, inputs.values[0]) for levels in _channels(pixels)])


def _sharpness(pixels, inputs):
  height, width = pixels.shape

  def smooth(words):
    # Up to 13 * 255 fits into 16 bits, so two channels are summed in one word.
    words = jnp.pad(words, 1)
    rows = words[:-2] + words[1:-1] + words[2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * words[1:-1, 1:-1]

  outer, inner = smooth(pixels & np.uint32(0xFF00FF)), smooth((pixels >> 8) & 255)
  sums = (outer & 0xFFFF, inner, outer >> 16)
  # (s * 5042) >> 16 is s // 13 for every s up to 13 * 255.
  smoothed = [((s * 5042) >> 16).astype(jnp.int32) for s in sums]
  blended = _join(
    [
      _blend(degenerate, levels, inputs.values[0])
      for degenerate, levels in zip(smoothed, _channels(pixels), strict=True)
    ]
  )
  row, column = jnp.arange(height)[:, None], jnp.arange(width)
  inside = (row > 0) & (row < height - 1) & (column > 0) & (column < width - 1)
  return jnp.where(inside, blended, pixels)


class Window(NamedTuple):
  """A part of a picture, in whole pixels: scalars or arrays of one shape, int32."""

  top: Int[Array, "*b"]
  left: Int[Array, "*b"]
  height: Int[Array, "*b"]
  width: Int[Array, "*b"]


def geometric(name: str, pixels: Pixels, inputs: Inputs, window: Window | None = None) -> Pixels:
  """Returns the pixels after a geometric operation, nearest neighbour, rounded half away from zero.

  name: a key of `SOURCES`. window: if given, only this part is a picture: it is changed as if it
  stood alone, and what is around it stays.
  """
  height, width = pixels.shape
  top, left, rows, columns = (0, 0, height, width) if window is None else window
  column = (jnp.arange(width) - left).astype(jnp.float32)
  row = (jnp.arange(height) - top).astype(jnp.float32)[:, None]
  high, wide = jnp.asarray(rows, jnp.float32), jnp.asarray(columns, jnp.float32)
  x, y = SOURCES[name](column, row, high - 1, wide - 1, inputs.values)
  inside = (x > -0.5) & (x < wide - 0.5) & (y > -0.5) & (y < high - 0.5)
  source = ((y + _ALMOST_HALF).astype(jnp.int32) + top) * width
  source += (x + _ALMOST_HALF).astype(jnp.int32) + left
  source = jnp.where(inside, source, 0)
  moved = pixels.reshape(-1).at[source].get(mode="promise_in_bounds")
  moved = jnp.where(inside, moved, inputs.fill)
  return moved if window is None else jnp.where(within(pixels.shape, window), moved, pixels)


def within(size: tuple[int, int], window: Window) -> Bool[Array, "h w"]:
  """Returns which pixels of a picture of `size` lie in the window."""
  row, column = jnp.arange(size[0])[:, None], jnp.arange(size[1])
  rows = (row >= window.top) & (row < window.top + window.height)
  return rows & (column >= window.left) & (column < window.left + window.width)


def _rotate(x, y, bottom, right, values):
  cosine, sine = values[0], values[1]
  shift_x = (right - (_product(cosine, right) - _product(sine, bottom))) / 2
  shift_y = (bottom - (_product(sine, right) + _product(cosine, bottom))) / 2
  source_x = (_product(cosine, x) - _product(sine, y)) + shift_x
  source_y = (_product(sine, x) + _product(cosine, y)) + shift_y
  return source_x, source_y


# Where the pixel at column x and row y comes from: (x, y, last row, last column, values) -> (x, y).
SOURCES: dict[str, Callable[..., tuple[Float[Array, "*n"], Float[Array, "*n"]]]] = {
  "flip": lambda x, y, bottom, right, values: (right - x, y),
  "rotate": _rotate,
  "shear_x": lambda x, y, bottom, right, values: (x + _product(values[0], y), y),
  "shear_y": lambda x, y, bottom, right, values: (x, y + _product(values[0], x)),
  "translate_x": lambda x, y, bottom, right, values: (x + values[0], y),
  "translate_y": lambda x, y, bottom, right, values: (x, y + values[0]),
}


def _geometric(name: str) -> Callable[[Pixels, Inputs], Pixels]:
  return lambda pixels, inputs: geometric(name, pixels, inputs)


def _cutout(pixels, inputs):
  half = _whole(inputs.values[0])
  square = Window(inputs.centre[0] - half, inputs.centre[1] - half, 2 * half, 2 * half)
  return jnp.where(within(pixels.shape, square), inputs.fill, pixels)


OPERATIONS: dict[str, Operation] = {
  "identity": Operation(_identity),
  "autocontrast": Operation(_autocontrast),
  "equalize": Operation(_equalize),
  "invert": Operation(_invert),
  "rotate": Operation(
    _geometric("rotate"), "degrees, positive turns the picture counter-clockwise", True
  ),
  "posterize": Operation(_posterize, "bits kept"),
  "solarize": Operation(_solarize, "threshold; levels at or above it are inverted"),
  "solarize_add": Operation(_solarize_add, "levels added to those below 128"),
  "color": Operation(_color, "factor, 1 changes nothing"),
  "contrast": Operation(_contrast, "factor, 1 changes nothing"),
  "contrast_fixed": Operation(_contrast_fixed, "factor, 1 changes nothing"),
  "brightness": Operation(_brightness, "factor, 1 changes nothing"),
  "sharpness": Operation(_sharpness, "factor, 1 changes nothing"),
  "shear_x": Operation(_geometric("shear_x"), "columns per row, about the top-left corner", True),
  "shear_y": Operation(_geometric("shear_y"), "rows per column, about the top-left corner", True),
  "translate_x": Operation(
    _geometric("translate_x"), "pixels, positive moves the content left", True
  ),
  "translate_y": Operation(
    _geometric("translate_y"), "pixels, positive moves the content up", True
  ),
  "cutout": Operation(_cutout, "pixels, half the side of the square"),
}


def is_angle(name: str) -> bool:
  """Returns whether an operation, of pictures or of boxes, takes an angle: cosine and sine."""
  return name.startswith("rotate")


def values(name: str, argument: float | Float[Array, "*b"] | None) -> Float[Array, "*b 2"]:
  """Returns the `Inputs.values` of an operation from its argument, in the unit of `OPERATIONS`."""
  argument = np.float32(0) if argument is None else argument
  where = jnp if isinstance(argument, jax.Array) else np
  argument = where.asarray(argument, where.float32)
  if is_angle(name):
    angle = argument * np.float32(np.pi / 180)
    return where.stack([where.cos(angle), where.sin(angle)], axis=-1)
  return where.stack([argument, where.zeros_like(argument)], axis=-1)


def apply(
  name: str,
  images: UInt8[Array, "b h w 3"],
  argument: float | Float[Array, " b"] | None = None,
  fill: int | Sequence[int] = FILL,
  *,
  centres: Int[Array, "b 2"] | None = None,
) -> UInt8[Array, "b h w 3"]:
  """Returns the images after one operation.

  Args:
    name: a key of `OPERATIONS`. `contrast` is the published operation, whose reference level
      depends on the picture's size only; `contrast_fixed` uses the mean grey level.
    images: levels in [0, 255].
    argument: one number for all images or one for each, in the unit that `OPERATIONS` states;
      None for identity, autocontrast, equalize and invert. posterize, solarize, solarize_add and
      cutout cut it to a whole number; posterize and solarize then wrap it as 8-bit arithmetic does.
    fill: level, or red, green and blue, of pixels that come from outside and of the cutout square.
    centres: row and column of each cutout square; None puts it in the middle (h // 2, w // 2).

  Raises:
    UserError: for an unknown name. ValueError: for a missing or needless argument, images that are
      not uint8 b h w 3, or a fill outside [0, 255].

  >>> import numpy as np
  >>> apply("solarize", np.full((1, 2, 2, 3), 200, np.uint8), 128)[0, 0, 0].tolist()
  [55, 55, 55]
  """
  if name not in OPERATIONS:
    raise errors.unknown("operation", name, "an operation", OPERATIONS)
  operation = OPERATIONS[name]
  if bool(operation.unit) != (argument is not None):
    needs = f"an argument ({operation.unit})" if operation.unit else "no argument: give None"
    raise ValueError(f"{name} takes {needs}; got argument={argument!r}.")
  images = jnp.asarray(images)
  pixels = pack(images)
  batch, height, width = pixels.shape
  if centres is None:
    centres = np.array([height // 2, width // 2], np.int32)
  centres = jnp.broadcast_to(jnp.asarray(centres, jnp.int32), (batch, 2))
  inputs = Inputs(
    values=jnp.broadcast_to(values(name, argument), (batch, 2)),
    centre=centres,
    fill=jnp.broadcast_to(pack_fill(fill), (batch,)),
  )
  return unpack(jax.vmap(operation.function)(pixels, inputs))
