"""SpineNet: a backbone whose blocks have permuted scales, each with parents among all before it.

A network is data: blocks with a level (2**l-fold smaller than the image), a kind, their parents and
whether they are outputs. Blocks 0 and 1 are the stem's. Names of parameters:

  stem/{conv,norm}
  block_i/from_p_{reduce,halve,expand}/{conv,norm}        the way from parent p
  block_i/unit_r/{reduce,spatial,project,shortcut}/...    bottleneck; residual: spatial, project
  block_i/unit_r/{expand,depthwise,squeeze,project}/...   mbconv
  endpoint_l/{conv,norm}, classifier

Source: Du et al. 2020 (arXiv 1912.05027) and its code.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from effnets import errors, ops
from effnets.models import blocks, common, layers, network, registry, stage_tables
from effnets.models.scale_permuted import (
  MOBILE,
  R0_SP53,
  SPINENET,
  STEM,
  TINY,
  TINY_DECREASED,
  Block,
  check_graph,
  orphans,
)
from effnets.ops import anchors, resampling

_Keys = Mapping[str, Key[Array, " b"]] | None


@dataclasses.dataclass(frozen=True)
class Widths:
  """Channels. filters: base of every level from 0 on. scale: of all but the first convolution.

  alpha: channels between two blocks over the parent's base. endpoint: of the outputs. stem: of the
  first convolution. expand, squeeze: of an mbconv.
  """

  filters: tuple[int, ...] = (32, 32, 64, 128, 256, 256, 256, 256)
  scale: float = 1.0
  alpha: float = 0.5
  endpoint: int = 256
  stem: int = 64
  expand: float = 6.0
  squeeze: float = 0.2

  def base(self, level: int) -> int:
    """Returns a level's channels, those of a bottleneck's inside; levels above 7 are as 7."""
    return int(self.filters[min(level, len(self.filters) - 1)] * self.scale)


class _Unit(nn.Module):
  """One bottleneck or residual: convolutions, the shortcut, the activation."""

  kind: str
  filters: int
  activation: str
  drop_rate: float
  settings: layers.Settings

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], train: bool, noise: Float[Array, " b"] | None
  ) -> Float[Array, "b h w d"]:
    """Returns the output; noise: in [0, 1), of stochastic depth."""
    make = functools.partial(layers.ConvNorm, settings=self.settings, start="fan_in")
    act, channels, y = self.activation, self.filters, x
    if self.kind == "bottleneck":
      channels *= 4
      y = make(self.filters, activation=act, name="reduce")(y, train)
      y = make(self.filters, 3, activation=act, name="spatial")(y, train)
      y = make(channels, name="project")(y, train)
    else:
      y = make(channels, 3, activation=act, name="spatial")(y, train)
      y = make(channels, 3, name="project")(y, train)
    if x.shape[-1] != channels:
      x = make(channels, name="shortcut")(x, train)
    if noise is not None and self.drop_rate > 0:
      y = layers.stochastic_depth(y, noise, self.drop_rate)
    return layers.ACTIVATIONS[act](x + y)


class _Block(nn.Module):
  """A block: its parents' features brought together, then its units."""

  block: Block
  parents: tuple[tuple[int, str], ...]  # level and kind of each
  widths: Widths
  repeats: int
  activation: str
  drop_rate: float
  pools: str
  settings: layers.Settings

  def _way(self, x: Array, place: int, size: tuple[int, int], train: bool) -> Array:
    """Returns a parent's feature at the block's size and channels."""
    level, kind = self.parents[place]
    block, widths = self.block, self.widths
    halvings = block.level - level
    name = f"from_{block.parents[place]}"
    make = functools.partial(layers.ConvNorm, settings=self.settings, start="fan_in")
    channels = widths.base(block.level) * (4 if block.kind == "bottleneck" else 1)
    if block.kind == "mbconv":
      for index in range(max(halvings, 0)):
        inner = x.shape[-1]
        x = make(inner, 3, 2, inner, activation=self.activation, name=f"{name}_halve_{index}")(
          x, train
        )
      return make(channels, name=f"{name}_expand")(resampling.nearest(x, size), train)
    parent = x.shape[-1] / 4 if kind == "bottleneck" else x.shape[-1]
    mid = int(parent * widths.alpha)
    x = make(mid, activation=self.activation, name=f"{name}_reduce")(x, train)
    if halvings > 0:
      x = make(mid, 3, 2, activation=self.activation, name=f"{name}_halve")(x, train)
      if halvings > 1 and self.pools == "once":
        stride = 2 ** (halvings - 1)
        x = resampling.pool(x, 3 if stride == 2 else 5, stride)
      for _ in range(halvings - 1 if self.pools == "repeated" else 0):
        x = resampling.pool(x, 3, 2)
    # At the larger size, as published: the other order would be as good and cheaper, but the
    # printed multiply-adds are those of this one.
    return make(channels, name=f"{name}_expand")(resampling.nearest(x, size), train)

  @nn.compact
  def __call__(
    self,
    features: tuple[Float[Array, "b _h _w _c"], ...],
    extra: tuple[Float[Array, "b h w c"], ...],
    size: tuple[int, int],
    train: bool,
    noise: Float[Array, "b r"] | None,
  ) -> Float[Array, "b h w c"]:
    """Returns the block's features; extra: of orphans."""
    block = self.block
    total = self._way(features[0], 0, size, train)
    for place, x in enumerate(features[1:], 1):
      total = total + self._way(x, place, size, train)
    for x in extra:
      total = total + x
    y = layers.ACTIVATIONS[self.activation](total)
    return _units(self, block.kind, block.level, y, train, noise)


def _units(
  owner: Any, kind: str, level: int, x: Array, train: bool, noise: Array | None, stride: int = 1
) -> Array:
  """Returns `x` behind the units of a block, inside the compact method of `owner`."""
  widths, settings = owner.widths, owner.settings
  for index in range(owner.repeats):
    drawn, name = None if noise is None else noise[:, index], f"unit_{index}"
    if kind == "mbconv":
      row = stage_tables.Row(
        "mbconv",
        3,
        stride if index == 0 else 1,
        widths.expand,
        widths.base(level),
        squeeze=layers.Squeeze(widths.squeeze, activation=owner.activation),
        activation=owner.activation,
      )
      x, _ = blocks.MBConv(row, owner.drop_rate, settings, name=name).ends(x, train, drawn)
    else:
      unit = _Unit(kind, widths.base(level), owner.activation, owner.drop_rate, settings, name=name)
      x = unit(x, train, drawn)
  return x


class _StemBlock(nn.Module):
  """Units behind the stem or another of its blocks."""

  kind: str
  level: int
  stride: int
  widths: Widths
  repeats: int
  activation: str
  settings: layers.Settings
  drop_rate: float = 0.0

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
    """Returns the block's features."""
    return _units(self, self.kind, self.level, x, train, None, self.stride)


class SpineNet(common.Common, kw_only=True):
  """A scale-permuted network with an output on every level, and a classifier over their mean.

  graph: blocks behind the stem's two. widths: channels. repeats: units of every block.
  levels: of the outputs, each one of the graph's.
  pools: how features shrink beyond the first halving, `once` (TPU code) or `repeated` halvings
    (Model Garden). They differ where three or more follow each other.
  strides: padding of convolutions that stride, `SYMMETRIC` (TPU code) or `SAME` (Model Garden).
  drop_path_rate: d; block i of n, from 1, is skipped with probability d * i / n.
  dropout_rate: before the classifier.
  frozen_blocks: k > 0 runs the stem and the first k blocks in inference mode, without gradient; -1
    all but the classifier.
  The others: see `common.Common`.
  """

  graph: tuple[Block, ...] = SPINENET
  widths: Widths = Widths()
  repeats: int = 1
  levels: tuple[int, ...] = (3, 4, 5, 6, 7)
  num_classes: int = 1001
  image_size: int = 224
  dropout_rate: float = 0.0
  drop_path_rate: float = 0.0
  activation: str = "relu"
  pools: str = "once"
  strides: str = "SYMMETRIC"

  def setup(self) -> None:
    settings = self.settings()
    mobile = self._mobile
    self.stem_layer = layers.ConvNorm(
      self.widths.base(0) if mobile else self.widths.stem,
      3 if mobile else 7,
      2,
      activation=self.activation,
      settings=settings,
      start="fan_in",
      name="stem",
    )
    remat = self.remat == "block"
    stem = nn.remat(_StemBlock, static_argnums=(2,)) if remat else _StemBlock
    shared = (self.widths, self.repeats, self.activation)
    made = [
      stem(kind, level, stride, *shared, settings, name=f"block_{index}")
      for index, (kind, level, stride) in enumerate(self._stem())
    ]
    permuted = nn.remat(_Block, static_argnums=(3, 4)) if remat else _Block
    strided = dataclasses.replace(settings, padding=self.strides)
    kinds = [(level, kind) for kind, level, _ in self._stem()]
    kinds += [(block.level, block.kind) for block in self.graph]
    for index, block in enumerate(self.graph):
      made.append(
        permuted(
          block,
          tuple(kinds[parent] for parent in block.parents),
          *shared,
          self.drop_path_rate * (index + 1) / len(self.graph),
          self.pools,
          # Where nothing strides, both paddings are the same.
          settings if mobile else strided,
          name=f"block_{index + STEM}",
        )
      )
    self.block_layers = made
    self.endpoints = [
      layers.ConvNorm(
        self.widths.endpoint,
        activation=self.activation,
        settings=settings,
        start="fan_in",
        name=f"endpoint_{level}",
      )
      for level in self.levels
    ]
    self.classifier = layers.Dense(self.num_classes, settings, name="classifier")

  @property
  def _mobile(self) -> bool:
    return self.graph[0].kind == "mbconv"

  def _stem(self) -> tuple[tuple[str, int, int], ...]:
    """Returns kind, level and stride of the stem's blocks."""
    if self._mobile:
      return ("mbconv", 1, 1), ("mbconv", 2, 2)
    return ("bottleneck", 2, 1), ("bottleneck", 2, 1)

  def level_ends(self) -> dict[int, str]:
    """Returns the end point of every level."""
    return {level: f"level_{level}" for level in self.levels}

  def frozen_names(self) -> tuple[str, ...]:
    """Returns the top-level names of frozen parameters, whose gradient is zero."""
    if not self.frozen_blocks:
      return ()
    names = ["stem", *(f"block_{index}" for index in range(len(self.graph) + STEM))]
    if self.frozen_blocks > 0:
      return tuple(names[: 1 + self.frozen_blocks])
    return (*names, *(f"endpoint_{level}" for level in self.levels))

  def backbone(
    self,
    images: Float[Array, "b h w 3"],
    *,
    train: bool = False,
    keys: _Keys = None,
    inner: bool = False,
  ) -> dict[str, Float[Array, "b h2 w2 c"]]:
    """Returns the end points `stem`, `block_i` and `level_l`, in the compute dtype."""
    del inner
    noise, units = None, (len(self.graph), self.repeats)
    if keys is not None and "drop_path" in keys and self.drop_path_rate > 0:
      noise = layers.path_noise(keys["drop_path"], units[0], (units[1],))
    count = len(self.block_layers)
    frozen = count if self.frozen_blocks < 0 else self.frozen_blocks
    still = lambda x, index: jax.lax.stop_gradient(x) if index < frozen else x  # noqa: E731
    x = self.stem_layer(images, train and not frozen)
    ends = {"stem": x}
    if not self._mobile:
      x = resampling.pool(x, 3, 2, padding=self.padding)
    found: list[Array] = []
    for index in range(STEM):
      x = still(self.block_layers[index](x, train and index >= frozen), index)
      found.append(x)
    for index, block in enumerate(self.graph, STEM):
      own = None if noise is None or index < frozen else noise[:, index - STEM]
      made = self.block_layers[index](
        tuple(found[parent] for parent in block.parents),
        tuple(found[orphan] for orphan in orphans(self.graph, index)),
        anchors.cells(images.shape[1:3], block.level),
        train and index >= frozen,
        own,
      )
      found.append(still(made, index))
    ends |= {f"block_{index}": x for index, x in enumerate(found)}
    outputs = {block.level: i for i, block in enumerate(self.graph, STEM) if block.output}
    for level, layer in zip(self.levels, self.endpoints, strict=True):
      y = layer(found[outputs[level]], train and self.frozen_blocks >= 0)
      ends[f"level_{level}"] = jax.lax.stop_gradient(y) if self.frozen_blocks < 0 else y
    return ends

  maps = backbone

  def features(
    self,
    images: Float[Array, "b h w 3"],
    *,
    train: bool = False,
    keys: _Keys = None,
    inner: bool = False,
  ) -> dict[str, Float[Array, "b *s c"]]:
    """Returns the end points of `backbone` and `pooled_features` (b c, float32).

    That is the mean over the image of the levels' mean at the finest level's size.
    """
    ends = dict(self.backbone(images, train=train, keys=keys, inner=inner))
    maps = [ends[f"level_{level}"] for level in self.levels]
    size = maps[0].shape[1:3]
    total = sum(resampling.nearest(x.astype(jnp.float32), size) for x in maps) / len(maps)
    ends["pooled_features"] = total.mean((1, 2))
    return ends

  def __call__(
    self, images: Float[Array, "b h w 3"], *, train: bool = False, keys: _Keys = None
  ) -> Float[Array, "b k"]:
    """Returns float32 logits. Args: see `network.Network`."""
    x = self.features(images, train=train, keys=keys)["pooled_features"]
    if keys is not None and "dropout" in keys and self.dropout_rate > 0:
      x = layers.dropout(x, keys["dropout"], self.dropout_rate)
    return self.classifier(x)


def build(
  *,
  num_classes: int = 1001,
  image_size: int = 224,
  graph: tuple[Block, ...] = SPINENET,
  widths: Widths = Widths(),
  repeats: int = 1,
  dropout_rate: float = 0.0,
  drop_path_rate: float = 0.0,
  activation: str = "relu",
  pools: str = "once",
  strides: str = "SYMMETRIC",
  padding: str = "SAME",
  plain: bool = False,
  dtype: Any = "float32",
  momentum: float = 0.9,
  epsilon: float = 1e-5,
  group: ops.Group = ops.Group(),  # noqa: B008 - immutable
  remat: str = "none",
  frozen_blocks: int = 0,
  norm_sets: int = 1,
) -> SpineNet:
  """Returns a SpineNet. Args: see `SpineNet`. Raises: UserError for impossible values."""
  levels = tuple(sorted(block.level for block in graph if block.output))
  check_graph(graph, levels)
  if len({block.kind == "mbconv" for block in graph}) != 1:
    raise errors.UserError("config.model.graph mixes mbconv blocks with others.")
  for key, value, options in (
    ("activation", activation, ops.ACTIVATIONS),
    ("pools", pools, ("once", "repeated")),
    ("strides", strides, network.PADDINGS),
    ("padding", padding.upper(), network.PADDINGS),
    ("remat", remat, network.REMAT),
  ):
    if value not in options:
      raise errors.unknown(f"config.model.{key}", value, "a valid choice", options)
  for key, value in (
    ("num_classes", num_classes),
    ("repeats", repeats),
    ("image_size", image_size),
  ):
    if value < 1:
      raise errors.UserError(f"config.model.{key}={value!r} should be at least 1; nearest: 1.")
  return SpineNet(
    graph=graph,
    widths=widths,
    repeats=repeats,
    levels=levels,
    num_classes=num_classes,
    image_size=image_size,
    dropout_rate=dropout_rate,
    drop_path_rate=drop_path_rate,
    activation=activation,
    pools=pools,
    strides=strides,
    remat=remat,
    frozen_blocks=frozen_blocks,
    norm_sets=norm_sets,
    padding=padding,
    plain=plain,
    dtype=dtype,
    momentum=momentum,
    epsilon=epsilon,
    group=group,
  )


@dataclasses.dataclass(frozen=True)
class Member:
  """A member's widths and repeats; exact counts with 1,001 classes at 224 pixels.

  paper_top1, paper_top5: on ImageNet, in percent, of the improved recipe where there is one.
  """

  widths: Widths
  repeats: int
  params: int
  madds: float
  paper_top1: float | None = None
  paper_top5: float | None = None
  graph: tuple[Block, ...] = SPINENET


_MOBILE = Widths((8, 16, 24, 40, 80, 112, 112, 112), 1.0, 1.0, 48, 8)

MEMBERS = {
  "49s": Member(Widths(scale=0.65, endpoint=128), 1, 9_218_344, 1516.41e6),
  "49": Member(Widths(), 1, 22_088_745, 3477.94e6, 78.1, 94.0),
  "96": Member(Widths(), 2, 36_520_233, 5723.53e6, 79.4, 94.6),
  "143": Member(Widths(alpha=1.0), 3, 60_504_873, 9086.87e6, 80.1, 95.0),
  "143l": Member(Widths(scale=1.3, alpha=1.0), 3, 101_053_514, 15111.39e6),
  "190": Member(Widths(scale=1.3, alpha=1.0, endpoint=512), 4, 127_101_177, 19111.83e6, 80.8, 95.3),
  "r0_sp53": Member(Widths(), 1, 19_601_577, 4632.11e6, graph=R0_SP53),
  "mobile_49": Member(_MOBILE, 1, 2_317_757, 269.11e6, graph=MOBILE),
  "mobile_49s": Member(
    dataclasses.replace(_MOBILE, scale=0.65, endpoint=40), 1, 1_016_719, 116.75e6, graph=MOBILE
  ),
  "mobile_49xs": Member(
    dataclasses.replace(_MOBILE, scale=0.6, endpoint=24), 1, 867_481, 99.10e6, graph=MOBILE
  ),
}
_TINY = Widths((8, 8, 16, 24, 32, 32, 32, 32), endpoint=32, stem=16)
MEMBERS["tiny"] = Member(_TINY, 1, 235_313, 123.427e6, graph=TINY)
# As wide as brings multiply-adds to those of the other one.
MEMBERS["tiny_decreased"] = Member(
  dataclasses.replace(_TINY, scale=1.07), 1, 235_640, 124.021e6, graph=TINY_DECREASED
)
for _name, _member in MEMBERS.items():
  registry.register(
    registry.Entry(
      name=f"spinenet_{_name}",
      build=functools.partial(
        build,
        graph=_member.graph,
        widths=_member.widths,
        repeats=_member.repeats,
        activation="swish" if "mobile" in _name else "relu",
      ),
      paper=None if "tiny" in _name else "1912.05027",
      image_size=224,
      dropout_rate=0.0,
      drop_path_rate=0.0,
      num_classes=1001,
      params=_member.params,
      madds=_member.madds,
      paper_top1=_member.paper_top1,
      paper_top5=_member.paper_top5,
      interpolation="bilinear",
    )
  )
