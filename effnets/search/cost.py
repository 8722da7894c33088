"""What a network costs, from its description: parameters, multiply-adds, traffic, a roofline.

Nothing is compiled, and nothing asked of the compiler, whose own counts of depthwise convolutions
are wrong on some platforms. A stage table is counted by closed formulas, in about a
millisecond; other networks from the shapes of an abstract trace, once per key.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

from effnets import errors, models
from effnets.models import layers, stage_tables
from effnets.parallel import slices
from effnets.search import space, spaces


@dataclasses.dataclass(frozen=True)
class Piece:
  """One layer of a classifier, with what it computes for one image.

  key: what it does to which shape, the same for equal layers of any network. params: trainable
  numbers. madds: multiply-adds of convolutions and dense layers. moved: numbers read and written,
  weights and activations, each operation by itself. row, size, inputs: its row, and the height and
  the channels before it; row is None for the classifier, behind `inputs` features.
  """

  key: str
  params: int
  madds: int
  moved: int
  row: stage_tables.Row | None
  size: int
  inputs: int
  outputs: int


@dataclasses.dataclass(frozen=True)
class Cost:
  """Trainable parameters, and multiply-adds for one image."""

  params: int
  madds: int


class _Sum:
  """Operations of one layer, added up."""

  def __init__(self, size: int, channels: int):
    self.size, self.channels = size, channels
    self.params = self.madds = self.moved = 0

  def convolve(
    self, channels: int, kernels: Sequence[int], stride: int = 1, *, depthwise: bool = False
  ) -> None:
    """Adds a convolution, in parts, and its norm."""
    outs = layers.partition(channels, len(kernels))
    if depthwise:
      taps = sum(k * k * part for k, part in zip(kernels, outs, strict=True))
    else:
      ins = layers.partition(self.channels, len(kernels))
      taps = sum(k * k * a * b for k, a, b in zip(kernels, ins, outs, strict=True))
    before = self.size**2 * self.channels
    self.size, self.channels = -(-self.size // stride), channels
    pixels = self.size**2
    self.params += taps + 2 * channels
    self.madds += pixels * taps
    self.moved += before + pixels * channels + taps + channels

  def gate(self, width: int) -> None:
    """Adds squeeze-excitation."""
    weights = 2 * self.channels * width
    self.params += weights + width + self.channels
    self.madds += weights
    self.moved += 2 * self.size**2 * self.channels + weights

  def dense(self, units: int) -> None:
    """Adds a dense layer with biases."""
    self.params += (self.channels + 1) * units
    self.madds += self.channels * units
    self.moved += (self.channels + 1) * units + self.channels
    self.channels = units

  def piece(self, key: str, row: stage_tables.Row | None, size: int, inputs: int) -> Piece:
    """Returns what was added."""
    return Piece(key, self.params, self.madds, self.moved, row, size, inputs, outputs=self.channels)


def _kernels(row: stage_tables.Row) -> tuple[int, ...]:
  return (row.kernel,) if isinstance(row.kernel, int) else row.kernel


def layer(row: stage_tables.Row, size: int, inputs: int) -> Piece:
  """Returns the piece of one layer of a row, behind `inputs` channels of size x size pixels.

  Raises: UserError for an operation that is not counted here.
  """
  made = _Sum(size, inputs)
  if row.op in ("conv", "stem", "head"):
    made.convolve(row.channels, _kernels(row), row.stride)
  elif row.op == "mbconv":
    # As `blocks.MBConv` rounds.
    exact = inputs * row.expand
    inner = layers.divisible(exact) if exact % inputs else int(exact)
    inner = inner if row.widened is None else row.widened
    if row.expand != 1:
      made.convolve(inner, (1,) * row.expand_parts)
    made.convolve(inner, _kernels(row), row.stride, depthwise=True)
    if row.squeeze is not None:
      made.gate(row.squeeze.width(inputs, inner))
    made.convolve(row.channels, (1,) * row.project_parts)
  else:
    raise errors.unknown("operation", row.op, "counted here", ("conv", "mbconv"))
  adds = row.skip and row.stride == 1 and inputs == row.channels
  skip = "pool" if row.pooled else "identity" if adds and row.op in ("conv", "mbconv") else "none"
  if skip != "none":
    made.moved += size**2 * inputs + made.size**2 * row.channels
  kernel = ".".join(map(str, _kernels(row)))
  words = [row.op, f"k{kernel}", f"s{row.stride}", f"{size}x{size}x{inputs}", f"to{row.channels}"]
  if row.op == "mbconv":
    squeeze = 0 if row.squeeze is None else row.squeeze.width(inputs, inner)
    words += [f"mid{inner}", f"se{squeeze}", f"parts{row.expand_parts}.{row.project_parts}"]
  words += [row.activation, skip]
  return made.piece(" ".join(words), row, size, inputs)


def pieces(table: stage_tables.Table, image_size: int, num_classes: int) -> tuple[Piece, ...]:
  """Returns the layers of a classifier, stem and head among them, for square images.

  Raises: UserError for a table with what the spaces here have not, such as a pooled stem.
  """
  if table.stem_pool or table.tail or table.outer_skips or not table.head:
    raise errors.UserError("this table has more than a stem, rows and a head; it is not counted.")
  act = table.activation
  stem = stage_tables.Row(
    "stem", table.stem_kernel, table.stem_stride, 1, table.stem, activation=act
  )
  head = stage_tables.Row("head", 1, 1, 1, table.head, activation=act)
  found, size, channels = [], image_size, 3
  for row in (stem, *stage_tables.unroll(table.rows), head):
    found.append(layer(row, size, channels))
    size, channels = -(-size // row.stride), row.channels
  made = _Sum(1, channels)
  if table.hidden:
    made.dense(table.hidden)
  made.dense(num_classes)
  made.moved += size**2 * channels  # the mean
  key = f"classifier {size}x{size}x{channels} hidden{table.hidden} to{num_classes}"
  found.append(made.piece(key, None, size, channels))
  return tuple(found)


def total(found: Iterable[Piece]) -> Cost:
  """Returns the sum of pieces."""
  found = tuple(found)
  return Cost(sum(piece.params for piece in found), sum(piece.madds for piece in found))


def of(
  where: space.Space,
  tokens: Sequence[int],
  *,
  image_size: int | None = None,
  num_classes: int | None = None,
  **overrides: Any,
) -> Cost:
  """Returns what the network of `tokens` costs.

  image_size, num_classes: None for the space's own. overrides: of `spaces.network`.
  Raises: UserError as `spaces.network`.
  """
  if isinstance(where, spaces.tables.TableSpace) and not overrides:
    size, classes = sizes(where, image_size, num_classes)
    return total(pieces(where.decode(tokens), size, classes))
  where.validate(tokens)
  settings = tuple(sorted(overrides.items()))
  return _traced(where, where.key(tokens), _Tokens(tokens), image_size, num_classes, settings)


class _Tokens(tuple):
  """Tokens that a cache does not look at, as the key says it all."""

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _Tokens)

  def __hash__(self) -> int:
    return 0


@functools.lru_cache(maxsize=10_000)
def _traced(where, key, tokens, image_size, num_classes, settings) -> Cost:
  del key
  module = spaces.network(where, tuple(tokens), num_classes, **dict(settings))
  count = models.count(module, image_size)
  return Cost(count.params, count.madds)


def sizes(
  where: spaces.tables.TableSpace, image_size: int | None, num_classes: int | None
) -> tuple[int, int]:
  """Returns height and classes, the space's own where None."""
  size = where.image_size if image_size is None else image_size
  return size, 1000 if num_classes is None else num_classes


def roofline(
  found: Iterable[Piece],
  chip: slices.Chip,
  *,
  batch: int = 1,
  number_bytes: int = 2,
  overhead: float = 0.0,
) -> float:
  """Returns seconds that one chip needs at least: per layer the longer of arithmetic and traffic.

  batch: images at once. number_bytes: of a number. overhead: seconds per layer.

  A bound, not a forecast: every layer is taken to reach the peak figures, which depthwise
  convolutions and narrow channels do not, and to keep nothing on the chip, while compilers fuse.

  >>> chip = slices.CHIPS["v5e"]
  >>> row = stage_tables.Row("conv", 1, 1, 1, 1024)
  >>> piece = layer(row, 32, 1024)
  >>> roofline([piece], chip, batch=128) == 2 * piece.madds * 128 / chip.flops
  True
  """
  seconds = 0.0
  for piece in found:
    # Weights are read once for all images.
    moved = (piece.moved - piece.params) * batch + piece.params
    arithmetic = 2 * piece.madds * batch / chip.flops
    seconds += max(arithmetic, moved * number_bytes / chip.bandwidth) + overhead
  return seconds
