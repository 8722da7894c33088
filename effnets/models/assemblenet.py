"""AssembleNet: graphs of (2+1)D residual blocks over RGB and optical flow, and plain baselines.

Source: Ryoo et al. 2020 (arXiv 1905.13209) and its code. The (2+1)D ResNet and the two-stream
network are the same blocks in a chain and in two chains.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from effnets import errors, ops
from effnets.models import assemblenet_graphs as graphs
from effnets.models import initialize, layers, network, registry

REPEATS = {
  26: (2, 2, 2, 2),
  38: (2, 4, 4, 2),
  50: (3, 4, 6, 3),
  68: (3, 4, 12, 3),
  77: (3, 4, 15, 3),
  101: (3, 4, 23, 3),
}
"""Residual blocks of a node of each level, by depth."""

EDGES = ("learned", "fixed")
FLOWS = ("layer", "given")
POOLS = ("mean", "softmax")
REMAT = ("none", "block")

_Keys = Mapping[str, Key[Array, "b"]] | None


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

  def _edge_weights(self) -> Float[Array, "n"]:
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


class AssembleNet(nn.Module):
  """A classifier of clips: stems, nodes, mean over pixels, over time, dropout, dense layer.

  graph: its nodes. weights: of edges by node, behind the sigmoid, that are not trained; () for
    trained ones, `edges` of each node, before it. start: what these begin at, by node, behind the
    sigmoid; () for about 0.5.
  repeats: residual blocks of a node of each level. inner: channels of their 3x3 convolutions.
  stem_channels: of all stems together.
  flow: what flow stems read: `layer`, computed from the frames inside, or `given` with the clips.
  flow_iterations, flow_per_clip: of that layer, see `ops.flow.representation_flow`.
  pool: over time: `mean` of features, or `softmax`, a soft maximum of each class's logits.
  masked: whether edges can be switched off by variables, see `Group`; one program then serves every
    subgraph. kept: the edges that are on in the beginning; () for all.
  frames, image_size: it was designed for; any others work.
  norm_sets, norm_parts, norm_shards: see `layers.NormSets`. remat: `block` keeps the input of every
    residual block alone and computes the rest again. The others: see `layers.Settings`.
  """

  graph: graphs.Assembly
  weights: graphs.Weights = ()
  start: graphs.Weights = ()
  repeats: tuple[int, ...] = REPEATS[50]
  inner: tuple[int, ...] = (64, 128, 256, 512)
  stem_channels: int = 128
  num_classes: int = 339
  frames: int = 32
  image_size: int = 224
  dropout_rate: float = 0.0
  flow: str = "layer"
  flow_iterations: int = 40
  flow_per_clip: bool = True
  pool: str = "mean"
  masked: bool = False
  kept: tuple[graphs.Edge, ...] = ()
  remat: str = "none"
  norm_sets: int = 1
  norm_parts: tuple[int, ...] = (0,)
  norm_shards: int = 1
  plain: bool = False
  dtype: Any = "float32"
  momentum: float = 0.99
  epsilon: float = 1e-5
  group: ops.Group = ops.Group()
  split: ops.Split | None = None

  def abstract_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Returns the shapes of one clip, and of its flow if that is given."""
    shape = (1, self.frames, self.image_size, self.image_size)
    clips = jax.ShapeDtypeStruct((*shape, 3), jnp.float32)
    return (clips, jax.ShapeDtypeStruct((*shape, 2), jnp.float32)) if self.takes_flow else (clips,)

  @property
  def takes_flow(self) -> bool:
    """Whether flow has to be given."""
    return self.flow == "given" and self.graph.reads("flow")

  def frozen_names(self) -> tuple[str, ...]:
    """Returns the names of frozen parameters: none."""
    return ()

  def setup(self) -> None:
    settings = layers.Settings(
      padding="SYMMETRIC",
      plain=self.plain,
      dtype=jnp.dtype(self.dtype),
      momentum=self.momentum,
      epsilon=self.epsilon,
      group=self.group,
      norms=layers.NormSets(self.norm_sets, self.norm_parts, self.norm_shards),
      split=self.split,
    )
    stems = [node for node in self.graph.nodes if node.kind != "block"]
    kept = set(self.kept)
    made: list[nn.Module] = []
    for number, node in enumerate(self.graph.nodes):
      if node.kind != "block":
        width = max(1, self.stem_channels // len(stems))
        stem = nn.remat(Stem, static_argnums=(2,)) if self.remat != "none" else Stem
        made.append(stem(settings, node, width, name=f"node_{number}"))
        continue
      made.append(
        Group(
          settings,
          node,
          self.inner[node.level],
          self.repeats[node.level],
          weights=self.weights[number] if self.weights else (),
          start=self.start[number] if self.start else (),
          masked=self.masked,
          kept=tuple((source, number) in kept for source in node.inputs) if kept else (),
          remat=self.remat != "none",
          name=f"node_{number}",
        )
      )
    self.nodes = made
    # Normal of deviation 0.01 in the code.
    self.classifier = layers.Dense(
      self.num_classes, settings, start=initialize.Normal(0.01), name="classifier"
    )

  def features(
    self,
    clips: Float[Array, "b t h w 3"],
    flow: Float[Array, "b t h w 2"] | None = None,
    *,
    train: bool = False,
    keys: _Keys = None,
  ) -> dict[str, Float[Array, "b *s d"]]:
    """Returns the end points: `node_i` (b t h w c) of every node, `pooled_features` (b d).

    `frame_features` (b t d) are the latter before the mean over time. Nodes of the last level are
    averaged if they have equally many channels, else joined. Args: as of `__call__`.
    """
    del keys
    streams = {"rgb": clips, "flow": flow}
    if self.graph.reads("flow"):
      if self.flow == "given" and flow is None:
        raise ValueError("this network takes flow with its clips; flow='layer' computes it.")
      if self.flow == "layer":
        # There is nothing to train below: no derivative is taken through its iterations.
        streams["flow"] = ops.flow.representation_flow(
          jax.lax.stop_gradient(clips),
          iterations=self.flow_iterations,
          per_clip=self.flow_per_clip,
        )
    ends: dict[str, Array] = {}
    for number, (node, module) in enumerate(zip(self.graph.nodes, self.nodes, strict=True)):
      if node.kind == "block":
        end = module([ends[f"node_{source}"] for source in node.inputs], train)
      else:
        end = module(streams[node.kind].astype(self.dtype), train)
      ends[f"node_{number}"] = end
    pooled = [ends[f"node_{i}"].mean((2, 3), dtype=jnp.float32) for i in self.graph.last]
    if len({x.shape[-1] for x in pooled}) == 1:
      joined = functools.reduce(jnp.add, pooled) / len(pooled)
    else:
      joined = jnp.concatenate(pooled, -1)
    return ends | {"frame_features": joined, "pooled_features": joined.mean(1)}

  def __call__(
    self,
    clips: Float[Array, "b t h w 3"],
    flow: Float[Array, "b t h w 2"] | None = None,
    *,
    train: bool = False,
    keys: _Keys = None,
  ) -> Float[Array, "b k"]:
    """Returns float32 logits.

    Args:
      clips: normalised. flow: from each frame to the next, in [-1, 1], if the network takes it.
      train: batch moments instead of running ones. keys: one per example for `dropout`; None: no
        such noise.
    Raises: ValueError if the network takes flow and there is none.
    """
    ends = self.features(clips, flow, train=train)
    soft = self.pool == "softmax"
    x = ends["frame_features" if soft else "pooled_features"]
    if keys is not None and "dropout" in keys and self.dropout_rate > 0:
      x = layers.dropout(x, keys["dropout"], self.dropout_rate)
    if not soft:
      return self.classifier(x)
    frames = self.classifier(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:2], -1)
    shares = jax.nn.softmax(frames / math.sqrt(x.shape[1]), axis=1)
    return jnp.sum(frames * shares, 1)

  def edge_weights(self, params: Mapping[str, Any]) -> graphs.Weights:
    """Returns the weights of edges by node, behind the sigmoid, that trained `params` hold."""
    if self.weights:
      return self.weights
    found = []
    for number, node in enumerate(self.graph.nodes):
      logits = params[f"node_{number}"]["edges"] if len(node.inputs) > 1 else ()
      found.append(tuple(float(w) for w in jax.nn.sigmoid(jnp.asarray(logits, jnp.float32))))
    return tuple(found)


def masks(
  graph: graphs.Assembly, kept: graphs.Assembly | tuple[graphs.Edge, ...]
) -> dict[str, dict[str, Float[Array, "n"]]]:
  """Returns the collection `graph` of a masked network in which only some edges are left.

  kept: edges of `graph`, or a graph with the same nodes. An edge into a node of one input stays.
  Raises: UserError for an edge that `graph` has not.
  """
  edges = set(kept.edges if isinstance(kept, graphs.Assembly) else kept)
  wrong = sorted(edges - set(graph.edges))
  if wrong:
    raise errors.UserError(f"edges {wrong} are not in the graph that is to be masked.")
  return {
    f"node_{target}": {
      "mask": jnp.asarray([(source, target) in edges for source in node.inputs], jnp.float32)
    }
    for target, node in enumerate(graph.nodes)
    if len(node.inputs) > 1
  }


def _kept(
  graph: graphs.Assembly, kept: tuple[graphs.Edge, ...], masked: bool
) -> tuple[graphs.Edge, ...]:
  found = tuple(tuple(edge) for edge in kept)
  wrong = sorted(set(found) - set(graph.edges))
  if wrong or (found and not masked):
    raise errors.UserError(
      f"config.model.kept={found} should be edges of the graph, with config.model.masked=True"
      + (f"; there is no {wrong}." if wrong else ".")
    )
  return found


def build(
  *,
  num_classes: int = 339,
  graph: str = "assemblenet_50",
  depth: int = 50,
  edges: str = "learned",
  edge_start: graphs.Weights = (),
  inner: tuple[int, ...] = (64, 128, 256, 512),
  stem_channels: int = 128,
  frames: int = 32,
  image_size: int = 224,
  dropout_rate: float = 0.0,
  flow: str = "layer",
  flow_iterations: int = 40,
  flow_per_clip: bool = True,
  pool: str = "mean",
  masked: bool = False,
  kept: tuple[tuple[int, int], ...] = (),
  remat: str = "none",
  norm_sets: int = 1,
  plain: bool = False,
  dtype: Any = "float32",
  momentum: float = 0.99,
  epsilon: float = 1e-5,
  group: ops.Group = ops.Group(),  # noqa: B008 - immutable
) -> AssembleNet:
  """Returns the network of a graph.

  Args:
    graph: a name of `assemblenet_graphs.KNOWN`, a JSON file or its text, see `read` there; from
      code also an `Assembly`.
    depth: how many residual blocks a node has, a key of `REPEATS`. edges: whether the weights of
      edges are `learned`, or `fixed` to those that come with the graph. edge_start: the weights
      that learned ones begin at, by node, none of a node with one input; () for about 0.5.
    The others: see `AssembleNet`.
  Raises: UserError for impossible values.
  """
  if isinstance(graph, graphs.Assembly):
    found, weights = graph, None
    graphs.check(found, levels=len(inner))
  else:
    found, weights = graphs.read(graph)
  for key, value, options in (
    ("depth", depth, REPEATS),
    ("edges", edges, EDGES),
    ("flow", flow, FLOWS),
    ("pool", pool, POOLS),
    ("remat", remat, REMAT),
  ):
    if value not in options:
      raise errors.unknown(f"config.model.{key}", value, "a valid choice", map(str, options))
  if edges == "fixed" and weights is None and found.weighted:
    raise errors.UserError(
      "config.model.edges='fixed' needs a graph with edge_weights, such as 'assemblenet_50'; "
      "'learned' trains them."
    )
  if edge_start:
    if edges == "fixed":
      raise errors.UserError("config.model.edge_start is for config.model.edges='learned'.")
    graphs.check_weights(found, edge_start, key="config.model.edge_start")
  for key, value in (
    ("num_classes", num_classes),
    ("stem_channels", stem_channels),
    ("frames", frames),
    ("image_size", image_size),
    ("flow_iterations", flow_iterations),
    ("norm_sets", norm_sets),
  ):
    if value < 1:
      raise errors.UserError(f"config.model.{key}={value!r} should be at least 1; nearest: 1.")
  highest = max(node.level for node in found.nodes)
  if len(inner) <= highest or any(not isinstance(n, int) or n < 1 for n in inner):
    raise errors.UserError(
      f"config.model.inner={inner!r} should be channels of levels 0 to {highest}, such as "
      f"{(64, 128, 256, 512)[: highest + 1]}."
    )
  for key, value in (("dropout_rate", dropout_rate), ("momentum", momentum)):
    if not 0 <= value < 1:
      raise errors.UserError(f"config.model.{key}={value!r} should be at least 0 and below 1.")
  try:
    name = jnp.dtype(dtype).name
  except TypeError:
    name = str(dtype)
  if name not in network.DTYPES:
    raise errors.unknown("config.model.dtype", name, "a compute dtype", network.DTYPES)
  return AssembleNet(
    graph=found,
    weights=weights if edges == "fixed" and weights else (),
    start=tuple(map(tuple, edge_start)),
    repeats=REPEATS[depth],
    inner=tuple(inner),
    stem_channels=stem_channels,
    num_classes=num_classes,
    frames=frames,
    image_size=image_size,
    dropout_rate=dropout_rate,
    flow=flow,
    flow_iterations=flow_iterations,
    flow_per_clip=flow_per_clip,
    pool=pool,
    masked=masked,
    kept=_kept(found, kept, masked),
    remat=remat,
    norm_sets=norm_sets,
    plain=plain,
    dtype=dtype,
    momentum=momentum,
    epsilon=epsilon,
    group=group,
  )


_PAPER = {"paper": "1905.13209", "num_classes": 339}
# Multiply-adds are for 32 frames of 224 pixels, 16 of 32 of the tiny ones.
_TINY = {"inner": (8, 16, 32), "stem_channels": 16, "depth": 26, "frames": 16, "image_size": 32}
_TINY |= {"flow_iterations": 10, "momentum": 0.9}

for _name, _settings, _params, _madds, _known in (
  (
    "assemblenet_50",
    {"graph": "assemblenet_50", "edges": "fixed"},
    37_273_875,
    250_453_596_160,
    {**_PAPER, "paper_top1": 33.9},
  ),
  (
    "assemblenet_101",
    {"graph": "assemblenet_101", "edges": "fixed", "depth": 101},
    53_309_459,
    397_195_168_768,
    {**_PAPER, "paper_top1": 34.27},
  ),
  (
    "assemblenet_full",
    {"graph": "assemblenet_full"},
    37_749_097,
    254_358_493_184,
    {"num_classes": 339},
  ),
  ("assemblenet_tiny", {"graph": "tiny", **_TINY}, 36_114, 16_155_136, {"num_classes": 8}),
  (
    "video_resnet50",
    {"graph": "chain", "stem_channels": 64},
    28_188_179,
    162_028_230_656,
    {"num_classes": 339},
  ),
  ("video_resnet_tiny", {"graph": "tiny_chain", **_TINY}, 30_248, 18_874_880, {"num_classes": 8}),
  ("two_stream50", {"graph": "two_stream"}, 55_658_003, 314_576_115_712, {"num_classes": 339}),
  (
    "two_stream_tiny",
    {"graph": "tiny_two_stream", **_TINY},
    54_592,
    17_007_104,
    {"num_classes": 8},
  ),
):
  _sizes = {key: _settings.get(key, value) for key, value in (("frames", 32), ("image_size", 224))}
  registry.register(
    registry.Entry(
      name=_name,
      build=functools.partial(
        build, **{**_settings, **_sizes}, dropout_rate=0.0, num_classes=_known["num_classes"]
      ),
      params=_params,
      madds=_madds,
      task="video",
      # Levels from 0 to 1; the flow layer scales by itself.
      mean=(0.0, 0.0, 0.0),
      std=(1.0, 1.0, 1.0),
      **{"paper": None, "dropout_rate": 0.0, "drop_path_rate": 0.0, **_sizes, **_known},
    )
  )
