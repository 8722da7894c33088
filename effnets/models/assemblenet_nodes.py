"""What AssembleNet's graphs are made of: stems, (2+1)D residual units, groups of them, fusion.

Source: Ryoo et al. 2020 (arXiv 1905.13209) and its code.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from effnets import ops
from effnets.models import assemblenet_graphs as graphs
from effnets.models import initialize, layers


def _per_frame(function, x: Float[Array, "b t *s"]) -> Float[Array, "b t *r"]:
  """Returns `function` of all frames as one batch of images."""
  y = function(x.reshape(-1, *x.shape[2:]))
  return y.reshape(*x.shape[:2], *y.shape[1:])


class TemporalConv(nn.Module):
  """One-dimensional convolution over time, kernel `k c o`, without bias."""

  channels: int
  taps: int
  dilation: int
  settings: layers.Settings

  @nn.compact
  def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w o"]:
    """Returns the convolved `x`, as long as it was."""
    fan_in = self.taps * x.shape[-1]
    usual = initialize.kernel_start("fan_in", (self.taps, 1, x.shape[-1], self.channels))
    if self.dilation > 1:  # another rule in the code, which builds these kernels by itself
      usual = initialize.Truncated(math.sqrt(2 / fan_in))
    shape = (self.taps, x.shape[-1], self.channels)
    kernel = initialize.parameter(self, "kernel", self.settings.kernel(usual), shape)
    x, kernel = (array.astype(self.settings.dtype) for array in (x, kernel))
    return ops.temporal_conv(x, kernel, dilation=self.dilation, plain=self.settings.plain)


class _Layers(nn.Module):
  """What stems and blocks are made of. settings: of all layers."""

  settings: layers.Settings

  def spatial(self, x: Array, channels: int, kernel: int, stride: int, name: str) -> Array:
    """Returns the convolution of every frame; strided ones are padded alike on both sides."""
    conv = layers.Conv(channels, kernel, stride, settings=self.settings, start="fan_in", name=name)
    return _per_frame(conv, x)

  def temporal(self, x: Array, channels: int, taps: int, dilation: int, name: str) -> Array:
    """Returns the convolution over time."""
    return TemporalConv(channels, taps, dilation, self.settings, name=name)(x)

  def norm(self, x: Array, train: bool, name: str, scale: float = 1.0, act: str = "relu") -> Array:
    """Returns the normalised, activated `x`; moments are over time too."""
    return layers.BatchNorm(act, self.settings, scale, name=name)(x, train)


class Stem(_Layers):
  """7x7 convolution, over time too for RGB, then a pool: a fourth of height and width."""

  node: graphs.Node
  channels: int

  @nn.compact
  def __call__(self, x: Float[Array, "b t h w c"], train: bool) -> Float[Array, "b t h4 w4 d"]:
    """Returns the stem's features."""
    y = self.norm(self.spatial(x, self.channels, 7, 2, "conv"), train, "norm")
    if self.node.kind == "flow":
      return _per_frame(lambda f: nn.max_pool(f, (2, 2), (2, 2), "SAME"), y)
    y = self.temporal(y, self.channels, 5, self.node.dilation, "temporal")
    y = self.norm(y, train, "temporal_norm")
    return _per_frame(lambda f: nn.max_pool(f, (3, 3), (2, 2), "SAME"), y)


class Unit(_Layers):
  """A bottleneck. stride: with it, or where `first`, the shortcut is a projection.

  temporal_first: the first convolution is over three frames instead of 1x1. inner: channels of the
  3x3 convolution.
  """

  filters: int
  inner: int
  stride: int
  dilation: int
  first: bool
  temporal_first: bool

  @nn.compact
  def __call__(self, x: Float[Array, "b t h w c"], train: bool) -> Float[Array, "b t h2 w2 d"]:
    """Returns the unit's output, 4 x filters channels."""
    channels = 4 * self.filters
    if self.temporal_first:
      y = self.temporal(x, self.filters, 3, self.dilation, "temporal")
    else:
      y = self.spatial(x, self.filters, 1, 1, "reduce")
    y = self.norm(y, train, "reduce_norm")
    y = self.spatial(y, self.inner, 3, self.stride, "spatial")
    y = self.norm(y, train, "spatial_norm")
    y = self.spatial(y, channels, 1, 1, "project")
    # A block begins as its shortcut.
    y = self.norm(y, train, "project_norm", 0.0, "identity")
    if self.first:
      x = self.spatial(x, channels, 1, self.stride, "shortcut")
      x = self.norm(x, train, "shortcut_norm", act="identity")
    return nn.relu(x + y)


class Group(_Layers):
  """A node of the graph: its inputs brought together, then `repeats` units.

  weights: of its edges behind the sigmoid, if they are fixed. start: that trained ones begin at; ()
  for about 0.5. masked: whether variables `mask` of
  the collection `graph` switch edges off. kept: what they are in the beginning; () for all on.
  """

  node: graphs.Node
  inner: int
  repeats: int
  weights: tuple[float, ...] = ()
  start: tuple[float, ...] = ()
  masked: bool = False
  kept: tuple[bool, ...] = ()
  remat: bool = False

  def _edge_weights(self) -> Float[Array, " n"]:
    count = len(self.node.inputs)
    if self.weights:
      found = jnp.asarray(self.weights, jnp.float32)
    else:
      usual: initialize.Initializer = initialize.Truncated(0.01)
      if self.start:
        usual = initialize.Given(tuple(math.log(w / (1 - w)) for w in self.start))
      logits = initialize.parameter(self, "edges", usual, (count,))
      found = jax.nn.sigmoid(logits)
    if self.masked:
      start = initialize.Given(tuple(map(float, self.kept or (True,) * count)))
      found *= initialize.state(self, "graph", "mask", initializer=start, shape=(count,)).value
    return found

  def _fused(self, inputs: list[Float[Array, "b t h w c"]]) -> Float[Array, "b t h w c"]:
    """Returns the weighted sum of the inputs at the smallest size and the most channels."""
    if len(inputs) == 1:
      return inputs[0]
    weights = self._edge_weights().astype(self.settings.dtype)
    least = min(x.shape[2] for x in inputs)
    most = max(x.shape[4] for x in inputs)
    sums: dict[int, Array] = {}
    for x, weight in zip(inputs, weights, strict=True):
      ratio = (x.shape[2] + 1) // least
      if ratio > 1:
        window = (ratio, ratio)
        x = _per_frame(functools.partial(_pooled, window=window), x)
        # Sizes that do not halve evenly leave a row or column too many, on which the code stops.
        x = x[:, :, :least, : min(x.shape[3] for x in inputs)]
      channels = x.shape[4]
      sums[channels] = sums[channels] + weight * x if channels in sums else weight * x
    # One convolution for all inputs of one width.
    wide = [
      x if channels == most else self.spatial(x, most, 1, 1, f"fuse_{channels}")
      for channels, x in sorted(sums.items())
    ]
    return functools.reduce(jnp.add, wide)

  @nn.compact
  def __call__(
    self, inputs: list[Float[Array, "b t h w c"]], train: bool
  ) -> Float[Array, "b t h2 w2 d"]:
    """Returns the node's features."""
    x = self._fused(inputs)
    kind = nn.remat(Unit, static_argnums=(2,)) if self.remat else Unit
    for index in range(self.repeats):
      unit = kind(
        self.settings,
        self.node.filters,
        self.inner,
        stride=(2 if self.node.level else 1) if index == 0 else 1,
        dilation=self.node.dilation,
        first=index == 0,
        temporal_first=index % 2 == 1,
        name=f"unit_{index}",
      )
      x = unit(x, train)
    return x


def _pooled(x: Float[Array, "n h w c"], window: tuple[int, int]) -> Float[Array, "n h2 w2 c"]:
  return nn.max_pool(x, window, window, "SAME")
