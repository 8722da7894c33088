"""Which anchor answers for which object, and which of them a loss looks at; fixed shapes.

Objects come padded to a fixed number with a mask, anchors are always all there. Everything works
on one picture or, with leading dimensions, on many.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from effnets import errors
from effnets.ops import boxes as boxes_lib

NEGATIVE, IGNORED = -1, -2
FORCES = ("none", "best", "bipartite")


class Matches(NamedTuple):
  """What each anchor is matched with.

  index: number of the object, `NEGATIVE` or `IGNORED`. overlap: similarity with the object that
  it resembles most, 0 if there is none; of a forced one, with its own.
  """

  index: Int[Array, "*b a"]
  overlap: Float[Array, "*b a"]

  @property
  def positive(self) -> Bool[Array, "*b a"]:
    """Which anchors have an object."""
    return self.index >= 0

  @property
  def negative(self) -> Bool[Array, "*b a"]:
    """Which anchors are background, the ignored ones not among them."""
    return self.index == NEGATIVE


def match(
  similarity: Float[Array, "*b a m"],
  valid: Bool[Array, "*b m"],
  *,
  positive: float = 0.5,
  negative: float | None = None,
  force: str = "best",
) -> Matches:
  """Returns the matches of anchors with objects.

  An anchor takes the object it resembles most (the first of equals) if that is at least `positive`;
  it is background below `negative`, and ignored between. Then objects are given anchors that they
  would not have got.

  Args:
    similarity: such as `boxes.iou(anchors, objects)`. valid: objects that take part.
    negative: None: as `positive`, so that nothing is ignored.
    force: `none`       an object may stay without an anchor
      `best`       each object gets the anchor most like it, whatever that has; if several want one
                   anchor, the first object gets it and the others go without (TensorFlow's)
      `bipartite`  the most similar pair of all is matched and both are taken out, and so on: every
                   object gets an anchor of its own (SSD's)
  An object that resembles no anchor at all (similarity 0: no area, or outside) is never forced.

  Raises: UserError for another `force`; ValueError if negative > positive.
  Source: argmax matcher of the Object Detection API; Liu et al. 2016 (SSD), section 2.2.
  """
  negative = positive if negative is None else negative
  if negative > positive:
    raise ValueError(f"negative={negative} must not be above positive={positive}.")
  if force not in FORCES:
    raise errors.unknown("force", force, "a way to force matches", FORCES)
  if similarity.ndim > 2:
    one = lambda s, v: match(s, v, positive=positive, negative=negative, force=force)  # noqa: E731
    return jax.vmap(one)(similarity, valid)
  anchors, objects = similarity.shape
  if not objects:
    return Matches(jnp.full(anchors, NEGATIVE, jnp.int32), jnp.zeros(anchors, jnp.float32))
  similarity = jnp.where(valid[None, :], similarity, -1.0)
  index = jnp.argmax(similarity, axis=1).astype(jnp.int32)
  overlap = jnp.max(similarity, axis=1)
  unmatched = jnp.where(overlap < negative, NEGATIVE, IGNORED)
  index = jnp.where(overlap >= positive, index, unmatched)
  if force != "none":
    chosen = _best(similarity) if force == "best" else _bipartite(similarity)
    # Anchor number `anchors` does not exist: what is written there is dropped.
    owner = jnp.full(anchors, objects, jnp.int32).at[chosen].min(jnp.arange(objects), mode="drop")
    forced = owner < objects
    index = jnp.where(forced, owner, index)
    own = jnp.take_along_axis(similarity, jnp.minimum(owner, objects - 1)[:, None], 1)[:, 0]
    overlap = jnp.where(forced, own, overlap)
  return Matches(index, jnp.maximum(overlap, 0.0))


def _best(similarity: Float[Array, "a m"]) -> Int[Array, " m"]:
  anchors = similarity.shape[0]
  return jnp.where(jnp.max(similarity, 0) > 0, jnp.argmax(similarity, 0), anchors)


def _bipartite(similarity: Float[Array, "a m"]) -> Int[Array, " m"]:
  anchors, objects = similarity.shape

  def step(_, carry):
    left, chosen = carry
    best = jnp.max(left, 0)  # of each object
    which = jnp.argmax(best)
    anchor = jnp.argmax(left[:, which])
    there = best[which] > 0
    chosen = chosen.at[which].set(jnp.where(there, anchor, chosen[which]))
    taken = (jnp.arange(anchors) == anchor)[:, None] | (jnp.arange(objects) == which)[None, :]
    return jnp.where(taken & there, -1.0, left), chosen

  start = (similarity, jnp.full(objects, anchors, jnp.int32))
  return jax.lax.fori_loop(0, objects, step, start)[1]


def ignore_crowds(
  matches: Matches,
  anchors: Float[Array, "a 4"],
  crowds: Float[Array, "*b m 4"],
  valid: Bool[Array, "*b m"],
  *,
  share: float = 0.5,
) -> Matches:
  """Returns the matches with those background anchors ignored that lie in crowds.

  Crowds are no objects to be matched. The papers' code leaves them out altogether, so that what is
  in them counts as background; this spares the anchors of which at least `share` lies in one crowd.
  """
  inside = boxes_lib.covered(
    jnp.broadcast_to(anchors, (*crowds.shape[:-2], *anchors.shape)), crowds
  )
  inside = jnp.any((inside >= share) & valid[..., None, :], axis=-1)
  return matches._replace(index=jnp.where(inside & matches.negative, IGNORED, matches.index))


def gather(values: Array, index: Int[Array, "*b a"], *, fill: float | int = 0) -> Array:
  """Returns, per anchor, the value of its object, `fill` where it has none.

  values: `*b m` or `*b m d`, such as classes or boxes.
  """
  if not values.shape[index.ndim - 1]:
    shape = (*index.shape, *values.shape[index.ndim :])
    return jnp.full(shape, fill, values.dtype)
  more = (1,) * (values.ndim - index.ndim)
  places = jnp.maximum(index, 0).reshape(*index.shape, *more)
  found = jnp.take_along_axis(values, places, axis=index.ndim - 1)
  return jnp.where((index >= 0).reshape(places.shape), found, jnp.asarray(fill, values.dtype))


class Sample(NamedTuple):
  """A fixed number of items. index: which; positive: of those; valid: others fill the place."""

  index: Int[Array, " s"]
  positive: Bool[Array, " s"]
  valid: Bool[Array, " s"]


def sample(
  key: Key[Array, ""],
  positive: Bool[Array, " n"],
  negative: Bool[Array, " n"],
  *,
  count: int,
  share: float,
) -> Sample:
  """Returns `count` items of one picture at random, at most `share` of them positive.

  Negatives fill the places that positives leave; if there are too few of these as well, the rest is
  not valid. Positives come first, then negatives. `count` above n gives n places.

  Source: region proposals (256, half) and box heads (512, a quarter) of Mask R-CNN.
  """
  most = int(count * share + 1e-6)
  # Random order of each kind: ranks among the positives, by the same word for every item.
  words = jax.random.uniform(key, positive.shape)
  places = min(count, positive.shape[0])
  taken = _among(positive, words, min(most, places))
  # Two above one above none: `top_k` fills the places in this order, words decide within.
  kind = jnp.where(taken, 2, jnp.where(negative & ~positive, 1, 0))
  _, index = jax.lax.top_k(kind + words, places)
  return Sample(index, taken[index], kind[index] > 0)


def _among(mask: Bool[Array, " n"], words: Float[Array, " n"], count: int) -> Bool[Array, " n"]:
  """Returns which of `mask` have the `count` largest words."""
  if not count:
    return jnp.zeros_like(mask)
  values, index = jax.lax.top_k(jnp.where(mask, words, -1.0), count)
  return jnp.zeros_like(mask).at[index].set(values >= 0)


def hard_negatives(
  losses: Float[Array, "*b a"],
  positive: Bool[Array, "*b a"],
  negative: Bool[Array, "*b a"],
  *,
  per_positive: float = 3.0,
  least: int = 0,
  most: int = 3000,
) -> Bool[Array, "*b a"]:
  """Returns which negatives count: those with the largest losses, some for each positive.

  Args:
    losses: of the classes. per_positive: negatives for each positive of the picture, rounded down;
      least: of them without positives too; most: of positives and negatives together.
  Source: Liu et al. 2016 (SSD), section 2.2; 3 for each and 3,000 in all in SSDLite's settings. The
    original also drops negatives that overlap a harder one by 0.99, which never happens.
  """
  places = min(most, losses.shape[-1])
  count = jnp.sum(positive, -1)
  wanted = jnp.maximum(jnp.floor(per_positive * count).astype(jnp.int32), least)
  wanted = jnp.minimum(wanted, places - jnp.minimum(count, places))
  ranked = jnp.where(negative & ~positive, losses, -jnp.inf)
  values, index = jax.lax.top_k(ranked, places)
  kept = (jnp.arange(places) < wanted[..., None]) & (values > -jnp.inf)
  flat = lambda x: x.reshape(-1, x.shape[-1])  # noqa: E731
  mark = jax.vmap(lambda k, i: jnp.zeros(losses.shape[-1], bool).at[i].set(k))
  return mark(flat(kept), flat(index)).reshape(losses.shape)
