"""From the magnitude of RandAugment and AutoAugment to the arguments of the operations."""

from effnets import errors
from effnets.augment import operations as ops

CONVENTIONS = ("official", "pil")


def argument(
  name: str,
  magnitude: float,
  *,
  cutout_const: float = 40,
  translate_const: float = 100,
  increasing: bool = False,
) -> float | None:
  """Returns the argument of an operation at a magnitude, or None where it takes none.

  Units are those of `operations.OPERATIONS`; signed operations get their positive argument.
  posterize and solarize grow *weaker* with the magnitude up to 20 and 10, then wrap, as published;
  `increasing` gives the variants that grow stronger (4 - bits, 256 - threshold, not below 0).

  Args:
    name: an operation. magnitude: in [0, 31]; 10 is AutoAugment's largest.
    cutout_const: half the side of the cutout square in pixels at magnitude 10.
    translate_const: translation in pixels at magnitude 10; absolute, so 32-pixel images want 4.

  >>> argument("rotate", 9), argument("posterize", 9), argument("translate_x", 9)
  (27.0, 3, 90.0)
  """
  if name not in ops.OPERATIONS:
    raise errors.unknown("operation", name, "an operation", ops.OPERATIONS)
  level = magnitude / 10
  if name == "rotate":
    return level * 30
  if name == "posterize":
    return max(0, 4 - int(level * 4)) if increasing else int(level * 4)
  if name == "solarize":
    return max(0, 256 - int(level * 256)) if increasing else int(level * 256)
  if name == "solarize_add":
    return int(level * 110)
  if name in ("color", "contrast", "contrast_fixed", "brightness", "sharpness"):
    return level * 1.8 + 0.1
  if name in ("shear_x", "shear_y"):
    return level * 0.3
  if name in ("translate_x", "translate_y"):
    return level * translate_const
  if name == "cutout":
    return int(level * cutout_const)
  return None


def row(
  name: str,
  magnitude: float,
  *,
  convention: str = "official",
  cutout_const: float,
  translate_const: float,
  increasing: bool = False,
) -> tuple[str, float | None]:
  """Returns the operation and argument that stand for (name, magnitude) in a policy's table.

  They are `name` and its `argument`, but where a threshold of 256 means that nothing is inverted,
  the operation is `identity`: as a byte it would wrap and invert everything.

  convention: whose arguments.
    official: the EfficientNet code's, as `argument` has them.
    pil: the older CIFAR code's: whole degrees and pixels, `increasing` posterize and solarize, and
      the contrast that uses the mean grey level.
  """
  pil = convention == "pil"
  value = argument(
    name,
    magnitude,
    cutout_const=cutout_const,
    translate_const=translate_const,
    increasing=increasing or pil,
  )
  if pil and name in ("rotate", "translate_x", "translate_y"):
    value = int(value)
  if pil and name == "contrast":
    name = "contrast_fixed"
  if (increasing or pil) and name == "solarize" and value == 256:
    return "identity", None
  return name, value
