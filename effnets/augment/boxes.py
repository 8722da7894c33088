"""Operations on pictures with boxes: geometric ones move the boxes, others act inside of them.

Boxes are y0 x0 y1 x1 in pixels, where pixel i covers [i, i + 1]; there is a fixed number of them
for each picture, of which `valid` says which ones are there. The rest are zeros.

Two rules say where a box goes (`RULES`):

  published  the official code's: corners are cut to whole pixels before and after they move, the
             hull of the four is clipped to the picture, and a box of no height or width, also one
             that left the picture, is made 5 % of the picture high or wide at its border
  exact      the hull of the corners, moved as the pixels are, is clipped to the picture; a box less
             than a pixel high or wide after that is dropped: no longer valid

Source: Zoph et al. 2019 (arXiv 1906.11172) and its code.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from effnets import errors
from effnets.augment import crops, switch
from effnets.augment import operations as ops

RULES = ("published", "exact")
MOVING = ("flip", *(name for name in ops.SOURCES if name != "flip"))

_WIDENED = 0.05
_SMALLEST = 1.0

Boxes = Float[Array, "n 4"]


class Scene(NamedTuple):
  """A picture with its boxes, or a batch of them."""

  pixels: UInt32[Array, "h w"]
  boxes: Boxes
  valid: Bool[Array, " n"]


class Inputs(NamedTuple):
  """What an operation takes beside the scene.

  picture: what it takes for pictures. words: random words for each box: whether, in which order,
  where. probability: for each box, of operations inside of boxes.
  """

  picture: ops.Inputs
  words: UInt32[Array, "n 4"]
  probability: Float[Array, ""]


class Operation(NamedTuple):
  """One entry of `OPERATIONS`.

  function: (scene, inputs, rule) -> scene. signed: whether a policy draws the argument's sign.
  """

  function: Callable[[Scene, Inputs, str], Scene]
  signed: bool = False


def move(
  name: str,
  boxes: Boxes,
  valid: Bool[Array, " n"],
  values: Float[Array, "2"],
  size: tuple[int, int],
  *,
  rule: str = "published",
) -> tuple[Boxes, Bool[Array, " n"]]:
  """Returns the boxes of one picture, and which are valid, after a geometric operation on it.

  Args:
    name: one of `MOVING`. values: see `ops.Inputs`. size: h, w of the picture. rule: see above.

  Raises: UserError for another name or rule.
  """
  if name not in MOVING:
    raise errors.unknown("operation", name, "an operation that moves boxes", MOVING)
  if rule not in RULES:
    raise errors.unknown("rule", rule, "a rule for boxes", RULES)
  whole = rule == "published"
  extent = jnp.array(size, jnp.float32)
  boxes = jnp.asarray(boxes, jnp.float32)
  # Four corners, each (n, 4).
  y, x = boxes[:, jnp.array([0, 0, 2, 2])], boxes[:, jnp.array([1, 3, 1, 3])]
  y, x = _corners(name, y, x, values, extent, whole)
  hull = jnp.stack([jnp.min(y, 1), jnp.min(x, 1), jnp.max(y, 1), jnp.max(x, 1)], axis=1)
  hull = jnp.clip(hull, 0, jnp.tile(extent, 2))
  first, last = hull[:, :2], hull[:, 2:]
  if whole:
    nothing = last - first == 0
    first = jnp.where(nothing, jnp.minimum(first, (1 - _WIDENED) * extent), first)
    last = jnp.where(nothing, jnp.maximum(last, _WIDENED * extent), last)
  else:
    valid = valid & jnp.all(last - first >= _SMALLEST, axis=1)
  moved = jnp.concatenate([first, last], axis=1)
  return jnp.where(valid[:, None], moved, 0), valid


def _corners(name, y, x, values, extent, whole):
  """Returns where the corners come to lie: the inverse of `ops.SOURCES`."""
  cut = jnp.trunc if whole else lambda moved: moved
  if name == "rotate":
    # Also what is cut before it turns is the distance from the middle.
    down, right = cut(y - extent[0] / 2), cut(x - extent[1] / 2)
    cosine, sine = values
    turned_y, turned_x = cut(cosine * down - sine * right), cut(cosine * right + sine * down)
    return turned_y + extent[0] / 2, turned_x + extent[1] / 2
  y, x = cut(y), cut(x)
  # The official code shears about the corner of the picture, its pixels about the first's middle.
  middle = 0.0 if whole else 0.5
  value = values[0]
  if name == "flip":
    return y, extent[1] - x
  if name.startswith("translate"):
    # Pixels are moved by the nearest whole number.
    shift = jnp.trunc(value) if whole else jnp.floor(value + 0.5)
    return (y, x - shift) if name == "translate_x" else (y - shift, x)
  if name == "shear_x":
    return y, cut(x - value * (y - middle))
  return cut(y - value * (x - middle)), x


def windows(boxes: Boxes, size: tuple[int, int]) -> ops.Window:
  """Returns the pixels that the boxes touch, cut off at the picture's border."""
  extent = jnp.array(size)
  first = jnp.clip(jnp.floor(boxes[:, :2]).astype(jnp.int32), 0, extent)
  last = jnp.clip(jnp.ceil(boxes[:, 2:]).astype(jnp.int32), first, extent)
  return ops.Window(*first.T, *(last - first).T)


def _plain(name):
  function = ops.OPERATIONS[name].function

  def change(scene, inputs, rule):
    del rule
    return scene._replace(pixels=function(scene.pixels, inputs.picture))

  return change


def _moving(name):
  def change(scene, inputs, rule):
    size, values = scene.pixels.shape, inputs.picture.values
    boxes, valid = move(name, scene.boxes, scene.valid, values, size, rule=rule)
    return Scene(ops.geometric(name, scene.pixels, inputs.picture), boxes, valid)

  return change


def _in_boxes(paint: Callable[..., ops.Pixels]):
  """Returns the operation that does `paint` in every drawn box, one after another at random."""

  def change(scene, inputs, rule):
    del rule
    drawn = scene.valid & switch.below(inputs.words[:, 0], inputs.probability)
    # Those that are drawn come first, in random order.
    last = jnp.uint32(2**32 - 1)
    order = jnp.argsort(jnp.where(drawn, inputs.words[:, 1] >> 1, last))
    places = windows(scene.boxes, scene.pixels.shape)

    def one(k, pixels):
      window = ops.Window(*(part[order[k]] for part in places))
      return paint(pixels, inputs.picture, window, inputs.words[order[k], 2:])

    pixels = jax.lax.fori_loop(0, jnp.sum(drawn, dtype=jnp.int32), one, scene.pixels)
    return scene._replace(pixels=pixels)

  return change


def _geometric_in(name):
  return lambda pixels, inputs, window, words: ops.geometric(name, pixels, inputs, window)


def _equalize_in(pixels, inputs, window, words):
  del inputs, words
  inside = ops.within(pixels.shape, window)
  return jnp.where(inside, ops.equalize(pixels, inside), pixels)


def _solarize_in(pixels, inputs, window, words):
  del words
  solarized = ops.OPERATIONS["solarize"].function(pixels, inputs)
  return jnp.where(ops.within(pixels.shape, window), solarized, pixels)


def _centre(window: ops.Window, words: UInt32[Array, "2"]) -> tuple[Int[Array, ""], Int[Array, ""]]:
  row = words[0] % jnp.maximum(window.height, 1).astype(jnp.uint32)
  column = words[1] % jnp.maximum(window.width, 1).astype(jnp.uint32)
  return window.top + row.astype(jnp.int32), window.left + column.astype(jnp.int32)


def _cutout_in(pixels, inputs, window, words):
  half = inputs.values[0].astype(jnp.int32)
  row, column = _centre(window, words)
  square = ops.Window(row - half, column - half, 2 * half, 2 * half)
  inside = ops.within(pixels.shape, square) & ops.within(pixels.shape, window)
  return jnp.where(inside, inputs.fill, pixels)


def _cutout_at_box(scene, inputs, rule):
  """Paints a rectangle with its middle in one random box; it may reach out of it."""
  del rule
  # The box with the smallest word among those that are there.
  word = jnp.where(scene.valid, inputs.words[:, 1] >> 1, jnp.uint32(2**32 - 1))
  box = jnp.argmin(word)
  places = windows(scene.boxes, scene.pixels.shape)
  window = ops.Window(*(part[box] for part in places))
  row, column = _centre(window, inputs.words[box, 2:])
  share = inputs.picture.values[0] / 2
  high, wide = ((share * side).astype(jnp.int32) for side in (window.height, window.width))
  rectangle = ops.Window(row - high, column - wide, 2 * high, 2 * wide)
  inside = ops.within(scene.pixels.shape, rectangle) & scene.valid[box]
  return scene._replace(pixels=jnp.where(inside, inputs.picture.fill, scene.pixels))


def _operations() -> dict[str, Operation]:
  found = {
    name: Operation(_moving(name) if name in MOVING else _plain(name), operation.signed)
    for name, operation in ops.OPERATIONS.items()
  }
  for name in MOVING:
    signed = name in ops.OPERATIONS
    found[f"{name}_in_boxes"] = Operation(_in_boxes(_geometric_in(name)), signed)
  found["solarize_in_boxes"] = Operation(_in_boxes(_solarize_in))
  found["equalize_in_boxes"] = Operation(_in_boxes(_equalize_in))
  found["cutout_in_boxes"] = Operation(_in_boxes(_cutout_in))
  found["cutout_at_box"] = Operation(_cutout_at_box)
  return found


# Those of whole pictures, of which the geometric ones move the boxes; `X_in_boxes`, which does X in
# every drawn box as if it were a picture; and `cutout_at_box`.
OPERATIONS: dict[str, Operation] = _operations()


def flip(
  boxes: Float[Array, "b n 4"], valid: Bool[Array, "b n"], keys: Key[Array, " b"], *, width: int
) -> Float[Array, "b n 4"]:
  """Returns the boxes of pictures of `width` as `crops.flip` mirrors these with the same keys."""
  y0, x0, y1, x1 = jnp.moveaxis(boxes, -1, 0)
  turned = jnp.stack([y0, width - x1, y1, width - x0], axis=-1)
  return jnp.where((crops.mirrored(keys)[:, None] & valid)[..., None], turned, boxes)
