"""MnasFPN and NAS-FPNLite on mobile bodies.

Suffixes are the numbers of cells other than 4, or the multiplier of all channels but the
predictor's. Logit 0 of an anchor is the background's. tiny is this project's own.
Source: Chen et al. 2020 (arXiv 1912.01106) and its code; NAS-FPNLite: Ghiasi et al. 2019
(1904.07392).
"""

import dataclasses
import functools

from effnets.models import detector, mnasfpn

_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_add = functools.partial(
  detector.add,
  paper="1912.01106",
  num_classes=91,
  image_size=320,
  head="tower",
  head_width=64,
  head_repeats=4,
  head_bias=False,
  head_momentum=0.997,
  head_epsilon=1e-3,
  max_level=6,
  anchor_scale=3.0,
  aspect_first=True,
  activation="relu6",
  momentum=0.99,
  epsilon=0.01,
  **_HALF,
)
_mnasfpn = functools.partial(_add, pyramid="mnasfpn", width=48)

_mnasfpn(
  "mnasfpn_mobilenetv2",
  backbone="mobilenetv2",
  repeats=4,
  params=2_455_655,
  madds=918.6e6,
  paper_params=2.50e6,
  paper_madds=0.92e9,
  paper_ap=26.1,
)
for _cells, _params, _madds in ((3, 2_337_575, 872.7e6), (5, 2_573_735, 964.4e6)):
  _mnasfpn(
    f"mnasfpn_mobilenetv2_{_cells}",
    backbone="mobilenetv2",
    repeats=_cells,
    params=_params,
    madds=_madds,
  )
_small = mnasfpn.Spec().scaled(0.7)
_mnasfpn(
  "mnasfpn_mobilenetv2_070",
  backbone="mobilenetv2",
  backbone_width=0.7,
  repeats=4,
  blocks=_small.blocks,
  params=1_258_839,
  madds=568.5e6,
  paper_params=1.29e6,
  paper_ap=23.8,
  **{**_HALF, "width": _small.width},
)
for _body, _params, _madds, _ap in (
  ("mobilenetv3_large", 3_416_855, 767.29e6, 25.5),
  ("mnasnet_b1", 3_335_119, 948.06e6, 24.6),
  ("mnasnet_d1", 2_591_235, 2282.94e6, None),
  ("mnasnet_d1_320", 5_897_359, 4002.19e6, None),
):
  _mnasfpn(
    f"mnasfpn_{_body}", backbone=_body, repeats=4, params=_params, madds=_madds, paper_ap=_ap
  )
_add(
  "nasfpnlite_mobilenetv2",
  backbone="mobilenetv2",
  pyramid="nasfpn",
  width=64,
  repeats=6,
  bias=False,
  max_level=7,
  params=2_120_343,
  madds=819.39e6,
  paper_params=2.16e6,
)
_mnasfpn(
  "mnasfpn_tiny",
  backbone="mobilenetv3_tiny",
  repeats=2,
  blocks=tuple(dataclasses.replace(block, expand=block.expand // 2) for block in mnasfpn.FOUND),
  params=170_351,
  madds=34.0e6,
  **{"width": 32, "num_classes": 11, "image_size": 128, "head_width": 32, "head_repeats": 2},
  # One tower of 32 channels for both learns where a digit is, not which one. Slower averages would
  # lag behind runs of hundreds of steps.
  **{"head": "towers", "head_momentum": 0.9, "epsilon": 1e-3},
)
