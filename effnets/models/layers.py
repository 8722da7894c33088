"""What every network here is made of: convolution, norm, squeeze-excitation, per-example noise.

Parameters and running moments are float32; activations have the compute dtype. Nothing draws from a
hidden generator: noise comes from one key per example, so it is the same on every mesh.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, Key

from effnets import ops
from effnets.models import initialize

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  "identity": lambda x: x,
  "relu": jax.nn.relu,
  "relu6": jax.nn.relu6,
  "leaky_relu": lambda x: jax.nn.leaky_relu(x, 0.2),
  "swish": jax.nn.silu,
  "hard_swish": jax.nn.hard_silu,
  "sigmoid": jax.nn.sigmoid,
  "hard_sigmoid": jax.nn.hard_sigmoid,
}

CONVOLVED = "convolved"
"""What a policy of `jax.checkpoint` calls the results of convolutions."""


@dataclasses.dataclass(frozen=True)
class NormSets:
  """Which set of normalisation each part of a batch goes through.

  count: sets that there are; set 0 is the main one, which evaluation uses.
  parts: the set of each of the batch's equal parts; a part's moments are its own, and those of
    parts of one set are taken together if all have that set. shards: see `ops.moments`.
  Source: Xie et al. 2020 (arXiv 1911.09665), section 4.
  """

  count: int = 1
  parts: tuple[int, ...] = (0,)
  shards: int = 1


@dataclasses.dataclass(frozen=True)
class Settings:
  """What all layers of one network share.

  padding: `SAME` as TensorFlow or `SYMMETRIC` as PyTorch (see `ops.resolve_padding`).
  plain: the reference lowering of every convolution; the only one with forward-mode derivatives.
  dtype: of activations and of the arithmetic; parameters and moments stay float32.
  momentum: decay m of running moments, new = m * old + (1 - m) * batch, as TensorFlow means it
    (PyTorch's momentum is 1 - m). epsilon: added to the variance, inside the root.
  group: over whom batch moments are taken in training.
  norms: how many sets of scales, biases and moments every norm has, and which images take which.
  kernel_std: every kernel starts from a normal truncated at two standard deviations, this before
    truncation; None: each layer's own rule.
  folded: norms are in the kernels before them, except for their bias; see `folding.fold`.
  split: how images lie on the mesh, if their height is split over one.
  named: what convolutions give is called `CONVOLVED`, for policies of `jax.checkpoint`.
  """

  padding: str = "SAME"
  plain: bool = False
  dtype: Any = jnp.float32
  momentum: float = 0.99
  epsilon: float = 1e-3
  group: ops.Group = ops.Group()
  norms: NormSets = NormSets()
  kernel_std: float | None = None
  folded: bool = False
  split: ops.Split | None = None
  named: bool = False

  def kernel(self, usual: initialize.Initializer) -> initialize.Initializer:
    """Returns the initialiser of a kernel whose layer's own rule is `usual`."""
    return usual if self.kernel_std is None else initialize.Truncated(self.kernel_std)


class Conv(nn.Module):
  """Two-dimensional convolution with an HWIO kernel.

  start: how kernel values begin, see `initialize.kernel_start`; the default is that of Tan and Le
  2019, official code; not used if `settings.kernel_std` is given. bias_start: first value of the
  bias, where there is one.
  """

  channels: int
  kernel: int = 1
  stride: int = 1
  dilation: int = 1
  groups: int = 1
  bias: bool = False
  settings: Settings = Settings()
  start: str | float = "fan_out"
  bias_start: float = 0.0

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], gate: Float[Array, "b 1 1 c"] | None = None
  ) -> Float[Array, "b h2 w2 o"]:
    """Returns the convolved `x`, times `gate` if there is one, in the compute dtype."""
    shape = (self.kernel, self.kernel, x.shape[-1] // self.groups, self.channels)
    usual = initialize.kernel_start(self.start, shape, self.groups)
    initializer = self.settings.kernel(usual)
    kernel = initialize.parameter(self, "kernel", initializer, shape)
    dtype = self.settings.dtype
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    simple = self.kernel == self.stride == self.groups == 1 and not self.settings.plain
    if gate is not None and simple:
      y = ops.gated(x, gate.astype(dtype), kernel, split=self.settings.split is not None)
    else:
      y = ops.conv(
        x if gate is None else x * gate.astype(dtype),
        kernel,
        stride=self.stride,
        dilation=self.dilation,
        groups=self.groups,
        padding=self.settings.padding,
        plain=self.settings.plain,
        split=self.settings.split,
      )
    if self.bias:
      first = initialize.Constant(self.bias_start)
      shift = initialize.parameter(self, "bias", first, (self.channels,))
      y = y + shift.astype(dtype)
    return checkpoint_name(y, CONVOLVED) if self.settings.named else y


PARTITIONS = ("equal", "exponential")


def partition(channels: int, parts: int, how: str = "equal") -> tuple[int, ...]:
  """Returns the channels of each part.

  Args:
    how: `equal`, where the first part takes what does not divide, or `exponential`, where each part
      takes half of what is left and the last one the rest.
  Raises: ValueError if `how` is neither, or a part would be empty.
  Source: Tan and Le 2019 (arXiv 1907.09595), section 3.1, and its code.

  >>> partition(100, 3), partition(32, 4, "exponential")
  ((34, 33, 33), (16, 8, 4, 4))
  """
  if how not in PARTITIONS:
    raise ValueError(f"partition={how!r} is none of {PARTITIONS}.")
  if how == "equal":
    sizes = [channels // parts] * parts
    sizes[0] += channels - sum(sizes)
  else:
    sizes = [channels >> part for part in range(1, parts)]
    sizes.append(channels - sum(sizes))
  if min(sizes) < 1:
    raise ValueError(f"{channels} channels do not make {parts} {how} parts; use fewer kernels.")
  return tuple(sizes)


class SplitConv(nn.Module):
  """Convolves parts of the channels apart, each with its own kernel, and joins the results.

  channels: of the result. kernels: taps of each part, each padded for itself. depthwise: whether
  the parts are depthwise, else each sees all input channels of its part. partition: of input and
  result, see `partition`. dilated: see `stage_tables.Row`. Part i's kernel is `i/kernel`.
  Source: Tan and Le 2019 (arXiv 1907.09595), section 3.
  """

  channels: int
  kernels: tuple[int, ...]
  stride: int = 1
  depthwise: bool = True
  partition: str = "equal"
  dilated: bool = False
  settings: Settings = Settings()

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], gate: Float[Array, "b 1 1 c"] | None = None
  ) -> Float[Array, "b h2 w2 o"]:
    """Returns the parts' results for `x`, times `gate` if there is one, joined in order."""
    count, start, results = len(self.kernels), 0, []
    sizes = partition(x.shape[-1], count, self.partition)
    outputs = partition(self.channels, count, self.partition)
    for index, (kernel, size, channels) in enumerate(
      zip(self.kernels, sizes, outputs, strict=True)
    ):
      taps, dilation = spread(kernel, self.stride) if self.dilated else (kernel, 1)
      convolve = Conv(
        channels,
        taps,
        self.stride,
        dilation,
        groups=channels if self.depthwise else 1,
        settings=self.settings,
        name=str(index),
      )
      own = functools.partial(jax.lax.slice_in_dim, start_index=start, limit_index=start + size)
      results.append(convolve(own(x, axis=3), None if gate is None else own(gate, axis=3)))
      start += size
    return jnp.concatenate(results, -1)


def spread(kernel: int, stride: int) -> tuple[int, int]:
  """Returns (taps, dilation) of the dilated form of a `kernel`: nine taps, if it does not stride.

  >>> spread(7, 1), spread(7, 2)
  ((3, 3), (7, 1))
  """
  return (3, (kernel - 1) // 2) if stride == 1 and kernel > 3 else (kernel, 1)


class Dense(nn.Module):
  """Classifier layer; its products are summed, and returned, in float32.

  Kernel values start uniform in +-1 / sqrt(classes), or from `start`, unless `settings.kernel_std`
  is given. Source: Tan and Le 2019, official code.
  """

  classes: int
  settings: Settings = Settings()
  start: initialize.Initializer | None = None

  @nn.compact
  def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b k"]:
    """Returns float32 logits."""
    usual = self.start or initialize.Uniform(1 / math.sqrt(self.classes))
    shape = (x.shape[-1], self.classes)
    initializer = self.settings.kernel(usual)
    kernel = initialize.parameter(self, "kernel", initializer, shape)
    bias = initialize.parameter(self, "bias", initialize.Constant(0.0), (self.classes,))
    dtype = self.settings.dtype
    product = jnp.dot(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)
    return product + bias


class BatchNorm(nn.Module):
  """Batch normalisation with its activation.

  In training the moments are those of each example's group, and the running moments, float32 in
  `batch_stats`, move towards the mean of all groups' moments (if that collection is mutable). The
  variance is the biased one in both places; TensorFlow's fused kernel keeps the unbiased one.
  initial_scale: of the parameter `scale`, or how it is drawn. alone: there is no convolution right
  before it, so that a folded network has its scale too.

  Auxiliary sets (see `NormSets`) are `scale_1`, `bias_1`, `mean_1`, `var_1` and so on, beside the
  main one, which thus is the same with and without them.
  """

  activation: str = "identity"
  settings: Settings = Settings()
  initial_scale: float | initialize.Initializer = 1.0
  alone: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, "b *s c"], train: bool = False) -> Float[Array, "b *s c"]:
    """Returns the normalised, activated `x`; train: by batch moments, else by running ones.

    Raises: ValueError for train in a folded network, which has no moments.
    """
    shape, settings = (x.shape[-1],), self.settings
    norms = settings.norms
    if settings.folded:
      if train:
        raise ValueError("a folded network has no batch norm left to train; use the one before.")
      bias = initialize.parameter(self, "bias", initialize.Constant(0.0), shape)
      if not self.alone:
        return ops.shift(x, bias, activation=self.activation)
      scale = initialize.parameter(self, "scale", initialize.Constant(1.0), shape)
      scaled = x.astype(jnp.float32) * scale
      return ops.shift(scaled, bias, activation=self.activation).astype(x.dtype)
    zero, one = initialize.Constant(0.0), initialize.Constant(1.0)
    initial = self.initial_scale
    if not isinstance(initial, initialize.Initializer):
      initial = initialize.Constant(initial)
    sets = []
    for index in range(norms.count):
      suffix = f"_{index}" if index else ""
      scale = initialize.parameter(self, f"scale{suffix}", initial, shape)
      bias = initialize.parameter(self, f"bias{suffix}", zero, shape)
      mean, var = (
        initialize.state(self, "batch_stats", f"{name}{suffix}", initializer=value, shape=shape)
        for name, value in (("mean", zero), ("var", one))
      )
      sets.append((scale, bias, mean, var))
    used = (norms.parts[0],) if len(set(norms.parts)) == 1 else norms.parts
    shards = norms.shards if len(used) > 1 else 1
    rows = len(used) * shards
    if train:
      group = settings.group
      if len(used) < len(norms.parts) and group.images is not None:
        group = dataclasses.replace(group, images=group.images * len(norms.parts))
      means, variances = ops.moments(x, group, parts=len(used), shards=shards)
      rows = means.shape[0]
      if self.is_mutable_collection("batch_stats") and not self.is_initializing():
        m = settings.momentum
        # Means over dimensions: rows that are picked by number would first be gathered from all
        # devices, twice in every layer.
        by_part = (shards, len(used), rows // (shards * len(used)), *shape)
        new_means, new_variances = (v.reshape(by_part).mean((0, 2)) for v in (means, variances))
        for index in sorted(set(used)):
          own = np.flatnonzero(np.equal(used, index))
          _, _, mean, var = sets[index]
          mean.value = m * mean.value + (1 - m) * new_means[own].mean(0)
          var.value = m * var.value + (1 - m) * new_variances[own].mean(0)
    if len(used) == 1:
      scale, bias, mean, var = sets[used[0]]
      if not train:
        means, variances = mean.value[None], var.value[None]
    else:
      order = _spread_parts(used, shards, rows)
      scale, bias = (jnp.stack([s[i] for s in sets])[order] for i in (0, 1))
      if not train:
        means, variances = (jnp.stack([s[i].value for s in sets])[order] for i in (2, 3))
    return ops.normalize(
      x,
      means,
      variances,
      scale,
      bias,
      epsilon=settings.epsilon,
      activation=self.activation,
      plain=settings.plain,
    )


def _spread_parts(parts: tuple[int, ...], shards: int, rows: int) -> Int[np.ndarray, " rows"]:
  """Returns the set of each row of moments.

  >>> _spread_parts((0, 1), 2, 8).tolist()
  [0, 0, 1, 1, 0, 0, 1, 1]
  """
  if len(parts) == 1:
    return np.full(rows, parts[0])
  return np.tile(np.repeat(parts, rows // (len(parts) * shards)), shards)


def main_set(variables: Any, index: int = 0) -> Any:
  """Returns `variables` without the auxiliary sets of their norms, for a network that has none.

  index: of the set that is kept, in the main one's place.

  >>> main_set({"params": {"norm": {"scale": 1, "scale_1": 2}}, "batch_stats": {}})
  {'params': {'norm': {'scale': 1}}, 'batch_stats': {}}
  >>> main_set({"params": {"norm": {"scale": 1, "scale_1": 2}}}, 1)
  {'params': {'norm': {'scale': 2}}}
  """
  if not hasattr(variables, "items"):
    return variables
  kept = {}
  for name, value in variables.items():
    chosen = f"{name}_{index}"
    if main_name(name) == name:
      theirs = variables.get(chosen, value) if main_name(chosen) == name else value
      kept[name] = main_set(theirs, index)
  return kept


def main_name(leaf: str) -> str:
  """Returns the name of a leaf in a norm's main set; of others their own.

  >>> main_name("scale_1"), main_name("scale"), main_name("block_1")
  ('scale', 'scale', 'block_1')
  """
  return re.sub(r"^(scale|bias|mean|var)_\d+$", r"\1", leaf)


class ConvNorm(nn.Module):
  """Convolution, batch norm, activation.

  kernel: taps, or those of each part of a `SplitConv`, which is depthwise if `groups` is not 1.
  groups: 1, or the number of channels. partition, dilated: of `SplitConv`. scale: of the norm.
  normalised: False leaves the norm out. rate: pixels between the taps of a single kernel.
  bias: of the convolution, superfluous before a norm, but some weight sets have it. start: of
  `Conv`, for a single kernel.
  """

  channels: int
  kernel: int | tuple[int, ...] = 1
  stride: int = 1
  groups: int = 1
  activation: str = "identity"
  settings: Settings = Settings()
  partition: str = "equal"
  dilated: bool = False
  scale: float = 1.0
  normalised: bool = True
  rate: int = 1
  bias: bool = False
  start: str | float = "fan_out"

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b h w c"],
    train: bool = False,
    gate: Float[Array, "b 1 1 c"] | None = None,
  ) -> Float[Array, "b h2 w2 o"]:
    """Returns the activated, normalised convolution of `x`, times `gate` if there is one.

    Args: train: as of `BatchNorm`.
    """
    kernels = (self.kernel,) if isinstance(self.kernel, int) else self.kernel
    if len(kernels) == 1:
      taps, dilation = spread(kernels[0], self.stride) if self.dilated else (kernels[0], 1)
      convolve = Conv(
        self.channels,
        taps,
        self.stride,
        dilation * self.rate if taps > 1 else 1,
        groups=self.groups,
        bias=self.bias,
        settings=self.settings,
        start=self.start,
        name="conv",
      )
    else:
      if self.rate > 1:
        raise ValueError(f"rate={self.rate}: a convolution in parts has no rate.")
      convolve = SplitConv(
        self.channels,
        kernels,
        self.stride,
        depthwise=self.groups > 1,
        partition=self.partition,
        dilated=self.dilated,
        settings=self.settings,
        name="conv",
      )
    y = convolve(x, gate)
    if not self.normalised:
      return ACTIVATIONS[self.activation](y)
    return BatchNorm(self.activation, self.settings, self.scale, name="norm")(y, train)


@dataclasses.dataclass(frozen=True)
class Squeeze:
  """How a block's squeeze-excitation is built.

  ratio: bottleneck width relative to `of`, the block's `input` or its `expanded` channels.
  divisor: 1 truncates the width (EfficientNet, MnasNet); 8 rounds it as filters are rounded
    (MobileNetV3). activation: of the bottleneck, None for the block's. gate: of the excitation.
  """

  ratio: float = 0.25
  of: str = "input"
  divisor: int = 1
  activation: str | None = None
  gate: str = "sigmoid"

  def width(self, inputs: int, expanded: int) -> int:
    """Returns the bottleneck's channels.

    >>> Squeeze(0.25).width(40, 240), Squeeze(0.25, of="expanded", divisor=8).width(40, 120)
    (10, 32)
    """
    if self.of not in ("input", "expanded"):
      raise ValueError(f"of={self.of!r} is neither 'input' nor 'expanded'.")
    exact = (inputs if self.of == "input" else expanded) * self.ratio
    return max(1, int(exact)) if self.divisor == 1 else divisible(exact, divisor=self.divisor)


def divisible(channels: float, *, divisor: int = 8) -> int:
  """Returns `channels` rounded to a multiple of `divisor`, never more than a tenth below.

  >>> divisible(38.4), divisible(33.6), divisible(11.0)
  (40, 32, 16)
  """
  rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
  return rounded if rounded >= 0.9 * channels else rounded + divisor


class SqueezeExcite(nn.Module):
  """A gate for each channel, computed from all channels' means over the image."""

  width: int
  activation: str = "swish"
  gate: str = "sigmoid"
  settings: Settings = Settings()

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 1 1 c"]:
    """Returns what `x` is to be multiplied with; the mean is float32."""
    settings = self.settings
    y = x.mean((1, 2), dtype=jnp.float32, keepdims=True)
    y = Conv(self.width, bias=True, settings=settings, name="reduce")(y)
    y = ACTIVATIONS[self.activation](y)
    y = Conv(x.shape[-1], bias=True, settings=settings, name="expand")(y)
    return ACTIVATIONS[self.gate](y)


def path_noise(
  keys: Key[Array, " b"], count: int, shape: tuple[int, ...] = ()
) -> Float[Array, "b n *d"]:
  """Returns numbers in [0, 1) per example and block, from example's key and block's index.

  shape: of the numbers for one example in one block.
  """

  def draw(key, index):
    return jax.random.uniform(jax.random.fold_in(key, index), shape)

  each_block = jax.vmap(draw, (None, 0))
  return jax.vmap(each_block, (0, None))(keys, jnp.arange(count, dtype=jnp.uint32))


def stochastic_depth(
  x: Float[Array, " b *s"], noise: Float[Array, " b"], rate: float
) -> Float[Array, " b *s"]:
  """Returns `x` with each example dropped where `noise < rate` and else divided by 1 - rate.

  Args: x: a residual branch. noise: uniform in [0, 1). rate: probability of dropping, in [0, 1).
  """
  kept = (noise >= rate).astype(x.dtype) / (1 - rate)
  return x * kept.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)


def dropout(x: Float[Array, " b *s"], keys: Key[Array, " b"], rate: float) -> Float[Array, " b *s"]:
  """Returns `x` with units dropped with probability `rate` in [0, 1), the rest over 1 - rate."""

  def draw(key) -> Bool[Array, "*s"]:
    return jax.random.bernoulli(key, 1 - rate, x.shape[1:])

  return jnp.where(jax.vmap(draw)(keys), x / (1 - rate), 0).astype(x.dtype)
