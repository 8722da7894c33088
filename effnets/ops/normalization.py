"""Batch moments over groups of images, and normalisation with its activation in one pass."""

import dataclasses
import functools
from collections.abc import Callable

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
  x: Float[Array, "b *s c"], group: Group, *, parts: int = 1, shards: int = 1
) -> tuple[Float[Array, "g c"], Float[Array, "g c"]]:
  """Returns mean and (biased) variance per group and channel, float32, `g` groups in this array.

  A group that spans several devices of a `shard_map` is summed over them with one all-reduce.

  Args:
    parts: kinds of images whose moments are kept apart, equally many of each. The batch then is
      `shards` blocks, each with its images of the first kind, then those of the second, and so on,
      so that every device can hold a block. `group` counts the images of one kind.
    shards: blocks in this array; the devices that it lies on under `jit`, 1 inside `shard_map`.

  With several parts the rows are those of equal runs of contiguous images, in their order; rows of
  one group are equal.

  Raises: ValueError if groups and the batch do not divide into each other.
  """
  count = parts * shards
  if x.shape[0] % count:
    raise ValueError(f"a batch of {x.shape[0]} images is not {parts} parts on {shards} shard(s).")
  # Images of one kind that lie side by side, and all of one kind that are in this array.
  run, batch = x.shape[0] // count if parts > 1 else x.shape[0], x.shape[0] // parts
  images = batch * group.devices if group.images is None else group.images
  span = max(1, images // run)  # runs a group reaches over
  if run % min(images, run) or images % min(images, run) or (batch // run * group.devices) % span:
    raise ValueError(
      f"a batch-norm group of {images} images does not fit {group.devices} device(s) of {batch}."
    )
  if images > batch and not group.axes:
    raise ValueError(f"a batch-norm group of {images} images exceeds the batch of {batch}.")
  # Only the batch is split: merging it with height would lose the sharding of both.
  groups = x.shape[0] // min(images, run)
  grouped = _split(x, groups).astype(jnp.float32)
  reduced = tuple(range(grouped.ndim - x.ndim, grouped.ndim - 1))
  mean, square = (
    m.mean(reduced).reshape(groups, x.shape[-1]) for m in (grouped, grouped * grouped)
  )
  if span > 1 and group.axes:
    whole = span == group.devices
    blocks = None if whole else [list(range(i, i + span)) for i in range(0, group.devices, span)]
    mean, square = jax.lax.psum((mean / span, square / span), group.axes, axis_index_groups=blocks)
  elif span > 1:

    def join(m):
      m = m.reshape(-1, span, parts, x.shape[-1])
      return jnp.broadcast_to(m.mean(1, keepdims=True), m.shape).reshape(groups, -1)

    mean, square = join(mean), join(square)
  return mean, jnp.maximum(square - mean * mean, 0.0)


def normalize(
  x: Float[Array, "b *s c"],
  mean: Float[Array, "g c"],
  var: Float[Array, "g c"],
  scale: Float[Array, " c"] | Float[Array, "g c"],
  bias: Float[Array, " c"] | Float[Array, "g c"],
  *,
  epsilon: float = 1e-3,
  activation: str = "identity",
  plain: bool = False,
) -> Float[Array, "b *s c"]:
  """Returns `activation((x - mean) / sqrt(var + epsilon) * scale + bias)`, in the type of `x`.

  Differentiable in x, mean, var, scale and bias by reverse mode of any order. Only x is kept for
  the backward pass, which computes the activation again: cheaper than reading it from memory.

  Args:
    mean, var: one row per group of contiguous images, as `moments` gives them, or a single row (or
      plain vectors) for all images, as running averages are.
    scale, bias: for all images, or one row per group.
    epsilon: added to the variance, inside the root.
    activation: one of `ACTIVATIONS`.
    plain: leave the derivative to JAX and write the activation as the textbook does. Needed for
      forward mode and for programs that other runtimes shall recognise; keeps more arrays.

  Raises: ValueError for an unknown activation or a number of groups that does not divide the batch.
  """
  if activation not in ACTIVATIONS:
    raise ValueError(f"activation={activation!r} is none of {', '.join(ACTIVATIONS)}.")
  mean, var = jnp.atleast_2d(mean), jnp.atleast_2d(var)
  if x.shape[0] % mean.shape[0]:
    raise ValueError(f"{mean.shape[0]} groups of moments do not divide a batch of {x.shape[0]}.")
  # Everything per channel is folded into one multiply-add per value.
  factor = jax.lax.rsqrt(var + epsilon) * scale
  offset = bias - mean * factor
  if plain:
    return _affine(x, factor, offset, _TEXTBOOK.get(activation, ACTIVATIONS[activation][0]))
  return _affine_once(x, factor, offset, activation)


def shift(
  x: Float[Array, "b *s c"], bias: Float[Array, " c"], *, activation: str = "identity"
) -> Float[Array, "b *s c"]:
  """Returns `activation(x + bias)`, in the type of `x`: what folding leaves of a normalisation.

  Args: activation: one of `ACTIVATIONS`.
  Raises: ValueError for an unknown activation.
  """
  if activation not in ACTIVATIONS:
    raise ValueError(f"activation={activation!r} is none of {', '.join(ACTIVATIONS)}.")
  return ACTIVATIONS[activation][0](x.astype(jnp.float32) + bias).astype(x.dtype)


# ---- Activations: value, and the derivative from the same input ----------------------------------


def _sigmoid(z: Array) -> Array:
  return 0.5 * jnp.tanh(0.5 * z) + 0.5  # a third faster than 1 / (1 + exp(-z)) on a CPU


def _swish_slope(z: Array) -> Array:
  s = _sigmoid(z)
  return s * (1.0 + z * (1.0 - s))


def _sigmoid_slope(z: Array) -> Array:
  s = _sigmoid(z)
  return s * (1.0 - s)


def _hard_sigmoid(z: Array) -> Array:
  return jnp.clip(z / 6.0 + 0.5, 0.0, 1.0)


def _hard_swish_slope(z: Array) -> Array:
  return jnp.where(z <= -3.0, 0.0, jnp.where(z >= 3.0, 1.0, z / 3.0 + 0.5))


ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
  "identity": (lambda z: z, jnp.ones_like),
  "swish": (lambda z: z * _sigmoid(z), _swish_slope),
  "relu": (lambda z: jnp.maximum(z, 0.0), lambda z: (z > 0.0).astype(z.dtype)),
  "relu6": (
    lambda z: jnp.clip(z, 0.0, 6.0),
    lambda z: ((z > 0.0) & (z < 6.0)).astype(z.dtype),
  ),
  "leaky_relu": (lambda z: jnp.maximum(z, 0.2 * z), lambda z: jnp.where(z > 0.0, 1.0, 0.2)),
  "sigmoid": (_sigmoid, _sigmoid_slope),
  "hard_swish": (lambda z: z * _hard_sigmoid(z), _hard_swish_slope),
  "hard_sigmoid": (_hard_sigmoid, lambda z: ((z > -3.0) & (z < 3.0)) / 6.0),
}
"""Name -> (function, derivative); swish(z) = z sigmoid(z), hard_sigmoid(z) = relu6(z + 3) / 6.

leaky_relu(z) = max(z, 0.2 z).
"""

# Of those, the ones whose fast form above no other runtime would recognise.
_TEXTBOOK = {
  "swish": jax.nn.silu,
  "sigmoid": jax.nn.sigmoid,
  "hard_swish": jax.nn.hard_silu,
  "hard_sigmoid": jax.nn.hard_sigmoid,
}


# ---- The pass over the data ----------------------------------------------------------------------


def _split(x: Array, groups: int) -> Array:
  """Returns `x` with its groups as a dimension of their own, or as it is if there is only one.

  Even a dimension of 1 in front makes the compiler fuse, and so compute, x's producer repeatedly.
  """
  return x if groups == 1 else x.reshape(groups, x.shape[0] // groups, *x.shape[1:])


def _spread(vector: Array, x: Array) -> Array:
  """Returns `g c` values in a shape that multiplies `g b *s c`, or `b *s c` if g is 1."""
  return vector.reshape(vector.shape[0], *(1,) * (x.ndim - 2), vector.shape[1])


def _pre_activation(x: Array, factor: Array, offset: Array) -> tuple[Array, Array]:
  grouped = _split(x, factor.shape[0]).astype(jnp.float32)
  return grouped, grouped * _spread(factor, grouped) + _spread(offset, grouped)


def _affine(x: Array, factor: Array, offset: Array, activation: Callable[[Array], Array]) -> Array:
  _, z = _pre_activation(x, factor, offset)
  return activation(z).astype(x.dtype).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _affine_once(x: Array, factor: Array, offset: Array, activation: str) -> Array:
  return _affine(x, factor, offset, ACTIVATIONS[activation][0])


def _affine_forward(x, factor, offset, activation):
  value = _affine(x, factor, offset, ACTIVATIONS[activation][0])
  return value, (x, factor, offset)


def _affine_backward(activation, residuals, g):
  x, factor, offset = residuals
  if activation != "identity":
    # Two small vectors behind a barrier: the compiler must not notice that the forward pass has
    # computed the same activation, or it keeps that whole array alive instead of doing so again.
    factor, offset = jax.lax.optimization_barrier((factor, offset))
  grouped, z = _pre_activation(x, factor, offset)
  slope = _split(g, factor.shape[0]).astype(jnp.float32)
  if activation != "identity":
    slope = slope * ACTIVATIONS[activation][1](z)
  reduced = tuple(range(grouped.ndim - x.ndim, grouped.ndim - 1))
  d_x = (slope * _spread(factor, grouped)).astype(x.dtype).reshape(x.shape)
  d_factor, d_offset = jnp.sum(slope * grouped, reduced), jnp.sum(slope, reduced)
  return d_x, d_factor.reshape(factor.shape), d_offset.reshape(offset.shape)


_affine_once.defvjp(_affine_forward, _affine_backward)
