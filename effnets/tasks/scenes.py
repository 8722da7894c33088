"""From `config.data.scenes` to the transforms that bring pictures with objects to one size."""

from typing import Any

from effnets import data, errors, models

_SETTINGS: dict[str, Any] = {
  "size": (),
  "max_objects": 100,
  "jitter": (0.1, 2.0),
  "jitter_step": 0.0,
  "jitter_base": "target",
  "flip": 0.5,
  "least": 0.0,
  "keep_aspect": True,
  "mask_size": 0,
}


def settings(config: Any) -> dict[str, Any]:
  """Returns `config.data.scenes` with its defaults.

    size         height and width in pixels; empty: `config.data.image_size` each
    max_objects  of a picture; the smallest of more are left out
    jitter       range of the scale in training; (1, 1) for none. jitter_step, jitter_base, flip,
                 least, keep_aspect: see `data.scenes.Jitter`
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
    "mask_size": given["mask_size"],
    "objects": objects,
    "semantic": semantic,
    "keep_aspect": given["keep_aspect"],
    "interpolation": config.data.interpolation or "bilinear",
    "fill": tuple(round(255 * value) for value in mean),
  }
  if not training:
    return data.scenes.Fit(**shared)
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
