"""A policy from a config: crop, flip and shift, then RandAugment, for use in a compiled step."""

import dataclasses
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, UInt8

from effnets import errors, streams
from effnets.augment import colour, crops, randaugment

Policy = Callable[[UInt8[Array, "b h w 3"], Key[Array, "b"]], UInt8[Array, "b h w 3"]]

DEFAULTS: dict[str, Any] = {
  "crop": None,  # or {"area": (0.08, 1.0), "aspect": (0.75, 1.333)}: random resized crop
  "flip": False,
  "colour": None,  # or {"brightness": 32.0, "saturation": (0.5, 1.5)}
  "shift": 0,
  "shift_mode": "constant",
  "shift_fill": 0,
  "randaugment": None,  # or a mapping of the fields of `RandAugment`
}
_CROP = {"area": (0.08, 1.0), "aspect": (3 / 4, 4 / 3)}
_COLOUR = {"brightness": 32.0, "saturation": (0.5, 1.5)}
_RANDAUGMENT = tuple(f.name for f in dataclasses.fields(randaugment.RandAugment))
_KEY = "config.augment"


def _mapping(key: str, value: Any, options) -> dict[str, Any]:
  """Returns `value` as a dict with known keys; takes any mapping, a ConfigDict too."""
  if not (isinstance(value, Mapping) or hasattr(value, "keys")):
    raise errors.UserError(
      f"{key}={value!r} is not a mapping. Valid keys: {', '.join(sorted(options))}."
    )
  settings = {name: value[name] for name in value.keys()}
  for name in settings:
    if name not in options:
      close = "".join(f" Nearest: {key}.{near}." for near in errors.nearest(name, options, 1))
      raise errors.UserError(
        f"{key}.{name}={settings[name]!r} is not a setting.{close} "
        f"Valid keys: {', '.join(sorted(options))}."
      )
  return settings


def _check_range(key: str, value: Any, low: float, high: float) -> tuple[float, float]:
  good = (
    isinstance(value, (tuple, list))
    and len(value) == 2
    and all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in value)
    and low < value[0] <= value[1] <= high
  )
  if not good:
    raise errors.UserError(
      f"{key}={value!r} is not an ascending pair of numbers above {low} and up to {high}."
    )
  return float(value[0]), float(value[1])


def create(config: Mapping[str, Any] | None) -> Policy:
  """Returns the function (images, keys) -> images of an augmentation config.

  Args:
    config: a mapping with any of the keys of `DEFAULTS`, applied in this order:
      crop: None, or a mapping with `area` and `aspect` (see `crops.random_resized_crop`).
      flip: whether to mirror half of the images.
      colour: None, or a mapping with `brightness` and `saturation` (see `colour.recolour`).
      shift: largest move in pixels; `shift_mode`
      (`constant`: abc -> ..abc.., `reflect`: abc -> cbabcba) and `shift_fill` (a level) say what
      moves in. randaugment: None, or a mapping of the fields of `RandAugment`.
      None and {} change nothing.

  The function takes uint8 images (b, h, w, 3) and one key per image, from `streams.example_keys` of
  the stream `augment`, and gives uint8. Each result depends on its own image and key only. On a
  mesh it belongs inside `jax.shard_map` over the batch axes (see `RandAugment`).

  Raises: UserError naming the key for anything unknown or out of range.
  """
  config = {} if config is None else _mapping(_KEY, config, DEFAULTS)
  settings = {**DEFAULTS, **config}
  if not isinstance(settings["flip"], bool):
    raise errors.UserError(f"{_KEY}.flip={settings['flip']!r} is not True or False.")
  for name, high in (("shift", 1024), ("shift_fill", 255)):
    value = settings[name]
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or not 0 <= value <= high:
      raise errors.UserError(f"{_KEY}.{name}={value!r} is not a whole number in [0, {high}].")
  if settings["shift_mode"] not in crops.PAD_MODES:
    raise errors.unknown(
      f"{_KEY}.shift_mode", settings["shift_mode"], "a way to pad", crops.PAD_MODES
    )
  crop = None
  if settings["crop"] is not None:
    crop = {**_CROP, **_mapping(f"{_KEY}.crop", settings["crop"], _CROP)}
    crop["area"] = _check_range(f"{_KEY}.crop.area", crop["area"], 0, 1)
    crop["aspect"] = _check_range(f"{_KEY}.crop.aspect", crop["aspect"], 0, 100)
  tint = None
  if settings["colour"] is not None:
    tint = {**_COLOUR, **_mapping(f"{_KEY}.colour", settings["colour"], _COLOUR)}
    tint["saturation"] = _check_range(f"{_KEY}.colour.saturation", tint["saturation"], 0, 10)
    level = tint["brightness"]
    if not isinstance(level, numbers.Real) or isinstance(level, bool) or not 0 <= level <= 255:
      raise errors.UserError(f"{_KEY}.colour.brightness={level!r} is not a number in [0, 255].")
  rand = None
  if settings["randaugment"] is not None:
    rand = randaugment.RandAugment(
      **_mapping(f"{_KEY}.randaugment", settings["randaugment"], _RANDAUGMENT)
    )

  def policy(images, keys):
    images = jnp.asarray(images)

    def named(name):
      return jax.vmap(lambda key: streams.stream(key, name))(keys)

    if crop is not None:
      images = crops.random_resized_crop(images, named("crop"), **crop)
    if settings["flip"]:
      images = crops.flip(images, named("flip"))
    if tint is not None:
      images = colour.recolour(images, named("colour"), **tint)
    if settings["shift"]:
      side = min(images.shape[1:3])
      if settings["shift"] >= side:
        raise errors.UserError(
          f"{_KEY}.shift={settings['shift']} leaves nothing of images of {side} pixels; "
          f"nearest: {side - 1}."
        )
      images = crops.shift(
        images,
        named("shift"),
        pixels=settings["shift"],
        mode=settings["shift_mode"],
        fill=settings["shift_fill"],
      )
    if rand is not None:
      images = rand(images, named("randaugment"))
    return images

  return policy
