"""A convolution as a bilinear map whose derivatives are given, not derived."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array


@dataclasses.dataclass(frozen=True)
class Geometry:
  """Everything static about a convolution, for both spatial dimensions.

  size: input height and width, in pixels. kernel: taps. stride: of the output. dilation: pixels
  between taps. pads: (low, high) zero pixels of each dimension.
  """

  size: tuple[int, int]
  kernel: tuple[int, int]
  stride: int
  dilation: int
  pads: tuple[tuple[int, int], tuple[int, int]]

  @property
  def output(self) -> tuple[int, int]:
    """Returns output height and width, in pixels."""
    return tuple(
      (self.size[d] + sum(self.pads[d]) - (self.kernel[d] - 1) * self.dilation - 1) // self.stride
      + 1
      for d in (0, 1)
    )

  def padded(self) -> "Geometry":
    """Returns the geometry of the same convolution on an input that is padded already."""
    size = tuple(self.size[d] + sum(self.pads[d]) for d in (0, 1))
    return dataclasses.replace(self, size=size, pads=((0, 0), (0, 0)))


def accumulator(dtype: jnp.dtype) -> jnp.dtype:
  """Returns the type that sums of `dtype` are taken in: float32 for half-precision types."""
  return jnp.promote_types(dtype, jnp.float32)


def taps(padded: Array, geometry: Geometry) -> list[list[Array]]:
  """Returns the strided view of a padded input under each tap, as rows of columns.

  Rows are cut before columns: on a height sharded over a mesh axis the cut of a row is what moves
  data, so k of them move less than k * k.
  """
  (height, width), s, d = geometry.output, geometry.stride, geometry.dilation
  views = []
  for i in range(geometry.kernel[0]):
    row = jax.lax.slice_in_dim(padded, i * d, i * d + (height - 1) * s + 1, s, axis=1)
    views.append(
      [
        jax.lax.slice_in_dim(row, j * d, j * d + (width - 1) * s + 1, s, axis=2)
        for j in range(geometry.kernel[1])
      ]
    )
  return views


def pad(x: Array, geometry: Geometry) -> Array:
  """Returns `x` with the zero pixels of `geometry` around it."""
  return jnp.pad(x, ((0, 0), *geometry.pads, (0, 0)))


def bilinear(
  forward: Callable[[Array, Array, Geometry], Array],
  transpose: Callable[[Array, Array, Geometry], Array],
  weight: Callable[[Array, Array, Geometry], Array],
  *,
  keep: Callable[[Array, Geometry], tuple[Array, Geometry]] = lambda x, geometry: (x, geometry),
  both: Callable[[Array, Array, Array, Geometry, Geometry], tuple[Array, Array]] | None = None,
) -> Callable[[Array, Array, Geometry], Array]:
  """Returns `forward` as a function whose derivatives of every order are these three maps.

  With y the convolution of x and w, and g of the shape of y, the three are `forward(x, w) = y`,
  `transpose(g, w) = (dy/dx)^T g` and `weight(x, g) = (dy/dw)^T g`. Each is linear in both
  arguments, and the derivatives of each are the two others: reverse mode of any order stays here.

  Args:
    forward, transpose, weight: the maps; the last argument is the geometry of `forward`.
    keep: what the forward pass keeps of x for `weight`, and the geometry that belongs to it. The
      forward pass runs on it too.
    both: computes (transpose, weight) in one go from (x kept, w, g, geometry, geometry kept).
  """

  @functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
  def convolve(x, w, geometry):
    return forward(*_second(keep(x, geometry), w))

  def convolve_forward(x, w, geometry):
    kept, inner = keep(x, geometry)
    return forward(kept, w, inner), (kept, w)

  def convolve_backward(geometry, residuals, g):
    kept, w = residuals
    return gradients(kept, w, g, geometry)

  @functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
  def pull_input(g, w, geometry):
    return transpose(g, w, geometry)

  def pull_input_forward(g, w, geometry):
    return transpose(g, w, geometry), (g, w)

  def pull_input_backward(geometry, residuals, u):
    g, w = residuals
    return convolve(u, w, geometry), pull_weight(u, g, geometry)

  @functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
  def pull_weight(x, g, geometry):
    return weight(x, g, geometry)

  def pull_weight_forward(x, g, geometry):
    return weight(x, g, geometry), (x, g)

  def pull_weight_backward(geometry, residuals, v):
    x, g = residuals
    return pull_input(g, v, geometry), convolve(x, v, geometry)

  @functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
  def gradients(kept, w, g, geometry):
    inner = _kept(geometry, kept)
    if both is not None:
      return both(kept, w, g, geometry, inner)
    return transpose(g, w, geometry), weight(kept, g, inner)

  def gradients_forward(kept, w, g, geometry):
    return gradients(kept, w, g, geometry), (kept, w, g)

  def gradients_backward(geometry, residuals, cotangents):
    kept, w, g = residuals
    u, v = cotangents
    inner = _kept(geometry, kept)
    d_kept = pull_input(g, v, inner)
    d_g = convolve(u, w, geometry) + convolve(kept, v, inner)
    return d_kept, pull_weight(u, g, geometry), d_g

  convolve.defvjp(convolve_forward, convolve_backward)
  pull_input.defvjp(pull_input_forward, pull_input_backward)
  pull_weight.defvjp(pull_weight_forward, pull_weight_backward)
  gradients.defvjp(gradients_forward, gradients_backward)
  return convolve


def _second(kept: tuple[Array, Geometry], w: Array) -> tuple[Array, Array, Geometry]:
  return kept[0], w, kept[1]


def _kept(geometry: Geometry, kept: Array) -> Geometry:
  """Returns the geometry that goes with what was kept: padded or as it came."""
  return geometry if kept.shape[1:3] == geometry.size else geometry.padded()
