"""Classification that learns from labels and from the answers of frozen teachers."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from effnets import augment
from effnets.tasks import base, classification

ENSEMBLES = ("probabilities", "logits")


def divergence(
  logits: Float[Array, "*b k"], soft: Float[Array, "*b k"], temperature: float
) -> Float[Array, "*b"]:
  """Returns temperature^2 * KL(soft || softmax(logits / temperature)), in nats.

  The factor keeps the size of the gradient; the teacher's entropy, that of the loss at 0.
  Source: Hinton et al. 2015 (arXiv 1503.02531), section 2.
  """
  own = jnp.sum(jax.scipy.special.xlogy(soft, soft), -1)
  crossed = optax.softmax_cross_entropy(logits / temperature, soft)
  return temperature**2 * (crossed + own)


@dataclasses.dataclass(frozen=True)
class Distillation(classification.Classification):
  """(1 - w) * cross-entropy with the labels + w * `divergence` from the teachers, over a batch.

  Teachers see the pictures that the student sees, augmented but not mixed, at their own size; where
  pictures are mixed, answers are as labels are. `frozen`, of the loss, is one teacher's variables
  after another.

  teachers: classifiers of as many classes. soft_weight: w, in [0, 1]. soft_temperature: of both
  sides of the divergence, > 0. ensemble: what is averaged over teachers, of `ENSEMBLES`.
  Source: Hinton et al. 2015; Liu et al. 2020 (AKD), with w 0.9 at temperature 1.
  """

  teachers: tuple[classification.Classification, ...] = ()
  soft_weight: float = 0.9
  soft_temperature: float = 1.0
  ensemble: str = "probabilities"

  @property
  def given(self) -> tuple[base.Variables, ...]:
    """Shapes of what the loss takes as `frozen`."""
    return tuple(teacher.abstract() for teacher in self.teachers)

  def loss(
    self,
    variables: base.Variables,
    frozen: PyTree,
    batch: base.Batch,
    root: Key[Array, ""],
    step: Int[Array, ""],
  ) -> tuple[Float[Array, ""], base.Aux]:
    """Returns the mean over the batch of weight * the class's loss, in nats; see `base.Task`."""
    del step
    images, (hard, soft), noise = self.taught(batch, root, frozen)
    logits, model_state = self._train(self.module, variables, images, noise)
    entropy = optax.softmax_cross_entropy(logits, hard)
    apart = divergence(logits, soft, self.soft_temperature)
    metrics = self._metrics(logits, hard, entropy, batch)
    metrics["divergence"] = (jnp.sum(apart), jnp.float32(apart.shape[0]))
    both = (1 - self.soft_weight) * entropy + self.soft_weight * apart
    return jnp.mean(batch["weight"] * both), base.Aux(metrics, model_state)

  def taught(
    self, batch: base.Batch, root: Key[Array, ""], frozen: PyTree
  ) -> tuple[
    Float[Array, "b h w 3"],
    tuple[Float[Array, "b k"], Float[Array, "b k"]],
    dict[str, Key[Array, " b"]],
  ]:
    """Returns what a step trains on: images, labels and answers, and the network's noise."""
    keys = self._keys(batch, root, ("augment", "mixup", "cutmix", "dropout", "drop_path"))
    images = self._augmented(batch["image"], keys["augment"])
    both = jnp.concatenate([self.targets(batch), self.answers(images, frozen)], -1)
    images, both = augment.mix(
      self._inputs(images),
      both,
      keys,
      mixup_alpha=self.mixup,
      cutmix_alpha=self.cutmix,
      cutmix_probability=self.cutmix_probability,
      group=self.mixup_group,
    )
    hard, soft = jnp.split(both, 2, -1)
    return images, (hard, soft), {name: keys[name] for name in ("dropout", "drop_path")}

  def answers(self, images: UInt8[Array, "b h w 3"], frozen: PyTree) -> Float[Array, "b k"]:
    """Returns the teachers' probabilities at the temperature, which no gradient enters."""
    found = []
    for teacher, variables in zip(self.teachers, frozen, strict=True):
      size, seen = teacher.image_size, images
      if size != images.shape[1]:
        shape = (images.shape[0], size, size, 3)
        seen = jax.image.resize(images.astype(jnp.float32), shape, "bilinear")
      logits = teacher.logits(variables, seen).astype(jnp.float32) / self.soft_temperature
      found.append(logits if self.ensemble == "logits" else jax.nn.softmax(logits))
    mean = sum(found) / len(found)
    return jax.lax.stop_gradient(jax.nn.softmax(mean) if self.ensemble == "logits" else mean)
