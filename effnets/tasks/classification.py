"""Image classification with hard and soft labels."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from effnets import augment, evaluation, models, parallel, streams
from effnets.tasks import base


@dataclasses.dataclass(frozen=True)
class Classification:
  """Softmax cross-entropy over `b h w 3` uint8 images.

  module: gives logits `b k`. placement: of the step that calls `loss`.
  image_size: pixels of the square input. mean, std: of the model's input, per channel, in [0, 255].
  policy: device-side augmentation of (images, per-example keys), or None.
  label_smoothing: of true and hard labels, in [0, 1); soft labels are taken as they are.
  temperature: soft labels become p**(1/temperature), normalised; > 0.
  mixup: alpha of the Beta distribution, 0 = off. mixup_group: see `augment.mixup`.
  dtype: of the images that enter the model.
  Source: Xie et al. 2020 (Noisy Student), section 2, in the weighting of its official code.
  """

  module: nn.Module
  placement: parallel.Placement
  image_size: int
  num_classes: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  policy: Callable[[Array, Array], Array] | None = None
  label_smoothing: float = 0.0
  temperature: float = 1.0
  mixup: float = 0.0
  mixup_group: int = 2
  dtype: Any = jnp.float32

  @property
  def frozen(self) -> tuple[str, ...]:
    """Path prefixes of the module's frozen parameters."""
    return self.module.frozen_names()

  def init(self, seed: int) -> base.Variables:
    """Returns fresh variables drawn from (seed, leaf path), as host arrays."""
    return models.init(self.module, seed, image_size=self.image_size)

  def abstract(self) -> base.Variables:
    """Returns the shapes of `init`'s result."""
    return models.abstract(self.module, self.image_size)

  def loss(
    self,
    variables: base.Variables,
    frozen: PyTree,
    batch: base.Batch,
    root: Key[Array, ""],
    step: Int[Array, ""],
  ) -> tuple[Float[Array, ""], base.Aux]:
    """Returns the mean over the batch of weight * cross-entropy, in nats; see `base.Task`."""
    del frozen, step
    keys = {
      name: streams.example_keys(streams.stream(root, name), batch["position"])
      for name in ("augment", "mixup", "dropout", "drop_path")
    }
    images = batch["image"]
    if self.policy is not None:
      images = self.placement.per_example(self.policy)(images, keys["augment"])
    images = self._inputs(images)
    targets = self.targets(batch)
    if self.mixup:
      images, targets = augment.mixup(
        images, targets, keys["mixup"], alpha=self.mixup, group=self.mixup_group
      )
    logits, model_state = self.module.apply(
      variables,
      self.placement.split_images(images),
      train=True,
      keys={name: keys[name] for name in ("dropout", "drop_path")},
      mutable=[name for name in variables if name != "params"],
    )
    entropy = optax.softmax_cross_entropy(logits, targets)
    weight = batch["weight"]
    correct = (jnp.argmax(logits, -1) == jnp.argmax(targets, -1)).astype(jnp.float32)
    true = (batch["label"] >= 0).astype(jnp.float32)
    if "soft" in batch:
      true = true * (1 - batch["soft"].astype(jnp.float32))
    count = jnp.float32(weight.shape[0])
    metrics = {
      "cross_entropy": (jnp.sum(entropy), count),
      "top1": (jnp.sum(correct * true), jnp.sum(true)),
    }
    if "soft" in batch:
      metrics["agreement"] = (jnp.sum(correct * (1 - true)), jnp.sum(1 - true))
    return jnp.mean(weight * entropy), base.Aux(metrics, dict(model_state))

  def targets(self, batch: base.Batch) -> Float[Array, "b k"]:
    """Returns the target distribution of each example."""
    hard = augment.smooth_one_hot(batch["label"], self.num_classes, self.label_smoothing)
    if "soft" not in batch:
      return hard
    return jnp.where(batch["soft"][:, None], self._sharpened(batch["probabilities"]), hard)

  def _sharpened(self, probabilities: Float[Array, "b k"]) -> Float[Array, "b k"]:
    if self.temperature == 1.0:
      return probabilities
    # In log space, so that a probability of 0 stays 0 at any temperature.
    return jax.nn.softmax(jnp.log(probabilities) / self.temperature, axis=-1)

  def _inputs(self, images: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    return augment.normalize(images, self.mean, self.std, dtype=self.dtype)

  def predict(self, variables: base.Variables, batch: base.Batch) -> dict[str, Array]:
    """Returns `logits`, float32 `b k`, without noise."""
    return {"logits": self.logits(variables, batch["image"])}

  def logits(
    self, variables: base.Variables, images: Float[Array, "b h w 3"] | UInt8[Array, "b h w 3"]
  ) -> Float[Array, "b k"]:
    """Returns the logits of pictures in [0, 255], without noise; differentiable in the pictures."""
    images = self.placement.split_images(self._inputs(images))
    return self.module.apply(variables, images, train=False)

  @property
  def figures(self) -> tuple[str, ...]:
    """Names of the figures that `evaluate` returns."""
    return evaluation.CLASSIFICATION_FIGURES

  def evaluate(
    self, outputs: dict[str, np.ndarray], examples: dict[str, np.ndarray]
  ) -> dict[str, float]:
    """Returns the figures of `evaluation.classification`."""
    return evaluation.classification(outputs["logits"], examples["label"])
