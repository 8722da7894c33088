"""Detection of boxes by networks that predict classes and offsets for a grid of anchors."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from effnets import errors
from effnets.ops import boxes as boxes_lib
from effnets.ops import losses, matching, nms
from effnets.tasks import base, objects, scenes

CLASS_LOSSES = ("focal", "hard_negatives")
NORMALIZERS = ("plus_one", "at_least_one")


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How anchors are matched with objects and what their predictions cost.

  positive, negative: IoU from which an anchor has an object, and below which it has none; between
    them it counts for nothing. force: see `matching.match`.
  scales: of box codes. background: whether logit 0 belongs to no class, and class c to logit c + 1;
  its target is 0 everywhere, as in TensorFlow's detectors with sigmoids.
  class_loss: `focal` over all anchors, or `hard_negatives`, cross-entropy over positives and the
    worst three negatives for each. alpha, gamma, label_smoothing: see `losses.focal`.
  delta: of the Huber loss. box_weight: of the box loss.
  skip_zeros: box targets of exactly 0 cost nothing, as in EfficientDet's code.
  normalizer: class losses are divided by the batch's positive anchors, `plus_one` or
    `at_least_one`; box losses by four times that.
  """

  positive: float = 0.5
  negative: float = 0.5
  force: str = "best"
  scales: tuple[float, float, float, float] = boxes_lib.UNIT_SCALES
  background: bool = False
  class_loss: str = "focal"
  alpha: float = 0.25
  gamma: float = 1.5
  label_smoothing: float = 0.0
  delta: float = 0.1
  box_weight: float = 50.0
  skip_zeros: bool = True
  normalizer: str = "plus_one"

  def __post_init__(self):
    key = "config.task"
    for name, options in (
      ("class_loss", CLASS_LOSSES),
      ("normalizer", NORMALIZERS),
      ("force", matching.FORCES),
    ):
      if getattr(self, name) not in options:
        raise errors.unknown(f"{key}.{name}", getattr(self, name), "a choice", options)
    if not 0 < self.negative <= self.positive <= 1:
      raise errors.UserError(
        f"{key}.negative={self.negative} and {key}.positive={self.positive}: overlaps in (0, 1], "
        "the first not above the second; usual: 0.5 and 0.5."
      )
    for name, above in (("delta", 0), ("box_weight", -1e-30), ("gamma", -1e-30)):
      if not above < getattr(self, name) < float("inf"):
        raise errors.UserError(f"{key}.{name}={getattr(self, name)!r} is out of range.")
    for name in ("alpha", "label_smoothing"):
      if not 0 <= getattr(self, name) < 1:
        raise errors.UserError(f"{key}.{name}={getattr(self, name)!r} is outside [0, 1).")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Targets:
  """What anchors should predict.

  classes: of the object, -1 for background, -2 for anchors that count for nothing. codes: of its
  box, 0 where there is none. positive: anchors with an object.
  """

  classes: Int[Array, "b a"]
  codes: Float[Array, "b a 4"]
  positive: Bool[Array, "b a"]


def targets(
  anchors: Float[Array, "a 4"],
  boxes: Float[Array, "b m 4"],
  classes: Int[Array, "b m"],
  recipe: Recipe,
) -> Targets:
  """Returns the targets of every anchor.

  Args: boxes, classes: of objects; class -1 is padding.
  """
  valid = classes >= 0
  match = matching.match(
    boxes_lib.iou(jnp.broadcast_to(anchors, (len(boxes), *anchors.shape)), boxes),
    valid,
    positive=recipe.positive,
    negative=recipe.negative,
    force=recipe.force,
  )
  own = matching.gather(boxes, match.index)
  codes = boxes_lib.encode(own, anchors, scales=recipe.scales)
  return Targets(
    jnp.where(match.positive, matching.gather(classes, match.index), match.index),
    jnp.where(match.positive[..., None], codes, 0.0),
    match.positive,
  )


def class_costs(
  logits: Float[Array, "b a k"], wanted: Targets, recipe: Recipe
) -> Float[Array, " b"]:
  """Returns the class loss of each picture, summed over anchors and classes."""
  slots = jnp.where(wanted.classes >= 0, wanted.classes + recipe.background, -1)
  hot = jax.nn.one_hot(slots, logits.shape[-1], dtype=jnp.float32)
  counted = wanted.classes != matching.IGNORED
  if recipe.class_loss == "focal":
    costs = losses.focal(
      logits,
      hot,
      alpha=recipe.alpha,
      gamma=recipe.gamma,
      label_smoothing=recipe.label_smoothing,
    ).sum(-1)
  else:
    costs = losses.sigmoid_cross_entropy(logits, hot, recipe.label_smoothing).sum(-1)
    negative = counted & ~wanted.positive
    hard = matching.hard_negatives(jax.lax.stop_gradient(costs), wanted.positive, negative)
    counted = wanted.positive | hard
  return jnp.sum(jnp.where(counted, costs, 0.0), -1)


def box_costs(codes: Float[Array, "b a 4"], wanted: Targets, recipe: Recipe) -> Float[Array, " b"]:
  """Returns the box loss of each picture, summed over anchors and coordinates, not weighted."""
  costs = losses.huber(codes - wanted.codes, recipe.delta)
  counted = wanted.positive[..., None]
  if recipe.skip_zeros:
    counted = wanted.codes != 0
  return jnp.sum(jnp.where(counted, costs, 0.0), (-2, -1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detection(objects.ObjectTask):
  """Detection over `b h w 3` uint8 images with at most m objects.

  A batch has `image`; `boxes` (b, m, 4), y0 x0 y1 x1 in its pixels; `classes` (b, m), -1 where
  there is no object; `size` (b, 2), height and width of what is not padding; and to predict,
  `scale` (b, 2), pixels down and across for each of the picture it came from.

  module: see `models.detector`. policy: device-side augmentation of (images, boxes, valid,
  per-example keys), or None. rule: how detections suppress each other. candidates: (anchor, class)
  pairs that take part, 0 for all. The others: see `scenes.SceneTask`.
  """

  recipe: Recipe = Recipe()
  rule: nms.Rule = nms.Rule(kind="gaussian", threshold=0.001)
  candidates: int = 5000
  policy: Callable[..., Any] | None = None

  def loss(
    self,
    variables: base.Variables,
    frozen: PyTree,
    batch: base.Batch,
    root: Key[Array, ""],
    step: Int[Array, ""],
  ) -> tuple[Float[Array, ""], base.Aux]:
    """Returns class loss + weighted box loss over the batch's positives; see `base.Task`.

    Normalised by the positives of the whole batch on every mesh; with `config.accumulate`, of each
    part.
    """
    del frozen, step
    keys = self._keys(batch, root, ("augment", "drop_path"))
    images, boxes, classes = self._augmented(batch, keys["augment"])
    (logits, codes), model_state = self._trained(
      variables, self._inputs(images, batch["size"]), {"drop_path": keys["drop_path"]}
    )
    wanted = targets(self.anchors, boxes, classes, self.recipe)
    logits, codes = flat(logits, self.module.num_classes), flat(codes, 4)
    weight = batch["weight"]
    class_sum = jnp.sum(weight * class_costs(logits, wanted, self.recipe))
    box_sum = jnp.sum(weight * box_costs(codes, wanted, self.recipe)) * self.recipe.box_weight / 4
    positives = jnp.sum(wanted.positive, dtype=jnp.float32)
    share = self._share(positives)
    metrics = {
      "class_loss": (class_sum, positives),
      "box_loss": (box_sum, positives),
      "positives": (positives, jnp.float32(len(images))),
    }
    return (class_sum + box_sum) * share, base.Aux(metrics, model_state)

  def _share(self, positives: Float[Array, ""]) -> Float[Array, ""]:
    """Returns what sums over this part of the batch are multiplied by."""
    positives, parts = scenes.total(self.placement, positives)
    if self.recipe.normalizer == "plus_one":
      return parts / (positives + 1)
    return parts / jnp.maximum(positives, 1)

  @property
  def anchors(self) -> Float[np.ndarray, "a 4"]:
    """Of an image, in the order of flattened predictions."""
    return self.module.anchors(self.image_size)

  def _augmented(self, batch: base.Batch, keys: Key[Array, " b"]) -> tuple[Array, Array, Array]:
    images, boxes, classes = batch["image"], batch["boxes"], batch["classes"]
    if self.policy is not None:
      policy = self.placement.per_example(self.policy)
      images, boxes, valid = policy(images, boxes, classes >= 0, keys)
      classes = jnp.where(valid, classes, -1)
    return images, boxes, classes

  def predict(self, variables: base.Variables, batch: base.Batch) -> dict[str, Array]:
    """Returns `boxes` (b, k, 4) in pixels of the picture, `scores`, `classes` (-1: padding)."""
    images = self._inputs(batch["image"], batch["size"])
    logits, codes = self.module.apply(variables, images, train=False)
    found = self.placement.per_example(self.detections)(
      flat(logits, self.module.num_classes), flat(codes, 4)
    )
    boxes = found.boxes / jnp.tile(batch["scale"], 2)[:, None]
    return {"boxes": boxes, "scores": found.scores, "classes": found.classes}

  def exported(self, *, suppression: bool) -> tuple[tuple[str, ...], base.Forward]:
    """Returns names of a program's outputs, and the function that gives them.

    suppression: `boxes` (b, k, 4) in pixels of the input, `scores` and `classes`; without it,
    `logits` and box `codes` of every anchor.
    """

    def anchors(module, variables, images):
      logits, codes = module.apply(variables, images, train=False)
      return {"logits": flat(logits, module.num_classes), "codes": flat(codes, 4)}

    def found(module, variables, images):
      detections = self.detections(**anchors(module, variables, images))
      return {name: getattr(detections, name) for name in ("boxes", "scores", "classes")}

    if suppression:
      return ("boxes", "scores", "classes"), found
    return ("logits", "codes"), anchors

  def detections(
    self, logits: Float[Array, "b a k"], codes: Float[Array, "b a 4"]
  ) -> nms.Detections:
    """Returns what is left after suppression; boxes in pixels of the input."""
    scores = jax.nn.sigmoid(logits[..., int(self.recipe.background) :].astype(jnp.float32))
    boxes = boxes_lib.decode(codes, self.anchors, scales=self.recipe.scales)
    return nms.per_class(boxes, scores, rule=self.rule, candidates=self.candidates)


def flat(levels: list[Float[Array, "b h w _c"]], channels: int) -> Float[Array, "b a c"]:
  """Returns predictions of all levels as one row an anchor."""
  return jnp.concatenate([x.reshape(x.shape[0], -1, channels) for x in levels], 1)
