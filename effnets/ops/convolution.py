"""Two-dimensional convolution, lowered by shape and platform."""

import functools

from jaxtyping import Array, Float

from effnets.ops import _bilinear, depthwise, pointwise, shallow
from effnets.ops import split as split_lib

PADDINGS = ("SAME", "SYMMETRIC", "VALID")


def resolve_padding(
  padding: str, size: int, kernel: int, stride: int = 1, dilation: int = 1
) -> tuple[int, int]:
  """Returns (low, high) zero padding of one spatial dimension, in pixels.

  Args:
    padding: `SAME` as TensorFlow (output ceil(size / stride), the odd pixel goes to the high side),
      `SYMMETRIC` as PyTorch ((effective kernel - 1) // 2 on both sides) or `VALID` (none), in
      capitals or not.
    size: input pixels. kernel: taps. stride: of the output. dilation: pixels between taps.

  Raises: ValueError if `padding` is none of these.

  >>> resolve_padding("SAME", 224, 3, 2), resolve_padding("SYMMETRIC", 224, 3, 2)
  ((0, 1), (1, 1))
  """
  padding, effective = padding.upper(), (kernel - 1) * dilation + 1
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
  split: split_lib.Split | None = None,
) -> Float[Array, "b h2 w2 o"]:
  """Returns the convolution of `x` with an HWIO kernel (`i = c / groups`), in the type of `x`.

  A 1x1 kernel becomes a matrix product. On a CPU a depthwise one (`groups = c = o`), and a small
  one over few channels, are shifted multiply-adds. Everything else, and every GPU or TPU, is XLA's
  convolution. With `groups > 1` the weight gradient is this package's own, since XLA's is wrong
  under `jit` on a mesh that leaves an axis idle. Half precision is summed in float32.

  Args:
    plain: use XLA's convolution with XLA's derivatives whatever the shape. It is the reference, and
      the only form with forward-mode derivatives (`jvp`, `linearize`, `hessian`) where
      `groups > 1`. Second derivatives by reverse over reverse do not need it.
    split: the mesh under `jit` that images are split over by height, if they are; the result is
      the same, with fewer messages. See `ops.split`.

  Raises: ValueError if shapes, types or `groups` do not fit each other.
  """
  if x.ndim != 4 or kernel.ndim != 4:
    raise ValueError(f"conv takes NHWC images and an HWIO kernel: {x.shape}, {kernel.shape}.")
  channels, outputs = x.shape[3], kernel.shape[3]
  if groups < 1 or channels % groups or outputs % groups or kernel.shape[2] != channels // groups:
    raise ValueError(
      f"a kernel of {kernel.shape} in {groups} group(s) does not fit images of {x.shape}: it needs "
      "the third dimension channels / groups and a fourth that divides by groups."
    )
  if x.dtype != kernel.dtype:
    raise ValueError(f"images are {x.dtype} but the kernel is {kernel.dtype}; cast one of them.")
  if stride < 1 or dilation < 1:
    raise ValueError(f"stride={stride} and dilation={dilation} must be at least 1.")
  size, taps = x.shape[1:3], kernel.shape[:2]
  geometry = _bilinear.Geometry(
    size=size,
    kernel=taps,
    stride=stride,
    dilation=dilation,
    pads=tuple(resolve_padding(padding, size[d], taps[d], stride, dilation) for d in (0, 1)),
  )
  if min(geometry.output) < 1:
    raise ValueError(
      f"padding={padding!r}: a kernel of {taps} with dilation {dilation} exceeds images of {size}."
    )
  if plain:
    return depthwise.xla_convolution(x, kernel, geometry, groups)
  if groups == 1 and taps == (1, 1) and (stride == 1 or split is None):
    return pointwise.pointwise(x, kernel, stride=stride, split=split is not None)
  convolve = functools.partial(_by_shape, groups=groups)
  y = None if split is None else split_lib.exchanged(convolve, x, kernel, geometry, split)
  return convolve(x, kernel, geometry) if y is None else y


def _by_shape(x: Array, kernel: Array, geometry: _bilinear.Geometry, groups: int) -> Array:
  """Returns the convolution of `x`, of any batch and height, as fits kernel and groups."""
  if groups == 1:
    if geometry.kernel == (1, 1):
      return pointwise.pointwise(x, kernel, stride=geometry.stride)
    if geometry.kernel[0] * geometry.kernel[1] * x.shape[3] <= shallow.MOST_PRODUCTS:
      return shallow.shallow(x, kernel, geometry)
    return depthwise.xla_convolution(x, kernel, geometry)
  if groups == x.shape[3] == kernel.shape[3]:
    return depthwise.depthwise(x, kernel, geometry=geometry)
  return depthwise.grouped(x, kernel, groups=groups, geometry=geometry)
