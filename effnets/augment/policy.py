"""A policy from a config: crop, flip, shift, learned or random operations, erasing; for a step."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, UInt8

from effnets import errors, streams
from effnets.augment import autoaugment, colour, crops, erasing, randaugment
from effnets.augment import settings as checks

Policy = Callable[[UInt8[Array, "b h w 3"], Key[Array, " b"]], UInt8[Array, "b h w 3"]]

DEFAULTS: dict[str, Any] = {
  "crop": None,  # or {"area": (0.08, 1.0), "aspect": (0.75, 1.333)}: random resized crop
  "flip": False,
  "colour": None,  # or {"brightness": 32.0, "saturation": (0.5, 1.5)}
  "shift": 0,
  "shift_mode": "constant",
  "shift_fill": 0,
  "autoaugment": None,  # or a mapping of the fields of `AutoAugment`
  "randaugment": None,  # or a mapping of the fields of `RandAugment`
  "operations_first": False,  # the two above before crop, flip and shift
  "cutout": 0,
  "cutout_fill": 128,
  "erasing": None,  # or {"probability": 0.25, "area": (0.02, 0.4), "aspect": (0.3, 3.3)}
}
_CROP = {"area": (0.08, 1.0), "aspect": (3 / 4, 4 / 3)}
_COLOUR = {"brightness": 32.0, "saturation": (0.5, 1.5)}
_ERASING = {"probability": 0.5, "area": (0.02, 0.4), "aspect": (0.3, 1 / 0.3), "fill": "pixel"}
_AUTOAUGMENT = tuple(f.name for f in dataclasses.fields(autoaugment.AutoAugment))
_RANDAUGMENT = tuple(f.name for f in dataclasses.fields(randaugment.RandAugment))
_KEY = "config.augment"


def create(config: Mapping[str, Any] | None) -> Policy:
  """Returns the function (images, keys) -> images of an augmentation config.

  Args:
    config: a mapping with any of the keys of `DEFAULTS`, applied in this order:
      crop: None, or a mapping with `area` and `aspect` (see `crops.random_resized_crop`).
      flip: whether to mirror half of the images.
      colour: None, or a mapping with `brightness` and `saturation` (see `colour.recolour`).
      shift: largest move in pixels; `shift_mode`
      (`constant`: abc -> ..abc.., `reflect`: abc -> cbabcba) and `shift_fill` (a level, or red,
      green and blue) say what moves in.
      autoaugment, randaugment: None, or a mapping of the fields of `AutoAugment` or `RandAugment`,
      not both. `operations_first` puts them before crop, flip and shift, where the papers' CIFAR
      code has them.
      cutout: side in pixels of a square painted over with `cutout_fill`; 0 is off.
      erasing: None, or a mapping with `probability`, `area`, `aspect` and `fill` (see
      `erasing.random_erasing`).
      None and {} change nothing.

  The function takes uint8 images (b, h, w, 3) and one key per image, from `streams.example_keys` of
  the stream `augment`, and gives uint8. Each result depends on its own image and key only. On a
  mesh it belongs inside `jax.shard_map` over the batch axes (see `RandAugment`).

  Raises: UserError naming the key for anything unknown or out of range.
  """
  config = {} if config is None else checks.mapping(_KEY, config, DEFAULTS)
  settings = {**DEFAULTS, **config}
  for name in ("flip", "operations_first"):
    checks.check_flag(f"{_KEY}.{name}", settings[name])
  for name in ("shift", "cutout"):
    checks.check_number(f"{_KEY}.{name}", settings[name], 0, 1024, whole=True)
  for name in ("shift_fill", "cutout_fill"):
    settings[name] = checks.colour(f"{_KEY}.{name}", settings[name])
  checks.check_choice(f"{_KEY}.shift_mode", settings["shift_mode"], "a way to pad", crops.PAD_MODES)
  crop = None
  if settings["crop"] is not None:
    crop = {**_CROP, **checks.mapping(f"{_KEY}.crop", settings["crop"], _CROP)}
    crop["area"] = checks.pair(f"{_KEY}.crop.area", crop["area"], 0, 1)
    crop["aspect"] = checks.pair(f"{_KEY}.crop.aspect", crop["aspect"], 0, 100)
  tint = None
  if settings["colour"] is not None:
    tint = {**_COLOUR, **checks.mapping(f"{_KEY}.colour", settings["colour"], _COLOUR)}
    tint["saturation"] = checks.pair(f"{_KEY}.colour.saturation", tint["saturation"], 0, 10)
    checks.check_number(f"{_KEY}.colour.brightness", tint["brightness"], 0, 255)
  erase = None if settings["erasing"] is None else _erasing(settings["erasing"])
  operations = _operations(settings)

  def policy(images, keys):
    images = jnp.asarray(images)

    def named(name):
      return jax.vmap(lambda key: streams.stream(key, name))(keys)

    if operations and settings["operations_first"]:
      images = operations[1](images, named(operations[0]))
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
    if operations and not settings["operations_first"]:
      images = operations[1](images, named(operations[0]))
    if settings["cutout"]:
      images = erasing.cutout(
        images, named("cutout"), size=settings["cutout"], fill=settings["cutout_fill"]
      )
    if erase is not None:
      images = erasing.random_erasing(images, named("erasing"), **erase)
    return images

  return policy


def _operations(settings: Mapping[str, Any]) -> tuple[str, Policy] | None:
  """Returns AutoAugment or RandAugment, with the name of its stream."""
  given = [name for name in ("autoaugment", "randaugment") if settings[name] is not None]
  if len(given) > 1:
    raise errors.UserError(
      f"{_KEY}.autoaugment and {_KEY}.randaugment are both given; switch one of them off, with "
      f"{_KEY}.autoaugment.policy='' or {_KEY}.randaugment.layers=0."
    )
  if settings["autoaugment"] is not None:
    values = checks.mapping(f"{_KEY}.autoaugment", settings["autoaugment"], _AUTOAUGMENT)
    return "autoaugment", autoaugment.AutoAugment(**values)
  if settings["randaugment"] is not None:
    values = checks.mapping(f"{_KEY}.randaugment", settings["randaugment"], _RANDAUGMENT)
    return "randaugment", randaugment.RandAugment(**values)
  return None


def _erasing(given: Any) -> dict[str, Any]:
  """Returns the arguments of `random_erasing`."""
  key = f"{_KEY}.erasing"
  values = {**_ERASING, **checks.mapping(key, given, _ERASING)}
  checks.check_number(f"{key}.probability", values["probability"], 0, 1)
  values["area"] = checks.pair(f"{key}.area", values["area"], 0, 1)
  values["aspect"] = checks.pair(f"{key}.aspect", values["aspect"], 0, 100)
  if isinstance(values["fill"], str):
    checks.check_choice(f"{key}.fill", values["fill"], "a level, three of them or", ("pixel",))
  else:
    values["fill"] = checks.colour(f"{key}.fill", values["fill"])
  return values
