"""SpineNet's space: which order scales come in, and which two blocks each block is made of.

Source: Du et al. 2020 (arXiv 1912.05027), section 3; `spinenet_vertex*`: the tunable spaces of
google/vertex-ai-nas.
"""

import collections
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn

from effnets import errors, models
from effnets.models import scale_permuted as graphs
from effnets.search import space
from effnets.search.spaces import registry

OUTPUTS = (3, 4, 5, 6, 7)


class SpineSpace(space.Space):
  """Decisions in the paper's order: levels, outputs, parents, offsets, kinds.

  allocation: how many intermediate blocks start on each level, as (level, count) pairs. offsets: a
  run of whole numbers that may be added. kinds: of blocks. window: from how many blocks before it
  an intermediate block's parents are; 0 for all. outputs: levels. order: fixed levels of all
  blocks, instead of a permutation and offsets. model: of the zoo, whose widths are taken.

  Blocks keep their numbers: graphs that differ only in the order of independent blocks count as
  different.
  """

  kind: ClassVar[str] = "spinenet"

  def __init__(
    self,
    *,
    allocation: Sequence[tuple[int, int]],
    offsets: Sequence[int],
    kinds: Sequence[str],
    window: int,
    outputs: Sequence[int] = OUTPUTS,
    order: Sequence[int] = (),
    model: str = "spinenet_49",
  ):
    """Raises: UserError for offsets with gaps, or an order that is none."""
    self.base = tuple(level for level, count in allocation for _ in range(count))
    self.offsets, self.kinds, self.outputs = tuple(offsets), tuple(kinds), tuple(outputs)
    self.order, self._model, self._window = tuple(order), model, window
    if self.offsets != tuple(range(self.offsets[0], self.offsets[-1] + 1)):
      raise errors.UserError(f"config.search.settings.offsets={offsets!r} should be a run.")
    if order and sorted(self.order[-len(outputs) :]) != sorted(outputs):
      raise errors.UserError(
        f"config.search.settings.order={order!r} should end with each of {outputs} once."
      )
    count = len(self.order) - len(outputs) if order else len(self.base)
    self.intermediates = count
    decisions, rules = [], []
    if not order:
      slots = [f"slot{i}.item" for i in range(count)]
      decisions += [space.Decision(name, tuple(range(count)), "item") for name in slots]
      rules.append(space.Different(tuple(slots)))
      ends = [f"slot{count + i}.output" for i in range(len(outputs))]
      decisions += [space.Decision(name, self.outputs, "output") for name in ends]
      rules.append(space.Different(tuple(ends)))
    for index in range(graphs.STEM, graphs.STEM + count + len(outputs)):
      near = self.window(index)
      pair = tuple(f"block{index}.parent{i}" for i in range(2))
      decisions += [space.Decision(name, near, "parent") for name in pair]
      rules.append(space.Different(pair, ordered=False))
    if not order and len(self.offsets) > 1:
      decisions += [space.Decision(f"slot{i}.offset", self.offsets, "offset") for i in range(count)]
    if len(self.kinds) > 1:
      decisions += [
        space.Decision(f"block{index}.kind", self.kinds, "kind")
        for index in range(graphs.STEM, graphs.STEM + count + len(outputs))
      ]
    super().__init__("", decisions, rules)

  def window(self, index: int) -> tuple[int, ...]:
    """Returns the possible parents of a block, the nearest first."""
    near = tuple(range(index - 1, -1, -1))
    inner = index < graphs.STEM + self.intermediates
    return near[: self._window] if inner and self._window else near

  def decode(self, tokens: Sequence[int]) -> tuple[graphs.Block, ...]:
    """Returns the graph. Raises: UserError if `tokens` are no point."""
    self.validate(tokens)
    return self._graph(tokens)

  def _graph(self, tokens: Sequence[int]) -> tuple[graphs.Block, ...]:
    chosen = self.values(tokens)
    found = []
    for index in range(self.intermediates + len(self.outputs)):
      if self.order:
        level = self.order[index]
      elif index < self.intermediates:
        level = self.base[chosen[f"slot{index}.item"]]
        level += chosen.get(f"slot{index}.offset", self.offsets[0])
      else:
        level = chosen[f"slot{index}.output"]
      number = index + graphs.STEM
      parents = sorted(chosen[f"block{number}.parent{i}"] for i in range(2))
      kind = chosen.get(f"block{number}.kind", self.kinds[0])
      found.append(graphs.Block(level, kind, tuple(parents), index >= self.intermediates))
    return tuple(found)

  def encode(self, spec: Sequence[graphs.Block]) -> tuple[int, ...]:
    """Returns tokens of a graph. Raises: UserError if it is outside, with the reason."""
    levels = [block.level for block in spec if not block.output]
    values: dict[str, Any] = {}
    if len(spec) != self.intermediates + len(self.outputs):
      raise errors.UserError(f"a graph of {len(spec)} blocks is not in the space {self.name!r}.")
    if self.order:
      if tuple(block.level for block in spec) != self.order:
        raise errors.UserError(f"a graph of another order is not in the space {self.name!r}.")
    else:
      # The offsets are a run, so pairing both in sorted order succeeds if any pairing does.
      places = sorted(range(self.intermediates), key=lambda place: (levels[place], place))
      for item, place in enumerate(places):
        values[f"slot{place}.item"] = item
        offset = levels[place] - self.base[item]
        if offset not in self.offsets:
          raise errors.UserError(
            f"levels {levels} are not in the space {self.name!r}: they start from {self.base} "
            f"with offsets {self.offsets}."
          )
        if len(self.offsets) > 1:
          values[f"slot{place}.offset"] = offset
      for place, block in enumerate(spec[self.intermediates :], self.intermediates):
        values[f"slot{place}.output"] = block.level
    for number, block in enumerate(spec, graphs.STEM):
      for i, parent in enumerate(sorted(block.parents)):
        if parent not in self.window(number):
          raise errors.UserError(
            f"block {number} has parents {block.parents}; in the space {self.name!r} they are "
            f"two of {sorted(self.window(number))}."
          )
        values[f"block{number}.parent{i}"] = parent
      if len(self.kinds) > 1:
        values[f"block{number}.kind"] = block.kind
      elif block.kind != self.kinds[0]:
        raise errors.UserError(f"block {number} is {block.kind}, not {self.kinds[0]}.")
    return self.tokens(values)

  def canonical(self, tokens: Sequence[int]) -> tuple:
    """Returns levels, kinds, parents; which items and offsets gave a level does not matter."""
    return tuple((block.level, block.kind, block.parents) for block in self._graph(tokens))

  def build(
    self, spec: Sequence[graphs.Block], *, model: str | None = None, **overrides: Any
  ) -> nn.Module:
    """Returns the classifier or detector of a graph.

    model: of the zoo, a SpineNet or a detector on one, whose widths and head are taken; None for
    the space's own. overrides: its arguments.
    """
    name = model or self._model
    key = "graph" if models.entry(name).task == "classification" else "backbone_graph"
    return models.create(name, **{key: tuple(spec)}, **overrides)

  @functools.cached_property
  def _rest(self) -> int:
    """How many ways parents, kinds and outputs have."""
    count = self.intermediates + len(self.outputs)
    pairs = [
      math.comb(len(self.window(index)), 2) for index in range(graphs.STEM, graphs.STEM + count)
    ]
    orders = 1 if self.order else math.factorial(len(self.outputs))
    return math.prod(pairs) * orders * len(self.kinds) ** count

  def count_interchangeable(self) -> int:
    """Returns how many points there are if items of one level count as one; offsets stay apart."""
    same = collections.Counter(self.base).values()
    orders = math.factorial(self.intermediates) // math.prod(map(math.factorial, same))
    return orders * len(self.offsets) ** self.intermediates * self._rest

  def count_unique(self) -> int:
    """Returns how many different keys there are, exactly: by how often each level occurs."""
    if self.order:
      return self._rest
    low, high = min(self.base) + self.offsets[0], max(self.base) + self.offsets[-1]
    base, total = sorted(self.base), 0
    for levels in itertools.combinations_with_replacement(range(low, high + 1), len(base)):
      if all(a - b in self.offsets for a, b in zip(levels, base, strict=True)):
        same = collections.Counter(levels).values()
        total += math.factorial(len(base)) // math.prod(map(math.factorial, same))
    return total * self._rest


_BOTH = ("bottleneck", "residual")
_KNOWN = {"spinenet_49": graphs.SPINENET, "spinenet_r0_sp53": graphs.R0_SP53}


@registry.register("spinenet")
@registry.register("spinenet_all", window=0)
@registry.register("spinenet_vertex", allocation=((2, 1), (3, 3), (4, 5), (5, 2)), window=4)
@registry.register("spinenet_vertex_v2", offsets=(-1, 0, 1), kinds=("bottleneck",), window=4)
def spinenet(
  *,
  allocation: tuple[tuple[int, int], ...] = ((2, 1), (3, 3), (4, 5), (5, 1)),
  offsets: tuple[int, ...] = (-1, 0, 1, 2),
  kinds: tuple[str, ...] = _BOTH,
  window: int = 5,
  order: tuple[int, ...] = (),
) -> SpineSpace:
  """Returns the paper's space: ten intermediate blocks with parents among the last five.

  Args: of `SpineSpace`. `spinenet_all` has no window.
  """
  made = SpineSpace(allocation=allocation, offsets=offsets, kinds=kinds, window=window, order=order)
  made.known = _KNOWN
  return made


@registry.register("spinenet_vertex_mbconv")
def spinenet_mbconv(*, window: int = 4) -> SpineSpace:
  """Returns the space of mobile blocks, with the graph of SpineNet-Mobile."""
  made = SpineSpace(
    allocation=((2, 1), (3, 1), (4, 5), (5, 4)),
    offsets=(-1, 0, 1, 2),
    kinds=("mbconv",),
    window=window,
    model="spinenet_mobile_49",
  )
  made.known = {"spinenet_mobile_49": graphs.MOBILE}
  return made


@registry.register("spinenet_tiny")
def spinenet_tiny(
  *, offsets: tuple[int, ...] = (0, 1), kinds: tuple[str, ...] = _BOTH, window: int = 4
) -> SpineSpace:
  """Returns the space of four intermediate blocks and outputs on levels 3 to 6, for 128 pixels."""
  made = SpineSpace(
    allocation=((2, 1), (3, 1), (4, 1), (5, 1)),
    offsets=offsets,
    kinds=kinds,
    window=window,
    outputs=(3, 4, 5, 6),
    model="spinenet_tiny",
  )
  made.known = {"spinenet_tiny": graphs.TINY}
  return made


_SCALING = {
  "image_size": (512, 640),
  "endpoint": (192, 256),
  "scale": (0.8, 1.0, 1.2),
  "alpha": (0.75, 1.0, 1.25),
  "repeats": (2, 3, 4),
  "head_repeats": (4, 5),
  "head_width": (192, 256),
}


@registry.register("spinenet_scaling")
def spinenet_scaling() -> space.Space:
  """Returns how to scale a SpineNet detector: pixels, channels, units and the head."""
  return space.Space("", [space.Decision(name, v, name) for name, v in _SCALING.items()])
