"""EfficientDet: EfficientNet, BiFPN and separable heads, scaled together.

tiny is this project's own, for scenes of 96 to 128 pixels.
Source: Tan et al. 2020 (arXiv 1911.09070), table 1 as released: widths are multiples of 8, d5 has 7
cells, d6 and d7 share everything but the image size and the anchors' scale; lite0 to lite4: the
code.
"""

import dataclasses

from effnets.models import detector


@dataclasses.dataclass(frozen=True)
class Member:
  """One row of the scaling table. params, madds: with 90 classes at `image_size`.

  backbone: EfficientNet's size. width, repeats: channels and cells of the BiFPN. head_repeats:
  convolutions before the prediction. paper_*: as printed: parameters, multiply-adds, AP on COCO
  test-dev (lite: on val2017).
  """

  backbone: str
  image_size: int
  width: int
  repeats: int
  head_repeats: int
  anchor_scale: float
  params: int
  madds: float
  paper_params: float | None = None
  paper_madds: float | None = None
  paper_ap: float | None = None


MEMBERS = {
  "d0": Member("b0", 512, 64, 3, 3, 4.0, 3_880_067, 2.4923e9, 3.9e6, 2.5e9, 34.6),
  "d1": Member("b1", 640, 88, 4, 3, 4.0, 6_625_898, 6.0034e9, 6.6e6, 6.1e9, 40.5),
  "d2": Member("b2", 768, 112, 5, 3, 4.0, 8_097_039, 10.8325e9, 8.1e6, 11e9, 43.9),
  "d3": Member("b3", 896, 160, 6, 4, 4.0, 12_032_296, 24.5688e9, 12e6, 25e9, 47.2),
  "d4": Member("b4", 1024, 224, 7, 4, 4.0, 20_723_675, 54.5837e9, 21e6, 55e9, 49.7),
  "d5": Member("b5", 1280, 288, 7, 4, 4.0, 33_653_315, 134.1339e9, 34e6, 135e9, 51.5),
  "d6": Member("b6", 1280, 384, 8, 5, 4.0, 51_871_782, 224.1215e9, 52e6, 226e9, 52.6),
  "d7": Member("b6", 1536, 384, 8, 5, 5.0, 51_871_782, 322.7316e9, 52e6, 325e9, 53.7),
  "d7x": Member("b7", 1536, 384, 8, 5, 4.0, 77_147_166, 407.6283e9, 77e6, 410e9, 55.1),
}
LITE_MEMBERS = {
  "lite0": Member("lite0", 320, 64, 3, 3, 3.0, 3_243_470, 0.9736e9, None, None, 26.41),
  "lite1": Member("lite1", 384, 88, 4, 3, 3.0, 4_248_318, 1.9666e9, None, None, 31.50),
  "lite2": Member("lite2", 448, 112, 5, 3, 3.0, 5_252_334, 3.3713e9, None, None, 35.06),
  "lite3": Member("lite3", 512, 160, 6, 4, 4.0, 8_350_862, 7.4802e9, None, None, 38.77),
  "lite3x": Member("lite3", 640, 200, 6, 4, 3.0, 9_280_862, 13.9781e9, None, None, 42.64),
  "lite4": Member("lite4", 640, 224, 7, 4, 4.0, 15_130_894, 20.1681e9, None, None, 43.18),
}
# Learned weights of the largest ones were unstable, the lite ones do without for quantisation.
SUMMED = ("d6", "d7", "d7x", *LITE_MEMBERS)


def _register(name: str, member: Member, **known) -> None:
  own = dataclasses.asdict(member)
  own["backbone"] = f"efficientnet_{member.backbone}"
  detector.add(
    f"efficientdet_{name}",
    fusion="sum" if name in SUMMED else "fast",
    # The code leaves out every skip of the smallest body's blocks.
    drop_path_rate=0.0 if name in ("d0", "lite0", "tiny") else 0.2,
    **own,
    **known,
  )


for _name, _member in MEMBERS.items():
  _register(_name, _member, paper="1911.09070", max_level=8 if _name == "d7x" else 7)
for _name, _member in LITE_MEMBERS.items():
  _register(
    _name,
    _member,
    paper="1911.09070",
    activation="relu6",
    mean=(127 / 255,) * 3,
    std=(128 / 255,) * 3,
  )
_register(
  "tiny",
  Member("tiny", 128, 32, 2, 2, 3.0, 97_970, 33.77e6),
  num_classes=10,
  min_level=3,
  max_level=6,
)
