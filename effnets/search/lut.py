"""Latency by table: the sum of a network's layers, each measured once by itself.

`python -m effnets.search.lut --space=mnas_tiny --out=lut.json` measures every layer that a space
can have, and at least a hundred random networks as a whole; how well the table predicts those
stands in the same file.

Layers measured alone write what compilers would keep and fuse, so sums are too large by a factor
and an offset, which a line through the measured networks takes away; R squared and rank
correlation say what is left.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from effnets import errors
from effnets.search import cost, latency, rewards, space, spaces

NETWORKS = 100


@dataclasses.dataclass(frozen=True)
class Check:
  """How a table fared against networks that were measured as a whole.

  networks: how many. r2: share of the variance that `offset + scale * sum` explains. tau: Kendall's
  rank correlation. error: root of the mean squared error, in milliseconds. steady: share of the
  measured networks that spread by 5 % at most. load: the machine's, in the median.
  measured, sums: milliseconds of each.
  """

  networks: int
  r2: float
  tau: float
  error: float
  scale: float
  offset: float
  steady: float
  load: float
  measured: tuple[float, ...]
  sums: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Table:
  """Milliseconds of layers, by the key of `cost.Piece`.

  space, version: what it is for. about: what measured. call: milliseconds that any program takes,
  which are in no entry. check: None if it was never held against whole networks.
  """

  space: str
  version: str
  image_size: int
  num_classes: int
  about: Mapping[str, Any]
  call: float
  entries: Mapping[str, float]
  check: Check | None = None

  def sum(self, pieces: Sequence[cost.Piece]) -> float:
    """Returns the sum of the entries of `pieces` and of one call, in milliseconds.

    Raises: UserError with the key, if one is missing.
    """
    missing = [piece.key for piece in pieces if piece.key not in self.entries]
    if missing:
      raise errors.UserError(
        f"the latency table of {self.space!r} has no entry {missing[0]!r}, and lacks "
        f"{len(missing)} of the {len(pieces)} layers. Build it again for this space and size."
      )
    return self.call + sum(self.entries[piece.key] for piece in pieces)

  def latency(self, where: space.Space, tokens: Sequence[int]) -> float:
    """Returns the milliseconds of a network: its sum, on the line of `check` if there is one.

    Raises: UserError for another space or version, or a missing entry.
    """
    if (where.name, where.version) != (self.space, self.version):
      raise errors.UserError(
        f"the latency table is for {self.space!r} of version {self.version}, not for "
        f"{where.name!r} of version {where.version}."
      )
    pieces = cost.pieces(_table(where, tokens), self.image_size, self.num_classes)
    summed = self.sum(pieces)
    return summed if self.check is None else self.check.offset + self.check.scale * summed

  def costs(self, where: space.Space, tokens: Sequence[int]) -> dict[str, float]:
    """Returns `latency`, as evaluators take further costs. Raises: as `latency`."""
    return {"latency": self.latency(where, tokens)}

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes the table as JSON."""
    pathlib.Path(path).write_text(json.dumps(dataclasses.asdict(self), indent=1), encoding="utf-8")


def load(path: str | os.PathLike[str]) -> Table:
  """Returns the table of a file. Raises: UserError if it is none."""
  try:
    found = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    check = found.pop("check")
    if check is not None:
      check = Check(**{k: tuple(v) if isinstance(v, list) else v for k, v in check.items()})
    return Table(**found, check=check)
  except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
    raise errors.UserError(f"{path} is no latency table: {error}.") from error


def _table(where: space.Space, tokens: Sequence[int]) -> Any:
  if not isinstance(where, spaces.tables.TableSpace):
    raise errors.UserError(
      f"latency tables are for classifiers made of stages, which {where.name!r} has not; measure "
      "its networks as a whole."
    )
  return where.decode(tokens)


def reachable(
  where: spaces.tables.TableSpace, image_size: int, num_classes: int
) -> dict[str, cost.Piece]:
  """Returns every layer that a network of the space can have, by key."""
  found: dict[str, cost.Piece] = {}
  for table in where.chains():
    for piece in cost.pieces(table, image_size, num_classes):
      found.setdefault(piece.key, piece)
  return found


def build(
  where: space.Space,
  meter: latency.Meter,
  *,
  networks: int = NETWORKS,
  seed: int = 0,
  image_size: int | None = None,
  num_classes: int | None = None,
  everything: bool = True,
  report: Callable[[str], None] = lambda _: None,
) -> Table:
  """Returns a measured table, held against `networks` random networks.

  everything: measures every layer of the space, else only those of the random networks. report:
  is told what goes on.

  Raises: UserError if the space has no stages, or fewer networks than asked for.
  """
  if networks < 2 or where.count_unique() < networks:
    raise errors.UserError(
      f"networks={networks} should be at least 2 and at most {where.count_unique()}, as many as "
      f"the space {where.name!r} has."
    )
  rng, chosen = np.random.default_rng(seed), {}
  _table(where, where.sample(rng))
  while len(chosen) < networks:
    tokens = where.sample(rng)
    chosen.setdefault(where.key(tokens), tokens)
  size, classes = cost.sizes(where, image_size, num_classes)
  made = [cost.pieces(where.decode(tokens), size, classes) for tokens in chosen.values()]
  todo = reachable(where, size, classes) if everything else {}
  todo |= {piece.key: piece for pieces in made for piece in pieces}
  call = meter.nothing().p50
  entries = {}
  for count, (key, piece) in enumerate(sorted(todo.items()), 1):
    entries[key] = max(0.0, meter.piece(piece).p50 - call)
    if count % 100 == 0 or count == len(todo):
      report(f"{count} of {len(todo)} layers")
  table = Table(where.name, where.version, size, classes, meter.about, call, entries)
  measured = []
  for count, tokens in enumerate(chosen.values(), 1):
    measured.append(meter.network(where, tokens, image_size=size, num_classes=classes))
    if count % 20 == 0 or count == networks:
      report(f"{count} of {networks} networks")
  sums = [table.sum(pieces) for pieces in made]
  return dataclasses.replace(table, check=judge(measured, sums))


def judge(measured: Sequence[latency.Measured], sums: Sequence[float]) -> Check:
  """Returns how well `sums` predict the medians of `measured`."""
  want, have = np.array([m.p50 for m in measured]), np.array(sums)
  scale, offset = (
    (float(v) for v in np.polyfit(have, want, 1)) if np.ptp(have) else (0.0, want.mean())
  )
  rest = want - offset - scale * have
  spread = float(((want - want.mean()) ** 2).sum())
  return Check(
    networks=len(want),
    r2=1 - float((rest**2).sum()) / spread if spread else 0.0,
    tau=rewards.kendall(want, have),
    error=float(np.sqrt((rest**2).mean())),
    scale=scale,
    offset=float(offset),
    steady=float(np.mean([m.steady for m in measured])),
    load=float(np.median([m.load for m in measured])),
    measured=tuple(want.tolist()),
    sums=tuple(have.tolist()),
  )


def main(arguments: Sequence[str]) -> int:
  """Builds a table and tells how good it is; returns the exit status."""
  parser = argparse.ArgumentParser(prog="python -m effnets.search.lut")
  parser.add_argument("--space", default="mnas_tiny", help="name of a space of classifiers")
  parser.add_argument("--out", default="lut.json", help="file to write")
  parser.add_argument("--cache", default="", help="file of earlier measurements, to go on with")
  parser.add_argument("--platform", default="cpu", help="of JAX, such as cpu or cuda")
  parser.add_argument(
    "--runtime", default="jax", help="jax; or onnx or tflite: of exported networks, on the CPU"
  )
  parser.add_argument("--networks", type=int, default=NETWORKS, help="measured as a whole")
  parser.add_argument("--image_size", type=int, help="pixels; default: the space's")
  parser.add_argument("--num_classes", type=int, help="default: 1000")
  parser.add_argument("--seen", action="store_true", help="only layers of the random networks")
  parser.add_argument("--seed", type=int, default=0)
  parsed = parser.parse_args(arguments)
  say = lambda text: (sys.stderr.write(text + "\n"), sys.stderr.flush())  # noqa: E731
  try:
    where = spaces.create(parsed.space)
    meter = latency.Meter(cache=parsed.cache, platform=parsed.platform, runtime=parsed.runtime)
    with meter:
      table = build(
        where,
        meter,
        networks=parsed.networks,
        seed=parsed.seed,
        image_size=parsed.image_size,
        num_classes=parsed.num_classes,
        everything=not parsed.seen,
        report=say,
      )
  except errors.UserError as error:
    sys.stderr.write(f"Error: {error}\n")
    return 2
  table.save(parsed.out)
  check = table.check
  sys.stdout.write(
    f"{parsed.out}: {len(table.entries)} layers of {table.space!r} on {table.about['device']}, "
    f"{table.about['runtime']}. "
    f"{check.networks} networks: R2 {check.r2:.3f}, tau {check.tau:.3f}, error {check.error:.3f} "
    f"ms; {check.steady:.0%} of them steady, load {check.load:.1f}.\n"
  )
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
