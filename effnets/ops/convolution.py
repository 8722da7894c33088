"""Two-dimensional convolution, chosen by shape and platform."""

import jax
from jaxtyping import Array, Float

PADDINGS = ("SAME", "SYMMETRIC", "VALID")


def resolve_padding(
  padding: str, size: int, kernel: int, stride: int = 1, dilation: int = 1
) -> tuple[int, int]:
  """Returns (low, high) zero padding of one spatial dimension, in pixels.

  Args:
    padding: `SAME` as TensorFlow (output ceil(size / stride), the odd pixel goes to the high side),
      `SYMMETRIC` as PyTorch ((effective kernel - 1) // 2 on both sides) or `VALID` (none).
    size: input pixels. kernel: taps. stride: of the output. dilation: pixels between taps.
  """
  effective = (kernel - 1) * dilation + 1
  if padding == "VALID":
    return 0, 0
  if padding == "SYMMETRIC":
    return (effective - 1) // 2, (effective - 1) // 2
  if padding == "SAME":
    total = max((-(-size // stride) - 1) * stride + effective - size, 0)
    return total // 2, total - total // 2
  raise ValueError(f"padding={padding!r} is none of {PADDINGS}.")


def conv(
  x: Float[Array, "b h w c"],
  kernel: Float[Array, "kh kw i o"],
  *,
  stride: int = 1,
  dilation: int = 1,
  groups: int = 1,
  padding: str = "SAME",
  plain: bool = False,
) -> Float[Array, "b h2 w2 o"]:
  """Returns the convolution of `x` with an HWIO kernel (`i = c / groups`)."""
  del plain
  pads = [
    resolve_padding(padding, x.shape[1 + d], kernel.shape[d], stride, dilation) for d in (0, 1)
  ]
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    pads,
    rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )
