"""Spaces that are no networks of this project: augmentation policies, and NAS-Bench-201's cells."""

from collections.abc import Sequence
from typing import Any, ClassVar

from effnets import errors
from effnets.augment import learned, operations
from effnets.search import space
from effnets.search.spaces import registry


class RandAugmentSpace(space.Space):
  """How many operations, and how strong."""

  kind: ClassVar[str] = "randaugment"

  def decode(self, tokens: Sequence[int]) -> dict[str, Any]:
    """Returns `{"layers": ..., "magnitude": ...}`, as in `config.augment.randaugment`."""
    return super().decode(tokens)


@registry.register("randaugment")
def randaugment(
  *, layers: tuple[int, ...] = (1, 2), magnitudes: tuple[int, ...] = tuple(range(1, 11))
) -> space.Space:
  """Returns the space of RandAugment's two numbers; layers, magnitudes: choices.

  Source: Cubuk et al. 2019 (arXiv 1909.13719), section 4.
  """
  return RandAugmentSpace(
    "",
    [
      space.Decision("layers", tuple(layers), "layers"),
      space.Decision("magnitude", tuple(magnitudes), "magnitude"),
    ],
  )


OPERATIONS = (
  "shear_x",
  "shear_y",
  "translate_x",
  "translate_y",
  "rotate",
  "autocontrast",
  "invert",
  "equalize",
  "solarize",
  "posterize",
  "contrast",
  "color",
  "brightness",
  "sharpness",
  "cutout",
  "solarize_add",
)
"""The paper's sixteen; `solarize_add`, of the code, stands for the pairing of samples."""


class AutoAugmentSpace(space.Space):
  """Sub-policies of two operations, each with a probability and a magnitude."""

  kind: ClassVar[str] = "autoaugment"

  def decode(self, tokens: Sequence[int]) -> learned.Policy:
    """Returns the sub-policies. Raises: UserError if `tokens` are no point."""
    self.validate(tokens)
    chosen = list(self.values(tokens).values())
    steps = [(n, float(p), float(m)) for n, p, m in zip(*[iter(chosen)] * 3, strict=True)]
    return tuple(zip(*[iter(steps)] * 2, strict=True))

  def encode(self, spec: learned.Policy) -> tuple[int, ...]:
    """Returns tokens of sub-policies. Raises: UserError if they are outside."""
    flat = [value for sub in spec for step in sub for value in step]
    return self.tokens(dict(zip(self.index, flat, strict=True)))


@registry.register("autoaugment")
def autoaugment(*, policies: int = 5, names: tuple[str, ...] = OPERATIONS) -> AutoAugmentSpace:
  """Returns AutoAugment's space: `policies` sub-policies of two of the operations `names`.

  Source: Cubuk et al. 2018 (arXiv 1805.09501), section 3.
  """
  for name in names:
    if name not in operations.OPERATIONS:
      raise errors.unknown(
        "config.search.settings.names", name, "an operation", operations.OPERATIONS
      )
  decisions = []
  for index in range(2 * policies):
    where = f"policy{index // 2}.step{index % 2}"
    decisions += [
      space.Decision(f"{where}.operation", tuple(names), "operation"),
      space.Decision(f"{where}.probability", tuple(i / 10 for i in range(11)), "probability"),
      space.Decision(f"{where}.magnitude", tuple(range(10)), "magnitude"),
    ]
  return AutoAugmentSpace("", decisions)


_NB201 = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
_EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))


class CellStringSpace(space.Space):
  """NAS-Bench-201's cell: one operation on each of the six edges between four nodes."""

  kind: ClassVar[str] = "nb201"

  def decode(self, tokens: Sequence[int]) -> str:
    """Returns the cell as the benchmark writes it, `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`."""
    self.validate(tokens)
    words = [f"{_NB201[token]}~{source}" for token, (_, source) in zip(tokens, _EDGES, strict=True)]
    return "+".join(f"|{'|'.join(part)}|" for part in (words[:1], words[1:3], words[3:]))

  def encode(self, spec: str) -> tuple[int, ...]:
    """Returns tokens of a cell's string. Raises: UserError if it is none."""
    words = [word for part in spec.split("+") for word in part.strip("|").split("|")]
    wanted = [source for _, source in _EDGES]
    parts = [word.rpartition("~") for word in words]
    if [source for *_, source in parts] != list(map(str, wanted)):
      raise errors.UserError(f"{spec!r} is no cell such as '|none~0|+|none~0|none~1|+...'.")
    return self.tokens(dict(zip(self.index, (op for op, *_ in parts), strict=True)))


@registry.register("nb201")
def nb201() -> CellStringSpace:
  """Returns the space of NAS-Bench-201. Source: Dong and Yang 2020 (arXiv 2001.00326)."""
  return CellStringSpace(
    "",
    [space.Decision("edge{1}_{0}".format(*edge), _NB201, "operation") for edge in _EDGES],
  )
