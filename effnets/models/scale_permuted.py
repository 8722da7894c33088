"""Scale-permuted graphs as data: blocks with a level, a kind, parents, and whether outputs.

Source: Du et al. 2020 (arXiv 1912.05027) and its code.
"""

import dataclasses

from effnets import errors

KINDS = ("bottleneck", "residual", "mbconv")


@dataclasses.dataclass(frozen=True)
class Block:
  """A block: level of its features, one of `KINDS`, numbers of its parents, whether an output."""

  level: int
  kind: str
  parents: tuple[int, ...]
  output: bool = False


def parse(text: str, kind: str = "bottleneck") -> tuple[Block, ...]:
  """Returns blocks written as `level:parents`, `r` before a residual, `*` behind an output."""
  found = []
  for word in text.split():
    place, _, parents = word.rstrip("*").partition(":")
    found.append(
      Block(
        int(place.removeprefix("r")),
        "residual" if place.startswith("r") else kind,
        tuple(int(parent) for parent in parents.split(",")),
        word.endswith("*"),
      )
    )
  return tuple(found)


SPINENET = parse(
  "2:0,1 r4:0,1 3:2,3 4:2,4 r6:3,5 4:3,5 r5:6,7 r7:6,8 5:8,9 5:8,10 "
  "4:5,10* 3:4,10* 5:7,12* 7:5,14* 6:12,14*"
)
"""The graph of SpineNet-49 and larger."""

R0_SP53 = parse(
  "2:0,1 3:0,1 3:2,3 4:2,4 4:3,5 3:5,6 5:4,7 4:4,8 4:8,9 4:8,10 "
  "3:4,10* 4:6,7* 5:8,13* 7:6,9* 6:7,9*"
)
"""R0-SP53 as in a third party's code; unverified, it was never published."""

MOBILE = parse(
  "2:0,1 2:1,2 4:1,2 3:3,4 4:3,5 6:4,6 4:4,6 5:7,8 7:7,9 5:9,10 5:9,11 "
  "4:6,11* 3:5,11* 5:8,13* 7:6,15* 6:13,15*",
  "mbconv",
)

TINY = parse("2:0,1 4:0,1 3:2,3 5:3,4 4:4,5* 3:4,6* 6:5,6* 5:7,8*")
"""This project's own, for pictures of 128 pixels."""

TINY_DECREASED = parse("2:0,1 3:2 4:3 5:4 5:5* 4:4,6* 3:3,7* 6:6*")
"""The same levels in falling order and from above again, as of a ResNet with an FPN."""

STEM = 2
"""Blocks of the stem."""


def check_graph(graph: tuple[Block, ...], levels: tuple[int, ...]) -> None:
  """Checks that parents come before their blocks and every level has one output.

  Raises: UserError.
  """
  for index, block in enumerate(graph, STEM):
    if block.kind not in KINDS:
      raise errors.unknown("config.model.graph", block.kind, "a kind of block", KINDS)
    if not block.parents or not all(0 <= parent < index for parent in block.parents):
      raise errors.UserError(
        f"config.model.graph: block {index} has parents {block.parents}; there are 0 to "
        f"{index - 1}."
      )
    if block.level < 1:
      raise errors.UserError(f"config.model.graph: block {index} is on level {block.level}.")
  outputs = [block.level for block in graph if block.output]
  if len(set(outputs)) != len(outputs) or not set(levels) <= set(outputs):
    raise errors.UserError(
      f"config.model.graph: outputs are on levels {sorted(outputs)}, needed is each of {levels} "
      "once."
    )


def orphans(graph: tuple[Block, ...], index: int) -> tuple[int, ...]:
  """Returns the blocks that output block `index` takes in because nothing before it did.

  They are of its level and kind; nothing is done to them.

  >>> [(i, orphans(SPINENET, i)) for i in range(2, 17) if orphans(SPINENET, i)]
  [(14, (11,))]
  """
  block = graph[index - STEM]
  if not block.output:
    return ()
  used = {parent for before in graph[: index - STEM + 1] for parent in before.parents}
  for before in range(STEM, index):
    used |= set(orphans(graph, before))
  kind = lambda b: (b.level, b.kind)  # noqa: E731
  before = range(STEM, index)
  return tuple(i for i in before if i not in used and kind(graph[i - STEM]) == kind(block))
