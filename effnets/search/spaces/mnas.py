"""The factorised hierarchical space of MnasNet, and the flat and cell spaces it is compared with.

Found in it: MnasNet-A1 and -B1, EfficientNet-B0. Source: Tan et al. 2019 (arXiv 1807.11626),
section 4.1; `mnas_vertex`: the tunable space of google/vertex-ai-nas.
"""

import dataclasses
import math
from collections.abc import Sequence

from effnets import errors
from effnets.models import efficientnet, layers, mnasnet, mobilenet, stage_tables
from effnets.search import space
from effnets.search.spaces import registry, tables

MULTIPLES = (0.75, 1.0, 1.25)
SKIPS = ("none", "identity", "pool")


@dataclasses.dataclass(frozen=True)
class Block:
  """A block of the skeleton. stride: of its first layer. filters, layers: its choices."""

  stride: int
  filters: tuple[int, ...]
  layers: tuple[int, ...]


# MobileNetV2's blocks: channels, layers, stride.
_V2 = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))

# The published networks have 112 and 192 channels, which no multiple of MobileNetV2's gives.
_DEFAULT = tuple(
  Block(stride, filters, layers_)
  for stride, filters, layers_ in (
    (1, (16, 24), (1, 2)),
    (2, (16, 24, 32), (1, 2, 3)),
    (2, (24, 32, 40), (2, 3, 4)),
    (2, (48, 64, 80), (3, 4, 5)),
    (1, (72, 96, 112, 120), (2, 3, 4)),
    (2, (120, 160, 192, 200), (2, 3, 4)),
    (1, (240, 320, 400), (1, 2)),
  )
)
# Around MnasNet-small, whose stem has 8 channels.
_SMALL = tuple(
  Block(block.stride, filters, block.layers)
  for block, filters in zip(
    _DEFAULT,
    (
      (8, 16),
      (8, 16, 24),
      (16, 24, 32),
      (24, 32, 40),
      (32, 40, 48),
      (72, 88, 96, 112),
      (112, 144, 176),
    ),
    strict=True,
  )
)
# One width and one layer each, so that networks are made of few different parts.
_MICRO = (Block(1, (8,), (1,)), Block(2, (16,), (1,)), Block(1, (24,), (1,)))
# Three halvings, so that 32 pixels end as 4.
_TINY = (
  Block(1, (8, 16), (1, 2)),
  Block(2, (16, 24), (1, 2, 3)),
  Block(2, (24, 32, 40), (1, 2, 3)),
  Block(1, (48, 64), (1, 2)),
)


def _decisions(where: str, choices: dict[str, tuple]) -> list[space.Decision]:
  return [space.Decision(f"{where}.{kind}", values, kind) for kind, values in choices.items()]


def _operation(op: str) -> tuple[str, int]:
  """Returns the row operation and the expansion that `conv`, `dconv`, `mbconv3`, ... stand for."""
  return ("conv", 1) if op == "conv" else ("mbconv", int(op.removeprefix("mbconv") or 1))


def _row(
  values: dict, stride: int, channels: int, repeats: int, activation: str
) -> stage_tables.Row:
  operation, expand = _operation(values["op"].replace("dconv", "mbconv1"))
  ratio = values["squeeze"] if operation == "mbconv" else 0
  return stage_tables.Row(
    operation,
    values["kernel"],
    stride,
    expand,
    channels,
    repeats,
    layers.Squeeze(ratio) if ratio else None,
    activation,
    skip=values["skip"] == "identity",
    pooled=values["skip"] == "pool",
  )


_OPS = ("conv", "dconv", "mbconv3", "mbconv6")


def _hierarchical(
  skeleton: Sequence[Block],
  *,
  stem: int,
  head: int,
  ops: tuple[str, ...] = _OPS,
  kernels: tuple[int, ...] = (3, 5),
  squeezes: tuple[float, ...] = (0, 0.25),
  skips: tuple[str, ...] = SKIPS,
  activation: str = "relu",
  image_size: int = 224,
) -> tables.TableSpace:
  wrong = [op for op in ops if op not in ("conv", "dconv") and not op[6:].isdigit()]
  if wrong or not ops or any(op.startswith("mbconv") and op[6:] == "0" for op in ops):
    raise errors.UserError(
      f"config.search.settings.ops={ops!r}: operations are 'conv', 'dconv', 'mbconv3', 'mbconv6'."
    )
  stages, rules = [], []
  for index, block in enumerate(skeleton):
    where = f"block{index}"
    stages.append(
      _decisions(
        where,
        {
          "op": ops,
          "kernel": kernels,
          "squeeze": squeezes,
          "skip": skips,
          "filters": block.filters,
          "layers": block.layers,
        },
      )
    )
    squeezable = tuple(op for op in ops if op != "conv")
    if squeezable != ops:
      rules.append(space.When(f"{where}.squeeze", f"{where}.op", squeezable))

  def part(stage: int, values: dict, inputs: int):
    del inputs
    yield _row(values, skeleton[stage].stride, values["filters"], values["layers"], activation)

  return tables.TableSpace(
    stages,
    part,
    table=stage_tables.Table(stem, (), head, activation, head_scaling="fixed"),
    rules=rules,
    activation=activation,
    build={"image_size": image_size},
  )


@registry.register("mnas")
def mnas(
  *,
  activation: str = "relu",
  squeezes: tuple[float, ...] = (0, 0.25),
  skips: tuple[str, ...] = SKIPS,
  width: float = 1.0,
) -> tables.TableSpace:
  """Returns the default space: MobileNetV2's seven blocks, with the filters of what was found.

  activation: of all layers. squeezes: ratios; (0,) is the space of B1. skips: of `SKIPS`. width:
  factor of stem and filters, which are then rounded to multiples of 8, such as 0.35 for targets
  that MobileNetV2's widths are too slow for.
  """
  if not 0 < width < math.inf:
    raise errors.UserError(
      f"config.search.settings.width={width!r} should be above 0, such as 0.5."
    )
  scaled = lambda count: count if width == 1 else layers.divisible(count * width)  # noqa: E731
  skeleton = [
    dataclasses.replace(block, filters=tuple(dict.fromkeys(map(scaled, block.filters))))
    for block in _DEFAULT
  ]
  made = _hierarchical(
    skeleton, stem=scaled(32), head=1280, activation=activation, squeezes=squeezes, skips=skips
  )
  if width == 1:
    made.known = {
      "mnasnet_a1": mnasnet.A1,
      "mnasnet_b1": mnasnet.B1,
      "efficientnet_b0": efficientnet.B0,
      "mobilenetv2": mobilenet.V2,
    }
  return made


@registry.register("mnas_small")
def mnas_small(*, activation: str = "relu") -> tables.TableSpace:
  """Returns the space with filters around MnasNet-small's, for targets of some 20 ms on phones."""
  made = _hierarchical(_SMALL, stem=8, head=1280, activation=activation)
  made.known = {"mnasnet_small": mnasnet.SMALL}
  return made


@registry.register("mnas_tiny")
def mnas_tiny(
  *,
  activation: str = "relu",
  squeezes: tuple[float, ...] = (0, 0.25),
  skips: tuple[str, ...] = SKIPS,
  ops: tuple[str, ...] = _OPS,
  stem: int = 8,
  head: int = 64,
) -> tables.TableSpace:
  """Returns the space of four narrow blocks for images of 32 to 40 pixels."""
  return _hierarchical(
    _TINY,
    stem=stem,
    head=head,
    ops=ops,
    activation=activation,
    squeezes=squeezes,
    skips=skips,
    image_size=32,
  )


@registry.register("mnas_micro")
def mnas_micro(
  *, activation: str = "relu", ops: tuple[str, ...] = ("dconv", "mbconv6")
) -> tables.TableSpace:
  """Returns a space of three blocks, small enough to train every network of it: 512.

  A block chooses its operation, kernel and squeeze-excitation; all else has one choice.
  """
  return _hierarchical(
    _MICRO,
    stem=8,
    head=64,
    ops=ops,
    skips=("identity",),
    activation=activation,
    image_size=16,
  )


def _literal(blocks_: int, rounded: bool) -> list[Block]:
  """Returns the paper's choices: multiples of filters, one layer more or less but not none."""
  if not 1 <= blocks_ <= 7:
    raise errors.UserError(f"config.search.settings.blocks={blocks_!r} should be 1 to 7.")
  first = min(1, 7 - blocks_)
  skeleton = []
  for channels, count, stride in _V2[first : first + blocks_]:
    filters = [layers.divisible(channels * m) if rounded else int(channels * m) for m in MULTIPLES]
    skeleton.append(Block(stride, tuple(filters), tuple(max(1, count + n) for n in (0, 1, -1))))
  return skeleton


@registry.register("mnas_paper")
def mnas_paper(
  *,
  blocks: int = 7,
  ops: tuple[str, ...] = _OPS,
  rounded: bool = True,
  activation: str = "relu",
) -> tables.TableSpace:
  """Returns the paper's words taken literally: 432 choices for each of `blocks` blocks.

  Filters are 0.75, 1 or 1.25 times MobileNetV2's, `rounded` to multiples of 8, never a tenth below,
  or cut to whole numbers; a block keeps at least one layer. What was found is not in it, and some
  tokens give equal networks. blocks: the first ones behind MobileNetV2's first, or all 7.
  """
  made = _hierarchical(
    _literal(blocks, rounded), stem=32, head=1280, ops=ops, activation=activation
  )
  made.known = {"mobilenetv2": mobilenet.V2}
  return made


_VERTEX_LAYERS = {1: (1, 2), 2: (2, 1, 3), 3: (3, 2, 4), 4: (4, 3, 5)}


@registry.register("mnas_vertex")
def mnas_vertex(*, activation: str = "relu") -> tables.TableSpace:
  """Returns the tunable space of google/vertex-ai-nas; its filters are no multiples of 8."""
  stages, rules = [], []
  for index, (channels, count, _) in enumerate(_V2):
    where = f"block{index}"
    stages.append(
      _decisions(
        where,
        {
          "op": ("conv", "mbconv"),
          "kernel": (3, 5),
          "expand": (1, 3, 6),
          "squeeze": (0, 0.25),
          "filters": tuple(int(channels * m) for m in MULTIPLES),
          "layers": _VERTEX_LAYERS[count],
        },
      )
    )
    rules += [
      space.When(f"{where}.{name}", f"{where}.op", ("mbconv",)) for name in ("expand", "squeeze")
    ]

  def part(stage: int, values: dict, inputs: int):
    del inputs
    op = "conv" if values["op"] == "conv" else f"mbconv{values['expand']}"
    chosen = {**values, "op": op, "skip": "identity"}
    yield _row(chosen, _V2[stage][2], values["filters"], values["layers"], activation)

  made = tables.TableSpace(
    stages,
    part,
    table=stage_tables.Table(32, (), 1280, activation, head_scaling="fixed"),
    rules=rules,
    activation=activation,
  )
  made.known = {"mobilenetv2": mobilenet.V2}
  return made


def _flat(
  skeleton: Sequence[tuple[int, tuple[int, ...]]],
  per_block: int,
  *,
  stem: int,
  head: int,
  activation: str,
  image_size: int,
  repeats: tuple[int, ...],
) -> tables.TableSpace:
  places = [
    (stride if layer == 0 else 1, filters)
    for stride, filters in skeleton
    for layer in range(per_block)
  ]
  stages, rules = [], []
  for index, (_, filters) in enumerate(places):
    where = f"layer{index}"
    stages.append(
      _decisions(
        where,
        {
          "op": _OPS,
          "kernel": (3, 5),
          "squeeze": (0, 0.25),
          "skip": SKIPS,
          "filters": filters,
          "layers": repeats,
        },
      )
    )
    rules.append(space.When(f"{where}.squeeze", f"{where}.op", _OPS[1:]))

  def part(stage: int, values: dict, inputs: int):
    del inputs
    yield _row(values, places[stage][0], values["filters"], values["layers"], activation)

  return tables.TableSpace(
    stages,
    part,
    table=stage_tables.Table(stem, (), head, activation, head_scaling="fixed"),
    rules=rules,
    activation=activation,
    build={"image_size": image_size},
  )


@registry.register("mnas_flat")
def mnas_flat(*, activation: str = "relu") -> tables.TableSpace:
  """Returns a space whose layers all differ: 432 choices for each of 15, three in each of 5 blocks.

  A layer stands one, two or three times. Two neighbours may swap roles, so some networks have
  several points.
  """
  skeleton = [
    (stride, tuple(layers.divisible(channels * m) for m in (0.875, 1.0, 1.25)))
    for channels, _, stride in _V2[1:6]
  ]
  return _flat(
    skeleton, 3, stem=32, head=1280, activation=activation, image_size=224, repeats=(1, 2, 3)
  )


@registry.register("mnas_flat_tiny")
def mnas_flat_tiny(*, activation: str = "relu") -> tables.TableSpace:
  """Returns a flat space of two layers in each of the blocks of `mnas_tiny`."""
  skeleton = [(block.stride, block.filters) for block in _TINY]
  return _flat(skeleton, 2, stem=8, head=64, activation=activation, image_size=32, repeats=(1,))


def _cell(
  skeleton: Sequence[tuple[int, int, int]],
  *,
  stem: int,
  head: int,
  activation: str,
  image_size: int,
) -> tables.TableSpace:
  stage = _decisions(
    "cell",
    {
      "op": _OPS,
      "kernel": (3, 5),
      "squeeze": (0, 0.25),
      "skip": SKIPS,
      "filters": MULTIPLES,
      "layers": (0, 1, -1),
    },
  )

  def part(_: int, values: dict, inputs: int):
    del inputs
    for channels, count, stride in skeleton:
      filters = layers.divisible(channels * values["filters"])
      yield _row(values, stride, filters, max(1, count + values["layers"]), activation)

  return tables.TableSpace(
    [stage],
    part,
    table=stage_tables.Table(stem, (), head, activation, head_scaling="fixed"),
    rules=[space.When("cell.squeeze", "cell.op", _OPS[1:])],
    activation=activation,
    build={"image_size": image_size},
  )


@registry.register("mnas_cell")
def mnas_cell(*, activation: str = "relu") -> tables.TableSpace:
  """Returns the cell space: one block's 432 choices, taken for all blocks of MobileNetV2."""
  return _cell(_V2, stem=32, head=1280, activation=activation, image_size=224)


@registry.register("mnas_cell_tiny")
def mnas_cell_tiny(*, activation: str = "relu") -> tables.TableSpace:
  """Returns the cell space over the blocks of `mnas_tiny`."""
  skeleton = ((16, 1, 1), (24, 2, 2), (32, 2, 2), (64, 1, 1))
  return _cell(skeleton, stem=8, head=64, activation=activation, image_size=32)
