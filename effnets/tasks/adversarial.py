"""AdvProp: every image twice, as it is and perturbed, each through its own norms.

Source: Xie et al. 2020 (arXiv 1911.09665); its training code was never published, so what the sheet
of the paper leaves open is a setting.
"""

import dataclasses

import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from effnets import augment, models, ops
from effnets.tasks import base, classification

PARTS = ("clean", "plain", "adversarial")


@dataclasses.dataclass(frozen=True)
class AdvProp(classification.Classification):
  """Cross-entropy summed over the parts of a batch, each with the norms of its own.

  attack: how the adversarial part is made, against the norms of that part with running moments and
    without noise; it changes no state.
  parts: what the batch holds besides, in the order of the norm sets; the first is the main one.
    `clean`: with the policy; `plain`: without it (fine-grained AdvProp); `adversarial`: the clean
    images, perturbed.
  shared: all parts go through the one main set: plain adversarial training.
  evaluated: the set that is tested, and exported.

  Metrics are those of classification, of the first part and, by name, of the others, and
    `passes`: through the network, forward and back, of a picture in a step: parts and attack.
    `perturbation`: the mean absolute change by the attack, in levels of [0, 255].
    `fooled`: the share of attacks that reach their aim.
  """

  attack: ops.attacks.Attack = ops.attacks.Attack()
  parts: tuple[str, ...] = ("clean", "adversarial")
  shared: bool = False
  evaluated: int = 0

  @property
  def sets(self) -> tuple[int, ...]:
    """The norm set of each part."""
    return (0,) * len(self.parts) if self.shared else tuple(range(len(self.parts)))

  def loss(
    self,
    variables: base.Variables,
    frozen: PyTree,
    batch: base.Batch,
    root: Key[Array, ""],
    step: Int[Array, ""],
  ) -> tuple[Float[Array, ""], base.Aux]:
    """Returns the sum over parts of the mean of weight * cross-entropy; see `base.Task`."""
    del frozen, step
    keys = self._keys(batch, root, ("augment", "adversary", "target"))
    targets = self.targets(batch)
    clean = self._augmented(batch["image"], keys["augment"])
    made = {"plain": batch["image"], "clean": clean}
    count = jnp.float32(len(clean))
    attacked = "adversarial" in self.parts
    passes = len(self.parts) + attacked * self.attack.passes
    metrics = {"passes": (passes * count, count)}
    if attacked:
      aim = jnp.argmax(targets, -1)
      if self.attack.targeted:
        aim = ops.attacks.random_targets(aim, self.num_classes, keys["target"])
      made["adversarial"] = self._perturbed(variables, clean, aim, keys["adversary"])
      moved = jnp.abs(made["adversarial"] - clean.astype(jnp.float32))
      metrics["perturbation"] = (jnp.sum(jnp.mean(moved, (1, 2, 3))), count)
    images = self._join([self._inputs(made[name]) for name in self.parts])
    noise = [
      self._keys(batch, root, (f"dropout_{name}", f"drop_path_{name}")).values()
      for name in self.parts
    ]
    dropout, drop_path = (self._join(list(of)) for of in zip(*noise, strict=True))
    module = self.module.clone(norm_parts=self.sets, norm_shards=self._shards)
    logits, model_state = self._train(
      module, variables, images, {"dropout": dropout, "drop_path": drop_path}
    )
    total = jnp.float32(0.0)
    for name, part in zip(self.parts, self._apart(logits), strict=True):
      entropy = optax.softmax_cross_entropy(part, targets)
      total += jnp.mean(batch["weight"] * entropy)
      prefix = "" if name == self.parts[0] else f"{name}_"
      found = self._metrics(part, targets, entropy, batch)
      metrics |= {f"{prefix}{key}": value for key, value in found.items()}
      if name == "adversarial":
        fooled = (jnp.argmax(part, -1) == aim) == self.attack.targeted
        metrics["fooled"] = (jnp.sum(fooled.astype(jnp.float32)), count)
    return total, base.Aux(metrics, model_state)

  def _perturbed(
    self,
    variables: base.Variables,
    images: UInt8[Array, "b h w 3"],
    labels: Int[Array, " b"],
    keys: Key[Array, " b"],
  ) -> Float[Array, "b h w 3"]:
    module = self.module.clone(norm_parts=(self.sets[self.parts.index("adversarial")],))

    def loss(levels):
      pixels = augment.normalize(levels, self.mean, self.std, dtype=self.dtype)
      logits = module.apply(variables, self.placement.split_images(pixels), train=False)
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    return ops.attacks.perturb(self.attack, loss, images, keys)

  @property
  def _shards(self) -> int:
    return 1 if self.placement.execution == "shard_map" else self.placement.batch_shards

  def _join(self, parts: list[Array]) -> Array:
    """Returns the parts side by side on every device, as `ops.moments` takes them."""
    return self.placement.per_example(lambda *x: jnp.concatenate(x))(*parts)

  def _apart(self, joined: Array) -> list[Array]:
    """Returns the parts of what `_join` gave."""
    return self.placement.per_example(lambda x: jnp.split(x, len(self.parts)))(joined)

  @property
  def network(self) -> nn.Module:
    """The module with the norms of the set `evaluated`."""
    return self.module.clone(norm_parts=(self.evaluated,))

  def tested(self, variables: base.Variables) -> tuple[nn.Module, base.Variables]:
    """Returns the plain network, and its variables with the norms of the set `evaluated`."""
    plain = self.module.clone(norm_sets=1, norm_parts=(0,))
    return plain, models.main_set(variables, self.evaluated)
