"""The recurrent nets of video prediction, one step at a time: frame predictor, posterior, prior.

All work on maps `b h w c`; a vector is a map of one pixel. What they carry from step to step is
float32 whatever the compute dtype.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from effnets import ops
from effnets.models import frame_coders, initialize, layers

Carry = tuple[Float[Array, "b h w d"], Float[Array, "b h w d"]]
"""What a cell keeps: (c, h)."""


class ConvLSTMCell(nn.Module):
  """A convolutional LSTM cell: one convolution with bias over (input, h) gives all gates.

  c' = sigmoid(f) c + sigmoid(i) tanh(g), h' = sigmoid(o) tanh(c'); the kernel's output channels are
  the gates i, f, o, g in this order, `hidden` each. No peepholes, nothing added to the forget gate.
  Flax's own cell has two biases, the order i, g, f, o and a forget gate of sigmoid(f + 1).

  kernel: taps a side. vector: of maps of one pixel, with the two biases and the first values of
  PyTorch's LSTM cell, uniform in +-1 / sqrt(hidden).
  """

  hidden: int
  kernel: int = 3
  vector: bool = False
  settings: layers.Settings = layers.Settings(padding="SYMMETRIC")
  start: str | float = frame_coders.START

  @nn.compact
  def __call__(
    self, carry: Carry, x: Float[Array, "b h w c"]
  ) -> tuple[Carry, Float[Array, "b h w d"]]:
    """Returns (new carry, new h)."""
    c, h = carry
    dtype = self.settings.dtype
    taps, channels = 1 if self.vector else self.kernel, x.shape[-1] + self.hidden
    shape = (taps, taps, channels, 4 * self.hidden)
    start = initialize.kernel_start(self.start, shape)
    first: initialize.Initializer = initialize.Constant(0.0)
    if self.vector:
      start = first = initialize.Uniform(1 / math.sqrt(self.hidden))
    kernel = initialize.parameter(self, "kernel", start, shape)
    bias = initialize.parameter(self, "bias", first, shape[-1:])
    if self.vector:
      bias = bias + initialize.parameter(self, "bias_hidden", first, shape[-1:])
    joined = jnp.concatenate([x.astype(dtype), h.astype(dtype)], -1)
    gates = ops.conv(
      joined,
      kernel.astype(dtype),
      padding="SYMMETRIC",
      plain=self.settings.plain,
      split=self.settings.split,
    )
    i, f, o, g = jnp.split(gates.astype(jnp.float32) + bias, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (c, h), h

  def zeros(self, batch: int, side: tuple[int, int]) -> Carry:
    """Returns the carry before the first step."""
    zero = jnp.zeros((batch, *side, self.hidden), jnp.float32)
    return zero, zero


class _Net(nn.Module):
  """hidden: channels of the cells. kernel: taps of all convolutions, 1 for vectors.

  start: of kernels, see `initialize.kernel_start`.
  """

  hidden: int
  kernel: int
  settings: layers.Settings
  start: str | float = frame_coders.START

  def conv(self, x: Array, channels: int, name: str) -> Array:
    """Returns the convolution with bias; of a vector it is a dense layer."""
    make = layers.Conv(
      channels,
      self.kernel,
      bias=True,
      settings=self.settings,
      start=self.start,
      name=name,
    )
    return make(x)

  def cell(self, name: str) -> ConvLSTMCell:
    """Returns a cell."""
    vector = self.kernel == 1
    return ConvLSTMCell(self.hidden, self.kernel, vector, self.settings, self.start, name=name)

  def zeros(self, batch: int, side: tuple[int, int]) -> tuple[Carry, ...]:
    """Returns the carry of all cells before the first step."""
    zero = jnp.zeros((batch, *side, self.hidden), jnp.float32)
    return ((zero, zero),) * self.cells


class FramePredictor(_Net):
  """Two cells between convolutions; tanh. code: channels of the result."""

  code: int = 128
  cells: int = 2

  @nn.compact
  def __call__(
    self, carry: tuple[Carry, ...], x: Float[Array, "b h w c"]
  ) -> tuple[tuple[Carry, ...], Float[Array, "b h w g"]]:
    """Returns (new carry, the next frame's code)."""
    x, new = self.conv(x, self.hidden, "embed"), []
    for index, own in enumerate(carry):
      own, x = self.cell(f"cell_{index}")(own, x)
      new.append(own)
    return tuple(new), jnp.tanh(self.conv(x, self.code, "output"))


class Gaussian(_Net):
  """A cell after a convolution, then the mean and the log-variance of a normal distribution."""

  latent: int = 10
  cells: int = 1

  @nn.compact
  def __call__(
    self, carry: tuple[Carry, ...], code: Float[Array, "b h w g"]
  ) -> tuple[tuple[Carry, ...], tuple[Float[Array, "b h w z"], Float[Array, "b h w z"]]]:
    """Returns (new carry, (mean, log-variance)), float32."""
    own, x = self.cell("cell_0")(carry[0], self.conv(code, self.hidden, "embed"))
    mean, spread = (self.conv(x, self.latent, name) for name in ("mean", "log_variance"))
    return (own,), (mean.astype(jnp.float32), spread.astype(jnp.float32))


class Feedforward(_Net):
  """What stands for the frame predictor without recurrence: as many convolutions, leaky ReLU, tanh.

  code: channels of the result.
  """

  code: int = 128

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w g"]:
    """Returns the next frame's code, of those of the frames before it, joined by channels."""
    for index in range(3):
      x = layers.ACTIVATIONS["leaky_relu"](self.conv(x, self.hidden, f"conv_{index}"))
    return jnp.tanh(self.conv(x, self.code, "output"))
