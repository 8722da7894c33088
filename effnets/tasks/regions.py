"""Mask R-CNN's regions: proposals of a network, what they should become, and what errors cost.

Boxes are y0 x0 y1 x1 in pixels of the padded input. Class 0 of a region is the background, that of
an object its number + 1. All shapes are fixed by the recipe; what there is less of is marked.

Source: He et al. 2017 (arXiv 1703.06870) with the numbers of the TPU code.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from effnets import errors
from effnets.ops import boxes as boxes_lib
from effnets.ops import losses, masks, matching, nms, roi_align


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How proposals are made and taught, and then the regions.

  Of proposals:
    proposal_positive, proposal_negative: IoU from which an anchor has an object, and below which it
      has none; each object's best anchor has it whatever the overlap.
    proposal_samples, proposal_share: anchors of a picture that are scored, and the part of them
      that at most is positive. proposal_delta: of the Huber loss, as is `delta`.
    candidates, tested_candidates: best anchors of a level that go on, in training and otherwise.
    proposal_overlap: of suppression within a level. proposals: of a picture in the end.
    smallest: sides of a proposal are longer, in pixels.
  Of regions:
    positive: IoU from which a region has an object; below it is background.
    samples, share: regions of a picture that are taught, and the part that at most has an object;
      only these have masks. with_truth: objects' own boxes are among the candidates.
    scales, offset: of box codes, see `ops.boxes.encode`.
  """

  proposal_positive: float = 0.7
  proposal_negative: float = 0.3
  proposal_samples: int = 256
  proposal_share: float = 0.5
  proposal_delta: float = 1 / 9
  candidates: int = 2000
  tested_candidates: int = 1000
  proposal_overlap: float = 0.7
  proposals: int = 1000
  smallest: float = 0.0
  positive: float = 0.5
  samples: int = 512
  share: float = 0.25
  with_truth: bool = True
  scales: tuple[float, float, float, float] = boxes_lib.FASTER_RCNN_SCALES
  offset: float = 1.0
  delta: float = 1.0

  def __post_init__(self):
    key = "config.task"
    if not 0 < self.proposal_negative <= self.proposal_positive <= 1:
      raise errors.UserError(
        f"{key}.proposal_negative={self.proposal_negative} and {key}.proposal_positive="
        f"{self.proposal_positive}: overlaps in (0, 1], the first not above the second; usual: "
        "0.3 and 0.7."
      )
    for name in ("proposal_overlap", "positive", "proposal_share", "share"):
      if not 0 < getattr(self, name) <= 1:
        raise errors.UserError(f"{key}.{name}={getattr(self, name)!r} is outside (0, 1].")
    for name in ("proposal_samples", "candidates", "tested_candidates", "proposals", "samples"):
      value = getattr(self, name)
      if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise errors.UserError(f"{key}.{name}={value!r} should be a whole number above 0.")
    for name, above in (("proposal_delta", 0), ("delta", 0), ("smallest", -1e-30)):
      if not above < getattr(self, name) < float("inf"):
        raise errors.UserError(f"{key}.{name}={getattr(self, name)!r} is out of range.")
    if self.masked < 1:
      raise errors.UserError(
        f"{key}.share={self.share!r} of {key}.samples={self.samples!r} is less than one region."
      )

  @property
  def masked(self) -> int:
    """Regions of a picture whose masks are taught, most."""
    return int(self.samples * self.share + 1e-6)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ProposalTargets:
  """What anchors should propose.

  scored: those that are sampled. positive: of these, those with an object. codes: of its box, 0
  without one, also for anchors that are not sampled.
  """

  scored: Bool[Array, "b a"]
  positive: Bool[Array, "b a"]
  codes: Float[Array, "b a 4"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Regions:
  """Regions of pictures, those with an object first, and what they should become.

  classes: 0 for background. codes: of the object's box, 0 without one. owner: number of the
  object, -1 without one. valid: others fill the places that are left.
  """

  boxes: Float[Array, "b n 4"]
  classes: Int[Array, "b n"]
  codes: Float[Array, "b n 4"]
  owner: Int[Array, "b n"]
  valid: Bool[Array, "b n"]


class PerLevel(NamedTuple):
  """Sums over a picture, level by level, and how many were added."""

  sums: Float[Array, "b l"]
  counts: Float[Array, "b l"]


def propose(
  scores: Sequence[Float[Array, "b _h _w _a"]],
  codes: Sequence[Float[Array, "b _h _w _r"]],
  anchors: Float[np.ndarray, "a 4"],
  size: Int[Array, "b 2"],
  recipe: Recipe,
  *,
  candidates: int,
) -> nms.Detections:
  """Returns the best boxes after suppression within each level; `classes` is the level's place.

  Args:
    scores, codes: of every level, logits and regressions; their anchors follow each other in
      `anchors`. size: height and width of what is no padding, at which boxes are cut off.
    candidates: best anchors of a level that take part.
  No gradient goes through.
  """
  found = []
  start = 0
  for place, (score, code) in enumerate(zip(scores, codes, strict=True)):
    score = jax.lax.stop_gradient(score).reshape(len(score), -1)
    code = jax.lax.stop_gradient(code).reshape(len(code), -1, 4)
    own = jnp.asarray(anchors[start : start + score.shape[1]])
    start += score.shape[1]
    # By logits, which have the order of probabilities and no ties where those round to 1.
    best, index = jax.lax.top_k(score, min(candidates, score.shape[1]))
    code = jnp.take_along_axis(code, index[..., None], 1)
    boxes = boxes_lib.decode(code, own[index], largest_log=boxes_lib.LARGEST_LOG)
    boxes = boxes_lib.clip(boxes, size[:, :1], size[:, 1:])
    there = jnp.min(boxes[..., 2:] - boxes[..., :2], -1) > recipe.smallest
    found.append((boxes, jnp.where(there, best, -jnp.inf), jnp.full(best.shape, place, jnp.int32)))
  if start != len(anchors):
    raise ValueError(f"{len(anchors)} anchors for {start} scores.")
  boxes, best, level = (jnp.concatenate(part, 1) for part in zip(*found, strict=True))
  rule = nms.Rule(overlap=recipe.proposal_overlap, most=min(recipe.proposals, best.shape[1]))
  # Levels as classes: of each level the picks are those of suppressing it alone.
  return nms.nms(boxes, best, level, rule=rule)


def proposal_targets(
  keys: Key[Array, " b"],
  anchors: Float[Array, "a 4"],
  boxes: Float[Array, "b m 4"],
  classes: Int[Array, "b m"],
  recipe: Recipe,
) -> ProposalTargets:
  """Returns what a random sample of the anchors should propose.

  Args: boxes, classes: of objects; class -1 is padding.
  """
  match = matching.match(
    boxes_lib.iou(jnp.broadcast_to(anchors, (len(boxes), *anchors.shape)), boxes),
    classes >= 0,
    positive=recipe.proposal_positive,
    negative=recipe.proposal_negative,
    force="best",
  )

  def mark(key, positive, negative):
    taken = matching.sample(
      key, positive, negative, count=recipe.proposal_samples, share=recipe.proposal_share
    )
    none = jnp.zeros_like(positive)
    return none.at[taken.index].set(taken.valid), none.at[taken.index].set(taken.positive)

  scored, positive = jax.vmap(mark)(keys, match.positive, match.negative)
  codes = boxes_lib.encode(matching.gather(boxes, match.index), anchors)
  return ProposalTargets(scored, positive, jnp.where(positive[..., None], codes, 0.0))


def sample(
  keys: Key[Array, " b"],
  found: nms.Detections,
  boxes: Float[Array, "b m 4"],
  classes: Int[Array, "b m"],
  recipe: Recipe,
) -> Regions:
  """Returns a random sample of the proposals, and of the objects' own boxes, with its targets.

  Args: found: of `propose`. boxes, classes: of objects; class -1 is padding.
  """
  there = classes >= 0
  candidates, valid = found.boxes, found.valid
  if recipe.with_truth:
    candidates = jnp.concatenate([candidates, boxes], 1)
    valid = jnp.concatenate([valid, there], 1)
  match = matching.match(
    boxes_lib.iou(candidates, boxes), there, positive=recipe.positive, force="none"
  )

  def take(key, positive, negative):
    return matching.sample(key, positive, negative, count=recipe.samples, share=recipe.share)

  taken = jax.vmap(take)(keys, match.positive & valid, match.negative & valid)
  rows = lambda x: jnp.take_along_axis(x, taken.index[..., None], 1)  # noqa: E731
  regions = rows(candidates)
  owner = jnp.where(taken.positive, rows(match.index[..., None])[..., 0], -1)
  own = matching.gather(boxes, owner)
  codes = boxes_lib.encode(own, regions, scales=recipe.scales, offset=recipe.offset)
  return Regions(
    jnp.where(taken.valid[..., None], regions, 0.0),
    matching.gather(classes, owner, fill=-1) + 1,
    jnp.where(taken.positive[..., None], codes, 0.0),
    owner,
    taken.valid,
  )


def crop(
  features: Sequence[Float[Array, "b _h _w c"]],
  boxes: Float[Array, "b n 4"],
  levels: tuple[int, ...],
  size: int,
) -> Float[Array, "b n size size c"]:
  """Returns the features of regions, each from the level of its size; one point for each bin."""

  def one(maps, regions):
    level = roi_align.levels(regions, low=levels[0], high=levels[-1])
    pyramid = dict(zip(levels, maps, strict=True))
    return roi_align.multilevel_roi_align(pyramid, regions, level, size=size, aligned=False)

  return jax.vmap(one)(list(features), boxes)


def mask_targets(
  regions: Regions, boxes: Float[Array, "b m 4"], stored: Array, *, size: int
) -> Float[Array, "b n size size"]:
  """Returns 0 or 1 for each cell of each region that has an object: the part of it in sight.

  Args: boxes, stored: of objects; `stored` (b, m, s, s) are their masks over their boxes.
  """
  own, of = matching.gather(boxes, regions.owner), matching.gather(stored, regions.owner)
  cut = jax.vmap(lambda m, a, b: masks.crop(m, a, b, size=size))(of, own, regions.boxes)
  return (cut >= 0.5).astype(jnp.float32)


def score_costs(scores: Float[Array, "b a"], wanted: ProposalTargets) -> Float[Array, " b"]:
  """Returns the cross-entropy of the sampled anchors' scores, summed over each picture."""
  costs = losses.sigmoid_cross_entropy(scores, wanted.positive.astype(jnp.float32))
  return jnp.sum(jnp.where(wanted.scored, costs, 0.0), -1)


def proposal_costs(
  codes: Sequence[Float[Array, "b _h _w _r"]], wanted: ProposalTargets, recipe: Recipe
) -> PerLevel:
  """Returns the Huber loss of all coordinates with a target other than 0, summed by level.

  The official code takes the mean of each level and adds the means.
  """
  start, sums, counts = 0, [], []
  for code in codes:
    code = code.reshape(len(code), -1, 4)
    target = wanted.codes[:, start : start + code.shape[1]]
    start += code.shape[1]
    counted = target != 0
    costs = jnp.where(counted, losses.huber(code - target, recipe.proposal_delta), 0.0)
    sums.append(jnp.sum(costs, (1, 2)))
    counts.append(jnp.sum(counted, (1, 2), dtype=jnp.float32))
  return PerLevel(jnp.stack(sums, 1), jnp.stack(counts, 1))


def class_costs(logits: Float[Array, "b n k"], regions: Regions) -> Float[Array, " b"]:
  """Returns the softmax cross-entropy of valid regions, summed over each picture."""
  costs = optax.softmax_cross_entropy_with_integer_labels(logits, regions.classes)
  return jnp.sum(jnp.where(regions.valid, costs, 0.0), -1)


def box_costs(codes: Float[Array, "b n r"], regions: Regions, recipe: Recipe) -> Float[Array, " b"]:
  """Returns the Huber loss of the object's class's box, summed over regions that have an object."""
  own = codes.reshape(*codes.shape[:2], -1, 4)
  own = jnp.take_along_axis(own, regions.classes[..., None, None], 2)[:, :, 0]
  costs = losses.huber(own - regions.codes, recipe.delta)
  return jnp.sum(jnp.where((regions.classes > 0)[..., None], costs, 0.0), (1, 2))


def mask_costs(
  logits: Float[Array, "b n s s k"], targets: Float[Array, "b n s s"], classes: Int[Array, "b n"]
) -> Float[Array, " b"]:
  """Returns the cross-entropy of the object's class's mask, summed over regions with an object."""
  own = of_class(logits, classes)
  costs = losses.sigmoid_cross_entropy(own, targets)
  return jnp.sum(jnp.where((classes > 0)[..., None, None], costs, 0.0), (1, 2, 3))


def of_class(
  logits: Float[Array, "b n s s k"], classes: Int[Array, "b n"]
) -> Float[Array, "b n s s"]:
  """Returns of each region the mask of its class."""
  index = jnp.maximum(classes, 0)[..., None, None, None]
  return jnp.take_along_axis(logits, index, -1)[..., 0]


def detect(
  logits: Float[Array, "b n k"],
  codes: Float[Array, "b n r"],
  found: nms.Detections,
  size: Int[Array, "b 2"],
  recipe: Recipe,
  *,
  rule: nms.Rule,
) -> nms.Detections:
  """Returns what is left of the regions' classes and boxes after suppression, the class from 0.

  Args: found: the regions, of `propose`. size: as there; boxes are cut off at it.
  """
  scores = jax.nn.softmax(logits.astype(jnp.float32))[..., 1:]
  scores = jnp.where(found.valid[..., None], scores, -jnp.inf)
  codes = codes.reshape(*codes.shape[:2], -1, 4)[:, :, 1:]
  boxes = boxes_lib.decode(
    codes,
    found.boxes[:, :, None],
    scales=recipe.scales,
    offset=recipe.offset,
    largest_log=boxes_lib.LARGEST_LOG,
  )
  boxes = boxes_lib.clip(boxes, size[:, :1, None], size[:, 1:, None])
  return nms.per_class(boxes, scores, rule=rule)
