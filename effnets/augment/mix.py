"""Soft targets and mixup."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


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
  keys: Key[Array, "b"],
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
  batch = images.shape[0]
  group = batch if group is None else group
  if group < 1 or batch % group:
    divisors = [d for d in range(1, batch + 1) if batch % d == 0]
    closest = min(divisors, key=lambda d: abs(d - group))
    raise ValueError(
      f"mixup group={group} does not divide the batch of {batch}; nearest: {closest}."
    )
  if not alpha >= 0:
    raise ValueError(f"mixup alpha={alpha!r} is negative.")
  if not jnp.issubdtype(images.dtype, jnp.floating):
    images = images.astype(jnp.float32)
  if alpha == 0:
    return images, targets
  # A Beta(alpha, alpha) variable is g / (g + g') of two Gamma(alpha) variables; their logarithms
  # stay finite where a small alpha would make both underflow, and max(m, 1 - m) folds the sign.
  logs = jax.vmap(lambda key: jax.random.loggamma(key, alpha, (2,)))(keys)
  m = jax.nn.sigmoid(jnp.abs(logs[:, 0] - logs[:, 1]))

  def mix(values):
    partners = values.reshape(-1, group, *values.shape[1:])[:, ::-1].reshape(values.shape)
    weight = m.reshape(-1, *[1] * (values.ndim - 1))
    mixed = weight * values.astype(jnp.float32) + (1 - weight) * partners.astype(jnp.float32)
    return mixed.astype(values.dtype)

  return mix(images), mix(targets)
