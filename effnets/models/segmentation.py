"""Semantic segmentation: a body at some output stride, or a pyramid, and a head for every pixel.

Names of parameters beside the body's and the pyramid's:

  head/{project,pooled,join}/{conv,norm}, head/{gate,classify,classify_low}    LR-ASPP, R-ASPP
  head/aspp/{point,atrous_r,pooled,project}/...                                DeepLabV3
  head/{low,refine_i}/..., head/classify                                       DeepLabV3+
  head/{conv_i,norm_i_l,predict}                                               BiFPN
  head/{grow_i,grow_norm_i,classify}                                           BiFPN, transposed

Source: Howard et al. 2019 (arXiv 1905.02244), section 6.4; Sandler et al. 2018 (1801.04381), 6.3;
Chen et al. 2017 (1706.05587) and 2018 (1802.02611); Tan et al. 2020 (1911.09070), section 5.2.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from effnets import errors, ops
from effnets.models import bodies, detector, heads, network, pyramids, stage_tables
from effnets.models.segmentation_heads import (
  HEADS,
  DeepLab,
  LrAspp,
  RAspp,
  Spec,
  Transposed,
)
from effnets.ops import resampling

_Keys = Mapping[str, Key[Array, " b"]] | None


class Segmenter(bodies.Whole):
  """Class logits for every pixel.

  head, pyramid: as data; levels: of the pyramid, empty if there is none. dropout_rate: before the
  logits of heads that have dropout. The others: see `bodies.Whole`.
  """

  head: Spec = Spec()
  pyramid: detector.PyramidSpec = detector.PyramidSpec("none")
  levels: tuple[int, ...] = ()
  dropout_rate: float = 0.0

  def setup(self) -> None:
    super().setup()
    head, settings = self.head, self.settings()
    if self.levels:
      self.neck = detector.make_neck(self.pyramid, self.levels, settings, self.remat == "block")
    if head.kind == "tower":
      self.last = heads.Tower(
        self.levels[:1],
        head.filters,
        head.repeats,
        (("predict", self.num_classes, 0.0),),
        head.activation,
        settings=settings,
        name="head",
      )
    elif head.kind == "transposed":
      self.last = Transposed(head, self.num_classes, settings, name="head")
    else:
      made = {"lraspp": LrAspp, "raspp": RAspp}.get(head.kind, DeepLab)
      self.last = made(head, self.num_classes, settings, self.dropout_rate, name="head")

  def coarse(
    self, images: Float[Array, "b h w 3"], *, train: bool = False, keys: _Keys = None
  ) -> Float[Array, "b h2 w2 k"]:
    """Returns the logits as the head computes them, in the compute dtype. Args: of `__call__`."""
    head = self.head
    if self.levels:
      found = self.body.features(self.backbone, images, self.levels, train=train, keys=keys)
      features = self.neck(found, train)
      if head.kind == "tower":
        return self.last(features[0], 0, train)[0]
      return self.last(features, train)
    ends = self.backbone.maps(images, train=train, keys=keys, inner=True)
    return self.last(ends[head.high], ends[head.low] if head.low else None, train, keys)

  def __call__(
    self, images: Float[Array, "b h w 3"], *, train: bool = False, keys: _Keys = None
  ) -> Float[Array, "b h w k"]:
    """Returns float32 logits of every pixel, linear between those of `coarse`.

    Args:
      images: normalised. train: batch moments instead of running ones.
      keys: one key per example for `drop_path` and `dropout`; a missing one means no such noise.
    """
    logits = self.coarse(images, train=train, keys=keys).astype(jnp.float32)
    return resampling.bilinear(logits, images.shape[1:3])


def _low(module: nn.Module, level: int) -> str:
  """Returns the end point of a level's finer features: of its last depthwise convolution."""
  name = module.level_ends()[level]
  row = stage_tables.unroll(module.rows)[int(name.removeprefix("block_"))]
  return f"{name}/depthwise" if row.op in stage_tables.DEPTHWISE else name


def build(
  *,
  num_classes: int = 19,
  image_size: int = 1024,
  backbone: str = "mobilenetv3_large",
  backbone_width: float = 0.0,
  backbone_head: bool = True,
  backbone_padding: str = "",
  backbone_momentum: float = 0.0,
  backbone_epsilon: float = 0.0,
  halved: bool = False,
  halved_inner: bool = True,
  output_stride: int = 16,
  drop_path_rate: float = 0.0,
  dropout_rate: float = 0.0,
  head: str = "lraspp",
  filters: int = 128,
  decoder_level: int = 3,
  pool_stride: tuple[int, ...] = (),
  separable: bool = False,
  head_repeats: int = 3,
  min_level: int = 2,
  max_level: int = 7,
  pyramid: str = "bifpn",
  width: int = 128,
  repeats: int = 3,
  fusion: str = "fast",
  activation: str = "relu",
  padding: str = "SAME",
  plain: bool = False,
  dtype: Any = "float32",
  momentum: float = 0.9997,
  epsilon: float = 1e-5,
  group: ops.Group = ops.Group(),  # noqa: B008 - immutable
  remat: str = "none",
  frozen_blocks: int = 0,
  norm_sets: int = 1,
) -> Segmenter:
  """Returns a network for semantic segmentation.

  Args:
    backbone, backbone_width, backbone_padding, backbone_momentum, backbone_epsilon: see
      `detector.build`. backbone_head: whether its last 1x1 convolution belongs to it.
    halved, halved_inner: see `stage_tables.halve`. output_stride: see `stage_tables.atrous`.
    head: one of `HEADS`. filters: its channels. head_repeats: of a tower.
    decoder_level: of the finer features of LR-ASPP and DeepLabV3+; 0 for none.
    pool_stride: of LR-ASPP's pool; () for the paper's at that output stride. separable: DeepLab's
      convolutions are.
    min_level, max_level, pyramid, width, repeats, fusion: of heads on a pyramid.
    activation: of all but the body. dropout_rate: see `Segmenter`. The others: see `bodies.Whole`.
  Raises: UserError for impossible values.
  """
  for key, value, options in (
    ("head", head, HEADS),
    ("pyramid", pyramid, pyramids.GRAPHS),
    ("fusion", fusion, pyramids.FUSIONS),
    ("remat", remat, network.REMAT),
    ("padding", padding.upper(), network.PADDINGS),
    ("activation", activation, ops.ACTIVATIONS),
  ):
    if value not in options:
      raise errors.unknown(f"config.model.{key}", value, "a valid choice", options)
  for key, value in (("num_classes", num_classes), ("filters", filters), ("width", width)):
    if value < 1:
      raise errors.UserError(f"config.model.{key}={value!r} should be at least 1; nearest: 1.")
  if output_stride not in (4, 8, 16, 32):
    raise errors.UserError(
      f"config.model.output_stride={output_stride} should be 4, 8, 16 or 32; nearest: 16."
    )
  own = {
    "image_size": image_size,
    "padding": backbone_padding or padding,
    "momentum": backbone_momentum or momentum,
    "epsilon": backbone_epsilon or epsilon,
    "drop_path_rate": drop_path_rate,
    **({"width": backbone_width} if backbone_width else {}),
  }
  body = bodies.create(backbone, own)
  spec = Spec(head, filters, repeats=head_repeats, separable=separable, activation=activation)
  levels: tuple[int, ...] = ()
  if head in ("tower", "transposed"):
    levels = tuple(range(min_level, max_level + 1))
    if not levels or levels[0] not in body.ends():
      raise errors.UserError(
        f"config.model.min_level={min_level}: the backbone has levels {sorted(body.ends())}, and "
        f"max_level is {max_level}."
      )
  else:
    module = body.module
    if not hasattr(module, "rows"):
      raise errors.UserError(
        f"config.model.backbone={backbone!r} has no output stride; give head='tower'."
      )
    last = (module.head // 2 if halved else module.head) if backbone_head else 0
    rows = stage_tables.halve(module.rows, inner=halved_inner) if halved else module.rows
    before = module.stem_stride * (2 if module.stem_pool else 1)
    module = module.clone(rows=stage_tables.atrous(rows, output_stride, before=before), head=last)
    body = bodies.Body(module)
    low = ""
    if decoder_level and head in ("lraspp", "deeplabv3plus"):
      if decoder_level not in module.level_ends():
        raise errors.UserError(
          f"config.model.decoder_level={decoder_level}: the backbone has levels "
          f"{sorted(module.level_ends())}."
        )
      low = _low(module, decoder_level)
    spec = dataclasses.replace(
      spec,
      high="head_1x1" if last else "features",
      low=low,
      window=(769 - 1) // output_stride + 1,
      stride=tuple(pool_stride) or ((4, 5) if output_stride == 32 else (16, 20)),
    )
  return Segmenter(
    body=body,
    head=spec,
    pyramid=detector.PyramidSpec(
      pyramid, repeats, pyramids.Style(width, fusion=fusion, activation=activation)
    ),
    levels=levels,
    dropout_rate=dropout_rate,
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


_add = functools.partial(detector.add, construct=build, task="segmentation")
_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@dataclasses.dataclass(frozen=True)
class Member:
  """Exact counts at 1,024 by 2,048 pixels with 19 classes, and the figures of the paper's table 7.

  The paper's multiply-adds are 3 to 7 % above those of its layers; its halved MobileNetV2s have a
  hundredth fewer parameters than follows from halving the last stage.
  paper_miou: on Cityscapes' validation set, in percent.
  """

  params: int
  madds: float
  paper_params: float | None = None
  paper_madds: float | None = None
  paper_miou: float | None = None


for _name, _member, _own in (
  (
    "raspp_mobilenetv2_full",
    Member(2_113_043, 20826.90e6, 2.11e6, 21.29e9, 72.84),
    {"filters": 256},
  ),
  ("raspp_mobilenetv2", Member(1_159_123, 13401.63e6, 1.15e6, 13.68e9, 72.56), {"filters": 256}),
  (
    "lraspp_mobilenetv2_256",
    Member(1_030_950, 12567.09e6, 1.02e6, 12.83e9, 72.97),
    {"filters": 256},
  ),
  ("lraspp_mobilenetv2", Member(987_174, 12319.54e6, 0.98e6, 12.57e9, 72.74), {}),
  (
    "lraspp_mobilenetv2_050",
    Member(282_598, 3899.83e6, 0.28e6, 4.00e9, 68.57),
    {"backbone_width": 0.5},
  ),
  (
    "lraspp_mobilenetv2_035",
    Member(158_230, 2380.23e6, 0.16e6, 2.54e9, 66.83),
    {"backbone_width": 0.35},
  ),
  (
    "raspp_mobilenetv3_large_full",
    Member(3_600_963, 17.79e9, 3.60e6, 18.43e9, 72.64),
    {"filters": 256},
  ),
  ("raspp_mobilenetv3_large", Member(1_762_435, 10.83e9, 1.76e6, 11.24e9, 71.91), {"filters": 256}),
  (
    "lraspp_mobilenetv3_large_256",
    Member(1_632_894, 9.95e9, 1.63e6, 10.33e9, 72.37),
    {"filters": 256},
  ),
  ("lraspp_mobilenetv3_large", Member(1_507_198, 9.371e9, 1.51e6, 9.74e9, 72.36), {}),
  (
    "lraspp_mobilenetv3_large_os32",
    Member(1_507_198, 7.447e9, None, 7.74e9),
    {"output_stride": 32},
  ),
  ("lraspp_mobilenetv3_small", Member(468_830, 2.731e9, 0.47e6, 2.90e9, 68.38), {}),
  ("lraspp_mobilenetv3_small_os32", Member(468_830, 1.925e9, None, 2.06e9), {"output_stride": 32}),
):
  _kind, _body, *_rest = _name.split("_")
  _size = f"_{_rest[0]}" if _body == "mobilenetv3" else ""
  _add(
    _name,
    paper="1905.02244",
    num_classes=19,
    image_size=1024,
    counted=(1024, 2048),
    head=_kind,
    backbone=f"{_body}{_size}",
    backbone_head=bool(_size),
    backbone_momentum=0.997,
    backbone_epsilon=1e-3,
    halved=not _name.endswith("_full"),
    halved_inner=bool(_size),
    dropout_rate=0.1 if _kind == "raspp" else 0.0,
    **dataclasses.asdict(_member),
    **_HALF,
    **_own,
  )
for _name, _depth, _params, _madds in (
  ("deeplabv3_r50", 50, 39_048_533, 47800.12e6),
  ("deeplabv3_r101", 101, 58_040_661, 67194.59e6),
  ("deeplabv3plus_r101", 101, 45_688_261, 57081.59e6),
):
  _add(
    _name,
    paper="1706.05587" if "plus" not in _name else "1802.02611",
    num_classes=21,
    image_size=512,
    head=_name.partition("_")[0],
    filters=256,
    decoder_level=2,
    separable="plus" in _name,
    backbone=f"resnet{_depth}",
    backbone_padding="SYMMETRIC",
    dropout_rate=0.1,
    params=_params,
    madds=_madds,
  )
_bifpn = functools.partial(
  _add, paper="1911.09070", activation="swish", momentum=0.99, epsilon=1e-3
)
_bifpn(
  "bifpn_efficientnet_b4",
  num_classes=21,
  image_size=512,
  head="tower",
  filters=256,
  backbone="efficientnet_b4",
  drop_path_rate=0.2,
  params=17_693_989,
  madds=12179.58e6,
  paper_params=17e6,
  paper_madds=18e9,
  paper_miou=81.74,
)
_bifpn(
  "efficientdet_d0_segmentation",
  num_classes=3,
  image_size=512,
  head="transposed",
  backbone="efficientnet_b0",
  params=4_053_688,
  madds=2151.53e6,
  **{"min_level": 3, "width": 64, "filters": 64},
)
_add(
  "lraspp_tiny",
  num_classes=11,
  image_size=128,
  backbone="mobilenetv3_tiny",
  decoder_level=2,
  output_stride=8,
  params=98_518,
  madds=30.55e6,
  **{"filters": 64, "momentum": 0.99, "epsilon": 1e-3},
)
_add(
  "raspp_tiny",
  num_classes=11,
  image_size=128,
  backbone="mobilenetv3_tiny",
  head="raspp",
  output_stride=8,
  params=106_099,
  madds=31.29e6,
  **{"filters": 64, "momentum": 0.99, "epsilon": 1e-3},
)
