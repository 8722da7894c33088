"""Detection of objects with their masks, in two stages: proposals, then regions cut from them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from effnets import errors, models
from effnets.ops import nms
from effnets.tasks import base, detection, objects, scenes
from effnets.tasks import regions as regions_lib

MASK_FIGURES = "mask_"
"""What the names of masks' figures begin with; those of boxes have COCO's own names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instances(objects.ObjectTask):
  """Mask R-CNN over `b h w 3` uint8 images with at most m objects.

  A batch is that of `tasks.Detection`; to train, it also has `masks` (b, m, s, s), each object's
  over its box; to predict, `original` (b, 2), height and width of the file's picture.

  module: see `models.mask_rcnn`. rule: how detections of a class suppress each other. The others:
  see `scenes.SceneTask`.
  """

  recipe: regions_lib.Recipe = regions_lib.Recipe()
  rule: nms.Rule = nms.Rule(overlap=0.5, threshold=0.05, most=100)

  def loss(
    self,
    variables: base.Variables,
    frozen: PyTree,
    batch: base.Batch,
    root: Key[Array, ""],
    step: Int[Array, ""],
  ) -> tuple[Float[Array, ""], base.Aux]:
    """Returns the sum of five losses, each a mean over the whole batch; see `base.Task`.

    Scores of proposals over `proposal_samples` of each picture, boxes of proposals over coordinates
    of each level, classes over regions, boxes and masks over regions with an object. With
    `config.accumulate`, means are of each part.
    """
    del frozen, step
    keys = self._keys(batch, root, ("anchors", "regions", "drop_path"))
    boxes, classes, recipe = batch["boxes"], batch["classes"], self.recipe
    images = self._inputs(batch["image"], batch["size"])
    choose = functools.partial(self._chosen, batch=batch, keys=keys["regions"])
    made, model_state = self._trained(
      variables, images, {"drop_path": keys["drop_path"]}, regions=choose
    )
    taken, masks = made["regions"]
    wanted = self.placement.per_example(
      lambda *a: regions_lib.proposal_targets(a[0], self.anchors, *a[1:], recipe)
    )(keys["anchors"], boxes, classes)
    scores = detection.flat(made["scores"], 1)[..., 0]
    per_level = regions_lib.proposal_costs(made["proposals"], wanted, recipe)
    masked = taken.classes[:, : recipe.masked]
    weight, objects_there = batch["weight"], jnp.sum(taken.classes > 0, dtype=jnp.float32)
    summed = lambda costs: jnp.sum(weight * costs)  # noqa: E731
    terms = {
      "score_loss": (
        summed(regions_lib.score_costs(scores, wanted)),
        jnp.float32(len(images) * recipe.proposal_samples),
      ),
      "proposal_loss": (
        jnp.sum(weight[:, None] * per_level.sums, 0),
        jnp.sum(per_level.counts, 0),
      ),
      "class_loss": (
        summed(regions_lib.class_costs(made["classes"], taken)),
        jnp.sum(taken.valid, dtype=jnp.float32),
      ),
      "box_loss": (summed(regions_lib.box_costs(made["boxes"], taken, recipe)), 4 * objects_there),
      "mask_loss": (
        summed(regions_lib.mask_costs(made["masks"], masks, masked)),
        objects_there * masks.shape[-1] * masks.shape[-2],
      ),
    }
    loss = sum(self._mean(*term) for term in terms.values())
    metrics = {name: (jnp.sum(total), jnp.sum(count)) for name, (total, count) in terms.items()}
    metrics["positives"] = (objects_there, jnp.float32(len(images)))
    return loss, base.Aux(metrics, model_state)

  def _mean(self, total: Float[Array, "*n"], count: Float[Array, "*n"]) -> Float[Array, ""]:
    """Returns the sum of the means over the whole batch; one of nothing is 0."""
    whole, parts = scenes.total(self.placement, count)
    return jnp.sum(total * parts / jnp.maximum(whole, 1))

  def _chosen(self, features, scores, codes, *, batch, keys):
    """Returns features of regions to train on, for boxes and for masks, and what they should be."""

    def choose(features, scores, codes, keys, size, boxes, classes, stored):
      found = regions_lib.propose(
        scores, codes, self.anchors, size, self.recipe, candidates=self.recipe.candidates
      )
      taken = regions_lib.sample(keys, found, boxes, classes, self.recipe)
      # Those with an object come first.
      head = jax.tree.map(lambda x: x[:, : self.recipe.masked], taken)
      masks = regions_lib.mask_targets(head, boxes, stored, size=2 * models.mask_rcnn.MASK_CROP)
      crops = self._crop(features, taken.boxes, models.mask_rcnn.BOX_CROP)
      return crops, self._crop(features, head.boxes, models.mask_rcnn.MASK_CROP), (taken, masks)

    objects_known = (batch[name] for name in ("size", "boxes", "classes", "masks"))
    return self.placement.per_example(choose)(features, scores, codes, keys, *objects_known)

  def _crop(self, features: Any, boxes: Float[Array, "b n 4"], size: int) -> Array:
    return regions_lib.crop(features, boxes, self.module.levels, size)

  @property
  def anchors(self) -> Float[np.ndarray, "a 4"]:
    """Of an image, level by level."""
    return self.module.anchors(self.image_size)

  def predict(self, variables: base.Variables, batch: base.Batch) -> dict[str, Array]:
    """Returns `boxes` (b, k, 4) in pixels of the picture, `scores`, `classes` (-1: padding).

    And `masks` (b, k, 28, 28), uint8: the probability over the box, 255 for 1.
    """
    images = self._inputs(batch["image"], batch["size"])
    each = self.placement.per_example
    kept, masks = self._found(self.module, variables, images, batch["size"], each)
    return {
      "boxes": kept.boxes / jnp.tile(batch["scale"], 2)[:, None],
      "scores": kept.scores,
      "classes": kept.classes,
      "masks": jnp.round(255 * masks).astype(jnp.uint8),
    }

  def _found(
    self, module: Any, variables: base.Variables, images: Array, size: Array, each: Callable
  ) -> tuple[nms.Detections, Float[Array, "b k 28 28"]]:
    """Returns detections in pixels of the input, and the probability of their masks over boxes.

    each: makes a function of batches run where the examples are.
    """
    recipe = self.recipe
    run = functools.partial(module.apply, variables)
    features = run(images, method="features")
    scores, codes = run(features, method="propose")
    found = each(
      lambda *a: regions_lib.propose(
        a[0], a[1], self.anchors, a[2], recipe, candidates=recipe.tested_candidates
      )
    )(scores, codes, size)
    sizes = models.mask_rcnn.BOX_CROP, models.mask_rcnn.MASK_CROP
    box_crop, mask_crop = (each(functools.partial(self._crop, size=side)) for side in sizes)
    logits, codes = run(box_crop(features, found.boxes), method="classify")
    kept = each(lambda *a: regions_lib.detect(*a, recipe, rule=self.rule))(
      logits, codes, found, size
    )
    masks = run(mask_crop(features, kept.boxes), method="mask")
    return kept, jax.nn.sigmoid(regions_lib.of_class(masks, kept.classes + 1))

  def exported(self, *, suppression: bool) -> tuple[tuple[str, ...], base.Forward]:
    """Returns names of a program's outputs, and the function that gives them.

    suppression: `boxes` (b, k, 4) in pixels of the input, `scores`, `classes`, and `masks`
    (b, k, 28, 28), probabilities over the box; without it, what comes before any choice: `logits`
    and box `codes` of every anchor's proposal.
    """

    def proposals(module, variables, images):
      features = module.apply(variables, images, method="features")
      scores, codes = module.apply(variables, features, method="propose")
      return {"logits": detection.flat(scores, 1), "codes": detection.flat(codes, 4)}

    def found(module, variables, images):
      size = jnp.broadcast_to(jnp.asarray(images.shape[1:3]), (len(images), 2))
      kept, masks = self._found(module, variables, images, size, lambda fn: fn)
      whole = {name: getattr(kept, name) for name in ("boxes", "scores", "classes")}
      return {**whole, "masks": masks}

    if suppression:
      return ("boxes", "scores", "classes", "masks"), found
    return ("logits", "codes"), proposals

  @property
  def figures(self) -> tuple[str, ...]:
    """Names of the figures that `evaluate` returns: those of boxes, then COCO's twelve of masks."""
    from effnets.evaluation import detection as judge

    return (*super().figures, *(MASK_FIGURES + name for name in judge.COCO_FIGURES))

  def judged(
    self, found: list[dict[str, Any]], examples: dict[str, np.ndarray], source: Any
  ) -> tuple[dict[str, float], dict[str, float]]:
    """Returns COCO's figures of boxes and of masks, and each class's AP of boxes.

    Raises: UserError if `source` knows no masks.
    """
    from effnets.evaluation import detection as judge

    truth = source.truth(examples["index"].tolist())
    if any("segmentation" not in one for one in truth["annotations"]):
      raise errors.UserError(
        f"config.data.source: {source.name} has objects without masks, which this task is judged "
        "by; a COCO folder has them with --config.data.options.masks=True."
      )
    figures, per_class = super().judged(found, examples, source)
    of_masks, _ = judge.average_precision(truth, found, masks=True)
    return {**figures, **{MASK_FIGURES + k: v for k, v in of_masks.items()}}, per_class

  def _masks(self, outputs: dict[str, np.ndarray], examples: dict[str, np.ndarray]) -> Any:
    from effnets.evaluation import detection as judge

    found = []
    for masks, boxes, classes, (height, width) in zip(
      outputs["masks"],
      outputs["boxes"],
      outputs["classes"],
      examples["original"].tolist(),
      strict=True,
    ):
      likely = masks.astype(np.float32) / 255
      found.append(judge.pasted(likely, boxes, classes >= 0, height=height, width=width))
    return found
