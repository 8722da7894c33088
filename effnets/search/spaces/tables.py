"""Spaces of classifiers: a chain of stages, each of which adds rows to a stage table."""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn

from effnets import errors
from effnets.models import families, stage_tables
from effnets.search import space

STEM, HEAD = "stem", "head"
"""Operations of rows that stand for the table's first and last convolution."""

Form = tuple
"""What a stage comes to: JSON values, one tuple per layer."""


class TableSpace(space.Space):
  """A chain of stages; what one is depends on its own decisions and on the channels before it.

  stages: the decisions of each, in order; names are "stage.choice", such as "block3.kernel".
  part: (stage number, choices by the name behind the point, channels before it) -> rows. Rows of
    operation `STEM` and `HEAD` are the table's stem and head.
  table: what the rows are put in; the stem and head of rows replace its own.
  activation: of all layers, where it is no decision. build: further arguments of `families.build`.

  A key tells stages apart even where the rows of one could be the other's: among optional layers
  that stand in a row, it says which place is empty (with shared weights, places differ).
  """

  kind: ClassVar[str] = "table"

  def __init__(
    self,
    stages: Iterable[Sequence[space.Decision]],
    part,
    *,
    table: stage_tables.Table,
    rules: Iterable[space.Rule] = (),
    activation: str = "",
    build: Mapping[str, Any] | None = None,
  ):
    stages = tuple(map(tuple, stages))
    super().__init__("", [decision for stage in stages for decision in stage], rules)
    ends = [sum(map(len, stages[: index + 1])) for index in range(len(stages))]
    self._spans = [range(end - len(stage), end) for stage, end in zip(stages, ends, strict=True)]
    self._part, self._frame, self._activation = part, table, activation
    self._build = dict(build or {})
    self._known: dict[tuple[int, int], dict[Form, tuple[int, ...]]] = {}
    self._cached = functools.lru_cache(maxsize=200_000)(self._rows)

  @property
  def image_size(self) -> int:
    """Height and width that its networks are made for, in pixels."""
    return self._build.get("image_size", 224)

  # From tokens to rows.

  def _rows(
    self, stage: int, chosen: tuple[int, ...], inputs: int
  ) -> tuple[tuple[stage_tables.Row, ...], int, Form]:
    """Returns a stage's rows, the channels behind it, and its form."""
    span = self._spans[stage]
    values = {
      self.decisions[place].name.rpartition(".")[2]: self.decisions[place].choices[token]
      for place, token in zip(span, chosen, strict=True)
    }
    rows, before = [], inputs
    for row in self._part(stage, values, inputs):
      # So that equal networks have equal tables.
      adds = row.repeats > 1 or (row.stride == 1 and before == row.channels)
      rows.append(dataclasses.replace(row, skip=False) if row.skip and not adds else row)
      before = row.channels
    form, channels = _form(rows, inputs)
    return tuple(rows), channels, form

  def _walk(self, tokens: Sequence[int]):
    channels = self._frame.stem
    for stage, span in enumerate(self._spans):
      chosen = tuple(int(token) for token in tokens[span.start : span.stop])
      rows, channels, form = self._cached(stage, chosen, channels)
      yield rows, form

  def canonical(self, tokens: Sequence[int]) -> Form:
    """Returns every stage's layers with what has an effect there, and nothing else."""
    return tuple(form for _, form in self._walk(tokens))

  def decode(self, tokens: Sequence[int]) -> stage_tables.Table:
    """Returns the stage table. Raises: UserError if `tokens` are no point."""
    self.validate(tokens)
    made = [row for rows, _ in self._walk(tokens) for row in rows]
    frame = {}
    for row in made:
      if row.op == STEM:
        frame |= {"stem": row.channels, "stem_kernel": row.kernel}
      elif row.op == HEAD:
        frame |= {"head": row.channels}
    rows = tuple(row for row in made if row.op not in (STEM, HEAD))
    return dataclasses.replace(self._frame, rows=rows, **frame)

  def build(
    self, spec: stage_tables.Table, *, num_classes: int = 1000, **overrides: Any
  ) -> nn.Module:
    """Returns the classifier of a table; overrides: arguments of `families.build`."""
    return families.build(spec, num_classes=num_classes, **{**self._build, **overrides})

  # And back.

  def forms(self, stage: int, inputs: int) -> dict[Form, tuple[int, ...]]:
    """Returns what a stage can be behind `inputs` channels: the first tokens of every form."""
    key = (stage, inputs)
    if key not in self._known:
      found: dict[Form, tuple[int, ...]] = {}
      for chosen in itertools.product(*(range(self.arities[p]) for p in self._spans[stage])):
        found.setdefault(self._rows(stage, chosen, inputs)[2], chosen)
      self._known[key] = found
    return self._known[key]

  def encode(self, spec: stage_tables.Table) -> tuple[int, ...]:
    """Returns tokens whose table has the layers of `spec`, the first that do.

    Activations count only where the space decides them.
    Raises: UserError if none has.
    """
    rows = spec.rows
    if self._activation:
      rows = [dataclasses.replace(row, activation=self._activation) for row in rows]
    head = stage_tables.Row(HEAD, 1, 1, 1, spec.head)
    stem = stage_tables.Row(STEM, spec.stem_kernel, spec.stem_stride, 1, spec.stem)
    table = [*stage_tables.unroll(rows)]
    first = self._encode(0, (stem, *table, head), self._frame.stem)
    found = first if first is not None else self._encode(0, tuple(table), spec.stem)
    if found is None or (first is None and (spec.stem, spec.head) != self._ends()):
      layers = " ".join(f"{row.op}:{row.kernel}:{row.channels}x{row.repeats}" for row in spec.rows)
      raise errors.UserError(
        f"this network is not in the space {self.name!r}: {spec.stem} {layers} {spec.head}."
      )
    return found

  def _ends(self) -> tuple[int, int]:
    return self._frame.stem, self._frame.head

  def _encode(
    self, stage: int, rows: tuple[stage_tables.Row, ...], inputs: int
  ) -> tuple[int, ...] | None:
    if stage == len(self._spans):
      return None if rows else ()
    for form, chosen in self.forms(stage, inputs).items():
      head, channels = _form(rows[: len(form)], inputs)
      if head == form:
        rest = self._encode(stage + 1, rows[len(form) :], channels)
        if rest is not None:
          return (*chosen, *rest)
    return None

  # How many there are.

  def chains(self) -> Iterator[stage_tables.Table]:
    """Yields networks that together have every layer of the space, each form of a stage once."""
    # By channels: tokens that lead there.
    reached: dict[int, tuple[int, ...]] = {self._frame.stem: ()}
    for stage in range(len(self._spans)):
      following: dict[int, tuple[int, ...]] = {}
      for inputs, before in reached.items():
        for form, chosen in self.forms(stage, inputs).items():
          channels = form[-1][4] if form else inputs
          following.setdefault(channels, (*before, *chosen))
          yield self._finished((*before, *chosen))
      reached = following

  def _finished(self, tokens: tuple[int, ...]) -> stage_tables.Table:
    return self.decode((*tokens, *(0 for _ in range(len(self) - len(tokens)))))

  def count_unique(self) -> int:
    """Returns how many different keys there are, exactly: stage by stage, by channels."""
    reached = {self._frame.stem: 1}
    for stage in range(len(self._spans)):
      following: dict[int, int] = {}
      for inputs, count in reached.items():
        for form in self.forms(stage, inputs):
          channels = form[-1][4] if form else inputs
          following[channels] = following.get(channels, 0) + count
      reached = following
    return sum(reached.values())


def _form(rows: Sequence[stage_tables.Row], inputs: int) -> tuple[Form, int]:
  """Returns what has an effect in each layer behind `inputs` channels, and the last channels."""
  found = []
  for row in rows:
    plain = row.op in ("conv", STEM, HEAD)
    adding = row.skip and row.op in ("conv", "mbconv")
    shared = (
      row.channels,
      None if plain or row.squeeze is None else row.squeeze.ratio,
      "" if row.op in (STEM, HEAD) else row.activation,
    )
    parts = (
      row.expand_parts if not plain and row.expand != 1 else 1,
      1 if plain else row.project_parts,
    )
    for index in range(row.repeats):
      stride = row.stride if index == 0 else 1
      adds = adding and stride == 1 and inputs == row.channels
      adds = adds and (index > 0 or row.declared in (None, inputs))
      skip = "pool" if row.pooled else "identity" if adds else "none"
      # Inner channels as a number of their own are a string, so as to equal no expansion.
      own = f"={row.widened}" if row.widened is not None and index == 0 else row.expand
      found.append((row.op, row.kernel, stride, 1 if plain else own, *shared, skip, *parts))
      inputs = row.channels
  return tuple(found), inputs
