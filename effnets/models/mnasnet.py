"""MnasNet-A1, -B1, -small, and the two backbones searched together with MnasFPN.

A2, A3 and search1 are left out: only their figures were published, never their layers. small is
the paper's search2. A depth multiplier m is `width=m`, as a suffix `_035` to `_140`; it leaves the
head at 1,280 channels.
Source: Tan et al. 2019 (arXiv 1807.11626) and its code; d1, d1_320: Chen et al. 2020 (1912.01106).
"""

import dataclasses

from effnets.models import families, layers, stage_tables

_SE = layers.Squeeze(0.25)


def _row(kernel, stride, expand, channels, repeats, squeeze=None, **fields) -> stage_tables.Row:
  return stage_tables.Row(
    "mbconv", kernel, stride, expand, channels, repeats, squeeze, "relu", **fields
  )


def _table(stem: int, *rows: stage_tables.Row) -> stage_tables.Table:
  return stage_tables.Table(stem, rows, 1280, "relu", head_scaling="fixed")


#     kernel stride expand channels repeats squeeze
A1 = _table(
  32,
  _row(3, 1, 1, 16, 1, skip=False),
  _row(3, 2, 6, 24, 2),
  _row(5, 2, 3, 40, 3, _SE),
  _row(3, 2, 6, 80, 4),
  _row(3, 1, 6, 112, 2, _SE),
  _row(5, 2, 6, 160, 3, _SE),
  _row(3, 1, 6, 320, 1),
)
B1 = _table(
  32,
  _row(3, 1, 1, 16, 1, skip=False),
  _row(3, 2, 3, 24, 3),
  _row(5, 2, 3, 40, 3),
  _row(5, 2, 6, 80, 3),
  _row(3, 1, 6, 96, 2),
  _row(5, 2, 6, 192, 4),
  _row(3, 1, 6, 320, 1, skip=False),
)
# The first block says 16 input channels where the stem gives 8, so the official skip rule, which
# reads the table, finds no equal shapes there. timm's reads the tensors (`skip_rule="actual"`).
SMALL = _table(
  8,
  _row(3, 1, 1, 8, 1, declared=16),
  _row(3, 2, 3, 16, 1),
  _row(3, 2, 6, 16, 2),
  _row(5, 2, 6, 32, 4, _SE),
  _row(3, 1, 6, 32, 3, _SE),
  _row(5, 2, 6, 88, 3, _SE),
  _row(3, 1, 6, 144, 1),
)
# Some channels of these are no multiples of 8; only a width other than 1 rounds them.
D1 = _table(
  32,
  _row(3, 1, 9, 24, 1),
  _row(3, 2, 9, 36, 3),
  _row(3, 2, 9, 48, 5),
  _row(5, 2, 9, 96, 4),
  _row(7, 1, 3, 96, 5),
  _row(3, 2, 9, 80, 3),
  _row(7, 1, 6, 320, 1, skip=False),
)
D1_320 = _table(
  32,
  _row(5, 1, 6, 24, 3),
  _row(7, 2, 9, 36, 4),
  _row(5, 2, 9, 48, 5),
  _row(7, 2, 6, 96, 5),
  _row(3, 1, 9, 144, 5),
  _row(5, 2, 6, 160, 5),
  _row(7, 1, 9, 320, 1),
)
# The kinds of layer of A1 for pictures of tens of pixels.
TINY = dataclasses.replace(
  _table(
    16,
    _row(3, 1, 1, 16, 1, skip=False),
    _row(3, 2, 3, 24, 2),
    _row(5, 2, 3, 40, 2, _SE),
    _row(3, 2, 4, 64, 1),
    _row(3, 1, 4, 64, 1, _SE),
  ),
  head=128,
)


# Figures of the multipliers: the code's own table, whose MAdds at 1.0 (315.2e6) the paper rounds.
MEMBERS = {
  "a1": (
    A1,
    families.Member(0.35, 1_747_018, 61.68e6, 1.7e6, 63.2e6, 64.1, 85.1),
    families.Member(0.5, 2_082_006, 103.16e6, 2.1e6, 105.2e6, 68.9, 88.4),
    families.Member(0.75, 2_912_278, 223.45e6, 2.9e6, 226.7e6, 73.3, 91.3),
    families.Member(1.0, 3_887_038, 311.58e6, 3.9e6, 312e6, 75.2, 92.5),
    families.Member(1.4, 6_105_992, 586.32e6, 6.1e6, 591.5e6, 77.2, 93.5),
  ),
  "b1": (
    B1,
    families.Member(0.35, 1_788_232, 58.88e6),
    families.Member(0.5, 2_218_512, 104.46e6),
    families.Member(0.75, 3_170_208, 215.49e6),
    families.Member(1.0, 4_383_312, 314.42e6, None, None, 74.5, 92.1),
    families.Member(1.4, 7_115_728, 588.80e6),
  ),
  "small": (
    SMALL,
    families.Member(0.35, 1_456_334, 24.49e6),
    families.Member(0.5, 1_553_350, 28.80e6),
    families.Member(0.75, 1_753_518, 50.51e6),
    families.Member(1.0, 2_030_264, 68.34e6, 2.0e6, 68e6, 66.0),
    families.Member(1.4, 2_603_374, 138.10e6),
  ),
  "d1": (D1, families.Member(1.0, 3_638_404, 967.71e6)),
  "d1_320": (D1_320, families.Member(1.0, 6_932_240, 1807.73e6)),
}


for _name, (_stages, *_members) in MEMBERS.items():
  families.add_members(
    f"mnasnet_{_name}",
    _stages,
    _members,
    paper="1912.01106" if _name.startswith("d1") else "1807.11626",
    dropout_rate=0.0 if _name == "small" else 0.2,
    interpolation="bilinear",
  )
families.add("mnasnet_tiny", TINY, params=232_352, madds=6_070_976, image_size=64, crop_padding=0)
