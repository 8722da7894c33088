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
from effnets.models import common, initialize, layers, network, registry
from effnets.models.assemblenet_nodes import Group, Stem

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

_Keys = Mapping[str, Key[Array, " b"]] | None


class AssembleNet(common.Common, kw_only=True):
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
  remat: `block` keeps the input of every residual block alone and computes the rest again. The
    others: see `common.Common`.
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
  epsilon: float = 1e-5

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
    settings = self.settings(padding="SYMMETRIC")
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
) -> dict[str, dict[str, Float[Array, " n"]]]:
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
