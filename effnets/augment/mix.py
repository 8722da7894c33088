"""Soft targets, mixup and CutMix."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from effnets.augment import operations, switch


def smooth_one_hot(
  labels: Int[Array, "*b"], classes: int, smoothing: float = 0.0
) -> Float[Array, "*b k"]:
  """Returns the targets (1 - smoothing) * one_hot + smoothing / classes, float32.

  The true class keeps 1 - smoothing + smoothing / classes, as in TensorFlow.

  Args:
    labels: in [0, classes). smoothing: in [0, 1).

  Raises: ValueError if smoothing is outside [0, 1).

  >>> [round(float(p), 3) for p in smooth_one_hot(1, 4, 0.1)]
  [0.025, 0.925, 0.025, 0.025]
  """
  if not 0 <= smoothing < 1:
    raise ValueError(f"smoothing={smoothing!r} is not in [0, 1).")
  targets = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
  return targets * (1 - smoothing) + smoothing / classes


def mixup(
  images: Float[Array, "b h w c"],
  targets: Float[Array, "b k"],
  keys: Key[Array, " b"],
  *,
  alpha: float,
  group: int | None = None,
) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
  """Returns images and targets, each mixed as m * its own + (1 - m) * its partner's.

  m ~ Beta(alpha, alpha) from each example's own key, then max(m, 1 - m): every example stays the
  larger part of its mixture. The partner is the example at the mirrored place of the same run of
  `group` contiguous examples.

  Args:
    images: any floating dtype, which is kept; integers become float32. Linear, so that it may come
      before or after normalisation.
    targets: probabilities (see `smooth_one_hot`). alpha: >= 0; 0 mixes nothing.
    group: examples among which partners are found; None is the whole batch, as in the official
      code. When the batch is split over devices, a group that divides each device's part keeps
      partners, and so the result, independent of the mesh.

  Raises: ValueError if the batch is no multiple of group, or alpha is negative.
  Source: Zhang et al. 2017 (arXiv 1710.09412) as in the official EfficientNet code.
  """
  images, targets = jnp.asarray(images), jnp.asarray(targets)
  group = _group("mixup", images.shape[0], group)
  if not alpha >= 0:
    raise ValueError(f"mixup alpha={alpha!r} is negative.")
  if not jnp.issubdtype(images.dtype, jnp.floating):
    images = images.astype(jnp.float32)
  if alpha == 0:
    return images, targets
  # max(m, 1 - m) folds the sign.
  m = jax.nn.sigmoid(jnp.abs(_log_odds(keys, alpha)))

  def blend(values):
    weight = m.reshape(-1, *[1] * (values.ndim - 1))
    partners = _partners(values, group).astype(jnp.float32)
    mixed = weight * values.astype(jnp.float32) + (1 - weight) * partners
    return mixed.astype(values.dtype)

  return blend(images), blend(targets)


def cutmix(
  images: Float[Array, "b h w c"],
  targets: Float[Array, "b k"],
  keys: Key[Array, " b"],
  *,
  alpha: float,
  probability: float = 1.0,
  group: int | None = None,
  otherwise: tuple[Float[Array, "b h w c"], Float[Array, "b k"]] | None = None,
) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
  """Returns images with a rectangle of their partner's, and targets mixed by the pixels' shares.

  With m ~ Beta(alpha, alpha) from each example's own key the rectangle has the share 1 - m of the
  image and its shape; its middle is uniform over the pixels and what lies outside is cut off, so
  that the targets take what is really seen. Here an example may become the smaller part.

  Args:
    images: any dtype. targets: probabilities (see `smooth_one_hot`). alpha: >= 0; 0 mixes nothing.
    probability: of an example to be mixed at all, in [0, 1]. group: see `mixup`.
    otherwise: images and targets for the examples that are not, such as those of `mixup`; None
      leaves them alone.

  Raises: ValueError if the batch is no multiple of group, or a number is out of range.
  Source: Yun et al. 2019 (arXiv 1905.04899) and its code, which has one rectangle for a batch.
  """
  images, targets = jnp.asarray(images), jnp.asarray(targets)
  group = _group("cutmix", images.shape[0], group)
  if not alpha >= 0:
    raise ValueError(f"cutmix alpha={alpha!r} is negative.")
  if not 0 <= probability <= 1:
    raise ValueError(f"cutmix probability={probability!r} is not in [0, 1].")
  own_images, own_targets = (images, targets) if otherwise is None else otherwise
  if alpha == 0:
    return own_images, own_targets
  size = images.shape[1:3]
  extent = jnp.array(size, jnp.int32)
  # The share of the rectangle, 1 - m, by the other sign of m's log odds.
  share = jax.nn.sigmoid(-_log_odds(keys, alpha))
  half = (jnp.sqrt(share)[:, None] * extent).astype(jnp.int32) // 2

  def words(key):
    # Of a key of their own: the draws of m are rejection sampled from the same.
    return jax.random.bits(jax.random.fold_in(key, 1), (3,), jnp.uint32)

  words = jax.vmap(words)(keys)
  middle = (words[:, :2] % extent.astype(jnp.uint32)).astype(jnp.int32)
  first, last = jnp.maximum(middle - half, 0), jnp.minimum(middle + half, extent)
  sides = last - first
  pasted = jax.vmap(lambda f, s: operations.within(size, operations.Window(*f, *s)))(first, sides)
  seen = 1 - jnp.prod(sides, axis=1).astype(jnp.float32)[:, None] / (size[0] * size[1])
  mixed_images = jnp.where(pasted[..., None], _partners(images, group), images)
  mixed = seen * targets.astype(jnp.float32)
  mixed += (1 - seen) * _partners(targets, group).astype(jnp.float32)
  taken = switch.below(words[:, 2], jnp.float32(probability))
  return (
    jnp.where(taken[:, None, None, None], mixed_images, own_images),
    jnp.where(taken[:, None], mixed.astype(targets.dtype), own_targets),
  )


def mix(
  images: Float[Array, "b h w c"],
  targets: Float[Array, "b k"],
  keys: Mapping[str, Key[Array, " b"]],
  *,
  mixup_alpha: float = 0.0,
  cutmix_alpha: float = 0.0,
  cutmix_probability: float = 1.0,
  group: int | None = None,
) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
  """Returns images and targets after CutMix where it is drawn, after mixup elsewhere; 0 is off.

  keys: of the streams `mixup` and `cutmix`. The rest: see these functions.
  """
  mixed = images, targets
  if mixup_alpha:
    mixed = mixup(images, targets, keys["mixup"], alpha=mixup_alpha, group=group)
  if not cutmix_alpha:
    return mixed
  return cutmix(
    images,
    targets,
    keys["cutmix"],
    alpha=cutmix_alpha,
    probability=cutmix_probability,
    group=group,
    otherwise=mixed,
  )


def _group(what: str, batch: int, group: int | None) -> int:
  group = batch if group is None else group
  if group < 1 or batch % group:
    divisors = [d for d in range(1, batch + 1) if batch % d == 0]
    closest = min(divisors, key=lambda d: abs(d - group))
    raise ValueError(
      f"{what} group={group} does not divide the batch of {batch}; nearest: {closest}."
    )
  return group


def _partners(values: Float[Array, "b ..."], group: int) -> Float[Array, "b ..."]:
  return values.reshape(-1, group, *values.shape[1:])[:, ::-1].reshape(values.shape)


def _log_odds(keys: Key[Array, " b"], alpha: float) -> Float[Array, " b"]:
  """Returns log(m / (1 - m)) of one m ~ Beta(alpha, alpha) for each key.

  m is g / (g + g') of two Gamma(alpha) variables; their logarithms stay finite where a small alpha
  would make both underflow.
  """
  logs = jax.vmap(lambda key: jax.random.loggamma(key, alpha, (2,)))(keys)
  return logs[:, 0] - logs[:, 1]
