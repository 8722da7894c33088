"""BagNets: ResNets whose every output sees a small patch of the image, and nothing beside it.

All convolutions are VALID, so that output i of a row sees the window `field` says, to the pixel.
The form is that of Saccader's code: a stem of one 3x3 convolution, the last group does not stride,
and the blocks' shortcuts have no norm of their own (`official_shortcut_bn`).

Source: Brendel and Bethge 2019 (arXiv 1904.00760); Elsayed et al. 2019 (arXiv 1908.07644), section
2.1, and its official code.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from effnets import errors, ops
from effnets.models import common, layers, network, registry
from effnets.ops import glimpses

_Keys = Mapping[str, Key[Array, " b"]] | None


class Bottleneck(nn.Module):
  """1x1, k x k and 1x1 convolution without padding, added to what they began with.

  channels: of the inner convolutions, a quarter of the output's (at expansion 4). kernel: of the
  middle one, which strides. official: where shapes change, the shortcut has no norm; the norm that
  it would have comes behind the branch's own one, whose scale starts at 0.
  """

  channels: int
  kernel: int
  stride: int
  expansion: int
  official: bool
  settings: layers.Settings

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 o"]:
    """Returns the activated sum."""
    settings, outputs = self.settings, self.channels * self.expansion
    same = {"settings": settings, "start": "glorot"}
    y = layers.ConvNorm(self.channels, activation="relu", name="reduce", **same)(x, train)
    y = layers.ConvNorm(
      self.channels, self.kernel, self.stride, activation="relu", name="spatial", **same
    )(y, train)
    y = layers.ConvNorm(outputs, scale=0.0, name="project", **same)(y, train)
    cut = (self.kernel - 1) // 2
    # One axis at a time: both at once are a gather where the batch has no number yet.
    for axis in (1, 2):
      x = jax.lax.slice_in_dim(x, cut, x.shape[axis] - cut, axis=axis)
    if self.stride > 1 or x.shape[-1] != outputs:
      if self.official:
        x = layers.Conv(outputs, 1, self.stride, name="shortcut", **same)(x)
        y = layers.BatchNorm(settings=settings, alone=True, name="shortcut_norm")(y, train)
      else:
        x = layers.ConvNorm(outputs, 1, self.stride, name="shortcut", **same)(x, train)
    return nn.relu(x + y)


class BagNet(common.Common, kw_only=True):
  """Stem, groups of bottlenecks, logits of every patch, their mean.

  repeats, planes, strides, kernel3: of each group: blocks, inner channels, stride of the first
  block, and how many blocks from the first have a 3x3 convolution, the others a 1x1 one.
  stem: channels of the first convolution. expansion: a block's outputs over its inner channels.
  low_dimension: a 1x1 convolution to a quarter of the channels before the logits.
  dropout_rate: of the features' mean. remat: `none`, or `block` to keep each block's input alone.
  The others: see `common.Common`.
  """

  repeats: tuple[int, ...] = (3, 4, 6, 3)
  planes: tuple[int, ...] = (64, 128, 256, 512)
  strides: tuple[int, ...] = (2, 2, 2, 1)
  kernel3: tuple[int, ...] = (2, 2, 2, 2)
  stem: int = 64
  expansion: int = 4
  low_dimension: bool = False
  official_shortcut_bn: bool = True
  num_classes: int = 1001
  image_size: int = 224
  dropout_rate: float = 0.0
  drop_path_rate: float = 0.0
  padding: str = "VALID"
  momentum: float = 0.9
  epsilon: float = 1e-5

  def setup(self) -> None:
    settings = self.settings(padding="VALID")
    same = {"settings": settings, "start": "glorot"}
    self.stem_layer = layers.ConvNorm(self.stem, 3, activation="relu", name="stem", **same)
    block = nn.remat(Bottleneck, static_argnums=(2,)) if self.remat == "block" else Bottleneck
    self.blocks = [
      block(
        planes, taps, stride, self.expansion, self.official_shortcut_bn, settings, name=f"block_{i}"
      )
      for i, (planes, taps, stride) in enumerate(self.table())
    ]
    if self.low_dimension:
      self.low = layers.ConvNorm(self.channels // 4, activation="relu", name="low", **same)
    self.classifier = layers.Conv(self.num_classes, bias=True, name="classifier", **same)

  def table(self) -> list[tuple[int, int, int]]:
    """Returns inner channels, taps and stride of every block."""
    return [
      (planes, 3 if index < spatial else 1, stride if index == 0 else 1)
      for count, planes, stride, spatial in zip(
        self.repeats, self.planes, self.strides, self.kernel3, strict=True
      )
      for index in range(count)
    ]

  @property
  def channels(self) -> int:
    """Of the last block's output."""
    return self.planes[-1] * self.expansion

  @property
  def field(self) -> glimpses.Field:
    """What one output sees.

    >>> BagNet(kernel3=(2, 2, 2, 2)).field, BagNet(kernel3=(1, 1, 0, 0)).field
    (Field(size=77, stride=8), Field(size=9, stride=8))
    """
    return glimpses.field([(3, 1), *((taps, stride) for _, taps, stride in self.table())])

  @property
  def receptive_field(self) -> int:
    """Side of the patch that one output sees, in pixels."""
    return self.field.size

  def grid(self, image_size: int | None = None) -> int:
    """Returns how many outputs stand in a row, for images of the network's own size or another.

    Raises: UserError for an image smaller than the receptive field.
    """
    size = image_size or self.image_size
    if size < self.receptive_field:
      raise errors.UserError(
        f"config.data.image_size={size}: images are smaller than the receptive field of "
        f"{self.receptive_field} pixels; nearest: {self.receptive_field}."
      )
    return self.field.grid(size)

  def frozen_names(self) -> tuple[str, ...]:
    """Returns the top-level names of frozen parameters: none."""
    return ()

  def maps(
    self, images: Float[Array, "b h w 3"], *, train: bool = False
  ) -> dict[str, Float[Array, "b y x c"]]:
    """Returns `features2d`, of the last block, and `what_features2d`, which the logits are of."""
    self.grid(min(images.shape[1:3]))
    x = self.stem_layer(images, train)
    for block in self.blocks:
      x = block(x, train)
    return {"features2d": x, "what_features2d": self.low(x, train) if self.low_dimension else x}

  def logits2d(self, what: Float[Array, "b y x c"]) -> Float[Array, "b y x k"]:
    """Returns the float32 logits of every patch from `what_features2d`."""
    return self.classifier(what).astype(jnp.float32)

  def patches(
    self, images: Float[Array, "b h w 3"], *, train: bool = False
  ) -> dict[str, Float[Array, "b y x c"]]:
    """Returns `maps` and `logits2d`, whose mean over places are the network's logits."""
    ends = self.maps(images, train=train)
    return {**ends, "logits2d": self.logits2d(ends["what_features2d"])}

  def features(
    self, images: Float[Array, "b h w 3"], *, train: bool = False, keys: _Keys = None
  ) -> dict[str, Float[Array, "b *s c"]]:
    """Returns `maps` and `pooled_features` (b c, float32), the mean of the last of them."""
    del keys
    ends = self.maps(images, train=train)
    ends["pooled_features"] = ends["what_features2d"].mean((1, 2), dtype=jnp.float32)
    return ends

  def __call__(
    self, images: Float[Array, "b h w 3"], *, train: bool = False, keys: _Keys = None
  ) -> Float[Array, "b k"]:
    """Returns float32 logits, the mean of all patches'.

    Args: images: normalised. train: batch moments instead of running ones. keys: one key per
      example for `dropout`.
    Raises: UserError for images smaller than the receptive field.
    """
    x = self.features(images, train=train)["pooled_features"]
    if keys is not None and "dropout" in keys and self.dropout_rate > 0:
      x = layers.dropout(x, keys["dropout"], self.dropout_rate)
    # The logits are linear in the features: the mean is taken of what is smaller.
    return self.logits2d(x[:, None, None])[:, 0, 0]


def build(
  *,
  repeats: tuple[int, ...] = (3, 4, 6, 3),
  planes: tuple[int, ...] = (64, 128, 256, 512),
  strides: tuple[int, ...] = (2, 2, 2, 1),
  kernel3: tuple[int, ...] = (2, 2, 2, 2),
  stem: int = 64,
  expansion: int = 4,
  low_dimension: bool = False,
  official_shortcut_bn: bool = True,
  num_classes: int = 1001,
  image_size: int = 224,
  dropout_rate: float = 0.0,
  drop_path_rate: float = 0.0,
  remat: str = "none",
  frozen_blocks: int = 0,
  norm_sets: int = 1,
  padding: str = "VALID",
  plain: bool = False,
  dtype: Any = "float32",
  momentum: float = 0.9,
  epsilon: float = 1e-5,
  group: ops.Group = ops.Group(),  # noqa: B008 - immutable
) -> BagNet:
  """Returns the network; see `BagNet`.

  drop_path_rate, frozen_blocks, padding: 0, 0 and VALID alone, which other networks can change.

  Raises: UserError for impossible values.
  """
  per_group = {"repeats": repeats, "planes": planes, "strides": strides, "kernel3": kernel3}
  for key, value in per_group.items():
    least = 0 if key == "kernel3" else 1
    if len(value) != len(repeats) or not all(_whole(v, least) for v in value):
      raise errors.UserError(
        f"config.model.{key}={value!r} should be a whole number of at least {least} for each of "
        f"the {len(repeats)} groups of config.model.repeats."
      )
  for key, value, only in (
    ("padding", padding.upper(), "VALID"),
    ("drop_path_rate", drop_path_rate, 0.0),
    ("frozen_blocks", frozen_blocks, 0),
  ):
    if value != only:
      raise errors.UserError(
        f"config.model.{key}={value!r}: a network of patches has {only!r}; set it to that."
      )
  check(num_classes, image_size, dropout_rate, momentum, dtype, norm_sets)
  for key, value in (("stem", stem), ("expansion", expansion)):
    if value < 1:
      raise errors.UserError(f"config.model.{key}={value!r} should be at least 1; nearest: 1.")
  if remat not in ("none", "block"):
    raise errors.unknown("config.model.remat", remat, "a valid choice", ("none", "block"))
  made = BagNet(
    **{key: tuple(value) for key, value in per_group.items()},
    stem=stem,
    expansion=expansion,
    low_dimension=low_dimension,
    official_shortcut_bn=official_shortcut_bn,
    num_classes=num_classes,
    image_size=image_size,
    dropout_rate=dropout_rate,
    remat=remat,
    norm_sets=norm_sets,
    plain=plain,
    dtype=dtype,
    momentum=momentum,
    epsilon=epsilon,
    group=group,
  )
  if low_dimension and made.channels % 4:
    raise errors.UserError(
      f"config.model.planes={planes!r}: {made.channels} features have no quarter, which "
      "config.model.low_dimension=True takes."
    )
  return made


def _whole(value: Any, least: int) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check(
  num_classes: int,
  image_size: int,
  dropout_rate: float,
  momentum: float,
  dtype: Any,
  norm_sets: int = 1,
) -> None:
  """Checks what networks of glimpses share. Raises: UserError for impossible values."""
  sizes = {"num_classes": num_classes, "image_size": image_size, "norm_sets": norm_sets}
  for key, value in sizes.items():
    if not _whole(value, 1):
      raise errors.UserError(f"config.model.{key}={value!r} should be at least 1; nearest: 1.")
  for key, value in (("dropout_rate", dropout_rate), ("momentum", momentum)):
    if not 0 <= value < 1:
      raise errors.UserError(f"config.model.{key}={value!r} should be at least 0 and below 1.")
  try:
    name = jnp.dtype(dtype).name
  except TypeError:
    name = str(dtype)
  if name not in network.DTYPES:
    raise errors.unknown("config.model.dtype", name, "a compute dtype", network.DTYPES)


# A network for minutes of CPU time: patches of 17 pixels, 4 apart.
TINY = {
  "repeats": (1, 2, 2),
  "planes": (8, 16, 32),
  "strides": (2, 2, 1),
  "kernel3": (1, 1, 1),
  "stem": 12,
  "low_dimension": True,
}


_PAPER = {"paper": "1904.00760", "image_size": 224}
_OURS = {"paper": "1908.07644", "image_size": 224}

for _name, _settings, _params, _madds, _known in (
  ("bagnet_9", {"kernel3": (1, 1, 0, 0)}, 15_655_465, 14_173_061_888, _PAPER),
  ("bagnet_17", {"kernel3": (1, 1, 1, 0)}, 16_179_753, 13_867_533_056, _PAPER),
  ("bagnet_33", {"kernel3": (1, 1, 1, 1)}, 18_276_905, 14_262_846_208, _PAPER),
  ("bagnet_77", {}, 21_062_185, 13_547_881_216, _OURS),
  ("bagnet_77_lowd", {"low_dimension": True}, 20_574_249, 13_924_879_616, _OURS),
  ("bagnet_mini", TINY, 48_806, 10_090_192, {"paper": None, "image_size": 64, "num_classes": 10}),
):
  _size = {"image_size": _known["image_size"], "num_classes": _known.get("num_classes", 1001)}
  registry.register(
    registry.Entry(
      name=_name,
      build=functools.partial(build, **{**_settings, **_size}),
      params=_params,
      madds=_madds,
      dropout_rate=0.0,
      drop_path_rate=0.0,
      # The code's evaluation crop is size / (size + size // 10) of the shorter side.
      crop_padding=_known["image_size"] // 10,
      **{**_known, **_size},
    )
  )
