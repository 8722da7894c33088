"""RetinaNet: ResNet with a top-down pyramid or NAS-FPN, or SpineNet alone; dense heads.

Logit 0 of an anchor is the background's, always trained as negative. The mobile ones have separable
heads. The paper prints 11.9 M parameters for 49s, which its code has not.
Source: Lin et al. 2017 (arXiv 1708.02002), Ghiasi et al. 2019 (1904.07392) and Du et al. 2020
(1912.05027), as in the TPU code.
"""

import functools

from effnets.models import detector

_add = functools.partial(
  detector.add,
  num_classes=91,
  width=256,
  head_repeats=4,
  separable=False,
  activation="relu",
  momentum=0.997,
  epsilon=1e-4,
)

for _depth, _pixels, _params, _madds, _printed, _ap in (
  (50, 640, 34_091_159, 96.880e9, 97e9, 39.2),
  (101, 1024, 53_083_287, 325.591e9, None, None),
  (152, 1280, 68_726_935, 629.952e9, None, None),
  (200, 1280, 73_207_959, 744.037e9, None, None),
):
  _add(
    f"retinanet_r{_depth}",
    backbone=f"resnet{_depth}",
    backbone_padding="SYMMETRIC",
    image_size=_pixels,
    pyramid="retinanet",
    repeats=1,
    paper="1708.02002",
    params=_params,
    madds=_madds,
    paper_params=34e6 if _depth == 50 else None,
    paper_madds=_printed,
    paper_ap=_ap,
  )
_add(
  "retinanet_r50_nasfpn",
  backbone="resnet50",
  backbone_padding="SYMMETRIC",
  image_size=640,
  pyramid="nasfpn",
  repeats=7,
  paper="1904.07392",
  params=60_078_743,
  madds=140.262e9,
)
_add(
  "retinanet_tiny",
  backbone="resnet_tiny",
  backbone_padding="SYMMETRIC",
  image_size=128,
  num_classes=11,
  pyramid="retinanet",
  repeats=1,
  max_level=6,
  anchor_scale=3.0,
  width=32,
  head_repeats=2,
  params=254_615,
  madds=61.06e6,
)

for _size, _pixels, _width, _repeats, _scale, _params, _madds, *_printed in (
  ("49s", 640, 128, 4, 3.0, 11_265_942, 30.7785e9, 11.9e6, 33.8e9, 41.5),
  ("49", 640, 256, 4, 3.0, 28_543_383, 85.2816e9, 28.5e6, 85.4e9, 44.3),
  ("96", 1024, 256, 4, 3.0, 42_974_871, 265.024e9, 43.0e6, 265.4e9, 48.6),
  ("143", 1280, 256, 4, 4.0, 66_959_511, 523.338e9, 66.9e6, 524.4e9, 50.7),
  ("143l", 1280, 256, 4, 4.0, 107_508_152, 719.086e9, None, None, None),
  ("190", 1280, 512, 7, 4.0, 163_637_351, 1881.66e9, 163.6e6, 1885e9, 52.1),
  ("r0_sp53", 640, 256, 4, 3.0, 26_056_215, 94.770e9, None, None, 40.7),
):
  _add(
    f"retinanet_spinenet_{_size}",
    backbone=f"spinenet_{_size}",
    image_size=_pixels,
    pyramid="none",
    paper="1912.05027",
    params=_params,
    madds=_madds,
    **dict(zip(("paper_params", "paper_madds", "paper_ap"), _printed, strict=True)),
    **{"width": _width, "head_repeats": _repeats, "anchor_scale": _scale},
  )
for _graph, _params, _madds in (("tiny", 213_711, 43.704e6), ("tiny_decreased", 214_038, 43.9e6)):
  _add(
    f"retinanet_spinenet_{_graph}",
    backbone=f"spinenet_{_graph}",
    image_size=128,
    num_classes=11,
    pyramid="none",
    params=_params,
    madds=_madds,
    max_level=6,
    anchor_scale=3.0,
    **{"width": 32, "head_repeats": 2, "separable": True},
  )
for _size, _pixels, _width, _params, _madds, _ap in (
  ("49", 384, 48, 2_337_579, 980.86e6, 28.6),
  ("49s", 384, 40, 1_030_653, 495.89e6, 24.3),
  ("49xs", 256, 24, 872_711, 165.76e6, 17.5),
):
  _add(
    f"retinanet_spinenet_mobile_{_size}",
    backbone=f"spinenet_mobile_{_size}",
    image_size=_pixels,
    pyramid="none",
    paper="1912.05027",
    params=_params,
    madds=_madds,
    paper_ap=_ap,
    anchor_scale=3.0,
    **{"width": _width, "separable": True, "activation": "swish"},
  )
