"""MixNet: inverted bottlenecks whose depthwise convolutions mix kernel sizes.

S and M were found by search; L is M at width 1.3; XL and XXL are timm's, deepened by its rule. tiny
is this project's own, for 32-pixel images.
Source: Tan and Le 2019 (arXiv 1907.09595) and its code.
"""

import functools

from effnets.models import families, layers, stage_tables

_K3, _K5, _K7, _K9, _K11 = 3, (3, 5), (3, 5, 7), (3, 5, 7, 9), (3, 5, 7, 9, 11)


def _row(
  kernels, expand_parts, project_parts, stride, expand, channels, repeats, ratio=None, **fields
) -> stage_tables.Row:
  squeeze, activation = (layers.Squeeze(ratio), "swish") if ratio else (None, "relu")
  return stage_tables.Row(
    "mbconv",
    kernels,
    stride,
    expand,
    channels,
    repeats,
    squeeze,
    activation,
    expand_parts=expand_parts,
    project_parts=project_parts,
    **fields,
  )


_joined = functools.partial(_row, joined=True)
_table = functools.partial(
  stage_tables.Table, head=1536, activation="relu", head_scaling="fixed", depth_rounding="nearest"
)

# kernels, parts of expansion and projection, stride, expand, channels, repeats, squeeze ratio
S = _table(
  16,
  (
    _row(_K3, 1, 1, 1, 1, 16, 1),
    _row(_K3, 2, 2, 2, 6, 24, 1),
    _joined(_K3, 2, 2, 1, 3, 24, 1),
    _row(_K7, 1, 1, 2, 6, 40, 1, 0.5),
    _joined(_K5, 2, 2, 1, 6, 40, 3, 0.5),
    _row(_K7, 1, 2, 2, 6, 80, 1, 0.25),
    _joined(_K5, 1, 2, 1, 6, 80, 2, 0.25),
    _row(_K7, 2, 2, 1, 6, 120, 1, 0.5),
    _joined(_K9, 2, 2, 1, 3, 120, 2, 0.5),
    _row(_K11, 1, 1, 2, 6, 200, 1, 0.5),
    _joined(_K9, 1, 2, 1, 6, 200, 2, 0.5),
  ),
)
M = _table(
  24,
  (
    _row(_K3, 1, 1, 1, 1, 24, 1),
    _row(_K7, 2, 2, 2, 6, 32, 1),
    _joined(_K3, 2, 2, 1, 3, 32, 1),
    _row(_K9, 1, 1, 2, 6, 40, 1, 0.5),
    _joined(_K5, 2, 2, 1, 6, 40, 3, 0.5),
    _row(_K7, 1, 1, 2, 6, 80, 1, 0.25),
    _joined(_K9, 2, 2, 1, 6, 80, 3, 0.25),
    _row(_K3, 1, 1, 1, 6, 120, 1, 0.5),
    _joined(_K9, 2, 2, 1, 3, 120, 3, 0.5),
    _row(_K9, 1, 1, 2, 6, 200, 1, 0.5),
    _joined(_K9, 1, 2, 1, 6, 200, 3, 0.5),
  ),
)

# Three halvings, so that 32 pixels end as 4.
TINY = _table(
  16,
  (
    _row(_K3, 1, 1, 1, 1, 16, 1),
    _row(_K7, 2, 2, 2, 4, 24, 1),
    _joined(_K5, 2, 2, 1, 3, 24, 1),
    _row(_K9, 1, 1, 2, 4, 40, 1, 0.5),
    _joined(_K5, 1, 2, 1, 4, 40, 1, 0.5),
  ),
  head=128,
)

_add = functools.partial(families.add, paper="1907.09595", interpolation="bilinear")

_add(
  "mixnet_s",
  S,
  params=4_134_606,
  madds=239.17e6,
  paper_params=4.1e6,
  paper_madds=256e6,
  paper_top1=75.8,
  paper_top5=92.8,
)
_add(
  "mixnet_m",
  M,
  params=5_014_382,
  madds=339.17e6,
  dropout_rate=0.25,
  paper_params=5.0e6,
  paper_madds=360e6,
  paper_top1=77.0,
  paper_top5=93.3,
)
_add(
  "mixnet_l",
  M,
  width=1.3,
  params=7_329_252,
  madds=555.25e6,
  dropout_rate=0.25,
  paper_params=7.3e6,
  paper_madds=565e6,
  paper_top1=78.9,
  paper_top5=94.2,
)
_add("mixnet_xl", M, width=1.6, depth=1.2, params=11_896_768, madds=904.01e6, dropout_rate=0.25)
_add("mixnet_xxl", M, width=2.4, depth=1.3, params=23_961_752, madds=1992.73e6, dropout_rate=0.25)
families.add("mixnet_tiny", TINY, params=174_504, madds=1_381_888.0, image_size=32, crop_padding=0)
