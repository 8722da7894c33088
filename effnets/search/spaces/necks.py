"""Spaces of feature pyramids: NAS-FPN, NAS-FPNLite, MnasFPN and the spaces it is compared with.

Source: Ghiasi et al. 2019 (arXiv 1904.07392), section 3; Chen et al. 2020 (arXiv 1912.01106),
section 3.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn

from effnets import errors, models
from effnets.models import mnasfpn, pyramids
from effnets.search import space
from effnets.search.spaces import registry

Merges = tuple[pyramids.Merge, ...]


def _pair(name: str, count: int) -> tuple[list[space.Decision], space.Rule]:
  """Returns the decisions for two different ones of the features 0 to count - 1."""
  names = tuple(f"{name}.input{i}" for i in range(2))
  choices = tuple(range(count))
  return (
    [space.Decision(n, choices, "input") for n in names],
    space.Different(names, ordered=False),
  )


class MergeSpace(space.Space):
  """Merging cells: two earlier features each, a level, a fusion; the last ones are the outputs.

  levels: of the inputs and outputs. merges: cells in all. inner: levels of those that are no
  output. model: of the zoo, whose body, width and repeats are taken.
  """

  kind: ClassVar[str] = "nasfpn"

  def __init__(
    self,
    *,
    levels: Sequence[int],
    merges: int,
    inner: Sequence[int],
    fusions: Sequence[str] = ("sum", "attention"),
    model: str,
  ):
    self.levels, self._model, self._merges = tuple(levels), model, merges
    decisions, rules = [], []
    ends = []
    for index in range(merges):
      name = f"cell{index}"
      pair, rule = _pair(name, len(levels) + index)
      decisions += pair
      rules.append(rule)
      if index < merges - len(levels):
        decisions.append(space.Decision(f"{name}.level", tuple(inner), "level"))
      else:
        ends.append(f"{name}.output")
        decisions.append(space.Decision(ends[-1], self.levels, "output"))
      decisions.append(space.Decision(f"{name}.fusion", tuple(fusions), "fusion"))
    rules.append(space.Different(tuple(ends)))
    super().__init__("", decisions, rules)

  def _cells(self, tokens: Sequence[int]) -> Merges:
    chosen = self.values(tokens)
    found = []
    for index in range(self._merges):
      name = f"cell{index}"
      output = index >= self._merges - len(self.levels)
      level = chosen[f"{name}.output" if output else f"{name}.level"]
      inputs = tuple(sorted(chosen[f"{name}.input{i}"] for i in range(2)))
      found.append(pyramids.Merge(level, chosen[f"{name}.fusion"], inputs, output))
    return tuple(found)

  def canonical(self, tokens: Sequence[int]) -> tuple:
    """Returns the cells, with sorted inputs."""
    return tuple(dataclasses.astuple(cell) for cell in self._cells(tokens))

  def decode(self, tokens: Sequence[int]) -> Merges:
    """Returns the cells. Raises: UserError if `tokens` are no point."""
    self.validate(tokens)
    return self._cells(tokens)

  def encode(self, spec: Merges) -> tuple[int, ...]:
    """Returns tokens of cells. Raises: UserError if they are outside."""
    values: dict[str, Any] = {}
    if len(spec) != self._merges:
      raise errors.UserError(f"{len(spec)} cells are not in {self.name!r}, of {self._merges}.")
    for index, cell in enumerate(spec):
      name = f"cell{index}"
      values |= {f"{name}.input{i}": feature for i, feature in enumerate(sorted(cell.inputs))}
      values[f"{name}.output" if cell.output else f"{name}.level"] = cell.level
      values[f"{name}.fusion"] = cell.fusion
    return self.tokens(values)

  def build(self, spec: Merges, *, model: str | None = None, **overrides: Any) -> nn.Module:
    """Returns the detector; model: of the zoo, with such a pyramid; overrides: its arguments."""
    own = {"pyramid": "nasfpn", "min_level": self.levels[0], "max_level": self.levels[-1]}
    nodes = pyramids.merged(self.levels, spec)
    return models.create(model or self._model, nodes=nodes, **{**own, **overrides})


@registry.register("nasfpn")
def nasfpn(*, model: str = "retinanet_r50_nasfpn") -> MergeSpace:
  """Returns the space of NAS-FPN: seven cells over levels 3 to 7, the last five its outputs.

  The first two are not on level 3, whose features are the largest.
  """
  made = MergeSpace(levels=(3, 4, 5, 6, 7), merges=7, inner=(4, 5, 6, 7), model=model)
  both = ("retinanet_r50_nasfpn", "nasfpnlite_mobilenetv2")
  made.known = dict.fromkeys(both, pyramids.FOUND)
  return made


@registry.register("nasfpn_lite")
@registry.register("nasfpn_tiny", merges=6, model="mnasfpn_tiny")
def nasfpn_lite(*, merges: int = 15, model: str = "nasfpnlite_mobilenetv2") -> MergeSpace:
  """Returns the space of NAS-FPNLite: cells over levels 3 to 6 with separable convolutions.

  merges: cells in all; the last four are the outputs.
  """
  if merges < 4:
    raise errors.UserError(f"config.search.settings.merges={merges!r} should be at least 4.")
  return MergeSpace(levels=(3, 4, 5, 6), merges=merges, inner=(4, 5, 6), model=model)


WIDTHS = (16, 32, 48, 64, 80, 96)
EXPANDS = (16, 32, 64, 96, 128, 192, 256)
_LEVELS = (3, 4, 5, 6)
INTERNAL = 5


class CellSpace(space.Space):
  """A cell of blocks: inner ones on a level of their own, then one output for every level.

  Inner blocks that no output needs are left out, so how many there are is decided too. Blocks keep
  their order: cells that differ only in that of independent blocks count as different.

  widths: of the results. expands: channels in which features meet, () for the width. most: inputs
  of a block. merges, kernels: choices. inner: blocks. model: of the zoo, whose body is taken.
  """

  kind: ClassVar[str] = "mnasfpn"

  def __init__(
    self,
    *,
    widths: Sequence[int],
    expands: Sequence[int],
    merges: Sequence[str] = ("add", "attention"),
    kernels: Sequence[int] = (3, 5),
    most: int = 2,
    inner: int = INTERNAL,
    model: str,
  ):
    self._expands, self._merges, self._inner = tuple(expands), tuple(merges), inner
    self._most, self._model, self._kernels = most, model, tuple(kernels)
    decisions = [space.Decision("width", tuple(widths), "width")]
    rules: list[space.Rule] = []
    for index in range(inner + len(_LEVELS)):
      name, count = f"block{index + len(_LEVELS)}", len(_LEVELS) + index
      pair, _ = _pair(name, count)
      pair += [
        space.Decision(f"{name}.input{i}", (None, *range(count)), "input") for i in range(2, most)
      ]
      rules.append(space.Different(tuple(d.name for d in pair), ordered=False))
      decisions += pair
      if index < inner:
        decisions.append(space.Decision(f"{name}.level", _LEVELS, "level"))
      for kind, choices in (("expand", expands), ("merge", merges), ("kernel", kernels)):
        if len(choices) > 1:
          decisions.append(space.Decision(f"{name}.{kind}", tuple(choices), kind))
    super().__init__("", decisions, rules)

  def _spec(self, tokens: Sequence[int]) -> mnasfpn.Spec:
    chosen = self.values(tokens)
    found, width = [], chosen["width"]
    for index in range(self._inner + len(_LEVELS)):
      name = f"block{index + len(_LEVELS)}"
      inputs = [chosen[f"{name}.input{i}"] for i in range(self._most)]
      found.append(
        mnasfpn.Block(
          tuple(sorted(i for i in inputs if i is not None)),
          chosen[f"{name}.level"] if index < self._inner else _LEVELS[index - self._inner],
          chosen.get(f"{name}.expand", self._expands[0] if self._expands else width),
          chosen.get(f"{name}.kernel", self._kernels[0]),
          chosen.get(f"{name}.merge", self._merges[0]),
        )
      )
    whole = mnasfpn.Spec(tuple(found), width, expanded=bool(self._expands))
    kept = sorted(whole.used(_LEVELS))
    number = {old: new for new, old in enumerate([*range(len(_LEVELS)), *kept])}
    pruned = tuple(
      dataclasses.replace(block, inputs=tuple(number[i] for i in block.inputs))
      for block in (found[old - len(_LEVELS)] for old in kept)
    )
    return dataclasses.replace(whole, blocks=pruned)

  def canonical(self, tokens: Sequence[int]) -> tuple:
    """Returns the width and the blocks that an output needs, numbered anew."""
    spec = self._spec(tokens)
    return (spec.width, *(dataclasses.astuple(block) for block in spec.blocks))

  def decode(self, tokens: Sequence[int]) -> mnasfpn.Spec:
    """Returns the cell, without unused blocks. Raises: UserError if `tokens` are no point."""
    self.validate(tokens)
    return self._spec(tokens)

  def encode(self, spec: mnasfpn.Spec) -> tuple[int, ...]:
    """Returns tokens of a cell; unused blocks are put behind the inner ones.

    Raises: UserError if it is outside.
    """
    have = len(spec.blocks) - len(_LEVELS)
    levels = tuple(block.level for block in spec.blocks[have:])
    if not 0 <= have <= self._inner or levels != _LEVELS:
      raise errors.UserError(
        f"this cell is not in {self.name!r}: up to {self._inner} inner blocks, then outputs on "
        f"levels {_LEVELS}."
      )
    moved = self._inner - have
    values: dict[str, Any] = {"width": spec.width}
    for index, block in enumerate(spec.blocks):
      place = index if index < have else index + moved
      name = f"block{place + len(_LEVELS)}"
      inputs = sorted(i if i < len(_LEVELS) + have else i + moved for i in block.inputs)
      # Behind the two that there have to be, None for the others.
      inputs += [None] * (self._most - len(inputs))
      values |= {f"{name}.input{i}": feature for i, feature in enumerate(inputs)}
      if index < have:
        values[f"{name}.level"] = block.level
      for kind, choices in (
        ("expand", self._expands),
        ("merge", self._merges),
        ("kernel", self._kernels),
      ):
        value = getattr(block, kind)
        if len(choices) > 1:
          values[f"{name}.{kind}"] = value
        elif value != (choices[0] if choices else spec.width):
          raise errors.UserError(f"{name}.{kind}={value!r} is outside {self.name!r}.")
    return self.tokens(values)

  def build(self, spec: mnasfpn.Spec, *, model: str | None = None, **overrides: Any) -> nn.Module:
    """Returns the detector; model: of the zoo, with such a pyramid; overrides: its arguments."""
    if "width" in overrides:
      raise errors.UserError(
        f"config.model.width={overrides['width']!r} is decided by the space {self.name!r}; leave "
        "it out."
      )
    own = {"blocks": spec.blocks, "width": spec.width, "expanded": spec.expanded}
    return models.create(model or self._model, **own, **overrides)

  def count_unique(self) -> int:
    """Returns how many different keys there are, exactly.

    With k inner blocks all are needed if each is an input of another block: by inclusion and
    exclusion over those that are not.
    """
    each = len(self._kernels) * len(self._merges) * max(1, len(self._expands))
    sizes = range(2, self._most + 1)
    ways = lambda n: sum(math.comb(n, size) for size in sizes)  # noqa: E731
    total = 0
    for count in range(self._inner + 1):
      for chosen in range(2**count):
        left, product = len(_LEVELS), 1
        for index in range(count + len(_LEVELS)):
          product *= ways(left) * each * (len(_LEVELS) if index < count else 1)
          left += not (index < count and chosen >> index & 1)
        total += (-1) ** chosen.bit_count() * product
    return total * int(self.arities[0])


def _cell(made: CellSpace) -> CellSpace:
  made.known["mnasfpn_mobilenetv2"] = mnasfpn.Spec()
  return made


@registry.register("mnasfpn")
def mnasfpn_(
  *,
  widths: tuple[int, ...] = WIDTHS,
  expands: tuple[int, ...] = EXPANDS,
  merges: tuple[str, ...] = ("add", "attention"),
  model: str = "mnasfpn_mobilenetv2",
) -> CellSpace:
  """Returns the space of MnasFPN. Args: of `CellSpace`; the paper does not print the lists."""
  return _cell(CellSpace(widths=widths, expands=expands, merges=merges, model=model))


@registry.register("mnasfpn_no_expand")
def no_expand(*, widths: tuple[int, ...] = WIDTHS, model: str = "mnasfpn_mobilenetv2") -> CellSpace:
  """Returns the ablation in which features meet in the channels of the result."""
  return _cell(CellSpace(widths=widths, expands=(), model=model))


@registry.register("mnasfpn_conn_search")
def conn_search(
  *,
  widths: tuple[int, ...] = WIDTHS,
  expands: tuple[int, ...] = EXPANDS,
  most: int = 4,
  model: str = "mnasfpn_mobilenetv2",
) -> CellSpace:
  """Returns the ablation in which two to `most` features are added in a block."""
  if not 2 <= most <= 4:
    raise errors.UserError(f"config.search.settings.most={most!r} should be 2, 3 or 4.")
  return _cell(CellSpace(widths=widths, expands=expands, merges=("add",), most=most, model=model))


@registry.register("mnasfpn_tiny")
def tiny(
  *,
  widths: tuple[int, ...] = (16, 24, 32),
  expands: tuple[int, ...] = (16, 32, 48, 64, 128),
  inner: int = 3,
  model: str = "mnasfpn_tiny",
) -> CellSpace:
  """Returns a narrow space with up to `inner` inner blocks, for images of 128 pixels."""
  return CellSpace(widths=widths, expands=expands, inner=inner, model=model)
