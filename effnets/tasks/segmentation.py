"""Semantic segmentation: a class for every pixel."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from effnets import data, evaluation
from effnets.ops import losses, masks, resampling
from effnets.tasks import base, scenes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segmentation(scenes.SceneTask):
  """Softmax cross-entropy of every pixel that has a class.

  A batch has `image`, `semantic` (b, h, w), 255 where no class counts, and `size`; see
  `scenes.SceneTask`. module: gives logits `b h w k`. label_smoothing: in [0, 1).

  hard_share: of a picture's pixels the part with the largest losses is learnt; 1 for all.
  hard_steps: over so many first steps that part falls from 1.
  scales, mirror: predictions are the mean of probabilities over the images at these scales, and
  over their mirror images.
  """

  label_smoothing: float = 0.0
  hard_share: float = 1.0
  hard_steps: int = 0
  scales: tuple[float, ...] = (1.0,)
  mirror: bool = False

  def loss(
    self,
    variables: base.Variables,
    frozen: PyTree,
    batch: base.Batch,
    root: Key[Array, ""],
    step: Int[Array, ""],
  ) -> tuple[Float[Array, ""], base.Aux]:
    """Returns the mean cross-entropy over the pixels that count, in nats; see `base.Task`.

    `hard_share` below 1: over the hardest of these.
    """
    del frozen
    noise = self._keys(batch, root, ("dropout", "drop_path"))
    images = self._inputs(batch["image"], batch["size"])
    logits, model_state = self._trained(variables, images, noise)
    labels = batch["semantic"].astype(jnp.int32)
    counted = (labels != data.scenes.IGNORED).astype(jnp.float32)
    entropy = self._entropy(logits.astype(jnp.float32), jnp.minimum(labels, self.num_classes - 1))
    taken = counted * self._hard(entropy, counted > 0, step)
    weighted = jnp.sum(batch["weight"][:, None, None] * taken * entropy)
    pixels = jnp.sum(counted)
    hits = jnp.sum(counted * (jnp.argmax(logits, -1) == labels))
    metrics = {
      "cross_entropy": (jnp.sum(counted * entropy), pixels),
      "pixel_accuracy": (hits, pixels),
    }
    whole, parts = scenes.total(self.placement, jnp.sum(taken))
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

  def _hard(
    self, entropy: Float[Array, "b h w"], counted: Bool[Array, "b h w"], step: Int[Array, ""]
  ) -> Float[Array, "b h w"] | float:
    """Returns 1 for pixels that are learnt, if they are chosen by their losses."""
    if self.hard_share == 1:
      return 1.0
    through = jnp.minimum((step + 1) / self.hard_steps, 1) if self.hard_steps else 1.0
    rows = lambda x: x.reshape(len(x), -1)  # noqa: E731
    share = 1 - through * (1 - self.hard_share)
    found = losses.hardest(rows(jax.lax.stop_gradient(entropy)), rows(counted), share)
    return found.reshape(entropy.shape).astype(jnp.float32)

  def classes(self, variables: base.Variables, batch: base.Batch) -> Int[Array, "b h w"]:
    """Returns the likeliest class of every pixel of the images, padding too."""
    images = self._inputs(batch["image"], batch["size"])
    run = lambda x: self.module.apply(variables, x, train=False)  # noqa: E731
    if self.scales == (1.0,) and not self.mirror:
      return jnp.argmax(run(images), -1)
    size, total = images.shape[1:3], 0.0
    for scale in self.scales:
      # The corner pixels stay corners, as 32 n + 1 pixels across want it.
      scaled = resampling.bilinear(images, tuple(int((side - 1) * scale + 1) for side in size))
      total += jax.nn.softmax(resampling.bilinear(run(scaled).astype(jnp.float32), size))
      if self.mirror:
        mirrored = run(scaled[:, :, ::-1]).astype(jnp.float32)[:, :, ::-1]
        total += jax.nn.softmax(resampling.bilinear(mirrored, size))
    return jnp.argmax(total, -1)

  def predict(self, variables: base.Variables, batch: base.Batch) -> dict[str, Array]:
    """Returns `confusion` (b, k, k): pixels of each class (row) that were taken for which."""
    found = self.classes(variables, batch)
    return {"confusion": masks.confusion(batch["semantic"], found, classes=self.num_classes)}

  def mapped(self, variables: base.Variables, batch: base.Batch) -> dict[str, Array]:
    """Returns `classes` (b, h, w), uint8: the likeliest class of every pixel, padding too."""
    return {"classes": self.classes(variables, batch).astype(jnp.uint8)}

  def exported(self, *, suppression: bool) -> tuple[tuple[str, ...], base.Forward]:
    """Returns names of a program's outputs, `logits` (b, h, w, k) and `classes`, and their source.

    suppression: says nothing here. At one scale, whatever `self.scales` are.
    """
    del suppression

    def forward(module, variables, images):
      logits = module.apply(variables, images, train=False)
      return {"logits": logits, "classes": jnp.argmax(logits, -1).astype(jnp.int32)}

    return ("logits", "classes"), forward

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
