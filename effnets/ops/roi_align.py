"""Features of regions: from a box on a pyramid of maps to a small map of fixed size.

A bin is read at one or more points between four pixels. The two ways in use differ by half a pixel:

  aligned=True   the middle of the first pixel is at 0.5 of its side: half a pixel is taken off. A
                 point more than a pixel outside of the map reads 0 (Detectron2)
  aligned=False  the middle of the first pixel is at 0 (TPU Mask R-CNN, whose boxes are clipped)

Points beyond the border are put on it. Everything is gathers of rows, so many for each box whatever
the boxes are.

Source: He et al. 2017 (arXiv 1703.06870).
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from effnets.ops import boxes as boxes_lib


def levels(
  boxes: Float[Array, "*n 4"],
  *,
  low: int,
  high: int,
  canonical_size: float = 224.0,
  canonical_level: int = 4,
) -> Int[Array, "*n"]:
  """Returns the pyramid level of each box: floor(log2(sqrt(area) / 224)) + 4, within [low, high].

  A box without area is on the lowest level.

  Source: Lin et al. 2017 (arXiv 1612.03144), eq. 1.

  >>> levels(jnp.array([[0.0, 0, 224, 224], [0, 0, 111, 111]]), low=2, high=6).tolist()
  [4, 2]
  """
  side = jnp.sqrt(boxes_lib.area(boxes))
  # Powers of two compared, not a logarithm cut: that of a power may come out a little below it.
  powers = 2.0 ** jnp.arange(low + 1 - canonical_level, high + 1 - canonical_level)
  return low + jnp.sum(side[..., None] >= canonical_size * powers, -1, dtype=jnp.int32)


def roi_align(
  features: Float[Array, "h w c"],
  boxes: Float[Array, "n 4"],
  *,
  size: int,
  samples: int = 1,
  scale: float | Float[Array, ""] = 1.0,
  aligned: bool = True,
) -> Float[Array, "n size size c"]:
  """Returns the features of the boxes of one picture's map; `jax.vmap` for many.

  Args:
    boxes: y0 x0 y1 x1 in pixels of the input. scale: pixels of the map for each of the input, such
      as 1/8. size: bins down and across. samples: points down and across each bin, averaged.
    aligned: see the module. In both a box may have no area; all points are then at one place.
  """
  pyramid = {0: features}
  return multilevel_roi_align(
    pyramid,
    boxes,
    jnp.zeros(len(boxes), jnp.int32),
    size=size,
    samples=samples,
    scales={0: scale},
    aligned=aligned,
  )


def multilevel_roi_align(
  pyramid: Mapping[int, Float[Array, "h w c"]],
  boxes: Float[Array, "n 4"],
  level: Int[Array, " n"],
  *,
  size: int,
  samples: int = 1,
  scales: Mapping[int, float | Array] | None = None,
  aligned: bool = True,
) -> Float[Array, "n size size c"]:
  """Returns the features of boxes, each from the map of its level, of one picture.

  The maps' pixels are put in one long list and each box reads only from its own level: cost and
  memory are of one map, not of all.

  Args: as `roi_align`. pyramid: maps by level, equal channels. level: of each box, one of the
    maps', see `levels`. scales: by level; default: 1 / 2^level.
  """
  numbers = sorted(pyramid)
  maps = [pyramid[number] for number in numbers]
  table = jnp.concatenate([m.reshape(-1, m.shape[-1]) for m in maps])
  starts = [0]
  for m in maps:
    starts.append(starts[-1] + m.shape[0] * m.shape[1])
  kind = jnp.promote_types(table.dtype, jnp.float32)
  row = jnp.searchsorted(jnp.array(numbers), level)
  of_level = lambda values, kind: jnp.stack([jnp.asarray(v, kind) for v in values])[row]  # noqa: E731
  scale = of_level([2.0**-n if scales is None else scales[n] for n in numbers], jnp.float32)
  height, width = (of_level([m.shape[axis] for m in maps], jnp.int32) for axis in (0, 1))
  start = of_level(starts[:-1], jnp.int32)
  # Places in half precision would be off by pixels.
  boxes = jnp.asarray(boxes, jnp.promote_types(boxes.dtype, jnp.float32)) * scale[:, None] - (
    0.5 if aligned else 0.0
  )
  down = _points(boxes[:, 0], boxes[:, 2], size * samples, height, aligned)
  across = _points(boxes[:, 1], boxes[:, 3], size * samples, width, aligned)
  found = 0.0
  for y, part_y in down:
    for x, part_x in across:
      at = start[:, None, None] + y[:, :, None] * width[:, None, None] + x[:, None, :]
      weight = part_y[:, :, None] * part_x[:, None, :]
      found = found + table[at].astype(kind) * weight[..., None]
  n, side, _, c = found.shape
  found = found.reshape(n, size, samples, size, samples, c).mean((2, 4)) if samples > 1 else found
  return found.astype(maps[0].dtype)


def _points(
  low: Array, high: Array, count: int, extent: Int[Array, " n"], aligned: bool
) -> Sequence[tuple[Array, Array]]:
  """Returns two (pixel, weight) pairs, each `n count`: those around evenly spread points."""
  at = low[:, None] + (jnp.arange(count) + 0.5) * ((high - low) / count)[:, None]
  last = (extent - 1)[:, None]
  near = (at >= -1) & (at <= last + 1) if aligned else True
  at = jnp.clip(at, 0.0, last.astype(at.dtype))
  first = jnp.minimum(jnp.floor(jax.lax.stop_gradient(at)).astype(jnp.int32), last)
  part = at - first
  second = jnp.minimum(first + 1, last)
  return [(first, jnp.where(near, 1 - part, 0.0)), (second, jnp.where(near, part, 0.0))]
