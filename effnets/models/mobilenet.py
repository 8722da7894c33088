"""MobileNetV1, V2 and V3 Large and Small, with multipliers and minimalistic variants.

A multiplier is `width`, as a suffix `_035` to `_125`. In V2 it never shrinks the head, in V3 it
leaves the hidden layer behind the pool alone (the published tables' counts). V3-Small's hidden
layer has 1,024 units as in the code and all weights; the paper prints 1,280 (`hidden=1280`).
150d (deepened by its rule, the head like a stage) and rw (read from the paper before its code was
out) are timm's. tiny is this project's own, for 32-pixel images.
Source: Howard et al. 2017 (arXiv 1704.04861), Sandler et al. 2018 (1801.04381), Howard et al. 2019
(1905.02244), each with its code.
"""

import dataclasses
import functools

from effnets.models import families, layers, stage_tables


def _separable(stride: int, channels: int, repeats: int = 1) -> stage_tables.Row:
  return stage_tables.Row("separable", 3, stride, 1, channels, repeats, None, "relu6")


def _inverted(stride: int, expand: int, channels: int, repeats: int) -> stage_tables.Row:
  return stage_tables.Row("mbconv", 3, stride, expand, channels, repeats, None, "relu6")


V1 = stage_tables.Table(
  32,
  (
    _separable(1, 64),
    _separable(2, 128, 2),
    _separable(2, 256, 2),
    _separable(2, 512, 6),
    _separable(2, 1024, 2),
  ),
  0,
  "relu6",
)
V2 = stage_tables.Table(
  32,
  (
    _inverted(1, 1, 16, 1),
    _inverted(2, 6, 24, 2),
    _inverted(2, 6, 32, 3),
    _inverted(2, 6, 64, 4),
    _inverted(1, 6, 96, 3),
    _inverted(2, 6, 160, 3),
    _inverted(1, 6, 320, 1),
  ),
  1280,
  "relu6",
  head_scaling="grown",
)

_SE = layers.Squeeze(0.25, of="expanded", divisor=8, activation="relu", gate="hard_sigmoid")


def _bneck(
  kernel, stride, expand, channels, repeats=1, squeeze=None, *, hard: bool, joined: bool = False
) -> stage_tables.Row:
  activation = "hard_swish" if hard else "relu"
  return stage_tables.Row(
    "mbconv", kernel, stride, expand, channels, repeats, squeeze, activation, joined=joined
  )


_relu = functools.partial(_bneck, hard=False)
_hard = functools.partial(_bneck, hard=True)
_v3 = functools.partial(stage_tables.Table, activation="hard_swish", kernel_std=0.008)

#    kernel stride expand channels repeats squeeze
V3_LARGE = _v3(
  16,
  (
    _relu(3, 1, 1, 16),
    _relu(3, 2, 4, 24),
    _relu(3, 1, 3, 24, joined=True),
    _relu(5, 2, 3, 40, 3, _SE),
    _hard(3, 2, 6, 80),
    _hard(3, 1, 2.5, 80, joined=True),
    _hard(3, 1, 184 / 80, 80, 2, joined=True),
    _hard(3, 1, 6, 112, 2, _SE),
    _hard(5, 2, 6, 160, 3, _SE),
  ),
  960,
  hidden=1280,
)
V3_SMALL = _v3(
  16,
  (
    _relu(3, 2, 1, 16, 1, _SE),
    _relu(3, 2, 72 / 16, 24),
    _relu(3, 1, 88 / 24, 24, joined=True),
    _hard(5, 2, 4, 40, 1, _SE),
    _hard(5, 1, 6, 40, 2, _SE, joined=True),
    _hard(5, 1, 3, 48, 2, _SE),
    _hard(5, 2, 6, 96, 3, _SE),
  ),
  576,
  hidden=1024,
)

# Three halvings, so that 32 pixels end as 4; kernels start at their usual size, as runs of a few
# hundred steps are too short for the small ones.
V3_TINY = stage_tables.Table(
  16,
  (
    _relu(3, 1, 1, 16),
    _relu(3, 2, 4, 24),
    _relu(3, 1, 3, 24, joined=True),
    _relu(5, 2, 3, 40, 1, _SE),
    _hard(5, 1, 3, 40, 1, _SE, joined=True),
    _hard(3, 1, 4, 64, 1, _SE),
  ),
  128,
  "hard_swish",
  hidden=128,
)


def minimalistic(table: stage_tables.Table) -> stage_tables.Table:
  """Returns `table` with 3x3 kernels, without squeeze-excitation, with ReLU alone.

  Source: slim's MobileNetV3, for hardware on which those are slow.
  """
  rows = tuple(
    dataclasses.replace(row, kernel=3, squeeze=None, activation="relu") for row in table.rows
  )
  return dataclasses.replace(table, rows=rows, activation="relu")


def _early(table: stage_tables.Table) -> stage_tables.Table:
  """Returns V3-Large as timm's `mobilenetv3_rw` read it from the paper before its code was out.

  The first block does not add its input; squeeze-excitation has the block's own activation and a
  width that is not rounded to 8.
  """
  rows = tuple(
    dataclasses.replace(
      row,
      squeeze=row.squeeze and dataclasses.replace(row.squeeze, divisor=1, activation=None),
      skip=index > 0,
    )
    for index, row in enumerate(table.rows)
  )
  return dataclasses.replace(table, rows=rows)


V1_MEMBERS = (
  families.Member(0.25, 470_072, 41.03e6, 0.5e6, 41e6, 50.6),
  families.Member(0.35, 763_752, 80.41e6),
  families.Member(0.5, 1_331_592, 149.50e6, 1.3e6, 149e6, 63.7),
  families.Member(0.75, 2_585_560, 325.40e6, 2.6e6, 325e6, 68.4),
  families.Member(1.0, 4_231_976, 568.74e6, 4.2e6, 575e6, 70.6, 89.5),
  families.Member(1.25, 6_270_840, 879.52e6),
)
V2_MEMBERS = (
  families.Member(0.35, 1_677_128, 59.29e6, 1.66e6, 59e6, 60.3),
  families.Member(0.5, 1_968_680, 97.13e6),
  families.Member(0.75, 2_636_424, 209.07e6),
  families.Member(1.0, 3_504_872, 300.77e6, 3.4e6, 300e6, 72.0, 91.0),
  families.Member(1.25, 5_050_376, 486.59e6),
  families.Member(1.4, 6_108_776, 582.20e6, 6.9e6, 585e6, 74.7, 92.5),
)
V3_MEMBERS = {
  "large": (
    V3_LARGE,
    families.Member(0.35, 2_131_832, 39.47e6, 2.2e6, 40e6, 64.2),
    families.Member(0.5, 2_689_520, 69.25e6, 2.6e6, 69e6, 68.8),
    families.Member(0.75, 3_993_528, 154.56e6, 4.0e6, 155e6, 73.3),
    families.Member(1.0, 5_483_032, 216.59e6, 5.4e6, 219e6, 75.2),
    families.Member(1.25, 7_551_976, 355.22e6, 7.5e6, 356e6, 76.6),
  ),
  "large_minimal": (
    minimalistic(V3_LARGE),
    families.Member(0.35, 1_911_864, 37.05e6),
    families.Member(0.5, 2_275_264, 65.44e6),
    families.Member(0.75, 3_050_312, 148.80e6),
    families.Member(1.0, 3_924_288, 209.14e6, 3.9e6, 209e6, 72.3),
    families.Member(1.25, 5_054_144, 345.41e6),
  ),
  "small": (
    V3_SMALL,
    families.Member(0.35, 1_358_288, 12.82e6, 1.7e6, 13e6, 49.8),
    families.Member(0.5, 1_592_704, 21.05e6, 1.9e6, 23e6, 58.0),
    families.Member(0.75, 2_041_872, 43.40e6, 2.4e6, 44e6, 65.4),
    families.Member(1.0, 2_542_856, 56.51e6, 2.9e6, 66e6, 67.5),
    families.Member(1.25, 3_205_384, 90.80e6, 3.6e6, 91e6, 70.4),
  ),
  "small_minimal": (
    minimalistic(V3_SMALL),
    families.Member(0.35, 1_290_064, 11.38e6),
    families.Member(0.5, 1_445_096, 18.81e6),
    families.Member(0.75, 1_732_512, 40.07e6),
    families.Member(1.0, 2_044_736, 52.29e6, 2.0e6, 65e6, 61.9),
    families.Member(1.25, 2_430_816, 85.38e6),
  ),
}


families.add_members(
  "mobilenetv1",
  V1,
  V1_MEMBERS,
  paper="1704.04861",
  dropout_rate=1e-3,
  interpolation="bilinear",
)
families.add_members("mobilenetv2", V2, V2_MEMBERS, paper="1801.04381", interpolation="bilinear")
_V3_SETTINGS = {
  "paper": "1905.02244",
  "momentum": 0.997,
  "mean": (0.5, 0.5, 0.5),
  "std": (0.5, 0.5, 0.5),
  "interpolation": "bilinear",
}
for _name, (_stages, *_members) in V3_MEMBERS.items():
  families.add_members(f"mobilenetv3_{_name}", _stages, _members, **_V3_SETTINGS)
families.add(
  "mobilenetv3_large_150d",
  V3_LARGE,
  params=14_622_320,
  madds=1010.02e6,
  image_size=256,
  width=1.5,
  depth=1.2,
  head_depth=2,
  **_V3_SETTINGS,
)
families.add("mobilenetv3_rw", _early(V3_LARGE), params=5_481_198, madds=216.59e6, **_V3_SETTINGS)
families.add(
  "mobilenetv3_tiny",
  V3_TINY,
  params=225_936,
  madds=1_848_704,
  image_size=32,
  crop_padding=0,
)
