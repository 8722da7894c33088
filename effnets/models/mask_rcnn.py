"""Mask R-CNN: proposals on a pyramid, then classes, boxes and masks of regions cut from it.

The networks alone. Which regions are cut, and how, is the caller's: `MaskRcnn.__call__` takes it as
a function. Logit 0 of a region is the background's. Names of parameters:

  proposal_head/{conv_i,norm_i_l,predict_score,predict_box}
  box_head/{conv_i,norm_i,dense_i,dense_norm_i,predict_class,predict_box}
  mask_head/{conv_i,norm_i,upsample,upsample_norm,predict}

Source: He et al. 2017 (arXiv 1703.06870), as in the TPU code; with SpineNet: Du et al. 2020
(1912.05027).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from effnets import errors, ops
from effnets.models import bodies, detector, heads, initialize, layers, network, pyramids

_Keys = Mapping[str, Key[Array, " b"]] | None
_Levels = Sequence[Float[Array, "b _h _w _c"]]

Regions = Callable[
  [_Levels, _Levels, _Levels],
  tuple[Float[Array, "b n 7 7 c"], Float[Array, "b m 14 14 c"] | None, Any],
]
"""From features, scores and box regressions of all levels to the regions' features (without the
second ones no masks are computed) and whatever the caller wants to know of them afterwards."""

BOX_CROP, MASK_CROP = 7, 14
"""Height and width of a region's features."""


@dataclasses.dataclass(frozen=True)
class RegionSpec:
  """The heads. width: channels. proposal_repeats, box_repeats, mask_repeats: convolutions before
  each prediction. dense: units of the box head's hidden layers. activation: of all.
  """

  width: int = 256
  proposal_repeats: int = 1
  box_repeats: int = 4
  mask_repeats: int = 4
  dense: tuple[int, ...] = (1024,)
  activation: str = "relu"


def _apart(x: Float[Array, "b n h w c"], layer: Callable[[Array], Array]) -> Array:
  """Returns what `layer` makes of every region; a norm before or after keeps the images apart."""
  y = layer(x.reshape(-1, *x.shape[2:]))
  return y.reshape(*x.shape[:2], *y.shape[1:])


class _Convolutions(nn.Module):
  """Convolutions with bias, norm and activation over regions."""

  spec: RegionSpec
  settings: layers.Settings

  def _convolve(self, x: Array, repeats: int, train: bool) -> Array:
    for index in range(repeats):
      conv = layers.Conv(
        self.spec.width, 3, bias=True, settings=self.settings, name=f"conv_{index}"
      )
      norm = layers.BatchNorm(self.spec.activation, self.settings, alone=True, name=f"norm_{index}")
      x = norm(_apart(x, conv), train)
    return x

  def _dense(self, x: Array, units: int, name: str, **fields: Any) -> Array:
    """Returns a dense layer's values for `b n d`, in the compute dtype."""
    layer = layers.Conv(units, bias=True, settings=self.settings, name=name, **fields)
    return layer(x[:, :, None])[:, :, 0]


class BoxHead(_Convolutions):
  """Class logits and a box regression per class of every region."""

  num_classes: int = 91

  @nn.compact
  def __call__(
    self, regions: Float[Array, "b n 7 7 c"], train: bool = False
  ) -> tuple[Float[Array, "b n k"], Float[Array, "b n 4*k"]]:
    """Returns logits and regressions, float32."""
    x = self._convolve(regions, self.spec.box_repeats, train)
    x = x.reshape(*x.shape[:2], -1)
    for index, units in enumerate(self.spec.dense):
      x = self._dense(x, units, f"dense_{index}", start="fan_in")
      norm = layers.BatchNorm(
        self.spec.activation, self.settings, alone=True, name=f"dense_norm_{index}"
      )
      x = norm(x, train)
    classes = self._dense(x, self.num_classes, "predict_class", start=0.01)
    boxes = self._dense(x, 4 * self.num_classes, "predict_box", start=0.001)
    return classes.astype(jnp.float32), boxes.astype(jnp.float32)


class Doubled(nn.Module):
  """Transposed 2x2 convolution of stride 2: every pixel becomes four, with a bias."""

  channels: int
  settings: layers.Settings

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w d"]:
    """Returns `x` at twice the size. Its kernel is HWIO."""
    inputs, dtype = x.shape[-1], self.settings.dtype
    shape = (2, 2, inputs, self.channels)
    kernel = initialize.parameter(self, "kernel", initialize.kernel_start("fan_out", shape), shape)
    bias = initialize.parameter(self, "bias", initialize.Constant(0.0), (self.channels,))
    # No pixel of the result has two of the input, so it is one product and a change of order.
    flat = kernel.transpose(2, 0, 1, 3).reshape(1, 1, inputs, -1)
    y = ops.conv(x.astype(dtype), flat.astype(dtype), plain=self.settings.plain)
    batch, height, width, _ = y.shape
    y = y.reshape(batch, height, width, 2, 2, self.channels).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(batch, 2 * height, 2 * width, self.channels) + bias.astype(dtype)


class MaskHead(_Convolutions):
  """A mask per class of every region, twice as large as its features."""

  num_classes: int = 91

  @nn.compact
  def __call__(
    self, regions: Float[Array, "b m 14 14 c"], train: bool = False
  ) -> Float[Array, "b m 28 28 k"]:
    """Returns mask logits, float32."""
    x = self._convolve(regions, self.spec.mask_repeats, train)
    x = _apart(x, Doubled(self.spec.width, self.settings, name="upsample"))
    norm = layers.BatchNorm(self.spec.activation, self.settings, alone=True, name="upsample_norm")
    x = norm(x, train)
    predict = layers.Conv(self.num_classes, bias=True, settings=self.settings, name="predict")
    return _apart(x, predict).astype(jnp.float32)


class MaskRcnn(detector.Pyramidal):
  """Proposals for the anchors of every level, and classes, boxes and masks of regions.

  num_classes: logits of a region, the background's included. regions: the heads, as data. boxes,
  masks: how many regions an image has where the caller does not say which (see `__call__`). The
  others: see `detector.Pyramidal`.
  """

  regions: RegionSpec = RegionSpec()
  boxes: int = 1000
  masks: int = 100

  def setup(self) -> None:
    super().setup()
    spec, settings = self.regions, self.settings()
    count = self.anchor_grid.counts()[0]
    self.proposal_head = heads.Tower(
      self.levels,
      spec.width,
      spec.proposal_repeats,
      (("predict_score", count, 0.0), ("predict_box", 4 * count, 0.0)),
      spec.activation,
      separable=False,
      start=0.01,
      predict_kernel=1,
      settings=settings,
      name="proposal_head",
    )
    self.box_head = BoxHead(spec, settings, self.num_classes)
    self.mask_head = MaskHead(spec, settings, self.num_classes)

  def propose(
    self, features: _Levels, *, train: bool = False
  ) -> tuple[list[Float[Array, "b _h _w _a"]], list[Float[Array, "b _h _w _r"]]]:
    """Returns scores (logits) and box regressions of every level's anchors, float32."""
    found = [self.proposal_head(x, place, train) for place, x in enumerate(features)]
    scores, boxes = ([y.astype(jnp.float32) for y in part] for part in zip(*found, strict=True))
    return scores, boxes

  def classify(
    self, regions: Float[Array, "b n 7 7 c"], *, train: bool = False
  ) -> tuple[Float[Array, "b n k"], Float[Array, "b n 4*k"]]:
    """Returns class logits and box regressions of regions, a box for each class, float32."""
    return self.box_head(regions, train)

  def mask(
    self, regions: Float[Array, "b m 14 14 c"], *, train: bool = False
  ) -> Float[Array, "b m 28 28 k"]:
    """Returns mask logits of regions, a mask for each class, float32."""
    return self.mask_head(regions, train)

  def __call__(
    self,
    images: Float[Array, "b h w 3"],
    *,
    train: bool = False,
    keys: _Keys = None,
    regions: Regions | None = None,
  ) -> dict[str, Any]:
    """Returns `features`, `scores` and `proposals` of every level; `classes`, `boxes`, `masks`.

    And `regions`: what the caller's function wants to know of them.

    Args:
      images: normalised. train: batch moments instead of running ones. keys: of `drop_path`.
      regions: chooses and cuts regions; None takes `self.boxes` and `self.masks` empty ones, which
        is enough to make variables and to count.
    """
    features = self.features(images, train=train, keys=keys)
    scores, proposals = self.propose(features, train=train)
    found = {"features": features, "scores": scores, "proposals": proposals}
    if regions is None:
      shape = (images.shape[0], features[0].shape[-1])
      box_regions, mask_regions = (
        jnp.zeros((shape[0], count, side, side, shape[1]), features[0].dtype)
        for count, side in ((self.boxes, BOX_CROP), (self.masks, MASK_CROP))
      )
    else:
      box_regions, mask_regions, found["regions"] = regions(features, scores, proposals)
    found["classes"], found["boxes"] = self.classify(box_regions, train=train)
    if mask_regions is not None:
      found["masks"] = self.mask(mask_regions, train=train)
    return found


def build(
  *,
  num_classes: int = 91,
  image_size: int = 1024,
  backbone: str = "resnet50",
  backbone_padding: str = "",
  backbone_activation: str = "",
  drop_path_rate: float = 0.0,
  pyramid: str = "retinanet",
  width: int = 256,
  region_width: int = 256,
  proposal_repeats: int = 1,
  region_repeats: int = 4,
  dense: tuple[int, ...] = (1024,),
  min_level: int = 2,
  max_level: int = 6,
  anchor_scale: float = 8.0,
  boxes: int = 1000,
  masks: int = 100,
  activation: str = "relu",
  padding: str = "SAME",
  plain: bool = False,
  dtype: Any = "float32",
  momentum: float = 0.99,
  epsilon: float = 1e-3,
  group: ops.Group = ops.Group(),  # noqa: B008 - immutable
  remat: str = "none",
  frozen_blocks: int = 0,
  norm_sets: int = 1,
) -> MaskRcnn:
  """Returns a Mask R-CNN.

  Args:
    region_width, proposal_repeats, region_repeats, dense: see `RegionSpec`; region_repeats of box
      and mask head alike. boxes, masks: see `MaskRcnn`.
    The others: see `detector.build`.
  Raises: UserError for impossible values.
  """
  own = {
    "image_size": image_size,
    "padding": backbone_padding or padding,
    "momentum": momentum,
    "epsilon": epsilon,
    "drop_path_rate": drop_path_rate,
    **({"activation": backbone_activation} if backbone_activation else {}),
  }
  if pyramid not in detector.PYRAMIDS:
    raise errors.unknown("config.model.pyramid", pyramid, "a pyramid", detector.PYRAMIDS)
  levels = tuple(range(min_level, max_level + 1))
  for key, value in (("num_classes", num_classes), ("width", width), ("image_size", image_size)):
    if value < 1:
      raise errors.UserError(f"config.model.{key}={value!r} should be at least 1; nearest: 1.")
  if remat not in network.REMAT:
    raise errors.unknown("config.model.remat", remat, "a valid choice", network.REMAT)
  return MaskRcnn(
    body=bodies.create(backbone, own),
    pyramid=detector.PyramidSpec(
      pyramid, style=pyramids.Style(width, activation=activation, separable=False)
    ),
    anchor_grid=ops.anchors.Grid(levels, anchor_scale, 1),
    regions=RegionSpec(
      region_width, proposal_repeats, region_repeats, region_repeats, dense, activation
    ),
    boxes=boxes,
    masks=masks,
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


_add = functools.partial(detector.add, construct=build, num_classes=91, task="instances")

for _depth, _params, _madds, _printed in (
  (50, 46_367_089, 378.903e9, (None, None, None)),
  (101, 65_359_217, 456.481e9, (63e6, 164e9, 42.9)),
):
  _add(
    f"mask_rcnn_r{_depth}",
    backbone=f"resnet{_depth}",
    backbone_padding="SYMMETRIC",
    image_size=1024,
    paper="1703.06870",
    params=_params,
    madds=_madds,
    **dict(zip(("paper_params", "paper_madds", "paper_ap"), _printed, strict=True)),
  )
for _size, _pixels, _params, _madds, _ap, _own in (
  ("49s", 640, 13_946_608, 59.703e9, 39.3, {"region_width": 128, "dense": (512,)}),
  ("49", 640, 40_753_521, 215.446e9, 42.9, {}),
  ("96", 1024, 55_185_009, 314.134e9, 47.2, {}),
  ("143", 1280, 79_169_649, 497.626e9, 48.8, {}),
  (
    "190",
    1536,
    176_198_465,
    2074.04e9,
    52.2,
    {"region_width": 384, "proposal_repeats": 7, "region_repeats": 7, "anchor_scale": 5.0},
  ),
):
  _add(
    f"mask_rcnn_spinenet_{_size}",
    backbone=f"spinenet_{_size}",
    image_size=_pixels,
    pyramid="none",
    paper="1912.05027",
    params=_params,
    madds=_madds,
    paper_ap=_ap,
    **{"min_level": 3, "max_level": 7, "anchor_scale": 3.0, **_own},
  )
for _name, _body, _params, _madds, _own in (
  (
    "fpn_tiny",
    "efficientnet_tiny",
    243_049,
    137.01e6,
    {"width": 32, "min_level": 2, "max_level": 5},
  ),
  (
    "spinenet_tiny",
    "spinenet_tiny",
    339_577,
    125.26e6,
    {"pyramid": "none", "min_level": 3, "max_level": 6},
  ),
):
  _add(
    f"mask_rcnn_{_name}",
    backbone=_body,
    image_size=128,
    num_classes=11,
    params=_params,
    madds=_madds,
    anchor_scale=3.0,
    region_repeats=1,
    dense=(64,),
    region_width=32,
    boxes=64,
    masks=16,
    **_own,
  )
