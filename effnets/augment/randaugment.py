"""RandAugment: `layers` random operations per image, all with one magnitude.

Only the drawn operation of each image is executed (see `switch`).

Source: Cubuk et al. 2019 (arXiv 1909.13719), with the operation list, magnitudes and constants of
the official EfficientNet code (`code16`) or the list of the paper (`paper14`).
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Key, UInt8

from effnets import errors
from effnets.augment import magnitudes, settings, switch
from effnets.augment import operations as ops

OPERATION_LISTS: dict[str, tuple[str, ...]] = {
  "paper14": (
    "identity",
    "autocontrast",
    "equalize",
    "rotate",
    "solarize",
    "color",
    "posterize",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
  ),
  "code16": (
    "autocontrast",
    "equalize",
    "invert",
    "rotate",
    "posterize",
    "solarize",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "cutout",
    "solarize_add",
  ),
}

MAX_MAGNITUDE = 31
MAX_LAYERS = 10
_KEY = "config.augment.randaugment"


@dataclasses.dataclass(frozen=True)
class RandAugment:
  """A policy: call it with a batch of images and one key per image.

  layers: operations per image, 1 to 10; N in the paper. magnitude: 0 to 31; M in the paper.
  operations: `code16` (official code), `paper14`, or a tuple of names of `OPERATIONS`; naming one
    twice doubles its probability.
  cutout_const, translate_const, increasing: see `magnitudes.argument`.
  fixed_contrast: replaces the published contrast by the one that uses the mean grey level.
  fill: level, or red, green and blue, of uncovered pixels. execution: see `switch.run`.

  The call is a function of the arrays it is given. On a mesh it belongs inside `jax.shard_map`,
  and never under an outer `vmap`; `switch` says why.

  Raises: UserError for a setting of the wrong kind or out of range.
  """

  layers: int = 2
  magnitude: float = 9
  operations: str | tuple[str, ...] = "code16"
  cutout_const: float = 40
  translate_const: float = 100
  fill: int | tuple[int, int, int] = ops.FILL
  increasing: bool = False
  fixed_contrast: bool = False
  execution: str = "auto"

  def __post_init__(self):
    settings.check_number(f"{_KEY}.layers", self.layers, 1, MAX_LAYERS, whole=True)
    settings.check_number(f"{_KEY}.magnitude", self.magnitude, 0, MAX_MAGNITUDE)
    for name in ("cutout_const", "translate_const"):
      settings.check_number(f"{_KEY}.{name}", getattr(self, name), 0, 4096)
    for name in ("increasing", "fixed_contrast"):
      settings.check_flag(f"{_KEY}.{name}", getattr(self, name))
    if isinstance(self.operations, str):
      if self.operations not in OPERATION_LISTS:
        raise errors.unknown(
          f"{_KEY}.operations", self.operations, "a list of operations", OPERATION_LISTS
        )
    else:
      object.__setattr__(self, "operations", tuple(self.operations))
      if not self.operations:
        raise errors.UserError(
          f"{_KEY}.operations=() is empty. Valid: a list's name ({', '.join(OPERATION_LISTS)}) or "
          "names of operations. To switch RandAugment off, set config.augment.randaugment to None."
        )
      for name in self.operations:
        if name not in ops.OPERATIONS:
          raise errors.unknown(f"{_KEY}.operations", name, "an operation", ops.OPERATIONS)
    object.__setattr__(self, "fill", settings.colour(f"{_KEY}.fill", self.fill))
    settings.check_choice(
      f"{_KEY}.execution", self.execution, "a way to execute", switch.EXECUTIONS
    )

  def table(self) -> list[tuple[str, float | None]]:
    """Returns what each drawn number stands for: operation and argument (see `magnitudes`)."""
    rows = []
    for name in OPERATION_LISTS.get(self.operations, self.operations):
      name, value = magnitudes.row(
        name,
        self.magnitude,
        cutout_const=self.cutout_const,
        translate_const=self.translate_const,
        increasing=self.increasing,
      )
      fixed = self.fixed_contrast and name == "contrast"
      rows.append(("contrast_fixed" if fixed else name, value))
    return rows

  def __call__(
    self, images: UInt8[Array, "b h w 3"], keys: Key[Array, " b"]
  ) -> UInt8[Array, "b h w 3"]:
    """Returns the augmented images; each depends on its own pixels and its own key only.

    Raises: ValueError if images are not uint8 b h w 3 or keys are not one per image.
    """
    rows = self.table()
    settings.check_batch("RandAugment", images, keys)
    draws = draw(keys, self.layers, len(rows))
    return switch.images(images, draws, rows, fill=self.fill, execution=self.execution)


def draw(keys: Key[Array, " b"], layers: int, choices: int) -> switch.Draws:
  """Returns the choices for `layers` operations out of `choices`, each row from its own key."""
  words = switch.words(keys, (layers, 4))
  return switch.Draws(
    # The remainder's bias is choices / 2**32.
    index=(words[..., 0] % jnp.uint32(choices)).astype(jnp.int32),
    sign=switch.sign(words[..., 1]),
    centre=words[..., 2:],
  )
