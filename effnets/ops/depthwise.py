"""Depthwise and grouped convolutions, each with its own derivative on every platform.

XLA's own weight gradient of a grouped convolution is too large by a whole factor, silently, when it
is partitioned over a mesh with an idle axis, and on a CPU both its forward and its backward loops
are 20 to 100 times slower than the memory allows. Hence the maps of this file.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from effnets.ops import _bilinear

# Operands of one reduction, whole rows of taps: with more the sums leave the registers (25 of 5x5
# take 1.5 times as long as 10), with fewer x and g are read more often (3 of 3x3 take 1.7 times 9).
_MOST_TAPS = 10


def depthwise(
  x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw 1 c"], *, geometry: _bilinear.Geometry
) -> Float[Array, "b h2 w2 c"]:
  """Returns the depthwise convolution (one kernel per channel), summed in float32 at least.

  Reverse mode of any order; no forward mode (`effnets.ops.conv(..., plain=True)` has that).
  """
  return jax.lax.platform_dependent(
    x,
    kernel,
    cpu=functools.partial(_on_cpu, geometry=geometry),
    default=functools.partial(grouped, groups=x.shape[-1], geometry=geometry),
  )


def grouped(
  x: Float[Array, "b h w c"],
  kernel: Float[Array, "kh kw i o"],
  *,
  groups: int,
  geometry: _bilinear.Geometry,
) -> Float[Array, "b h2 w2 o"]:
  """Returns the convolution in `groups` independent groups of channels (`i = c / groups`).

  Value and input gradient are XLA's; the weight gradient is a product per tap and correct on every
  mesh. Reverse mode of any order; no forward mode.
  """
  return _grouped_maps(groups)(x, kernel, geometry)


# ---- CPU: shifted multiply-adds ------------------------------------------------------------------


def _keep_padded(x: Array, geometry: _bilinear.Geometry) -> tuple[Array, _bilinear.Geometry]:
  # The barrier makes the padded array the only form of x in memory: without it XLA sees through the
  # middle taps, keeps the unpadded array too and evaluates its producer twice.
  return jax.lax.optimization_barrier(_bilinear.pad(x, geometry)), geometry.padded()


# The loops over taps call `lax`, not operators: tracing a network of large kernels takes a quarter
# less time, since every `*`, `+` and index on an array is a traced function of its own.


def _weights(kernel: Array) -> list[list[Array]]:
  """Returns each tap's weight per channel, as rows of columns."""
  rows, columns, _, channels = kernel.shape
  flat = jax.lax.reshape(kernel, (rows * columns, channels))
  vectors = [jax.lax.index_in_dim(flat, tap, keepdims=False) for tap in range(rows * columns)]
  return [vectors[i * columns : (i + 1) * columns] for i in range(rows)]


def _accumulate(total: Array | None, view: Array, weight: Array) -> Array:
  """Returns `total + view * weight`, in the type of the weight."""
  view = jax.lax.convert_element_type(view, weight.dtype)
  term = jax.lax.mul(view, jax.lax.broadcast_in_dim(weight, view.shape, (view.ndim - 1,)))
  return term if total is None else jax.lax.add(total, term)


def _shift_and_add(x: Array, kernel: Array, geometry: _bilinear.Geometry) -> Array:
  dtype = _bilinear.accumulator(x.dtype)
  if geometry.pads != ((0, 0), (0, 0)):
    x, geometry = _keep_padded(x, geometry)
  weights = _weights(kernel.astype(dtype))
  total = None
  for i, row in enumerate(_bilinear.taps(x, geometry)):
    for j, view in enumerate(row):
      total = _accumulate(total, view, weights[i][j])
  # Written once: the consumers (moments, normalisation) would each compute the cheap-looking sum.
  return jax.lax.optimization_barrier(total.astype(x.dtype))


def _phases(geometry: _bilinear.Geometry, d: int) -> tuple[list[list[tuple[int, int]]], int, int]:
  """Returns, for each remainder of the input position, its (tap, offset) pairs; and the margins.

  Input pixel `stride * q + a` is seen by tap i from output `q + offset` where
  `a + low - i * dilation = stride * offset`. The margins are the zeros that the output needs below
  and above so that no offset leaves it.
  """
  s, low = geometry.stride, geometry.pads[d][0]
  pairs = []
  for a in range(s):
    shifts = [(i, a + low - i * geometry.dilation) for i in range(geometry.kernel[d])]
    pairs.append([(i, shift // s) for i, shift in shifts if shift % s == 0])
  offsets = [o for phase in pairs for _, o in phase] or [0]
  below = max(0, -min(offsets))
  above = max(0, -(-geometry.size[d] // s) + max(offsets) - geometry.output[d])
  return pairs, below, above


def _margins(g: Array, geometry: _bilinear.Geometry) -> Array:
  widths = [_phases(geometry, d)[1:] for d in (0, 1)]
  return jax.lax.optimization_barrier(jnp.pad(g, ((0, 0), *widths, (0, 0))))


def _unmargin(wide: Array, geometry: _bilinear.Geometry) -> Array:
  (_, top, _), (_, left, _) = (_phases(geometry, d) for d in (0, 1))
  height, width = geometry.output
  return wide[:, top : top + height, left : left + width]


def _spread(wide: Array, kernel: Array, geometry: _bilinear.Geometry) -> Array:
  """Returns the input gradient from the output gradient with its margins.

  With stride s each of the s * s interleaved sub-images of the input is a small convolution of its
  own over the taps that reach it: s * s times fewer products than with zeros put between.
  """
  weights = _weights(kernel.astype(_bilinear.accumulator(wide.dtype)))
  (down, top, _), (across, left, _) = (_phases(geometry, d) for d in (0, 1))
  rows, columns = (-(-geometry.size[d] // geometry.stride) for d in (0, 1))

  def sub_image(vertical, horizontal):
    total = None
    for i, up in vertical:
      row = jax.lax.slice_in_dim(wide, top + up, top + up + rows, axis=1)
      for j, side in horizontal:
        view = jax.lax.slice_in_dim(row, left + side, left + side + columns, axis=2)
        total = _accumulate(total, view, weights[i][j])
    if total is None:  # stride beyond the kernel's reach: nothing looks at these pixels
      return jnp.zeros((wide.shape[0], rows, columns, wide.shape[3]), wide.dtype)
    return total.astype(wide.dtype)

  if geometry.stride == 1:
    return sub_image(down[0], across[0])
  merged = jnp.stack(
    [jnp.stack([sub_image(v, h) for h in across], axis=3) for v in down], axis=2
  ).reshape(wide.shape[0], rows * geometry.stride, columns * geometry.stride, wide.shape[3])
  return merged[:, : geometry.size[0], : geometry.size[1]]


def _transposed(g: Array, kernel: Array, geometry: _bilinear.Geometry) -> Array:
  return _spread(_margins(g, geometry), kernel, geometry)


def _correlate(x: Array, g: Array, geometry: _bilinear.Geometry) -> Array:
  """Returns the weight gradient: for each tap the sum of its view of x times g.

  One reduction with an operand per tap: XLA runs it as a single loop over x and g with all sums in
  registers. k * k separate reductions read both arrays k * k times, and each writes its product to
  memory first. Width goes first, as it is never sharded; the partial sums are small.
  """
  dtype = _bilinear.accumulator(x.dtype)
  if geometry.pads != ((0, 0), (0, 0)):
    x, geometry = _keep_padded(x, geometry)
  g = g.astype(dtype)
  views = [v for row in _bilinear.taps(x, geometry) for v in row]
  products = [jax.lax.mul(jax.lax.convert_element_type(v, dtype), g) for v in views]
  per_pass = max(1, _MOST_TAPS // geometry.kernel[1]) * geometry.kernel[1]
  zero = jnp.zeros((), dtype)
  partial = []
  for start in range(0, len(products), per_pass):
    operands = tuple(products[start : start + per_pass])
    partial += jax.lax.reduce(
      operands,
      (zero,) * len(operands),
      lambda a, b: tuple(map(jax.lax.add, a, b)),
      (2,),
    )
  # A stack of the partials is large, hence height before it. The batch goes last, all taps at once:
  # what devices sum is one array for each kernel. The compiler puts at most 256 arrays into one
  # message, and EfficientNet-B0 has 288 taps.
  total = jnp.stack([jax.lax.reduce_sum(p, (1,)) for p in partial]).sum(1)
  return total.reshape(*geometry.kernel, 1, x.shape[3]).astype(x.dtype)


def _gradients(
  kept: Array,
  kernel: Array,
  g: Array,
  geometry: _bilinear.Geometry,
  inner: _bilinear.Geometry,
) -> tuple[Array, Array]:
  wide = _margins(g, geometry)  # one form of g in memory serves both
  return _spread(wide, kernel, geometry), _correlate(kept, _unmargin(wide, geometry), inner)


_on_cpu_maps = _bilinear.bilinear(
  _shift_and_add, _transposed, _correlate, keep=_keep_padded, both=_gradients
)


def _on_cpu(x: Array, kernel: Array, *, geometry: _bilinear.Geometry) -> Array:
  return _on_cpu_maps(x, kernel, geometry)


# ---- Any platform, any grouping: XLA's convolution with a safe weight gradient -------------------


def xla_convolution(
  x: Array, kernel: Array, geometry: _bilinear.Geometry, groups: int = 1
) -> Array:
  """Returns XLA's convolution, with XLA's derivatives."""
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (geometry.stride, geometry.stride),
    geometry.pads,
    rhs_dilation=(geometry.dilation, geometry.dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )


@functools.cache
def _grouped_maps(groups: int):
  def forward(x, kernel, geometry):
    return xla_convolution(x, kernel, geometry, groups)

  def transpose(g, kernel, geometry):
    shape = (g.shape[0], *geometry.size, kernel.shape[2] * groups)
    x = jax.ShapeDtypeStruct(shape, g.dtype)
    (dx,) = jax.linear_transpose(lambda x: forward(x, kernel, geometry), x)(g)
    return dx

  def weight(x, g, geometry):
    dtype = _bilinear.accumulator(x.dtype)
    depth, width = x.shape[3] // groups, g.shape[3] // groups
    rows = []
    for row in _bilinear.taps(_bilinear.pad(x, geometry), geometry):
      for view in row:
        if depth == width == 1:
          total = jnp.sum(view.astype(dtype) * g.astype(dtype), (1, 2))
        else:
          total = jnp.einsum(
            "bhwgi,bhwgo->bigo",
            view.reshape(*view.shape[:3], groups, depth),
            g.reshape(*g.shape[:3], groups, width),
            preferred_element_type=dtype,
          )
        rows.append(total)
    total = jnp.stack(rows).sum(1)  # the batch last, as on a CPU
    return total.reshape(*geometry.kernel, depth, g.shape[3]).astype(x.dtype)

  return _bilinear.bilinear(forward, transpose, weight)
