"""Masks on a small grid over a box, put into pictures and cut out anew; pixels counted by class."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def paste(
  masks: Float[Array, "k s s"], boxes: Float[Array, "k 4"], *, height: int, width: int
) -> Float[Array, "k height width"]:
  """Returns the masks stretched over their boxes, 0 outside, at the middles of a picture's pixels.

  Bilinear between the middles of the grid's cells; at the border of a box a mask fades to zero
  within half a cell. A box without area gives zeros. As two products with interpolation matrices,
  so shapes and costs do not depend on the boxes.

  Source: Detectron2's pasting (`align_corners=False`, zeros outside).
  """
  boxes = jnp.asarray(boxes, jnp.float32)
  down = _weights(boxes[:, 0], boxes[:, 2], height, masks.shape[1])
  across = _weights(boxes[:, 1], boxes[:, 3], width, masks.shape[2])
  product = lambda *a: jnp.einsum(*a, precision=jax.lax.Precision.HIGHEST)  # noqa: E731
  return product("khs,kst,kwt->khw", down, masks.astype(jnp.float32), across)


def crop(
  masks: Float[Array, "n s s"],
  own: Float[Array, "n 4"],
  boxes: Float[Array, "n 4"],
  *,
  size: int,
) -> Float[Array, "n size size"]:
  """Returns the part of masks over `own` boxes that other `boxes` see, on their grids.

  What training targets of regions are: objects' masks are stored on a grid over the object's box,
  and cut out anew for each region. Values are at the middles of cells, 0 outside of `own`; for
  targets cut them at 0.5.
  """
  own, boxes = jnp.asarray(own, jnp.float32), jnp.asarray(boxes, jnp.float32)

  def weights(axis, count):
    low, high = boxes[:, axis], boxes[:, axis + 2]
    points = low[:, None] + (jnp.arange(size) + 0.5) * ((high - low) / size)[:, None]
    return _hat(points, own[:, axis], own[:, axis + 2], count)

  down, across = weights(0, masks.shape[1]), weights(1, masks.shape[2])
  product = lambda *a: jnp.einsum(*a, precision=jax.lax.Precision.HIGHEST)  # noqa: E731
  return product("nhs,nst,nwt->nhw", down, masks.astype(jnp.float32), across)


def _weights(low: Array, high: Array, pixels: int, count: int) -> Array:
  return _hat(jnp.arange(pixels)[None] + 0.5, low, high, count)


def _hat(points: Array, low: Array, high: Array, count: int) -> Array:
  """Returns the weight of each of `count` cells of [low, high] at the points: n points count."""
  side = (high - low)[:, None]
  there = side > 0
  place = (points - low[:, None]) / jnp.where(there, side, 1.0) * count - 0.5
  weight = jnp.maximum(0.0, 1 - jnp.abs(place[..., None] - jnp.arange(count)))
  return jnp.where(there[..., None], weight, 0.0)


def confusion(
  labels: Int[Array, "*b h w"], predictions: Int[Array, "*b h w"], *, classes: int
) -> Int[Array, "*b k k"]:
  """Returns, for each picture, how many pixels of each class (row) were taken for which (column).

  Pixels whose label is no class (255, -1) do not count. Counts are exact, as whole numbers: a sum
  in float32 is wrong above 2^24. A picture has fewer than 2^31 pixels; sums over a set, which may
  have more, are for the host in int64.
  """
  lead, pixels = labels.shape[:-2], labels.shape[-2:]
  labels = jnp.asarray(labels, jnp.int32).reshape(-1, *pixels)
  predictions = jnp.asarray(predictions, jnp.int32).reshape(-1, *pixels)
  counts = jax.lax.platform_dependent(
    labels,
    predictions,
    cpu=lambda *a: _scattered(*a, classes),
    default=lambda *a: _multiplied(*a, classes),
  )
  return counts.reshape(*lead, classes, classes)


def _scattered(labels: Array, predictions: Array, classes: int) -> Array:
  counted = (labels >= 0) & (labels < classes) & (predictions >= 0) & (predictions < classes)
  cell = jnp.where(counted, labels * classes + predictions, classes * classes)
  picture = jnp.arange(len(cell))[:, None, None]
  counts = jnp.zeros((len(cell), classes * classes + 1), jnp.int32).at[picture, cell].add(1)
  return counts[:, :-1].reshape(-1, classes, classes)


def _multiplied(labels: Array, predictions: Array, classes: int) -> Array:
  """As `_scattered`, for machines with matrix units: scattering goes one pixel after the other."""
  rows, columns = (jax.nn.one_hot(x, classes, dtype=jnp.int8) for x in (labels, predictions))
  return jnp.einsum("bhwi,bhwj->bij", rows, columns, preferred_element_type=jnp.int32)
