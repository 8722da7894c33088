"""One-stage detectors: a body, a pyramid over its features, heads on every level."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from effnets import errors, ops
from effnets.models import (
  bodies,
  heads,
  layers,
  mnasfpn,
  network,
  pyramids,
  registry,
  scale_permuted,
)

_Keys = Mapping[str, Key[Array, " b"]] | None

PYRAMIDS = (*pyramids.GRAPHS, "mnasfpn", "retinanet", "none")


@dataclasses.dataclass(frozen=True)
class PyramidSpec:
  """Which pyramid. kind: one of `PYRAMIDS`:

    bifpn, fpn, panet, qufpn, nasfpn: graphs of `pyramids`, or `nodes` instead of theirs.
    mnasfpn: cells of `mnasfpn`. retinanet: `pyramids.TopDown`, once. none: the body's own levels.

  style: of a graph's nodes, and the width of any. cell: of mnasfpn.
  """

  kind: str = "bifpn"
  repeats: int = 3
  style: pyramids.Style = pyramids.Style(64)
  nodes: tuple[pyramids.Node, ...] = ()
  cell: mnasfpn.Spec = mnasfpn.Spec()


@dataclasses.dataclass(frozen=True)
class HeadSpec:
  """Which head. kind: `towers`, one for classes and one for boxes; `tower`, one for both; `ssd`.

  width: channels of a tower. repeats: its convolutions before the prediction. separable, bias,
  activation, start, predict_start: see `heads.Tower`. epsilon, momentum: of its norms; None for
  the detector's. extras: see `heads.Ssd`. class_start: bias of the class prediction. survival: see
  `heads.Tower`.
  """

  kind: str = "towers"
  width: int = 64
  repeats: int = 3
  separable: bool = True
  bias: bool = True
  activation: str = "swish"
  start: str | float = "fan_in"
  predict_start: str | float = ""
  class_start: float = heads.PRIOR
  epsilon: float | None = None
  momentum: float | None = None
  survival: float = 0.0
  extras: tuple[int, ...] = (512, 256, 256, 128)
  lite: bool = True


HEADS = ("towers", "tower", "ssd")


def make_neck(
  spec: PyramidSpec, levels: tuple[int, ...], settings: layers.Settings, remat: bool
) -> nn.Module | None:
  """Returns the module of a pyramid, None if there is none, to be assigned in a `setup`."""
  if spec.kind == "none":
    return None
  if spec.kind == "retinanet":
    return pyramids.TopDown(levels, spec.style.width, settings, name="pyramid")
  if spec.kind == "mnasfpn":
    return mnasfpn.MnasFpn(levels, spec.cell, spec.repeats, settings, name="pyramid")
  return pyramids.Pyramid(
    levels,
    spec.nodes or pyramids.GRAPHS[spec.kind](levels),
    spec.repeats,
    spec.style,
    settings,
    remat=remat,
    name="pyramid",
  )


class Pyramidal(bodies.Whole):
  """A body, a pyramid over its features, anchors on its levels.

  pyramid: as data. anchor_grid: one of `ops.anchors`; its levels are those of the pyramid.
  remat: `block` keeps the input of every block and pyramid cell alone and computes the rest again.
  The others: see `bodies.Whole`.
  """

  pyramid: PyramidSpec = PyramidSpec()
  anchor_grid: ops.anchors.Grid | ops.anchors.Default = ops.anchors.Grid()

  @property
  def levels(self) -> tuple[int, ...]:
    """The levels that have predictions, the finest first."""
    return self.anchor_grid.levels

  @property
  def dropout_rate(self) -> float:
    """There is none."""
    return 0.0

  def setup(self) -> None:
    super().setup()
    self.neck = make_neck(self.pyramid, self.levels, self.settings(), self.remat == "block")

  def anchors(self, image_size: int | tuple[int, int] | None = None) -> Float[np.ndarray, "n 4"]:
    """Returns the anchors, y0 x0 y1 x1 in pixels, in the order of the flattened predictions.

    Args: image_size: pixels, or (height, width); None for the module's own.
    """
    return self.anchor_grid.boxes(self.image_size if image_size is None else image_size)

  def features(
    self, images: Float[Array, "b h w 3"], *, train: bool = False, keys: _Keys = None
  ) -> list[Float[Array, "b _h _w _c"]]:
    """Returns the pyramid's feature of every level, in the compute dtype. Args: of `__call__`."""
    found = self.body.features(self.backbone, images, self.levels, train=train, keys=keys)
    if self.neck is not None:
      return self.neck(found, train)
    missing = [level for level in self.levels if level not in found]
    if missing:
      raise errors.UserError(
        f"config.model.pyramid='none': the body has levels {sorted(found)}, not {missing}."
      )
    return [found[level] for level in self.levels]


class Detector(Pyramidal):
  """Class logits and box regressions for the anchors of every level.

  head: as data. num_classes: logits of an anchor. The others: see `Pyramidal`.
  """

  head: HeadSpec = HeadSpec()

  def norm_epsilon(self, name: str) -> float:
    """Returns the epsilon of the norms in the top-level part `name`."""
    own = "head" in name and self.head.epsilon is not None
    return self.head.epsilon if own else super().norm_epsilon(name)

  def setup(self) -> None:
    super().setup()
    head = self.head
    settings = dataclasses.replace(
      self.settings(),
      epsilon=self.norm_epsilon("head"),
      momentum=self.momentum if head.momentum is None else head.momentum,
    )
    counts = self.anchor_grid.counts()
    if head.kind == "ssd":
      self.ssd = heads.Ssd(
        self.levels,
        counts,
        self.num_classes,
        head.extras,
        head.activation,
        head.class_start,
        head.lite,
        settings,
        name="head",
      )
      return
    both = (
      ("class", counts[0] * self.num_classes, head.class_start),
      ("box", counts[0] * 4, 0.0),
    )
    shared = {
      "activation": head.activation,
      "separable": head.separable,
      "bias": head.bias,
      "start": head.start,
      "predict_start": head.predict_start,
      "survival": head.survival,
      "settings": settings,
    }
    if head.kind == "tower":
      predictions = tuple((f"predict_{name}", *rest) for name, *rest in both)
      made = {"head": predictions}
    else:
      made = {f"{name}_head": (("predict", *rest),) for name, *rest in both}
    self.towers = [
      heads.Tower(self.levels, head.width, head.repeats, predictions, **shared, name=name)
      for name, predictions in made.items()
    ]

  def __call__(
    self, images: Float[Array, "b h w 3"], *, train: bool = False, keys: _Keys = None
  ) -> tuple[list[Float[Array, "b _h _w _k"]], list[Float[Array, "b _h _w _r"]]]:
    """Returns float32 class logits and box regressions of every level, the finest first.

    A cell's channels are those of its first anchor, then those of the second, and so on.

    Args:
      images: normalised. train: batch moments instead of running ones.
      keys: one key per example for `drop_path`; a missing one means no such noise.
    """
    if self.head.kind == "ssd":
      found = self.body.features(self.backbone, images, self.levels, train=train, keys=keys)
      classes, boxes = self.ssd(found, train)
    else:
      drawn = self._survivals(keys, len(self.towers)) if train else None
      per_level = []
      for place, x in enumerate(self.features(images, train=train, keys=keys)):
        own = [None if drawn is None else drawn[:, place, k] for k in range(len(self.towers))]
        runs = [t(x, place, train, n) for t, n in zip(self.towers, own, strict=True)]
        per_level.append([made for run in runs for made in run])
      classes, boxes = map(list, zip(*per_level, strict=True))
    return jax.tree.map(lambda x: x.astype(jnp.float32), (classes, boxes))

  def _survivals(self, keys: _Keys, towers: int) -> Float[Array, "b l t r"] | None:
    """Returns numbers for each level, tower and repeat, other ones than the body's."""
    head = self.head
    if not head.survival or keys is None or "drop_path" not in keys:
      return None
    own = jax.vmap(jax.random.fold_in, (0, None))(keys["drop_path"], _HEADS_OWN)
    return layers.path_noise(own, len(self.levels), (towers, head.repeats))


_HEADS_OWN = 0x68656164
"""Folded into a key, what it draws for heads is nothing that it draws for blocks."""


def check(module: Detector) -> Detector:
  """Returns `module`, if its settings are possible. Raises: UserError naming the config key."""
  for key, value, options in (
    ("pyramid", module.pyramid.kind, PYRAMIDS),
    ("head", module.head.kind, HEADS),
    ("fusion", module.pyramid.style.fusion, pyramids.FUSIONS),
    ("padding", module.padding.upper(), network.PADDINGS),
    ("remat", module.remat, network.REMAT),
  ):
    if value not in options:
      raise errors.unknown(f"config.model.{key}", value, "a valid choice", options)
  size = module.image_size
  for key, value in (
    ("num_classes", module.num_classes),
    *(("image_size", side) for side in (size if isinstance(size, tuple) else (size,))),
    ("width", module.pyramid.style.width),
  ):
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
      raise errors.UserError(
        f"config.model.{key}={value!r} should be a whole number of at least 1; nearest: 1."
      )
  if not 0 <= module.head.survival <= 1:
    raise errors.UserError(
      f"config.model.head_survival={module.head.survival} is outside [0, 1]; 0 is off."
    )
  levels = module.levels
  if list(levels) != list(range(levels[0], levels[0] + len(levels))) or levels[0] < 1:
    raise errors.UserError(f"config.model.levels={levels} should be consecutive, such as (3, 4).")
  ends = module.body.ends()
  if levels[0] not in ends:
    raise errors.UserError(
      f"config.model.min_level={levels[0]}: the backbone has levels {sorted(ends)}."
    )
  pyramids.check(levels, module.pyramid.nodes)
  return module


ASPECTS = {"exact": ops.anchors.RATIOS, "rounded": ops.anchors.ROUNDED}


def build(
  *,
  num_classes: int = 90,
  image_size: int = 512,
  backbone: str = "efficientnet_b0",
  backbone_width: float = 0.0,
  backbone_kernels: tuple[int, ...] = (),
  backbone_padding: str = "",
  backbone_momentum: float = 0.0,
  backbone_epsilon: float = 0.0,
  backbone_activation: str = "",
  backbone_graph: tuple[scale_permuted.Block, ...] = (),
  drop_path_rate: float = 0.0,
  pyramid: str = "bifpn",
  width: int = 64,
  repeats: int = 3,
  fusion: str = "fast",
  nodes: tuple[pyramids.Node, ...] = (),
  blocks: tuple[mnasfpn.Block, ...] = mnasfpn.FOUND,
  residual: bool = True,
  ordered: bool = True,
  expanded: bool = True,
  separable: bool = True,
  head: str = "towers",
  head_width: int = 0,
  head_repeats: int = 3,
  min_level: int = 3,
  max_level: int = 7,
  anchor_scale: float = 4.0,
  octaves: int = 3,
  aspects: str = "exact",
  aspect_first: bool = False,
  activation: str = "swish",
  bias: bool = True,
  head_bias: bool = True,
  head_momentum: float = 0.0,
  head_epsilon: float = 0.0,
  head_survival: float = 0.0,
  padding: str = "SAME",
  plain: bool = False,
  dtype: Any = "float32",
  momentum: float = 0.99,
  epsilon: float = 1e-3,
  group: ops.Group = ops.Group(),  # noqa: B008 - immutable
  remat: str = "none",
  frozen_blocks: int = 0,
  norm_sets: int = 1,
) -> Detector:
  """Returns a detector of the zoo's body, a pyramid and two towers, or one, over its levels.

  Args:
    backbone: a classifier of the zoo. backbone_width: its multiplier, 0 for its own.
    backbone_kernels: see `stage_tables.mix`. backbone_padding, backbone_momentum,
      backbone_epsilon: the body's; "" and 0 for those of the whole. backbone_activation: "" for its
      own.
    backbone_graph: of a SpineNet, () for its own.
    drop_path_rate: the body's.
    pyramid: one of `PYRAMIDS`. width: its channels. repeats: its cells. fusion, separable: of a
      graph's nodes, see `pyramids.Style`. nodes: a graph instead of the named one.
    blocks, residual, ordered, expanded: of MnasFPN, see `mnasfpn.Spec`.
    head: `towers` or `tower`. head_width: channels, 0 for the pyramid's. head_repeats: convolutions
      before the prediction.
    min_level, max_level: of the pyramid. anchor_scale, octaves: see `ops.anchors.Grid`. aspects:
      `exact` ratios or `rounded` ones, as of EfficientDet's first weights.
    aspect_first: the order of anchors. activation: of pyramid and head.
    bias, head_bias: convolutions before norms have one; a head's only if both say so.
    head_momentum, head_epsilon: of the head's norms; 0 for those of the whole. head_survival: of
      its repeats, see `heads.Tower`; 0 for plain ones.
    The others: see `Detector`.
  Raises: UserError for impossible values.
  """
  if aspects not in ASPECTS:
    raise errors.unknown("config.model.aspects", aspects, "a set of aspects", ASPECTS)
  levels = tuple(range(min_level, max_level + 1))
  if not levels:
    raise errors.UserError(
      f"config.model.max_level={max_level} should be at least min_level, {min_level}."
    )
  own = {
    "image_size": image_size,
    "padding": backbone_padding or padding,
    "momentum": backbone_momentum or momentum,
    "epsilon": backbone_epsilon or epsilon,
    "drop_path_rate": drop_path_rate,
    **({"width": backbone_width} if backbone_width else {}),
    **({"kernels": backbone_kernels} if backbone_kernels else {}),
    **({"activation": backbone_activation} if backbone_activation else {}),
    **({"graph": backbone_graph} if backbone_graph else {}),
  }
  searched = pyramid == "nasfpn"
  cell = mnasfpn.Spec(blocks, width, residual=residual, ordered=ordered, expanded=expanded)
  if pyramid == "mnasfpn":
    cell.check(levels)
  return check(
    Detector(
      body=bodies.create(backbone, own),
      pyramid=PyramidSpec(
        kind=pyramid,
        repeats=repeats,
        style=pyramids.Style(
          width,
          fusion=fusion,
          activation=activation,
          separable=separable,
          bias=bias,
          lateral=searched,
          overlapping=not searched,
        ),
        nodes=tuple(nodes),
        cell=cell,
      ),
      head=HeadSpec(
        kind=head,
        width=head_width or width,
        repeats=head_repeats,
        separable=separable,
        bias=bias and head_bias,
        activation=activation,
        # Dense convolutions are RetinaNet's; MnasFPN took over its rule.
        start="fan_in" if separable and head == "towers" else 0.01,
        predict_start="" if separable else 1e-5,
        class_start=heads.PRIOR if head == "towers" else -4.6,
        epsilon=head_epsilon or None,
        momentum=head_momentum or None,
        survival=head_survival,
      ),
      anchor_grid=ops.anchors.Grid(levels, anchor_scale, octaves, ASPECTS[aspects], aspect_first),
      num_classes=num_classes,
      image_size=image_size,
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
  )


_KNOWN = tuple(field.name for field in dataclasses.fields(registry.Entry))


def add(name: str, construct: Any = build, *, params: int, madds: float, **known: Any) -> None:
  """Registers the network that `construct` builds under `name`.

  Args: params, madds: of the default network. known: fields of `registry.Entry` and arguments of
    `construct`, which become the model's own defaults.
  """
  entry = {"image_size": 512, "num_classes": 90, "drop_path_rate": 0.0, "paper": None}
  entry |= {"task": "detection", "dropout_rate": 0.0, "interpolation": "bilinear"}
  entry |= {key: value for key, value in known.items() if key in _KNOWN}
  shared = ["image_size", "num_classes", "drop_path_rate"]
  shared += ["dropout_rate"] if "dropout_rate" in known else []
  own = {key: entry[key] for key in shared}
  own |= {key: value for key, value in known.items() if key not in _KNOWN}
  registry.register(
    registry.Entry(
      name=name,
      build=functools.partial(construct, **own),
      params=params,
      madds=madds,
      crop_padding=0,
      **entry,
    )
  )
