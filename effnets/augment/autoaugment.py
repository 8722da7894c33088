"""AutoAugment: per image one of the learned sub-policies, each operation with its own probability.

Only the drawn operations of each image are executed (see `switch`).

Source: Cubuk et al. 2018 (arXiv 1805.09501), in the convention of the official EfficientNet code
(`v0`) or of the older CIFAR code (the others; `learned` has the tables). The older code turned
pictures with PIL, which samples at the middle of a pixel where this project's operations, as the
official code's, sample at its index: a sheared picture may differ by half a shear in place.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from effnets.augment import learned, magnitudes, settings, switch
from effnets.augment import operations as ops

POLICIES: dict[str, learned.Policy] = {**learned.OFFICIAL, **learned.PIL}

_KEY = "config.augment.autoaugment"
# What goes with each convention. The older code fills with the mean colour, raw levels of CIFAR-10.
_CONSTANTS = {
  "official": {"cutout_const": 100.0, "translate_const": 250.0, "fill": ops.FILL},
  "pil": {"cutout_const": 10.0, "translate_const": 10.0, "fill": (125, 122, 113)},
}


@dataclasses.dataclass(frozen=True)
class AutoAugment:
  """A policy: call it with a batch of images and one key per image.

  policy: the name of a learned policy.
    v0: 25 sub-policies, the one of the EfficientNets on ImageNet.
    original: 25, found on reduced ImageNet. svhn: 25, for 32-pixel house numbers.
    cifar10: 95, for 32-pixel images, also of CIFAR-100. cifar10_25: the often quoted part of it.
  cutout_const, translate_const: pixels at magnitude 10 (see `magnitudes.argument`); None takes the
    policy's own: 100 and 250 for `v0`, 10 and 10 for the others.
  fill: level, or red, green and blue, of uncovered pixels; None takes the policy's own: 128 for
    `v0`, (125, 122, 113), the mean colour of CIFAR-10, for the others.
  fixed_contrast: replaces the published contrast of `v0` by the one that uses the mean grey level,
    as the other policies do anyway. execution: see `switch.run`.

  The call is a function of the arrays it is given. On a mesh it belongs inside `jax.shard_map`,
  and never under an outer `vmap`; `switch` says why.

  Raises: UserError for a setting of the wrong kind or out of range.
  """

  policy: str = "v0"
  cutout_const: float | None = None
  translate_const: float | None = None
  fill: int | tuple[int, int, int] | None = None
  fixed_contrast: bool = False
  execution: str = "auto"

  def __post_init__(self):
    settings.check_choice(f"{_KEY}.policy", self.policy, "a learned policy", POLICIES)
    for name, value in _CONSTANTS[self.convention].items():
      if getattr(self, name) is None:
        object.__setattr__(self, name, value)
    for name in ("cutout_const", "translate_const"):
      settings.check_number(f"{_KEY}.{name}", getattr(self, name), 0, 4096)
    object.__setattr__(self, "fill", settings.colour(f"{_KEY}.fill", self.fill))
    settings.check_flag(f"{_KEY}.fixed_contrast", self.fixed_contrast)
    settings.check_choice(
      f"{_KEY}.execution", self.execution, "a way to execute", switch.EXECUTIONS
    )

  @property
  def convention(self) -> str:
    """How the policy's magnitudes are to be read (see `magnitudes.row`)."""
    return "official" if self.policy in learned.OFFICIAL else "pil"

  def table(self) -> list[list[tuple[str, float | None, float]]]:
    """Returns the sub-policies: operation, argument (see `magnitudes`) and probability."""
    return [
      [(*self._row(name, magnitude), probability) for name, probability, magnitude in sub]
      for sub in POLICIES[self.policy]
    ]

  def _row(self, name, magnitude):
    name, value = magnitudes.row(
      name,
      magnitude,
      convention=self.convention,
      cutout_const=self.cutout_const,
      translate_const=self.translate_const,
    )
    fixed = self.fixed_contrast and name == "contrast"
    return "contrast_fixed" if fixed else name, value

  def __call__(
    self, images: UInt8[Array, "b h w 3"], keys: Key[Array, " b"]
  ) -> UInt8[Array, "b h w 3"]:
    """Returns the augmented images; each depends on its own pixels and its own key only.

    Raises: ValueError if images are not uint8 b h w 3 or keys are not one per image.
    """
    settings.check_batch("AutoAugment", images, keys)
    rows, probabilities = flatten(self.table())
    draws = draw(keys, probabilities)
    return switch.images(images, draws, rows, fill=self.fill, execution=self.execution)


def flatten(
  table: Sequence[Sequence[tuple[str, float | None, float]]],
) -> tuple[list[tuple[str, float | None]], Float[np.ndarray, "s n"]]:
  """Returns all operations of sub-policies in one list, and the probabilities, float32 (s, n).

  Row s * n + k of the list is operation k of sub-policy s; where a sub-policy is shorter than
  the longest the rest is `identity`. One more `identity` at the end stands for "not applied".
  """
  length = max(len(sub) for sub in table)
  rows, probabilities = [], np.zeros((len(table), length), np.float32)
  for s, sub in enumerate(table):
    for k, (name, value, probability) in enumerate(sub):
      rows.append((name, value))
      probabilities[s, k] = probability
    rows += [("identity", None)] * (length - len(sub))
  return [*rows, ("identity", None)], probabilities


def draw(keys: Key[Array, " b"], probabilities: Float[np.ndarray, "s n"]) -> switch.Draws:
  """Returns the choices for sub-policies whose operations have these probabilities, shape (s, n).

  `index` counts the rows of `flatten`: that of the drawn sub-policy's operation, or the last row
  if the operation is not applied.
  """
  count, length = probabilities.shape
  words = switch.words(keys, (1 + length, 4))
  # The remainder's bias is count / 2**32.
  chosen = (words[:, 0, 0] % jnp.uint32(count)).astype(jnp.int32)
  words = words[:, 1:]
  applied = switch.below(words[..., 0], jnp.asarray(probabilities)[chosen])
  index = chosen[:, None] * length + jnp.arange(length)
  return switch.Draws(
    index=jnp.where(applied, index, count * length),
    sign=switch.sign(words[..., 1]),
    centre=words[..., 2:],
  )
