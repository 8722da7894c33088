"""Probabilities of RandAugment's operations, and pictures that have a gradient in them.

Source: Cubuk et al. 2019 (arXiv 1909.13719), table 6 and the section around it: the loss on
distorted pictures that are held out is differentiated by the probabilities. The paper weighs the
operations' results; here one is drawn, and the gradient is that of the weighing (straight through),
so that the network sees pictures of the kind that it trains on. In the gradient of an early layer
the later ones count as the identity.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from effnets.augment import operations as ops
from effnets.augment import randaugment, settings, switch


@dataclasses.dataclass(frozen=True)
class Learned:
  """RandAugment whose operations are drawn by given probabilities, one row for each layer.

  policy: layers, magnitude, operations and what else belongs to them.
  """

  policy: randaugment.RandAugment

  @property
  def names(self) -> tuple[str, ...]:
    """The operations, in the order of the probabilities."""
    return tuple(name for name, _ in self.policy.table())

  def sample(
    self,
    images: UInt8[Array, "b h w 3"],
    keys: Key[Array, " b"],
    probabilities: Float[Array, "n k"],
  ) -> UInt8[Array, "b h w 3"]:
    """Returns the images after operations drawn by `probabilities`.

    Raises: ValueError if images are not uint8 b h w 3 or keys are not one per image.
    """
    settings.check_batch("Learned", images, keys)
    rows, policy = self.policy.table(), self.policy
    draws = draw(keys, probabilities)
    return switch.images(images, draws, rows, fill=policy.fill, execution=policy.execution)

  def distort(
    self,
    images: UInt8[Array, "b h w 3"],
    keys: Key[Array, " b"],
    probabilities: Float[Array, "n k"],
  ) -> Float[Array, "b h w 3"]:
    """Returns what `sample` does, as float32 with a gradient in `probabilities`.

    Every operation is executed on every image. The derivative by a probability is what its
    operation makes of the image that comes to its layer.
    Raises: ValueError as `sample`.
    """
    settings.check_batch("Learned", images, keys)
    rows, draws = self.policy.table(), draw(keys, probabilities)
    table = switch.table(rows, lambda name: ops.OPERATIONS[name].signed)
    images = jnp.asarray(images)
    # A number per probability that is zero, with a derivative of one.
    moves = probabilities - jax.lax.stop_gradient(probabilities)
    total = jnp.zeros(images.shape, jnp.float32)
    for layer in range(self.policy.layers):
      pixels, results = ops.pack(images), []
      for index, (name, _) in enumerate(rows):
        chosen = switch.Draws(
          jnp.full_like(draws.index[:, layer], index), draws.sign[:, layer], draws.centre[:, layer]
        )
        _, inputs = table.inputs(chosen, pixels.shape[1:], self.policy.fill)
        results.append(ops.unpack(jax.vmap(ops.OPERATIONS[name].function)(pixels, inputs)))
      stacked = jnp.stack(results)
      total += jnp.einsum("kbhwc,k->bhwc", stacked.astype(jnp.float32), moves[layer])
      images = stacked[draws.index[:, layer], jnp.arange(len(images))]
    return images.astype(jnp.float32) + total


def draw(keys: Key[Array, " b"], probabilities: Float[Array, "n k"]) -> switch.Draws:
  """Returns one operation per layer, of each row of `probabilities`, from each example's own key.

  With equal probabilities it is not what `randaugment.draw` draws with the same keys, but as often.
  """
  layers, choices = probabilities.shape
  words = switch.words(keys, (layers, 4))
  share = (words[..., 0] >> 8).astype(jnp.float32) * jnp.float32(2**-24)
  edges = jnp.cumsum(probabilities, axis=-1)[..., :-1]
  index = jnp.sum(share[..., None] >= edges, axis=-1, dtype=jnp.int32)
  return switch.Draws(
    index=jnp.clip(index, 0, choices - 1), sign=switch.sign(words[..., 1]), centre=words[..., 2:]
  )
