"""Image classification with hard and soft labels."""

import dataclasses
from collections.abc import Callable, Iterable
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
  mixup, cutmix: alphas of their Beta distributions, 0 = off. mixup_group: see `augment.mixup`.
  cutmix_probability: of an example; where CutMix is not drawn, mixup is done if it is on.
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
  cutmix: float = 0.0
  cutmix_probability: float = 1.0
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
    images, targets, noise = self.examples(batch, root)
    logits, model_state = self._train(self.module, variables, images, noise)
    entropy = optax.softmax_cross_entropy(logits, targets)
    metrics = self._metrics(logits, targets, entropy, batch)
    return jnp.mean(batch["weight"] * entropy), base.Aux(metrics, model_state)

  def examples(
    self, batch: base.Batch, root: Key[Array, ""]
  ) -> tuple[Float[Array, "b h w 3"], Float[Array, "b k"], dict[str, Key[Array, " b"]]]:
    """Returns what a step trains on: augmented, mixed images, targets and the network's noise."""
    keys = self._keys(batch, root, ("augment", "mixup", "cutmix", "dropout", "drop_path"))
    images = self._inputs(self._augmented(batch["image"], keys["augment"]))
    targets = self.targets(batch)
    images, targets = augment.mix(
      images,
      targets,
      keys,
      mixup_alpha=self.mixup,
      cutmix_alpha=self.cutmix,
      cutmix_probability=self.cutmix_probability,
      group=self.mixup_group,
    )
    return images, targets, {name: keys[name] for name in ("dropout", "drop_path")}

  @staticmethod
  def _keys(
    batch: base.Batch, root: Key[Array, ""], names: Iterable[str]
  ) -> dict[str, Key[Array, " b"]]:
    """Returns the examples' keys of each named stream."""
    positions = batch["position"]
    return {name: streams.example_keys(streams.stream(root, name), positions) for name in names}

  def _augmented(
    self, images: UInt8[Array, "b h w 3"], keys: Key[Array, " b"]
  ) -> UInt8[Array, "b h w 3"]:
    return images if self.policy is None else self.placement.per_example(self.policy)(images, keys)

  def _train(
    self,
    module: nn.Module,
    variables: base.Variables,
    images: Float[Array, "b h w 3"],
    noise: dict[str, Key[Array, " b"]],
  ) -> tuple[Float[Array, "b k"], PyTree]:
    """Returns logits and the model's state after this batch."""
    logits, model_state = module.apply(
      variables,
      self.placement.split_images(images),
      train=True,
      keys=noise,
      mutable=[name for name in variables if name != "params"],
    )
    return logits, dict(model_state)

  def _metrics(
    self,
    logits: Float[Array, "b k"],
    targets: Float[Array, "b k"],
    entropy: Float[Array, " b"],
    batch: base.Batch,
  ) -> dict[str, tuple[Array, Array]]:
    """Returns sums and counts; `top1` over true labels, `agreement` over soft ones."""
    correct = (jnp.argmax(logits, -1) == jnp.argmax(targets, -1)).astype(jnp.float32)
    true = (batch["label"] >= 0).astype(jnp.float32)
    if "soft" in batch:
      true = true * (1 - batch["soft"].astype(jnp.float32))
    metrics = {
      "cross_entropy": (jnp.sum(entropy), jnp.float32(entropy.shape[0])),
      "top1": (jnp.sum(correct * true), jnp.sum(true)),
    }
    if "soft" in batch:
      metrics["agreement"] = (jnp.sum(correct * (1 - true)), jnp.sum(1 - true))
    return metrics

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

  @property
  def network(self) -> nn.Module:
    """The module as it is tested, which takes the task's variables."""
    return self.module

  def tested(self, variables: base.Variables) -> tuple[nn.Module, base.Variables]:
    """Returns the network as it is tested and its variables, without what only trains."""
    return self.network, variables

  def logits(
    self, variables: base.Variables, images: Float[Array, "b h w 3"] | UInt8[Array, "b h w 3"]
  ) -> Float[Array, "b k"]:
    """Returns the logits of pictures in [0, 255], without noise; differentiable in the pictures."""
    images = self.placement.split_images(self._inputs(images))
    return self.network.apply(variables, images, train=False)

  def noised_logits(
    self, variables: base.Variables, batch: base.Batch, root: Key[Array, ""]
  ) -> Float[Array, "b k"]:
    """Returns the logits under the noise of training, of input and model, with running moments.

    Draws are functions of `root` and the batch's positions, so others in the batch change nothing.
    """
    keys = self._keys(batch, root, ("augment", "dropout", "drop_path"))
    images = self._inputs(self._augmented(batch["image"], keys.pop("augment")))
    images = self.placement.split_images(images)
    return self.module.apply(variables, images, train=False, keys=keys)

  def features(self, variables: base.Variables, batch: base.Batch) -> dict[str, Array]:
    """Returns the network's end points without space, `b d`, such as `pooled_features`."""
    images = self.placement.split_images(self._inputs(batch["image"]))
    ends = self.network.apply(variables, images, train=False, method="features")
    return {name: end.astype(jnp.float32) for name, end in ends.items() if end.ndim == 2}

  @property
  def figures(self) -> tuple[str, ...]:
    """Names of the figures that `evaluate` returns."""
    return evaluation.CLASSIFICATION_FIGURES

  def evaluate(
    self, outputs: dict[str, np.ndarray], examples: dict[str, np.ndarray], source: Any = None
  ) -> dict[str, float]:
    """Returns the figures of `evaluation.classification`."""
    del source
    return evaluation.classification(outputs["logits"], examples["label"])
