"""Batch moments over groups of images, the same numbers under `jit` and `shard_map`."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Group:
  """Over whom batch moments are taken.

  images: size of a group in images, contiguous in the batch; None averages over the whole array.
  axes: mesh axes that the batch is split over inside `shard_map`; empty under `jit`.
  devices: the product of those axes' sizes.
  """

  images: int | None = None
  axes: tuple[str, ...] = ()
  devices: int = 1


def moments(
  x: Float[Array, "b *s c"], group: Group
) -> tuple[Float[Array, "g c"], Float[Array, "g c"]]:
  """Returns mean and (biased) variance per group and channel, float32, `g` groups in this array.

  A group that spans several devices of a `shard_map` is summed over them with one all-reduce.

  Raises: ValueError if groups and the batch do not divide into each other.
  """
  batch = x.shape[0]
  images = batch * group.devices if group.images is None else group.images
  span = max(1, images // batch)  # devices a group reaches over
  if batch % min(images, batch) or images % min(images, batch) or group.devices % span:
    raise ValueError(
      f"a batch-norm group of {images} images does not fit {group.devices} device(s) of {batch}."
    )
  if span > 1 and not group.axes:
    raise ValueError(f"a batch-norm group of {images} images exceeds the batch of {batch}.")
  # Only the batch is split: merging it with height would lose the sharding of both.
  grouped = x.reshape(batch // min(images, batch), -1, *x.shape[1:]).astype(jnp.float32)
  reduced = tuple(range(1, grouped.ndim - 1))
  mean, square = grouped.mean(reduced), (grouped * grouped).mean(reduced)
  if span > 1:
    whole = span == group.devices
    parts = None if whole else [list(range(i, i + span)) for i in range(0, group.devices, span)]
    mean, square = jax.lax.psum((mean / span, square / span), group.axes, axis_index_groups=parts)
  return mean, jnp.maximum(square - mean * mean, 0.0)
