"""Networks of the zoo with fewer channels, as NetAdapt makes them.

A stage is one block. Its decisions are the inner channels, and those of the result, which blocks
that add their input have in common: the first of them decides, the others follow.
Source: Yang et al. 2018 (1804.03230); Howard et al. 2019 (arXiv 1905.02244), section 4.2: both the
expansion and the bottleneck, of all blocks that share one.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn

from effnets import errors, models
from effnets.models import layers, network, stage_tables
from effnets.search import space
from effnets.search.spaces import registry, tables

_OPS = ("mbconv", "conv", "separable")


class Narrower(tables.TableSpace):
  """A registered classifier's blocks, each of as many channels as there are or fewer.

  model: its name. multiple: what widths are multiples of, the network's own aside. Stem, head and
  whatever follows keep theirs. The last choice of every decision is the network's own.

  Raises: UserError for a model that is none, or whose blocks are not cut here.
  """

  kind: ClassVar[str] = "narrower"

  def __init__(self, model: str, multiple: int):
    made = models.create(model) if models.entry(model).task == "classification" else None
    if not isinstance(made, network.Network):
      raise errors.UserError(
        f"config.search.space.options.model={model!r} is no classifier of blocks, such as "
        "'mobilenetv3_large'."
      )
    if multiple < 1:
      raise errors.UserError(f"multiple={multiple} should be at least 1, such as 8.")
    self.model = model
    self._own, stages, inputs = [], [], made.stem
    for index, row in enumerate(stage_tables.unroll(made.rows)):
      if row.op not in _OPS or row.pooled:
        raise errors.UserError(
          f"{model!r} has blocks {row.op!r}, which are not narrowed here; {', '.join(_OPS)} are."
        )
      tied = row.skip and row.stride == 1 and inputs == row.channels
      tied = tied and row.op != "separable" and row.declared in (None, inputs)
      # Equal numbers that come about by narrowing make no new skip.
      self._own.append(dataclasses.replace(row, skip=tied, declared=None))
      choices = {}
      if row.op == "mbconv" and row.expand != 1:
        choices["inner"] = _inner(row, inputs)
      if not tied:
        choices["width"] = row.channels
      stages.append(
        [
          space.Decision(f"block{index}.{kind}", (*range(multiple, full, multiple), full), kind)
          for kind, full in choices.items()
        ]
      )
      inputs = row.channels
    frame = stage_tables.Table(
      **{
        field.name: getattr(made, field.name)
        for field in dataclasses.fields(stage_tables.Table)
        if field.name not in ("rows", "head_scaling", "depth_rounding")
      },
      rows=(),
    )
    super().__init__(stages, self._narrowed, table=frame, build={"image_size": made.image_size})

  def _narrowed(
    self, stage: int, chosen: dict[str, int], inputs: int
  ) -> tuple[stage_tables.Row, ...]:
    row = self._own[stage]
    return (
      dataclasses.replace(row, channels=chosen.get("width", inputs), widened=chosen.get("inner")),
    )

  @property
  def whole(self) -> tuple[int, ...]:
    """The network itself."""
    return tuple(int(arity) - 1 for arity in self.arities)

  @property
  def published(self) -> dict[str, tuple[int, ...]]:
    """The network itself, by its name."""
    return {self.model: self.whole}

  def build(
    self, spec: stage_tables.Table, *, num_classes: int = 1000, **overrides: Any
  ) -> nn.Module:
    """Returns the classifier of a table; overrides: settings of the model.

    Variables are named as the model's own, and of each the first channels are meant.
    """
    return models.create(self.model, num_classes, **overrides).clone(rows=spec.rows)


def _inner(row: stage_tables.Row, inputs: int) -> int:
  if row.widened is not None:
    return row.widened
  exact = inputs * row.expand
  return layers.divisible(exact) if exact % inputs else int(exact)


@registry.register("narrower")
def narrower(*, model: str = "mobilenetv3_large", multiple: int = 8) -> Narrower:
  """Returns the space of a network's widths. Args: of `Narrower`."""
  return Narrower(model, multiple)
