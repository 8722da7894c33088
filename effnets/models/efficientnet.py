"""EfficientNet: one small table, scaled in width, depth and resolution.

Source: Tan and Le 2019 (arXiv 1905.11946) b0-b7; Xie et al. 2020 (1911.09665) b8; Xie et al. 2020
(1911.04252) l0, l1, l2 and the small-image variant; lite0 to lite4, without squeeze-excitation and
with ReLU6, are the code's, for phones. tiny, mini and small are this project's own, for 32-pixel
images.
"""

import dataclasses
import functools
from typing import Any

from effnets import ops
from effnets.models import families, layers, network, registry, stage_tables

_SE = layers.Squeeze(0.25)

#            op       kernel stride expand channels repeats
_B0_ROWS = (
  stage_tables.Row("mbconv", 3, 1, 1, 16, 1, _SE),
  stage_tables.Row("mbconv", 3, 2, 6, 24, 2, _SE),
  stage_tables.Row("mbconv", 5, 2, 6, 40, 2, _SE),
  stage_tables.Row("mbconv", 3, 2, 6, 80, 3, _SE),
  stage_tables.Row("mbconv", 5, 1, 6, 112, 3, _SE),
  stage_tables.Row("mbconv", 5, 2, 6, 192, 4, _SE),
  stage_tables.Row("mbconv", 3, 1, 6, 320, 1, _SE),
)

# Three halvings, so that 32 pixels end as 4.
_TINY_ROWS = (
  stage_tables.Row("mbconv", 3, 1, 1, 16, 1, _SE),
  stage_tables.Row("mbconv", 3, 2, 4, 24, 2, _SE),
  stage_tables.Row("mbconv", 5, 2, 4, 40, 2, _SE),
  stage_tables.Row("mbconv", 3, 1, 4, 64, 1, _SE),
)

B0 = stage_tables.Table(32, _B0_ROWS, 1280)
TINY = stage_tables.Table(16, _TINY_ROWS, 128)


@dataclasses.dataclass(frozen=True)
class Member:
  """One row of the scaling table. params, madds: with 1,000 classes at `image_size`.

  paper_*: as printed: parameters, multiply-adds, top-1 and top-5 in percent; None if not.
  """

  width: float
  depth: float
  image_size: int
  dropout_rate: float
  params: int
  madds: float
  paper: str | None
  paper_params: float | None = None
  paper_madds: float | None = None
  paper_top1: float | None = None
  paper_top5: float | None = None


# The released triples are rounded by hand and follow no formula, so they are kept, not computed.
MEMBERS = {
  "b0": Member(1.0, 1.0, 224, 0.2, 5_288_548, 385.8e6, "1905.11946", 5.3e6, 0.39e9, 77.1, 93.3),
  "b1": Member(1.0, 1.1, 240, 0.2, 7_794_184, 686.8e6, "1905.11946", 7.8e6, 0.70e9, 79.1, 94.4),
  "b2": Member(1.1, 1.2, 260, 0.3, 9_109_994, 993.6e6, "1905.11946", 9.2e6, 1.0e9, 80.1, 94.9),
  "b3": Member(1.2, 1.4, 300, 0.3, 12_233_232, 1827.1e6, "1905.11946", 12e6, 1.8e9, 81.6, 95.7),
  "b4": Member(1.4, 1.8, 380, 0.4, 19_341_616, 4393.8e6, "1905.11946", 19e6, 4.2e9, 82.9, 96.4),
  "b5": Member(1.6, 2.2, 456, 0.4, 30_389_784, 10266.4e6, "1905.11946", 30e6, 9.9e9, 83.6, 96.7),
  "b6": Member(1.8, 2.6, 528, 0.5, 43_040_704, 19067.6e6, "1905.11946", 43e6, 19e9, 84.0, 96.8),
  "b7": Member(2.0, 3.1, 600, 0.5, 66_347_960, 37745.9e6, "1905.11946", 66e6, 37e9, 84.3, 97.0),
  "b8": Member(2.2, 3.6, 672, 0.5, 87_413_142, 62597.5e6, "1911.09665", None, None, 85.5),
  "l0": Member(2.8, 3.7, 380, 0.5, 140_764_664, 32.85e9, "1911.04252", 140e6),
  "l1": Member(3.9, 3.7, 380, 0.5, 272_630_564, 64.87e9, "1911.04252", 273e6),
  "l2": Member(4.3, 5.3, 800, 0.5, 480_309_308, 475.704e9, "1911.04252", 480e6, None, 88.4, 98.7),
}

# Depth 1.2**phi and width 1.1**phi as in the paper, phi = 0, 1, 2; the resolution stays the data's.
TINY_MEMBERS = {
  "tiny": Member(1.0, 1.0, 32, 0.2, 203_072, 2_034_304, None),
  "mini": Member(1.1, 1.2, 32, 0.2, 331_068, 3_855_744, None),
  "small": Member(1.21, 1.44, 32, 0.2, 375_474, 5_431_424, None),
}


def efficientnet(
  table: stage_tables.Table = B0,
  *,
  num_classes: int = 1000,
  width: float = 1.0,
  depth: float = 1.0,
  image_size: int = 224,
  dropout_rate: float = 0.2,
  drop_path_rate: float = 0.2,
  small_images: bool = False,
  activation: str = "swish",
  padding: str = "SAME",
  plain: bool = False,
  dtype: Any = "float32",
  momentum: float = 0.99,
  epsilon: float = 1e-3,
  group: ops.Group = ops.Group(),  # noqa: B008 - immutable
  remat: str = "none",
  frozen_blocks: int = 0,
  norm_sets: int = 1,
) -> network.Network:
  """Returns an EfficientNet.

  Args:
    table: the network at width and depth 1.
    width: factor of all channels, which are then rounded to multiples of 8.
    depth: factor of all repeats, rounded up. small_images: see `stage_tables.small_strides`.
    activation: of the whole network. The others: see `network.Network`.
  Raises: UserError for impossible values.
  """
  return families.build(
    table,
    num_classes=num_classes,
    width=width,
    depth=depth,
    image_size=image_size,
    dropout_rate=dropout_rate,
    drop_path_rate=drop_path_rate,
    small_images=small_images,
    activation=activation,
    padding=padding,
    plain=plain,
    dtype=dtype,
    momentum=momentum,
    epsilon=epsilon,
    group=group,
    remat=remat,
    frozen_blocks=frozen_blocks,
    norm_sets=norm_sets,
  )


# Neither stem and head nor the depth of the first and the last stage are scaled.
_LITE_ROWS = tuple(dataclasses.replace(row, squeeze=None, activation="relu6") for row in _B0_ROWS)
LITE = stage_tables.Table(32, _LITE_ROWS, 1280, "relu6")
LITE_MEMBERS = {
  "lite0": Member(1.0, 1.0, 224, 0.2, 4_652_008, 385.19e6, None),
  "lite1": Member(1.0, 1.1, 240, 0.2, 5_416_680, 600.19e6, None),
  "lite2": Member(1.1, 1.2, 260, 0.3, 6_092_072, 859.74e6, None),
  "lite3": Member(1.2, 1.4, 280, 0.3, 8_197_096, 1383.32e6, None),
  "lite4": Member(1.4, 1.8, 300, 0.3, 13_006_568, 2553.03e6, None),
}


def _register(name: str, member: Member, table: stage_tables.Table, *, crop_padding: int) -> None:
  build = functools.partial(
    efficientnet,
    table,
    width=member.width,
    depth=member.depth,
    image_size=member.image_size,
    dropout_rate=member.dropout_rate,
  )
  own = {f.name: getattr(member, f.name) for f in dataclasses.fields(Member)}
  known = {key: value for key, value in own.items() if key not in ("width", "depth")}
  registry.register(
    registry.Entry(
      name=f"efficientnet_{name}",
      build=build,
      drop_path_rate=0.2,
      crop_padding=crop_padding,
      **known,
    )
  )


for _name, _member in MEMBERS.items():
  _register(_name, _member, B0, crop_padding=32)
for _name, _member in TINY_MEMBERS.items():
  _register(_name, _member, TINY, crop_padding=0)
for _name, _member in LITE_MEMBERS.items():
  families.add(
    f"efficientnet_{_name}",
    LITE,
    stem=32,
    head=1280,
    keep_ends=True,
    drop_path_rate=0.2,
    mean=(127 / 255,) * 3,
    std=(128 / 255,) * 3,
    **{f.name: getattr(_member, f.name) for f in dataclasses.fields(Member)},
  )
