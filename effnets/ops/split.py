"""Convolution of images whose height is split over a mesh axis: neighbours exchange edge rows.

Left to itself XLA finds the same messages for its own convolution, but many more, and some gathers
of whole images, for the shifted products of `depthwise`. Here the rows that a part needs of its
neighbours are two messages, one up and one down, and what follows is a convolution of one device.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from effnets.ops import _bilinear

_Convolve = Callable[[Array, Array, _bilinear.Geometry], Array]


@dataclasses.dataclass(frozen=True)
class Split:
  """How images lie on a mesh under `jit`.

  batch: mesh axes that split the batch. height: the axis that splits the rows.
  """

  mesh: jax.sharding.Mesh
  batch: tuple[str, ...]
  height: str

  @property
  def parts(self) -> int:
    """Number of parts that the height is cut into."""
    return self.mesh.shape[self.height]

  def divides(self, batch: int) -> bool:
    """Returns whether `batch` images are equally many for every device."""
    return batch % math.prod(self.mesh.shape[axis] for axis in self.batch) == 0


def exchanged(
  convolve: _Convolve,
  x: Float[Array, "b h w c"],
  kernel: Float[Array, "kh kw i o"],
  geometry: _bilinear.Geometry,
  split: Split,
) -> Float[Array, "b h2 w2 o"] | None:
  """Returns `convolve(x, kernel, geometry)`, of which every device computes its own rows.

  A height that does not divide gets empty rows below, which XLA would give it too. None where the
  parts are too low for it: a window would reach over the next one; or the batch does not divide.

  Args: convolve: runs on each device, on rows that are padded already.
  """
  s, low = geometry.stride, geometry.pads[0][0]
  rows = -(-geometry.size[0] // (split.parts * s)) * s  # of a part, before the exchange
  span = (geometry.kernel[0] - 1) * geometry.dilation + 1
  high = max(0, span - s - low)
  surplus = split.parts * (rows // s) - geometry.output[0]
  if not split.divides(x.shape[0]) or max(low, high) > rows or surplus < 0:
    return None
  inner = dataclasses.replace(
    geometry,
    size=(low + rows + high, geometry.size[1]),
    pads=((0, 0), geometry.pads[1]),
  )

  def part(x, kernel):
    return convolve(_with_neighbours(x, low, high, split), kernel.astype(x.dtype), inner)

  whole = P(split.batch, split.height)
  run = jax.shard_map(
    part, mesh=split.mesh, in_specs=(whole, P()), out_specs=whole, check_vma=False
  )
  below = split.parts * rows - geometry.size[0]
  if below:
    x = jnp.pad(x, ((0, 0), (0, below), (0, 0), (0, 0)))
  # The sum of the parts' weight gradients is taken in the kernel's type: float32 at least.
  y = run(x, kernel.astype(_bilinear.accumulator(kernel.dtype)))
  return jax.lax.slice_in_dim(y, 0, geometry.output[0], axis=1) if surplus else y


def _with_neighbours(x: Array, low: int, high: int, split: Split) -> Array:
  """Returns a part's rows below the last `low` of the one above and on the first `high` below it.

  At the image's ends nobody sends, which gives zeros: its padding.
  """
  steps = range(split.parts - 1)
  pieces = [x]
  if low:
    edge = jax.lax.slice_in_dim(x, x.shape[1] - low, None, axis=1)
    pieces.insert(0, jax.lax.ppermute(edge, split.height, [(i, i + 1) for i in steps]))
  if high:
    edge = jax.lax.slice_in_dim(x, 0, high, axis=1)
    pieces.append(jax.lax.ppermute(edge, split.height, [(i + 1, i) for i in steps]))
  return jnp.concatenate(pieces, 1) if len(pieces) > 1 else x
