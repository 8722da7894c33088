"""A classifier made of a stem, the blocks of a stage table and a head."""

import math
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from effnets import errors, ops
from effnets.models import blocks, common, layers, shortcuts, stage_tables

REMAT = ("none", "norm", "block")
DTYPES = ("float32", "bfloat16")
PADDINGS = ("SAME", "SYMMETRIC")

_Keys = Mapping[str, Key[Array, " b"]] | None


class Network(common.Common, kw_only=True):
  """Stem, blocks, tail, 1x1 head, average pool, hidden layer, dropout, dense layer.

  rows: the stage table, already scaled. stem, head: channels of the first and last convolution;
    head 0 leaves it out. head_depth: how many of the last one follow each other.
  num_classes: of the dense layer. image_size: pixels it was designed for; any other works.
  dropout_rate: before the dense layer. drop_path_rate: d; block i of n is skipped with probability
    d * i / n, the first never; a `pyramid` counts from 1.
  activation: of stem, head and hidden layer.
  kernel_std: see `layers.Settings`.
  stem_kernel, stem_stride, stem_end, stem_pool, tail, outer_skips, hidden: see
    `stage_tables.Table`. The others: see `common.Common`.
  """

  rows: tuple[stage_tables.Row, ...]
  stem: int
  head: int
  num_classes: int = 1000
  image_size: int = 224
  dropout_rate: float = 0.2
  drop_path_rate: float = 0.2
  activation: str = "swish"
  stem_kernel: int = 3
  stem_stride: int = 2
  stem_end: str = "norm activation"
  stem_pool: bool = False
  tail: str = ""
  outer_skips: bool = False
  hidden: int = 0
  head_depth: int = 1
  kernel_std: float | None = None

  def setup(self) -> None:
    settings = self.settings(kernel_std=self.kernel_std)
    self.stem_layer = layers.ConvNorm(
      self.stem,
      self.stem_kernel,
      self.stem_stride,
      activation=self._activation(self.stem_end),
      settings=settings,
      normalised="norm" in self.stem_end,
      name="stem",
    )
    table, rates = stage_tables.unroll(self.rows), self.drop_rates()
    made = []
    for index, (row, rate) in enumerate(zip(table, rates, strict=True)):
      block = blocks.BLOCKS[row.op]
      if self.remat != "none":
        kept = jax.checkpoint_policies.save_only_these_names(layers.CONVOLVED)
        # Argument 2 is `train`; self counts as 0.
        block = nn.remat(
          block,
          static_argnums=(2,),
          methods=("ends",),
          policy=kept if self.remat == "norm" else None,
        )
      made.append(block(row, rate, settings, name=f"block_{index}"))
    self.block_layers = made
    if "norm" in self.tail:
      self.tail_norm = layers.BatchNorm(
        self._activation(self.tail), settings, alone=True, name="tail"
      )
    self.head_layers = [
      layers.ConvNorm(self.head, activation=self.activation, settings=settings, name=name)
      for name in ("head", *(f"head_{index}" for index in range(1, self.head_depth)))
      if self.head
    ]
    if self.hidden:
      self.hidden_layer = layers.Conv(self.hidden, bias=True, settings=settings, name="hidden")
    self.classifier = layers.Dense(self.num_classes, settings, name="classifier")

  def _activation(self, end: str) -> str:
    return self.activation if "activation" in end else "identity"

  @property
  def _kind(self) -> type[blocks.Block]:
    """What its blocks are, of which those in one network take equal noise."""
    return blocks.BLOCKS[self.rows[0].op]

  def drop_rates(self) -> tuple[float, ...]:
    """Returns each block's probability of being skipped, counting blocks without a skip too."""
    count, first = sum(row.repeats for row in self.rows), self._kind.first_drop
    return tuple(self.drop_path_rate * (first + index) / count for index in range(count))

  def frozen_names(self) -> tuple[str, ...]:
    """Returns the top-level names of frozen parameters, whose gradient is zero.

    A weight decay would still move them, so optimizers have to leave them out.
    """
    if not self.frozen_blocks:
      return ()
    count = sum(row.repeats for row in self.rows)
    names = ["stem", *(f"block_{index}" for index in range(count))]
    if self.frozen_blocks > 0:
      return tuple(names[: 1 + self.frozen_blocks])
    if "norm" in self.tail:
      names.append("tail")
    if self.head:
      names += ["head", *(f"head_{index}" for index in range(1, self.head_depth))]
    return (*names, *(["hidden"] if self.hidden else []))

  def backbone(
    self,
    images: Float[Array, "b h w 3"],
    *,
    train: bool = False,
    keys: _Keys = None,
    inner: bool = False,
  ) -> dict[str, Float[Array, "b h2 w2 c"]]:
    """Returns the end points before the head, in the compute dtype.

    `stem`; `block_i` of every block; `reduction_k`, what each halving after the first finds, and
    the last block (2**k-fold reduction in a network that halves five times); `features`, the last
    block. Args: as of `__call__`; inner: also `block_i/expand`, `block_i/depthwise` (before
    squeeze-excitation) and `block_i/spatial`, activated, where the block has them.
    """
    noise, kind = None, self._kind
    if keys is not None and "drop_path" in keys and (kind.shaken or self.drop_path_rate > 0):
      noise = layers.path_noise(keys["drop_path"], len(self.block_layers), kind.draws)
    frozen = len(self.block_layers) if self.frozen_blocks < 0 else self.frozen_blocks
    x = self.stem_layer(images, train and not frozen)
    table = stage_tables.unroll(self.rows)
    ends, strides = {"stem": x}, [row.stride for row in table]
    outer = _OuterSkips(table, x) if self.outer_skips else None
    reduction = 0
    if self.stem_pool or strides[0] > 1:
      reduction = 1
      ends["reduction_1"] = x
    if self.stem_pool:
      pads = [ops.resolve_padding(self.padding, size, 3, 2) for size in x.shape[1:3]]
      x = nn.max_pool(x, (3, 3), (2, 2), pads)
    for index, block in enumerate(self.block_layers):
      x, inside = block.ends(
        x,
        train and index >= frozen,
        None if noise is None or index < frozen else noise[:, index],
      )
      if outer is not None:
        x = outer.add(x, index)
      if index + 1 == frozen:
        x = jax.lax.stop_gradient(x)
        if outer is not None:
          outer.freeze()
      ends[f"block_{index}"] = x
      if inner:
        ends |= {f"block_{index}/{name}": end for name, end in inside.items()}
      if index + 1 == len(strides) or strides[index + 1] > 1:
        reduction += 1
        ends[f"reduction_{reduction}"] = x
    ends["features"] = x
    return ends

  def level_ends(self) -> dict[int, str]:
    """Returns the last end point of every level l, whose features are 2**l-fold smaller.

    >>> from effnets import models
    >>> models.create("efficientnet_b0").level_ends()
    {1: 'block_0', 2: 'block_2', 3: 'block_4', 4: 'block_10', 5: 'block_15'}
    """
    stride = self.stem_stride
    ends = {stride.bit_length() - 1: "stem"}
    stride *= 2 if self.stem_pool else 1
    for index, row in enumerate(stage_tables.unroll(self.rows)):
      stride *= row.stride
      ends[stride.bit_length() - 1] = f"block_{index}"
    return ends

  def maps(
    self,
    images: Float[Array, "b h w 3"],
    *,
    train: bool = False,
    keys: _Keys = None,
    inner: bool = False,
  ) -> dict[str, Float[Array, "b h2 w2 c"]]:
    """Returns the end points of `backbone`; `tail` and `head_1x1`, where there are such."""
    ends = self.backbone(images, train=train, keys=keys, inner=inner)
    last, fixed = ends["features"], self.frozen_blocks < 0
    if self.tail:
      normed = self.tail_norm(last, train and not fixed) if "norm" in self.tail else None
      activate = layers.ACTIVATIONS[self._activation(self.tail)]
      last = ends["tail"] = activate(last) if normed is None else normed
    for layer in self.head_layers:
      last = ends["head_1x1"] = layer(last, train and not fixed)
    return ends

  def features(
    self,
    images: Float[Array, "b h w 3"],
    *,
    train: bool = False,
    keys: _Keys = None,
    inner: bool = False,
  ) -> dict[str, Float[Array, "b *s c"]]:
    """Returns the end points of `maps`, and those behind them.

    `pooled_features` (b c, float32); `hidden` (b c), where there is a hidden layer. Dropout comes
    after them.
    """
    ends = dict(self.maps(images, train=train, keys=keys, inner=inner))
    last, fixed = next(reversed(ends.values())), self.frozen_blocks < 0
    ends["pooled_features"] = last.mean((1, 2), dtype=jnp.float32)
    if self.hidden:
      y = self.hidden_layer(ends["pooled_features"][:, None, None])
      ends["hidden"] = layers.ACTIVATIONS[self.activation](y).squeeze((1, 2))
    if fixed:
      for name in {"pooled_features", "hidden"} & ends.keys():
        ends[name] = jax.lax.stop_gradient(ends[name])
    return ends

  def __call__(
    self, images: Float[Array, "b h w 3"], *, train: bool = False, keys: _Keys = None
  ) -> Float[Array, "b k"]:
    """Returns float32 logits.

    Args:
      images: normalised. train: batch moments instead of running ones.
      keys: one key per example for `dropout` and `drop_path`; a missing one means no such noise.
    """
    ends = self.features(images, train=train, keys=keys)
    x = ends["hidden"] if self.hidden else ends["pooled_features"]
    if keys is not None and "dropout" in keys and self.dropout_rate > 0:
      x = layers.dropout(x, keys["dropout"], self.dropout_rate)
    return self.classifier(x)


class _OuterSkips:
  """Adds the input of every stage to its output, and that of all blocks to the last one's.

  Source: AutoAugment's official code (Wide-ResNet).
  """

  def __init__(self, table: Sequence[stage_tables.Row], x: Float[Array, "b h w c"]):
    self._table, self._whole, self._stage = table, x, x
    self._first = 0

  def add(self, x: Float[Array, "b h w c"], index: int) -> Float[Array, "b h w c"]:
    """Returns the output `x` of block `index` with the skips that end there."""
    end = index + 1
    if end < len(self._table) and self._table[end].joined:
      return x
    x = self._stage = x + self._fit(self._stage, self._table[self._first : end])
    self._first = end
    return x + self._fit(self._whole, self._table) if end == len(self._table) else x

  def freeze(self) -> None:
    """Lets no gradient through what was kept so far."""
    self._whole, self._stage = jax.lax.stop_gradient((self._whole, self._stage))

  @staticmethod
  def _fit(x: Array, rows: Sequence[stage_tables.Row]) -> Array:
    stride = math.prod(row.stride for row in rows)
    return shortcuts.fit(x, stride, rows[-1].channels, centred=True)


def check(module: Network) -> Network:
  """Returns `module`, if its settings are possible.

  Raises: UserError that names the config key, its value and the valid ones.
  """
  for key, options in (("padding", PADDINGS), ("remat", REMAT), ("activation", ops.ACTIVATIONS)):
    value = getattr(module, key)
    if (value.upper() if key == "padding" else value) not in options:
      raise errors.unknown(f"config.model.{key}", value, "a valid choice", options)
  try:
    dtype = jnp.dtype(module.dtype).name
  except TypeError:
    dtype = str(module.dtype)
  if dtype not in DTYPES:
    raise errors.unknown("config.model.dtype", dtype, "a compute dtype", DTYPES)
  count = sum(row.repeats for row in module.rows)
  for key, low, high in (
    ("num_classes", 1, None),
    ("image_size", 1, None),
    ("head_depth", 1, None),
    ("frozen_blocks", -1, count),
    ("norm_sets", 1, None),
  ):
    value = getattr(module, key)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
      limit = f"a whole number of at least {low}" + ("" if high is None else f" and at most {high}")
      nearest = low if not whole or value < low else high
      raise errors.UserError(f"config.model.{key}={value!r} should be {limit}; nearest: {nearest}.")
  for key in ("dropout_rate", "drop_path_rate", "momentum"):
    value = getattr(module, key)
    if not 0 <= value < 1:
      raise errors.UserError(
        f"config.model.{key}={value!r} should be at least 0 and below 1; "
        f"nearest: {0.0 if value < 0 else 0.99}."
      )
  return module
