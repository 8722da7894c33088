"""Classification that learns, beside the network, how often RandAugment draws each operation.

Source: Cubuk et al. 2019 (arXiv 1909.13719), table 6 and the section around it: density matching of
the first order. Neither code nor step sizes were published.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from effnets import augment
from effnets.tasks import base, classification

# Where the parameters of the probabilities are, beside those of the network.
NAME = "operations"


@dataclasses.dataclass(frozen=True)
class LearnedOperations(classification.Classification):
  """Cross-entropy of the network on training examples and of the probabilities on held-out ones.

  The batch has as many of the latter, from a second source: every other row, from the first one on.
  The network learns from training examples with operations as often as they are probable; the
  probabilities, a softmax for each layer, from the held-out ones, on which the network is fixed.

  learned: the operations, behind `policy`. rate: factor of the probabilities' gradient, so of their
  learning rate relative to the network's; > 0.
  """

  learned: augment.Learned | None = None
  rate: float = 1.0

  def init(self, seed: int) -> base.Variables:
    """Returns fresh variables as host arrays; all operations are equally probable."""
    return self._with(super().init(seed), np.zeros(self._shape, np.float32))

  def abstract(self) -> base.Variables:
    """Returns the shapes of `init`'s result."""
    return self._with(super().abstract(), jax.ShapeDtypeStruct(self._shape, jnp.float32))

  @property
  def _shape(self) -> tuple[int, int]:
    return self.learned.policy.layers, len(self.learned.names)

  @staticmethod
  def _with(variables: base.Variables, weights: PyTree) -> base.Variables:
    return {**variables, "params": {**variables["params"], NAME: {"weights": weights}}}

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
    weights = variables["params"][NAME]["weights"]
    # The value of `weights`, with `rate` times its gradient.
    faster = self.rate * weights
    probabilities = jax.nn.softmax(faster + jax.lax.stop_gradient(weights - faster))
    held, own = self.placement.per_example(base.halves)(batch)
    keys = self._keys(own, root, ("augment", "operations", "dropout", "drop_path"))
    images = self._augmented(own["image"], keys["augment"])
    images = self._operated(self.learned.sample, images, keys["operations"], probabilities)
    noise = {name: keys[name] for name in ("dropout", "drop_path")}
    logits, model_state = self._train(self.module, variables, self._inputs(images), noise)
    targets = self.targets(own)
    entropy = optax.softmax_cross_entropy(logits, targets)

    keys = self._keys(held, root, ("augment", "operations"))
    images = self._augmented(held["image"], keys["augment"])
    images = self._operated(self.learned.distort, images, keys["operations"], probabilities)
    still = jax.lax.stop_gradient(variables)
    judged = self.module.apply(still, self.placement.split_images(self._inputs(images)), train=True)
    judged = optax.softmax_cross_entropy(judged, self.targets(held))

    metrics = self._metrics(logits, targets, entropy, own)
    count = jnp.float32(judged.shape[0])
    metrics["held_out_cross_entropy"] = (jnp.sum(judged), count)
    for index, name in enumerate(self.learned.names):
      metrics[f"probability_{name}"] = (count * jnp.mean(probabilities[:, index]), count)
    both = jnp.mean(own["weight"] * entropy) + jnp.mean(held["weight"] * judged)
    return both / 2, base.Aux(metrics, model_state)

  def _operated(self, method, images, keys, probabilities):
    def run(images, keys, probabilities):
      # One copy of the probabilities for each example is what a device can be given a part of.
      return method(images, keys, probabilities[0])

    copies = jnp.broadcast_to(probabilities, (len(images), *probabilities.shape))
    return self.placement.per_example(run)(images, keys, copies)
