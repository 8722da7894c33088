"""Optical flow from frames, as a layer without parameters, and flow as eight-bit levels."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

# Of the total-variation energy: weight of the data, step, and the coupling of its two halves.
_LAMBDA, _TAU, _THETA = 0.15, 0.25, 0.3
_TINY = 1e-12


def representation_flow(
  frames: Float[Array, "b t h w c"], *, iterations: int = 40, per_clip: bool = True
) -> Float[Array, "b t h w 2"]:
  """Returns horizontal and vertical flow from every frame to the next, in pixels; float32.

  A fixed number of iterations of TV-L1 at one scale, so it sees motion of about a pixel a frame.
  The last pair's flow is given once more for the last frame; a single frame has none, zero.

  Args:
    frames: of any range; the mean over channels is scaled to [0, 255] by least and greatest value.
    per_clip: of each clip; else of all that are there, as the official code does: a clip's flow
      then depends on its neighbours in the batch, and on how a batch is cut over devices.
  Source: Piergiovanni and Ryoo 2019 (arXiv 1810.01455), in the form of AssembleNet's code.
  """
  # Sums of many small steps: half precision would lose them.
  grey = frames.astype(jnp.float32).mean(-1)
  axes = (1, 2, 3) if per_clip else None
  least = grey.min(axes, keepdims=True)
  span = grey.max(axes, keepdims=True) - least
  grey = jnp.where(span > 0, (grey - least) * 255 / jnp.where(span > 0, span, 1), grey)
  if frames.shape[1] == 1:
    return jnp.zeros((*grey.shape, 2), jnp.float32)
  flow = tv_l1(grey[:, :-1], grey[:, 1:], iterations=iterations)
  return jnp.concatenate([flow, flow[:, -1:]], 1)


def tv_l1(
  first: Float[Array, "*b h w"], second: Float[Array, "*b h w"], *, iterations: int = 40
) -> Float[Array, "*b h w 2"]:
  """Returns the flow (x, y) from one image to another after so many iterations from zero, float32.

  first, second: levels, usually in [0, 255].
  Source: see `representation_flow`; Zach et al. 2007 without warps and scales.
  """
  first, second = (image.astype(jnp.float32) for image in (first, second))
  gx, gy = (_central(second, axis) for axis in (-1, -2))
  square = gx * gx + gy * gy + _TINY
  constant = second - first
  threshold = _LAMBDA * _THETA * square
  rate = _TAU / _THETA

  def step(_, state):
    u, p, q = state  # flow, and its dual variables along x and y; x and y of the flow in front
    rest = constant + gx * u[0] + gy * u[1] + _TINY
    slope = jnp.where(
      rest < -threshold,
      _LAMBDA * _THETA,
      jnp.where(rest > threshold, -_LAMBDA * _THETA, -rest / square),
    )
    u = u + slope * jnp.stack([gx, gy]) + _THETA * (_backward(p, -1) + _backward(q, -2))
    along, down = _forward(u, -1), _forward(u, -2)
    norm = 1 + rate * jnp.sqrt(along * along + down * down + _TINY)
    return u, (p + rate * along) / norm, (q + rate * down) / norm

  zero = jnp.zeros((2, *first.shape), jnp.float32)
  flow, _, _ = jax.lax.fori_loop(0, iterations, step, (zero, zero, zero))
  return jnp.moveaxis(flow, 0, -1)


def _shifted(x: Array, axis: int, by: int) -> Array:
  """Returns x[i + by] with zeros beyond the ends."""
  size = x.shape[axis]
  rolled = jax.lax.slice_in_dim(x, max(by, 0), size + min(by, 0), axis=x.ndim + axis)
  pads = [(0, 0)] * x.ndim
  pads[axis] = (max(-by, 0), max(by, 0))
  return jnp.pad(rolled, pads)


def _central(x: Array, axis: int) -> Array:
  return 0.5 * (_shifted(x, axis, 1) - _shifted(x, axis, -1))


def _forward(x: Array, axis: int) -> Array:
  return _shifted(x, axis, 1) - x


def _backward(x: Array, axis: int) -> Array:
  # As the code has it, the last difference is of what was shifted out: -p[n - 2].
  before = _shifted(x, axis, -1)
  return _forward(before, axis)


_LEVELS = 127


def from_levels(levels: UInt8[Array, "*b 2"], dtype=jnp.float32) -> Float[Array, "*b 2"]:
  """Returns flow in [-1, 1], of its bound, from levels 1 to 255; 128 is exactly none.

  >>> from_levels(jnp.array([1, 128, 255], jnp.uint8)).tolist()
  [-1.0, 0.0, 1.0]
  """
  return ((levels.astype(jnp.float32) - (_LEVELS + 1)) / _LEVELS).astype(dtype)
