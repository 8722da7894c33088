"""What tasks on scenes share: transforms from `config.data.scenes`, and the way into a network."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, UInt8

from effnets import augment, data, errors, models, parallel, streams
from effnets.tasks import base


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneTask:
  """A network over `b h w 3` uint8 images, each a picture at the top left of padding.

  module: the network. placement: of the step that calls `loss`. image_size: height and width.
  num_classes: of the data. mean, std: of the model's input, per channel, in [0, 1]. dtype: of the
  images that enter the model. exact_padding: padding is 0 there, not only the level next to it.
  """

  module: nn.Module
  placement: parallel.Placement
  image_size: tuple[int, int]
  num_classes: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  dtype: Any = jnp.float32
  exact_padding: bool = True

  @property
  def frozen(self) -> tuple[str, ...]:
    """Path prefixes of the module's frozen parameters."""
    return self.module.frozen_names()

  def init(self, seed: int) -> base.Variables:
    """Returns fresh variables drawn from (seed, leaf path), as host arrays."""
    return models.init(self.module, seed, image_size=self.image_size[0])

  def abstract(self) -> base.Variables:
    """Returns the shapes of `init`'s result."""
    return models.abstract(self.module, self.image_size[0])

  @property
  def network(self) -> nn.Module:
    """The module as it is tested, which takes the task's variables."""
    return self.module

  def tested(self, variables: base.Variables) -> tuple[nn.Module, base.Variables]:
    """Returns the network as it is tested and its variables, without what only trains."""
    return self.network, variables

  @staticmethod
  def _keys(
    batch: base.Batch, root: Key[Array, ""], names: Iterable[str]
  ) -> dict[str, Key[Array, " b"]]:
    """Returns the examples' keys of each named stream."""
    positions = batch["position"]
    return {name: streams.example_keys(streams.stream(root, name), positions) for name in names}

  def _inputs(
    self, images: UInt8[Array, "b h w 3"], size: Int[Array, "b 2"]
  ) -> Float[Array, "b h w 3"]:
    """Returns normalised images, placed on the mesh. size: of what is no padding."""
    normal = augment.normalize(images, self.mean, self.std, dtype=self.dtype)
    if not self.exact_padding:
      return self.placement.split_images(normal)
    rows, columns = (jnp.arange(side)[None, :] for side in images.shape[1:3])
    inside = (rows < size[:, :1])[:, :, None] & (columns < size[:, 1:])[:, None, :]
    return self.placement.split_images(jnp.where(inside[..., None], normal, 0))

  def _trained(
    self,
    variables: base.Variables,
    images: Float[Array, "b h w 3"],
    noise: dict[str, Key[Array, " b"]],
    **more: Any,
  ) -> tuple[Any, dict[str, Any]]:
    """Returns the module's outputs and its state after this batch. more: arguments of its own."""
    outputs, model_state = self.module.apply(
      variables,
      images,
      train=True,
      keys=noise,
      **more,
      mutable=[name for name in variables if name != "params"],
    )
    return outputs, dict(model_state)


def total(
  placement: parallel.Placement, value: Float[Array, "*n"]
) -> tuple[Float[Array, "*n"], int]:
  """Returns the sum of `value` over all parts of the batch, and how many parts compute it.

  For losses that are divided by what the whole batch has of something: the step takes the mean over
  devices of what each returns, so each returns its sum times that many, over the total.
  """
  if placement.execution != "shard_map":
    return value, 1
  return jax.lax.psum(value, parallel.BATCH_AXES), placement.batch_shards


_SETTINGS: dict[str, Any] = {
  "size": (),
  "max_objects": 100,
  "fill": "mean",
  "crop": "jitter",
  "jitter": (0.1, 2.0),
  "jitter_step": 0.0,
  "jitter_base": "target",
  "flip": 0.5,
  "least": 0.0,
  "keep_aspect": True,
  "mask_size": 0,
}
_CROPS = ("jitter", "ssd")
_FILLS = ("mean", "black")


def settings(config: Any) -> dict[str, Any]:
  """Returns `config.data.scenes` with its defaults.

    size         height and width in pixels; empty: `config.data.image_size` each
    max_objects  of a picture; the smallest of more are left out
    fill         of what a picture does not cover: `mean`, which is 0 when normalised, or `black`
    crop         in training: `jitter`, a random scale, or `ssd`, see `data.scenes.SsdCrop`
    jitter       range of the scale; (1, 1) for none. jitter_step, jitter_base, flip, least,
                 keep_aspect: see `data.scenes.Jitter`
    mask_size    side of an object's mask, 0 for none

  Raises: UserError for a name or value that is none.
  """
  given = config.data.scenes.to_dict() if "scenes" in config.data else {}
  for name in given:
    if name not in _SETTINGS:
      raise errors.unknown("config.data.scenes", name, "a setting", _SETTINGS)
  found, key = {**_SETTINGS, **given}, "config.data.scenes"
  for name in ("max_objects", "mask_size"):
    least = 1 if name == "max_objects" else 0
    if not isinstance(found[name], int) or found[name] < least:
      raise errors.UserError(f"{key}.{name}={found[name]!r} should be a whole number >= {least}.")
  low, high = _pair(f"{key}.jitter", found["jitter"])
  if not 0 < low <= high:
    raise errors.UserError(f"{key}.jitter={found['jitter']!r} should be above 0 and ascending.")
  if not 0 <= found["flip"] <= 1:
    raise errors.UserError(f"{key}.flip={found['flip']!r} should be a probability, in [0, 1].")
  if found["fill"] not in _FILLS:
    raise errors.unknown(f"{key}.fill", found["fill"], "a colour", _FILLS)
  if found["crop"] not in _CROPS:
    raise errors.unknown(f"{key}.crop", found["crop"], "a way to crop", _CROPS)
  if found["jitter_base"] not in data.scenes.BASES:
    raise errors.unknown(f"{key}.jitter_base", found["jitter_base"], "a base", data.scenes.BASES)
  return found


def image_size(config: Any) -> tuple[int, int]:
  """Returns height and width of the images that a config's detector or segmenter takes."""
  given = settings(config)["size"]
  if not given:
    return (config.data.image_size,) * 2
  height, width = _pair("config.data.scenes.size", given)
  if not (isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
    raise errors.UserError(f"config.data.scenes.size={given!r} should be height and width.")
  return height, width


def transform(config: Any, *, training: bool, objects: bool, semantic: bool) -> Any:
  """Returns the transform of a config's pictures, random in training.

  objects, semantic: what the task reads of them.
  """
  given, entry = settings(config), models.entry(config.model.name)
  mean = tuple(config.data.mean) or entry.mean
  shared = {
    "size": image_size(config),
    "max_objects": given["max_objects"],
    # Masks are targets; the truth of evaluation is the source's.
    "mask_size": given["mask_size"] if training else 0,
    "objects": objects,
    "semantic": semantic,
    "keep_aspect": given["keep_aspect"],
    "interpolation": config.data.interpolation or "bilinear",
    "fill": (0, 0, 0) if given["fill"] == "black" else tuple(round(255 * v) for v in mean),
  }
  if not training:
    return data.scenes.Fit(**shared)
  if given["crop"] == "ssd":
    return data.scenes.SsdCrop(**shared, flip=given["flip"])
  low, high = given["jitter"]
  return data.scenes.Jitter(
    **shared,
    low=low,
    high=high,
    step=given["jitter_step"],
    base=given["jitter_base"],
    flip=given["flip"],
    least=given["least"],
  )


def _pair(key: str, value: Any) -> tuple[Any, Any]:
  if not isinstance(value, tuple | list) or len(value) != 2:
    raise errors.UserError(f"{key}={value!r} should be two numbers, such as (1, 2).")
  return tuple(value)
