"""Non-maximum suppression with fixed shapes: from many scored boxes to a few, best first.

Three forms of one greedy rule (take the best box left, lower the scores of those that overlap it):

  nms        candidates with one class each (or none: then all suppress each other), one pass of all
             candidates for each box kept
  per_class  scores of every class for every box; only the row of the class that was picked is
             touched, so 90 classes cost hardly more than one and no candidate is given up
  nms with `kind="hard"` and more than 256 boxes kept (region proposals): candidates are sorted and
             resolved tile by tile, far fewer and wider steps than one for each box

Scores never rise, so picks come in falling order and the first `most` over all classes are what
suppressing within each class and then merging gives. Nothing depends on the data but how soon the
loop ends. Batches are leading dimensions; they run in one loop.

Source: Bodla et al. 2017 (arXiv 1704.04503) for soft suppression.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from effnets import errors
from effnets.ops import boxes as boxes_lib

KINDS = ("hard", "gaussian", "linear")

# Of a tile's boxes each meets each: 256 x 256 overlaps are one step.
_TILE = 256
_DEAD = -jnp.inf


@dataclasses.dataclass(frozen=True)
class Rule:
  """How boxes suppress each other.

  kind: `hard`      boxes with an overlap above `overlap` go
    `gaussian`  scores are multiplied by exp(-overlap^2 / sigma)
    `linear`    scores of boxes with an overlap above `overlap` are multiplied by 1 - overlap
  overlap: intersection over union, in [0, 1]. sigma: > 0. (TensorFlow's operator takes half of it.)
  threshold: candidates below it are left out, before and after their scores were lowered; of the
    soft kinds at least 0, as a negative score times a weight would rise.
  most: boxes kept, >= 1. offset: 1 if corners name pixels, see `boxes`.

  Raises: UserError for a setting out of range.
  """

  kind: str = "hard"
  overlap: float = 0.5
  sigma: float = 0.5
  threshold: float = float("-inf")
  most: int = 100
  offset: float = 0.0

  def __post_init__(self):
    if self.kind not in KINDS:
      raise errors.unknown("kind", self.kind, "a kind of suppression", KINDS)
    if not 0 <= self.overlap <= 1 or not self.sigma > 0 or self.most < 1:
      raise errors.UserError(
        f"overlap should be in [0, 1], sigma above 0 and most at least 1: {self}."
      )
    if self.kind != "hard" and self.threshold < 0:
      object.__setattr__(self, "threshold", 0.0)

  def weights(self, overlap: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns what scores are multiplied by, given overlaps with the box that was picked."""
    if self.kind == "gaussian":
      return jnp.exp(-(overlap**2) / self.sigma)
    return jnp.where(overlap > self.overlap, 1 - overlap if self.kind == "linear" else 0.0, 1.0)


class Detections(NamedTuple):
  """Boxes kept, best first; places from `count` on are padding.

  boxes: 0 in padding. scores: after suppression, 0 in padding. classes: -1 in padding; 0 where
  there are no classes. index: which of the boxes that came in, -1 in padding. count: how many.
  """

  boxes: Float[Array, "*b k 4"]
  scores: Float[Array, "*b k"]
  classes: Int[Array, "*b k"]
  index: Int[Array, "*b k"]
  count: Int[Array, "*b"]

  @property
  def valid(self) -> Bool[Array, "*b k"]:
    """Which places hold a box."""
    return self.index >= 0


def nms(
  boxes: Float[Array, "*b n 4"],
  scores: Float[Array, "*b n"],
  classes: Int[Array, "*b n"] | None = None,
  *,
  rule: Rule,
  candidates: int = 0,
) -> Detections:
  """Returns the boxes kept of candidates that have one score each.

  Args:
    boxes: y0 x0 y1 x1. scores: NaN and -inf leave a candidate out; soft kinds: in [0, 1].
    classes: boxes of different classes do not meet; None: all do.
    candidates: only so many of the best take part, 0: all.
  """
  lead, n = scores.shape[:-1], scores.shape[-1]
  b = math.prod(lead)
  boxes = jnp.asarray(boxes, jnp.float32).reshape(b, n, 4)
  scores = jnp.asarray(scores, jnp.float32).reshape(b, n)
  none = classes is None
  classes = jnp.zeros_like(scores, jnp.int32) if none else jnp.asarray(classes).reshape(b, n)
  scores = _living(scores, rule)
  tiled = rule.kind == "hard" and rule.most > _TILE
  index = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), scores.shape)
  if tiled or 0 < candidates < n:
    scores, index = jax.lax.top_k(scores, min(candidates or n, n))
    boxes = jnp.take_along_axis(boxes, index[..., None], 1)
    classes = jnp.take_along_axis(classes, index, 1)
  same = None if none else classes
  if not n:
    place, kept = _nothing(scores, rule)
  else:
    place, kept = (_tiles if tiled else _greedy)(boxes, scores, same, rule)
  return _detections(lead, boxes, kept, classes, index, place)


def per_class(
  boxes: Float[Array, "*b n 4"] | Float[Array, "*b n c 4"],
  scores: Float[Array, "*b n c"],
  *,
  rule: Rule,
  candidates: int = 0,
) -> Detections:
  """Returns the boxes kept over all classes; `index` counts boxes, `classes` score columns.

  Args:
    boxes: one for all classes, or one for each. scores: as `nms`.
    candidates: only so many of the best (box, class) pairs of a picture take part, 0: all.
  Source: EfficientDet's code takes 5,000 pairs; see `top_pairs`.
  """
  lead, (n, c) = scores.shape[:-2], scores.shape[-2:]
  b = math.prod(lead)
  scores = jnp.asarray(scores, jnp.float32).reshape(b, n, c)
  own = boxes.ndim - len(lead) == 3
  boxes = jnp.asarray(boxes, jnp.float32).reshape(b, n, *((c, 4) if own else (4,)))
  if not n * c:
    place, kept = _nothing(scores, rule)
    zeros = jnp.zeros((b, 0), jnp.int32)
    return _detections(lead, jnp.zeros((b, 0, 4)), kept, zeros, zeros, place)
  if 0 < candidates < n * c:
    best, index, classes = top_pairs(scores, candidates)
    flat = boxes.reshape(b, -1, 4)
    at = index * c + classes if own else index
    found = nms(jnp.take_along_axis(flat, at[..., None], 1), best, classes, rule=rule)
    index = jnp.where(found.valid, jnp.take_along_axis(index, found.index, 1), -1)
    found = found._replace(index=index)
    return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), found)
  rows = jnp.swapaxes(_living(scores, rule), 1, 2)
  boxes = jnp.swapaxes(boxes, 1, 2) if own else boxes[:, None]
  place, kept = _by_rows(boxes, rows, rule)
  index, classes = place % n, place // n
  flat = boxes.reshape(b, -1, 4)
  return _finish(lead, flat, kept, classes, index, place if own else index, place >= 0)


def top_pairs(
  scores: Float[Array, "*b n c"], count: int
) -> tuple[Float[Array, "*b k"], Int[Array, "*b k"], Int[Array, "*b k"]]:
  """Returns score, box and class of the `count` best (box, class) pairs, best first.

  The best pairs lie in the boxes with the best maxima, so first that many boxes are taken: 5,000 of
  49,104 boxes with 90 classes are found among 450,000 pairs instead of 4.4 million. Exact, but that
  of equal scores at the end of the list others may be taken than a sort would.
  """
  n, c = scores.shape[-2:]
  count = min(count, n * c)
  rows = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), scores.shape[:-1])
  if count < n:
    _, rows = jax.lax.top_k(jnp.max(scores, -1), count)
    scores = jnp.take_along_axis(scores, rows[..., None], -2)
  best, pair = jax.lax.top_k(scores.reshape(*scores.shape[:-2], -1), count)
  return best, jnp.take_along_axis(rows, pair // c, -1), pair % c


def _living(scores: Array, rule: Rule) -> Array:
  return jnp.where(scores >= rule.threshold, scores, _DEAD)


def _nothing(scores: Array, rule: Rule) -> tuple[Array, Array]:
  shape = (len(scores), rule.most)
  return jnp.full(shape, -1, jnp.int32), jnp.zeros(shape)


def _overlaps(box: Array, boxes: Array, areas: Array, rule: Rule) -> Array:
  """Returns IoU of one box of each picture, `b 4`, with its boxes, four arrays `b n`."""
  y0, x0, y1, x1 = boxes
  height = jnp.minimum(y1, box[:, 2:3]) - jnp.maximum(y0, box[:, 0:1]) + rule.offset
  width = jnp.minimum(x1, box[:, 3:4]) - jnp.maximum(x0, box[:, 1:2]) + rule.offset
  shared = jnp.maximum(height, 0.0) * jnp.maximum(width, 0.0)
  union = areas + boxes_lib.area(box, offset=rule.offset)[:, None] - shared
  return jnp.where(union > 0, shared / jnp.where(union > 0, union, 1.0), 0.0)


def _lowered(scores: Array, overlap: Array, picked: Array, same: Array | bool, rule: Rule) -> Array:
  """Returns the scores left: lowered, dead below the threshold; those of picked boxes are dead."""
  dead = picked
  if rule.kind == "hard":
    return jnp.where(dead | ((overlap > rule.overlap) & same), _DEAD, scores)
  lower = jnp.where(same, scores * rule.weights(overlap), scores)
  # Minus infinity times zero is no number, and no candidate either.
  return jnp.where(dead | ~(lower >= rule.threshold), _DEAD, lower)


def _first(values: Array, best: Array) -> Array:
  """Returns the first place along the last axis where `values` is `best`.

  As `argmax`, which knows no vector instructions on a CPU; a minimum does.
  """
  places = jax.lax.broadcasted_iota(jnp.int32, values.shape, values.ndim - 1)
  found = jnp.min(jnp.where(values == best[..., None], places, values.shape[-1]), -1)
  return jnp.minimum(found, values.shape[-1] - 1)


def _loop(step, state, most: int, batch: int):
  """Runs `step(state) -> (state, place, score)`, score dead if there was none, up to `most` times.

  Ends when every picture has run out of boxes.
  """
  start = (
    jnp.int32(0),
    jnp.full(batch, True),
    jnp.full((batch, most), -1, jnp.int32),
    jnp.zeros((batch, most)),
    state,
  )

  def body(carry):
    count, _, places, scores, state = carry
    state, place, score = step(state)
    alive = score > _DEAD
    put = lambda array, value: jax.lax.dynamic_update_slice(array, value[:, None], (0, count))  # noqa: E731
    places = put(places, jnp.where(alive, place, -1))
    return count + 1, alive, places, put(scores, jnp.where(alive, score, 0.0)), state

  running = lambda carry: (carry[0] < most) & jnp.any(carry[1])  # noqa: E731
  _, _, places, scores, _ = jax.lax.while_loop(running, body, start)
  return places, scores


def _greedy(boxes: Array, scores: Array, classes: Array | None, rule: Rule) -> tuple[Array, Array]:
  """Returns places among `b n` candidates, and scores."""
  sides = tuple(boxes[..., i] for i in range(4))
  areas = boxes_lib.area(boxes, offset=rule.offset)
  places = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)

  def step(scores):
    best = jnp.max(scores, 1)
    place = _first(scores, best)
    box = jnp.take_along_axis(boxes, place[:, None, None], 1)[:, 0]
    same = True
    if classes is not None:
      same = classes == jnp.take_along_axis(classes, place[:, None], 1)
    overlap = _overlaps(box, sides, areas, rule)
    return _lowered(scores, overlap, places == place[:, None], same, rule), place, best

  return _loop(step, scores, rule.most, len(scores))


def _by_rows(boxes: Array, scores: Array, rule: Rule) -> tuple[Array, Array]:
  """Returns places, class * n + box, and scores; `scores` are `b c n`, boxes `b c|1 n 4`."""
  batch, c, n = scores.shape
  areas = boxes_lib.area(boxes, offset=rule.offset)
  sides = [boxes[..., i] for i in range(4)]
  places = jax.lax.broadcasted_iota(jnp.int32, (batch, n), 1)
  own = boxes.shape[1] > 1

  def row_of(array, which):
    return jnp.take_along_axis(array, which[:, None, None], 1)[:, 0] if own else array[:, 0]

  def step(state):
    scores, tops = state
    best = jnp.max(tops, 1)
    which = _first(tops, best)
    row = jnp.take_along_axis(scores, which[:, None, None], 1)[:, 0]
    place = _first(row, best)
    mine = tuple(row_of(side, which) for side in sides)
    box = jnp.stack([jnp.take_along_axis(s, place[:, None], 1)[:, 0] for s in mine], -1)
    overlap = _overlaps(box, mine, row_of(areas, which), rule)
    row = _lowered(row, overlap, places == place[:, None], True, rule)
    scores = _set_row(scores, which, row)
    chosen = jax.lax.broadcasted_iota(jnp.int32, tops.shape, 1) == which[:, None]
    tops = jnp.where(chosen, jnp.max(row, 1, keepdims=True), tops)
    return (scores, tops), which * n + place, best

  return _loop(step, (scores, jnp.max(scores, 2)), rule.most, batch)


def _set_row(scores: Array, which: Array, row: Array) -> Array:
  if len(scores) == 1:
    return jax.lax.dynamic_update_slice(scores, row[:, None], (0, which[0], 0))
  return scores.at[jnp.arange(len(scores)), which].set(row, unique_indices=True)


def _tiles(boxes: Array, scores: Array, classes: Array | None, rule: Rule) -> tuple[Array, Array]:
  """As `_greedy`, hard, of candidates in falling order of score."""
  batch, n = scores.shape
  tiles = -(-n // _TILE)
  more = ((0, 0), (0, tiles * _TILE - n))
  padded = jnp.pad(boxes, (*more, (0, 0)))
  alive = jnp.pad(scores, more, constant_values=_DEAD) > _DEAD
  classes = None if classes is None else jnp.pad(classes, more)
  places = jnp.arange(tiles * _TILE)
  earlier = jnp.arange(_TILE)[:, None] < jnp.arange(_TILE)[None, :]

  def suppress(first, second):
    """Returns whether boxes of the slice `first` would suppress those of `second`: b f s."""
    one, two = (jax.lax.dynamic_slice_in_dim(padded, at, size, 1) for at, size in (first, second))
    hit = boxes_lib.iou(one, two, offset=rule.offset) > rule.overlap
    if classes is not None:
      a, b = (jax.lax.dynamic_slice_in_dim(classes, at, size, 1) for at, size in (first, second))
      hit &= a[:, :, None] == b[:, None, :]
    return hit

  def body(carry):
    tile, kept = carry
    at = tile * _TILE
    before = kept & (places < at)
    mine = jax.lax.dynamic_slice_in_dim(alive, at, _TILE, 1)

    def by_tile(other, mine):
      hit = suppress((other * _TILE, _TILE), (at, _TILE))
      keeper = jax.lax.dynamic_slice_in_dim(before, other * _TILE, _TILE, 1)
      return mine & ~jnp.any(hit & keeper[:, :, None], 1)

    mine = jax.lax.fori_loop(0, tile, by_tile, mine)
    inner = suppress((at, _TILE), (at, _TILE)) & earlier

    # Right for the first box after one round, for the second after two at the latest, …; and at a
    # fixed point for all.
    def again(pair):
      _, now = pair
      return now, mine & ~jnp.any(inner & now[:, :, None], 1)

    _, mine = jax.lax.while_loop(lambda p: jnp.any(p[0] != p[1]), again, again((mine, mine)))
    return tile + 1, jax.lax.dynamic_update_slice_in_dim(kept, mine, at, 1)

  def running(carry):
    tile, kept = carry
    return (tile < tiles) & jnp.any(jnp.sum(kept, 1) < rule.most)

  _, kept = jax.lax.while_loop(running, body, (jnp.int32(0), jnp.zeros_like(alive)))
  rank = jnp.cumsum(kept, 1) - 1
  rank = jnp.where(kept, rank, rule.most)
  put = jax.vmap(lambda r: jnp.full(rule.most, -1, jnp.int32).at[r].set(places, mode="drop"))
  place = put(rank)
  found = jnp.take_along_axis(scores, jnp.maximum(place, 0), 1)
  return place, jnp.where(place >= 0, found, 0.0)


def _detections(lead, boxes, scores, classes, index, place) -> Detections:
  """Returns the candidates `place` with their scores."""
  if not boxes.shape[1]:
    boxes, classes, index = (
      jnp.pad(x, ((0, 0), (0, 1), *((0, 0),) * (x.ndim - 2))) for x in (boxes, classes, index)
    )
  at = jnp.maximum(place, 0)
  classes, index = (jnp.take_along_axis(x, at, 1) for x in (classes, index))
  return _finish(lead, boxes, scores, classes, index, at, place >= 0)


def _finish(lead, boxes, scores, classes, index, at, valid) -> Detections:
  boxes = jnp.take_along_axis(boxes, jnp.maximum(at, 0)[..., None], 1)
  found = Detections(
    jnp.where(valid[..., None], boxes, 0.0),
    jnp.where(valid, scores, 0.0),
    jnp.where(valid, classes, -1).astype(jnp.int32),
    jnp.where(valid, index, -1).astype(jnp.int32),
    jnp.sum(valid, 1, dtype=jnp.int32),
  )
  return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), found)
