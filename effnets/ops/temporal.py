"""Convolution over time, the one-dimensional half of a (2+1)D convolution."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def temporal_conv(
  x: Float[Array, "b t h w c"],
  kernel: Float[Array, "k c o"],
  *,
  dilation: int = 1,
  plain: bool = False,
) -> Float[Array, "b t h w o"]:
  """Returns the convolution of `x` over time with zeros beyond its ends, in the type of `x`.

  XLA's convolution with a k x 1 kernel over time and pixels. On a CPU its derivatives are given:
  for the kernel one product of matrices per tap, two to four times as fast as what XLA derives.

  Args: dilation: frames between taps. plain: XLA's derivatives too; the only form with
    forward-mode ones.
  Raises: ValueError if shapes or types do not fit, or the number of taps is even.
  """
  if x.ndim != 5 or kernel.ndim != 3 or kernel.shape[1] != x.shape[4] or kernel.shape[0] % 2 == 0:
    raise ValueError(
      f"a temporal kernel of {kernel.shape} does not fit clips of {x.shape}: it needs an odd "
      "number of taps and as many inputs as there are channels."
    )
  if x.dtype != kernel.dtype:
    raise ValueError(f"clips are {x.dtype} but the kernel is {kernel.dtype}; cast one of them.")
  if dilation < 1:
    raise ValueError(f"dilation={dilation} must be at least 1.")
  # Taps that only ever meet zeros: of a single frame, all but the middle one.
  reach = min((x.shape[1] - 1) // dilation, kernel.shape[0] // 2)
  if not plain:
    middle = kernel.shape[0] // 2
    kernel = kernel[middle - reach : middle + reach + 1]
  usual = functools.partial(_convolve, dilation=dilation)
  if plain:
    return usual(x, kernel)
  own = lambda x, kernel: _with_derivative(x, kernel, dilation)  # noqa: E731
  return jax.lax.platform_dependent(x, kernel, cpu=own, default=usual)


def _convolve(x: Array, kernel: Array, dilation: int) -> Array:
  b, t, h, w, c = x.shape
  margin = kernel.shape[0] // 2 * dilation
  y = jax.lax.conv_general_dilated(
    x.reshape(b, t, h * w, c),
    kernel[:, None],
    (1, 1),
    ((margin, margin), (0, 0)),
    rhs_dilation=(dilation, 1),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  return y.reshape(b, t, h, w, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _with_derivative(x: Array, kernel: Array, dilation: int) -> Array:
  return _convolve(x, kernel, dilation)


def _forward(x, kernel, dilation):
  return _convolve(x, kernel, dilation), (x, kernel)


def _backward(dilation, kept, g):
  x, kernel = kept
  taps, frames = kernel.shape[0], x.shape[1]
  d_x = _convolve(g, kernel[::-1].transpose(0, 2, 1), dilation)
  products = []
  for tap in range(taps):
    shift = (tap - taps // 2) * dilation  # y[t] has x[t + shift] times this tap
    here = x[:, max(shift, 0) : frames + min(shift, 0)]
    there = g[:, max(-shift, 0) : frames - max(shift, 0)]
    # Two-dimensional operands: see `pointwise`.
    here, there = here.reshape(-1, x.shape[-1]), there.reshape(-1, g.shape[-1])
    kind = jnp.promote_types(x.dtype, jnp.float32)
    products.append(jnp.dot(here.T, there, preferred_element_type=kind))
  return d_x, jnp.stack(products).astype(kernel.dtype)


_with_derivative.defvjp(_forward, _backward)
