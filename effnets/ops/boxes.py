"""Arithmetic on boxes: areas, overlaps, and the codes that networks predict instead of corners.

A box is y0 x0 y1 x1, float32, in pixels of the padded input unless said otherwise; pixel i covers
[i, i + 1], so a box is y1 - y0 high. Older code counts pixels instead and makes it one higher:
`offset=1` asks for that. A box with y1 < y0 or x1 < x0 has no area, and overlaps nothing.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from effnets import errors

# Of y, x, height and width, by who used them first; see `encode`.
UNIT_SCALES = (1.0, 1.0, 1.0, 1.0)
FASTER_RCNN_SCALES = (10.0, 10.0, 5.0, 5.0)
# The largest ln(height / anchor's height) that Mask R-CNN decodes.
LARGEST_LOG = 4.135166556742356  # ln(1000 / 16)

KINDS = ("iou", "giou", "diou", "ciou")

_SMALLEST = 1e-8


def area(boxes: Float[Array, "*n 4"], *, offset: float = 0.0) -> Float[Array, "*n"]:
  """Returns the areas in square pixels, 0 for a box whose corners are the wrong way round.

  offset: 1 if corners name pixels that both belong to the box.

  >>> area(jnp.array([[0.0, 0.0, 2.0, 3.0], [5.0, 5.0, 4.0, 9.0]])).tolist()
  [6.0, 0.0]
  """
  sides = boxes[..., 2:] - boxes[..., :2] + offset
  return jnp.prod(jnp.maximum(sides, 0.0), axis=-1)


def intersection(
  a: Float[Array, "*b n 4"], b: Float[Array, "*b m 4"], *, offset: float = 0.0
) -> Float[Array, "*b n m"]:
  """Returns the area that each of `a` shares with each of `b`."""
  # By coordinate, not by a last dimension of two: that is what vector units are filled with.
  ay0, ax0, ay1, ax1 = (a[..., i][..., :, None] for i in range(4))
  by0, bx0, by1, bx1 = (b[..., i][..., None, :] for i in range(4))
  height = jnp.minimum(ay1, by1) - jnp.maximum(ay0, by0) + offset
  width = jnp.minimum(ax1, bx1) - jnp.maximum(ax0, bx0) + offset
  return jnp.maximum(height, 0.0) * jnp.maximum(width, 0.0)


def iou(
  a: Float[Array, "*b n 4"], b: Float[Array, "*b m 4"], *, offset: float = 0.0
) -> Float[Array, "*b n m"]:
  """Returns intersection over union of each of `a` with each of `b`, 0 where neither has an area.

  >>> iou(jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[1.0, 0.0, 3.0, 2.0]])).round(4).tolist()
  [[0.33329999446868896]]
  """
  shared = intersection(a, b, offset=offset)
  both = area(a, offset=offset)[..., :, None] + area(b, offset=offset)[..., None, :]
  return _ratio(shared, both - shared)


def covered(a: Float[Array, "*b n 4"], b: Float[Array, "*b m 4"]) -> Float[Array, "*b n m"]:
  """Returns the share of each of `a` that lies in each of `b`: what counts as overlap with crowds.

  Source: COCO's evaluation, where a crowd's box holds any number of objects.
  """
  return _ratio(intersection(a, b), jnp.broadcast_to(area(a)[..., :, None], _pairs(a, b)))


def similarity(
  a: Float[Array, "*n 4"], b: Float[Array, "*n 4"], *, kind: str = "giou"
) -> Float[Array, "*n"]:
  """Returns how alike each box of `a` is to the same one of `b`; 1 less this is the usual loss.

  Args:
    kind: `iou`   intersection over union, in [0, 1]; no gradient where boxes are apart
      `giou`  less the share of the hull that neither covers, in (-1, 1]
      `diou`  iou less the squared distance of the middles over the hull's squared diagonal
      `ciou`  diou less how much proportions differ (no gradient through that term's weight)
  A hull without area (or length) counts as covered: two equal points are at 0, nothing is NaN, and
  so are the gradients.

  Raises: UserError for another kind.
  Source: Rezatofighi et al. 2019 (arXiv 1902.09630), Zheng et al. 2020 (arXiv 1911.08287).
  """
  if kind not in KINDS:
    raise errors.unknown("kind", kind, "a kind of overlap", KINDS)
  first, last = jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])
  shared = jnp.prod(jnp.maximum(last - first, 0.0), axis=-1)
  union = area(a) + area(b) - shared
  overlap = _ratio(shared, union)
  if kind == "iou":
    return overlap
  hull = jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2])
  if kind == "giou":
    whole = jnp.prod(jnp.maximum(hull, 0.0), axis=-1)
    return overlap - _ratio(whole - union, whole)
  between = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
  near = overlap - _ratio(jnp.sum(between**2, -1), jnp.sum(hull**2, -1))
  if kind == "diou":
    return near
  differ = (_turn(a) - _turn(b)) ** 2 * (4 / jnp.pi**2)
  weight = jax.lax.stop_gradient(_ratio(differ, 1 - overlap + differ))
  return near - weight * differ


def clip(
  boxes: Float[Array, "*n 4"], height: float | Float[Array, ""], width: float | Float[Array, ""]
) -> Float[Array, "*n 4"]:
  """Returns the boxes cut off at a picture's border; one outside becomes a line on it.

  height, width: numbers, or arrays that broadcast against `*n` (sizes of each picture).
  """
  y, x = jnp.asarray(height, boxes.dtype), jnp.asarray(width, boxes.dtype)
  high = jnp.stack(jnp.broadcast_arrays(y, x, y, x), axis=-1)
  return jnp.clip(boxes, 0.0, high)


def encode(
  boxes: Float[Array, "*n 4"],
  anchors: Float[Array, "*n 4"],
  *,
  scales: tuple[float, float, float, float] = UNIT_SCALES,
  offset: float = 0.0,
) -> Float[Array, "*n 4"]:
  """Returns codes (y, x, height, width) of boxes relative to anchors.

  y: distance of the middles over the anchor's height; height: natural logarithm of the ratio of
  heights; x and width alike; each times its scale. Sides below 1e-8 count as that.

  Args:
    scales: `UNIT_SCALES` (EfficientDet, RetinaNet, RPN), `FASTER_RCNN_SCALES` (SSD, box heads); the
      reciprocals of what other code calls variances. offset: 1 for Mask R-CNN's box head, 0
      elsewhere; see the module.
  Source: Ren et al. 2015 (arXiv 1506.01497), eq. 2.
  """
  boxes, anchors = jnp.asarray(boxes, jnp.float32), jnp.asarray(anchors, jnp.float32)
  middle, sides = _middle(boxes, offset)
  own, unit = _middle(anchors, offset)
  place = (middle - own) / unit
  return jnp.concatenate([place, jnp.log(sides / unit)], -1) * jnp.array(scales, jnp.float32)


def decode(
  codes: Float[Array, "*n 4"],
  anchors: Float[Array, "*n 4"],
  *,
  scales: tuple[float, float, float, float] = UNIT_SCALES,
  offset: float = 0.0,
  largest_log: float | None = None,
) -> Float[Array, "*n 4"]:
  """Returns the boxes that `encode` gives these codes; not clipped to the picture.

  Args: as `encode`. largest_log: codes of height and width are cut to this before they are raised
    (`LARGEST_LOG`: Mask R-CNN); None leaves them, and large ones give infinite boxes.
  """
  codes = jnp.asarray(codes, jnp.float32) / jnp.array(scales, jnp.float32)
  own, unit = _middle(jnp.asarray(anchors, jnp.float32), offset)
  logs = codes[..., 2:]
  if largest_log is not None:
    logs = jnp.minimum(logs, largest_log)
  middle, sides = codes[..., :2] * unit + own, jnp.exp(logs) * unit
  first = middle - sides / 2
  return jnp.concatenate([first, first + sides - offset], -1)


def _middle(boxes: Array, offset: float) -> tuple[Array, Array]:
  sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2] + offset, _SMALLEST)
  return boxes[..., :2] + sides / 2, sides


def _ratio(part: Array, whole: Array) -> Array:
  """Returns part / whole, 0 where whole is not positive, there with a gradient of 0."""
  there = whole > 0
  return jnp.where(there, part / jnp.where(there, whole, 1.0), 0.0)


def _turn(boxes: Array) -> Array:
  sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
  return jnp.arctan(_ratio(sides[..., 1], sides[..., 0]))


def _pairs(a: Array, b: Array) -> tuple[int, ...]:
  return (*jnp.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-2])
