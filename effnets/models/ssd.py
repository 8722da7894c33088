"""SSD on bodies of the zoo: two of their maps, four smaller ones, a predictor for each.

The first map is what the last stage that strides expands its input to, the second the body's last
convolution. Logit 0 of an anchor is the background's. mix35 and mix357 have mixed kernels in the
body.
Source: Sandler et al. 2018 (arXiv 1801.04381), section 6.2; Howard et al. 2019 (1905.02244), 6.3;
Tan et al. 2019 (1807.11626); Tan and Le 2019 (1907.09595), table 1.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn

from effnets import errors, ops
from effnets.models import bodies, detector, stage_tables


def taps(module: nn.Module) -> dict[int, str]:
  """Returns the end points of the two coarsest levels of a body.

  >>> from effnets import models
  >>> taps(models.create("mobilenetv2"))
  {4: 'block_13/expand', 5: 'head_1x1'}
  """
  rows = stage_tables.unroll(module.rows)
  ends = module.level_ends()
  top = max(ends)
  first = max(index for index, row in enumerate(rows) if row.stride > 1)
  expands = rows[first].op == "mbconv" and rows[first].expand != 1
  fine = f"block_{first}/expand" if expands else ends[top - 1]
  return {top - 1: fine, top: "head_1x1" if module.head else ends[top]}


def build(
  *,
  num_classes: int = 91,
  image_size: int = 320,
  backbone: str = "mobilenetv2",
  backbone_width: float = 0.0,
  backbone_kernels: tuple[int, ...] = (),
  backbone_head: int = 0,
  halved: bool = False,
  drop_path_rate: float = 0.0,
  extras: tuple[int, ...] = (512, 256, 256, 128),
  smallest: float = 0.2,
  largest: float = 0.95,
  reduced: bool = True,
  lite: bool = True,
  activation: str = "relu6",
  class_start: float = -4.6,
  padding: str = "SAME",
  plain: bool = False,
  dtype: Any = "float32",
  momentum: float = 0.97,
  epsilon: float = 1e-3,
  group: ops.Group = ops.Group(),  # noqa: B008 - immutable
  remat: str = "none",
  frozen_blocks: int = 0,
  norm_sets: int = 1,
) -> detector.Detector:
  """Returns an SSD.

  Args:
    backbone, backbone_width, backbone_kernels: see `detector.build`. backbone_head: channels of
      its last convolution, 0 for its own. halved: see `stage_tables.halve`; the last convolution
      too.
    extras: channels of the further maps. smallest, largest, reduced: see `ops.anchors.Default`.
    lite: predictors are separable. activation: of maps and predictors. class_start: bias of the
      class predictions.
    The others: see `detector.Detector`.
  Raises: UserError for impossible values.
  """
  own = {
    "image_size": image_size,
    "padding": padding,
    "momentum": momentum,
    "epsilon": epsilon,
    "drop_path_rate": drop_path_rate,
    **({"width": backbone_width} if backbone_width else {}),
    **({"kernels": backbone_kernels} if backbone_kernels else {}),
    **({"head": backbone_head} if backbone_head else {}),
  }
  body = bodies.create(backbone, own)
  if not hasattr(body.module, "rows"):
    raise errors.UserError(f"config.model.backbone={backbone!r} has no stages to take maps from.")
  if any(channels < 2 for channels in extras):
    raise errors.UserError(f"config.model.extras={extras!r} should be whole numbers above 1.")
  module = body.module
  if halved:
    module = module.clone(rows=stage_tables.halve(module.rows), head=module.head // 2)
  chosen = taps(module)
  levels = (*chosen, *(max(chosen) + 1 + index for index in range(len(extras))))
  return detector.check(
    detector.Detector(
      body=bodies.Body(module, tuple(chosen.items())),
      pyramid=detector.PyramidSpec("none"),
      head=detector.HeadSpec(
        "ssd", activation=activation, class_start=class_start, extras=tuple(extras), lite=lite
      ),
      anchor_grid=ops.anchors.Default(levels, smallest, largest, reduced),
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


@dataclasses.dataclass(frozen=True)
class Member:
  """A body's exact counts at 320 pixels and 91 logits, and the figures printed for it."""

  params: int
  madds: float
  paper_params: float | None = None
  paper_madds: float | None = None
  paper_ap: float | None = None


_add = functools.partial(
  detector.add,
  construct=build,
  num_classes=91,
  image_size=320,
  mean=(0.5, 0.5, 0.5),
  std=(0.5, 0.5, 0.5),
)


def _register(name: str, member: Member, **known: Any) -> None:
  _add(f"ssdlite_{name}", **dataclasses.asdict(member), **known)


_register(
  "mobilenetv2",
  Member(4_500_543, 804.4e6, 4.3e6, 0.80e9, 22.1),
  paper="1801.04381",
  backbone="mobilenetv2",
  momentum=0.9997,
)
for _size, _halved, _full in (
  (
    "large",
    Member(3_248_255, 506.6e6, 3.22e6, 0.51e9, 22.0),
    Member(5_006_735, 613.14e6, 4.97e6, 0.62e9, 22.0),
  ),
  (
    "small",
    Member(1_785_743, 162.3e6, 1.77e6, 0.16e9, 16.1),
    Member(2_518_271, 210.42e6, 2.49e6, 0.21e9, 16.0),
  ),
):
  _body = f"mobilenetv3_{_size}"
  _register(_body, _halved, paper="1905.02244", backbone=_body, halved=True)
  _register(f"{_body}_full", _full, paper="1905.02244", backbone=_body)
for _suffix, _width, _head, _member in (
  ("", 0.0, 0, Member(4_912_181, 837.82e6, 4.9e6, 0.84e9, 23.0)),
  ("_050", 0.5, 640, Member(1_690_173, 290.41e6, 1.68e6, 0.29e9, 18.5)),
  ("_035", 0.35, 448, Member(1_032_335, 177.28e6, 1.02e6, 0.18e9, 15.6)),
):
  _factor = _width or 1.0
  _register(
    f"mnasnet_a1{_suffix}",
    _member,
    paper="1807.11626",
    backbone="mnasnet_a1",
    backbone_width=_width,
    backbone_head=_head,
    extras=tuple(int(c * _factor) for c in (512, 256, 256, 128)),
  )
for _version, _rows in (
  (
    "1",
    (
      ((), 5_246_911, 1322.43e6, 5.12e6, 1.31e9, 21.7),
      ((5,), 5_326_271, 1385.5e6, 5.20e6, 1.38e9, 22.3),
      ((3, 5), 5_286_591, 1353.97e6, 5.16e6, 1.35e9, 22.2),
      ((7,), 5_445_311, 1480.12e6, 5.32e6, 1.47e9, 21.8),
      ((3, 5, 7), 5_339_087, 1394.53e6, 5.22e6, 1.39e9, 22.4),
    ),
  ),
  (
    "2",
    (
      ((5,), 4_614_719, 879.56e6, 4.47e6, 0.87e9, 22.1),
      ((3, 5), 4_557_631, 841.98e6, 4.41e6, 0.83e9, 22.1),
      ((7,), 4_785_983, 992.3e6, 4.64e6, 0.98e9, 21.2),
      ((3, 5, 7), 4_633_711, 891.13e6, 4.49e6, 0.88e9, 22.3),
    ),
  ),
):
  for _kernels, _params, _madds, *_printed in _rows:
    _kind = "mix" if len(_kernels) > 1 else "k"
    _mixed = f"_{_kind}{''.join(map(str, _kernels))}" if _kernels else ""
    _register(
      f"mobilenetv{_version}{_mixed}",
      Member(_params, _madds, *_printed),
      paper="1907.09595",
      backbone=f"mobilenetv{_version}",
      backbone_kernels=_kernels,
    )
_register("mixnet_s", Member(5_135_573, 716.42e6), backbone="mixnet_s")
for _name, _body, _member in (
  ("mnasnet_tiny", "mnasnet_tiny", Member(147_971, 27.646e6)),
  ("mixnet_tiny", "mixnet_tiny", Member(85_835, 31.436e6)),
  ("tiny", "mobilenetv3_tiny", Member(119_147, 36.87e6)),
):
  _register(_name, _member, num_classes=11, image_size=128, backbone=_body, extras=(64, 32))
