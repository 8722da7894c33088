"""Semantic segmentation: a class for every pixel."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from effnets import data, evaluation
from effnets.ops import masks
from effnets.tasks import base, scenes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segmentation(scenes.SceneTask):
  """Softmax cross-entropy of every pixel that has a class.

  A batch has `image`, `semantic` (b, h, w), 255 where no class counts, and `size`; see
  `scenes.SceneTask`. module: gives logits `b h w k`. label_smoothing: in [0, 1).
  """

  label_smoothing: float = 0.0

  def loss(
    self,
    variables: base.Variables,
    frozen: PyTree,
    batch: base.Batch,
    root: Key[Array, ""],
    step: Int[Array, ""],
  ) -> tuple[Float[Array, ""], base.Aux]:
    """Returns the mean cross-entropy over the pixels that count, in nats; see `base.Task`."""
    del frozen, step
    noise = self._keys(batch, root, ("dropout", "drop_path"))
    images = self._inputs(batch["image"], batch["size"])
    logits, model_state = self._trained(variables, images, noise)
    labels = batch["semantic"].astype(jnp.int32)
    counted = (labels != data.scenes.IGNORED).astype(jnp.float32)
    entropy = self._entropy(logits.astype(jnp.float32), jnp.minimum(labels, self.num_classes - 1))
    weighted = jnp.sum(batch["weight"][:, None, None] * counted * entropy)
    pixels = jnp.sum(counted)
    hits = jnp.sum(counted * (jnp.argmax(logits, -1) == labels))
    metrics = {
      "cross_entropy": (jnp.sum(counted * entropy), pixels),
      "pixel_accuracy": (hits, pixels),
    }
    whole, parts = scenes.total(self.placement, pixels)
    return weighted * parts / jnp.maximum(whole, 1), base.Aux(metrics, model_state)

  def _entropy(
    self, logits: Float[Array, "b h w k"], labels: Int[Array, "b h w"]
  ) -> Float[Array, "b h w"]:
    hard = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if not self.label_smoothing:
      return hard
    # The share that goes to all classes alike.
    even = -jnp.mean(jax.nn.log_softmax(logits), -1)
    return (1 - self.label_smoothing) * hard + self.label_smoothing * even

  def classes(self, variables: base.Variables, batch: base.Batch) -> Int[Array, "b h w"]:
    """Returns the likeliest class of every pixel of the images, padding too."""
    images = self._inputs(batch["image"], batch["size"])
    return jnp.argmax(self.module.apply(variables, images, train=False), -1)

  def predict(self, variables: base.Variables, batch: base.Batch) -> dict[str, Array]:
    """Returns `confusion` (b, k, k): pixels of each class (row) that were taken for which."""
    found = self.classes(variables, batch)
    return {"confusion": masks.confusion(batch["semantic"], found, classes=self.num_classes)}

  def mapped(self, variables: base.Variables, batch: base.Batch) -> dict[str, Array]:
    """Returns `classes` (b, h, w), uint8: the likeliest class of every pixel, padding too."""
    return {"classes": self.classes(variables, batch).astype(jnp.uint8)}

  @property
  def figures(self) -> tuple[str, ...]:
    """Names of the figures that `evaluate` returns."""
    return evaluation.SEGMENTATION_FIGURES

  def evaluate(
    self, outputs: dict[str, np.ndarray], examples: dict[str, np.ndarray], source: Any
  ) -> dict[str, float]:
    """Returns the figures of `evaluation.segmentation`."""
    del examples, source
    return evaluation.segmentation(outputs["confusion"])[0]
