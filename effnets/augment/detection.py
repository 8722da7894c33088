"""AutoAugment and RandAugment for pictures with boxes, which they move or act inside of.

Pictures and boxes take part in the same draws: there is one switch over operations on both (see
`boxes`, `switch`).

Source: Zoph et al. 2019 (arXiv 1906.11172) for the learned policies; Cubuk et al. 2019
(arXiv 1909.13719) and the official EfficientDet code for RandAugment and its operations.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, UInt8

from effnets import errors, streams
from effnets.augment import autoaugment, learned, magnitudes, randaugment, settings, switch
from effnets.augment import boxes as boxes_lib
from effnets.augment import operations as ops

OPERATION_LISTS: dict[str, tuple[str, ...]] = {
  "detection10": (
    "equalize",
    "solarize",
    "color",
    "cutout",
    "solarize_add",
    "translate_x",
    "translate_y",
    "shear_x",
    "shear_y",
    "rotate",
  ),
}

# Of the probability of an operation inside of boxes, for each box.
_SHARE_OF_BOXES = 1 / 3
# Of a box's side that `cutout_at_box` paints over at magnitude 10.
_CUTOUT_AT_BOX = 0.75

Batch = tuple[UInt8[Array, "b h w 3"], Float[Array, "b n 4"], Bool[Array, "b n"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Constants:
  """Settings of both policies.

  cutout_const, translate_const: pixels at magnitude 10 (see `magnitudes.argument`);
  cutout_box_const, translate_box_const: the same inside of boxes.
  rule: where boxes go, `published` or `exact` (see `boxes`).
  fill: level, or red, green and blue, of uncovered pixels. execution: see `switch.run`.
  """

  cutout_const: float = 100
  translate_const: float = 250
  cutout_box_const: float = 50
  translate_box_const: float = 120
  rule: str = "published"
  fill: int | tuple[int, int, int] = ops.FILL
  execution: str = "auto"

  def _check(self, key):
    for name in ("cutout_const", "translate_const", "cutout_box_const", "translate_box_const"):
      settings.check_number(f"{key}.{name}", getattr(self, name), 0, 4096)
    settings.check_choice(f"{key}.rule", self.rule, "a rule for boxes", boxes_lib.RULES)
    object.__setattr__(self, "fill", settings.colour(f"{key}.fill", self.fill))
    settings.check_choice(f"{key}.execution", self.execution, "a way to execute", switch.EXECUTIONS)

  def argument(self, name: str, magnitude: float) -> float | None:
    """Returns the argument of an operation of `boxes.OPERATIONS` at a magnitude."""
    if name == "cutout_at_box":
      return _CUTOUT_AT_BOX * magnitude / 10
    inside = name.endswith("_in_boxes")
    name = name.removesuffix("_in_boxes")
    if name == "flip":
      return None
    return magnitudes.argument(
      name,
      magnitude,
      cutout_const=self.cutout_box_const if inside else self.cutout_const,
      translate_const=self.translate_box_const if inside else self.translate_const,
    )

  def _apply(self, batch, keys, draws, rows, probabilities):
    """Returns the batch after the drawn rows; `probabilities`: of each row's boxes."""
    images, boxes, valid = batch
    scenes = boxes_lib.Scene(
      ops.pack(jnp.asarray(images)), jnp.asarray(boxes, jnp.float32), jnp.asarray(valid)
    )
    table = switch.table(rows, lambda name: boxes_lib.OPERATIONS[name].signed)
    functions = [
      lambda scene, inputs, change=boxes_lib.OPERATIONS[name].function: change(
        scene, inputs, self.rule
      )
      for name in table.names
    ]
    branches, pictures = table.inputs(draws, scenes.pixels.shape[1:], self.fill)
    keys = jax.vmap(lambda key: streams.stream(key, "boxes"))(keys)
    inputs = boxes_lib.Inputs(
      pictures,
      switch.words(keys, (*draws.index.shape[1:], scenes.boxes.shape[1], 4)),
      jnp.asarray(probabilities, jnp.float32)[draws.index],
    )
    scenes = switch.run(scenes, branches, inputs, functions, self.execution)
    return ops.unpack(scenes.pixels), scenes.boxes, scenes.valid


@dataclasses.dataclass(frozen=True)
class AutoAugment(_Constants):
  """A policy: call it with images, boxes, which boxes are valid, and one key per image.

  policy: the name of a learned policy: `v0` (5 sub-policies), `v1` (20), `v2` (15) or `v3` (15).
  The other settings are told at `_Constants`. What is said of `autoaugment.AutoAugment` goes for
  this too.

  Raises: UserError for a setting of the wrong kind or out of range.
  """

  policy: str = "v0"

  def __post_init__(self):
    key = "config.augment.autoaugment"
    settings.check_choice(f"{key}.policy", self.policy, "a learned policy", learned.DETECTION)
    self._check(key)

  def table(self) -> list[list[tuple[str, float | None, float]]]:
    """Returns the sub-policies: operation, argument and probability.

    An operation inside of boxes has its probability for each box and is itself always done.
    """
    return [
      [(name, self.argument(name, level), probability) for name, probability, level in sub]
      for sub in learned.DETECTION[self.policy]
    ]

  def __call__(
    self,
    images: UInt8[Array, "b h w 3"],
    boxes: Float[Array, "b n 4"],
    valid: Bool[Array, "b n"],
    keys: Key[Array, " b"],
  ) -> Batch:
    """Returns images, boxes and valid; each example depends on itself and its key only.

    Raises: ValueError if images are not uint8 b h w 3, or the others do not fit them.
    """
    _check_batch("AutoAugment", images, boxes, valid, keys)
    rows, probabilities = autoaugment.flatten(self.table())
    # One place more, of "not applied".
    for_boxes = np.append(probabilities.reshape(-1) * _SHARE_OF_BOXES, 0)
    inside = np.array([name.endswith("_in_boxes") for name, _ in rows])
    always = np.where(inside[:-1].reshape(probabilities.shape), 1, probabilities)
    draws = autoaugment.draw(keys, always.astype(np.float32))
    return self._apply((images, boxes, valid), keys, draws, rows, for_boxes)


@dataclasses.dataclass(frozen=True)
class RandAugment(_Constants):
  """A policy: call it with images, boxes, which boxes are valid, and one key per image.

  layers: operations per image, 1 to 10. magnitude: 0 to 31.
  operations: `detection10` (official code) or a tuple of names of `boxes.OPERATIONS`.
  The other settings are told at `_Constants`. What is said of `randaugment.RandAugment` goes for
  this too.

  Raises: UserError for a setting of the wrong kind or out of range.
  """

  layers: int = 1
  magnitude: float = 5
  operations: str | tuple[str, ...] = "detection10"

  def __post_init__(self):
    key = "config.augment.randaugment"
    settings.check_number(f"{key}.layers", self.layers, 1, randaugment.MAX_LAYERS, whole=True)
    settings.check_number(f"{key}.magnitude", self.magnitude, 0, randaugment.MAX_MAGNITUDE)
    if isinstance(self.operations, str):
      settings.check_choice(
        f"{key}.operations", self.operations, "a list of operations", OPERATION_LISTS
      )
    else:
      object.__setattr__(self, "operations", tuple(self.operations))
      if not self.operations:
        raise errors.UserError(f"{key}.operations=() is empty; name one of them at least.")
      for name in self.operations:
        settings.check_choice(
          f"{key}.operations", name, "an operation on boxes", boxes_lib.OPERATIONS
        )
    self._check(key)

  def table(self) -> list[tuple[str, float | None]]:
    """Returns what each drawn number stands for: operation and argument."""
    names = OPERATION_LISTS.get(self.operations, self.operations)
    return [(name, self.argument(name, self.magnitude)) for name in names]

  def __call__(
    self,
    images: UInt8[Array, "b h w 3"],
    boxes: Float[Array, "b n 4"],
    valid: Bool[Array, "b n"],
    keys: Key[Array, " b"],
  ) -> Batch:
    """Returns images, boxes and valid; each example depends on itself and its key only.

    Raises: ValueError if images are not uint8 b h w 3, or the others do not fit them.
    """
    _check_batch("RandAugment", images, boxes, valid, keys)
    rows = self.table()
    draws = randaugment.draw(keys, self.layers, len(rows))
    probabilities = np.full(len(rows), _SHARE_OF_BOXES)
    return self._apply((images, boxes, valid), keys, draws, rows, probabilities)


def _check_batch(what: str, images: Any, boxes: Any, valid: Any, keys: Any) -> None:
  settings.check_batch(what, images, keys)
  shape = jnp.shape(valid)
  if len(shape) != 2 or shape[0] != len(images) or jnp.shape(boxes) != (*shape, 4):
    raise ValueError(
      f"{what} takes boxes (b, n, 4) and valid (b, n) for {len(images)} images; got "
      f"{jnp.shape(boxes)} and {shape}."
    )
