"""How often the tasks of a mixed training set are seen: in proportion to a power of their sizes.

Three ways, all with the exponent 0.75 of the paper unless told otherwise:

  copies        every example stands in a pool, those of small tasks several times; loss weights
                make up for what whole numbers of copies leave
  weights       every example stands in the pool once, and loss weights do it all
  proportional  the task of every place in the stream is drawn with the wanted probability, and no
                loss is weighted

Source: `data/task_weighting.py` of BAM's code (Clark et al. 2019, arXiv 1907.04829) for the first
two.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from effnets import streams
from effnets.data import draws
from effnets.data import stream as stream_lib

WAYS = ("copies", "weights", "proportional")

PAPER_SIZES = {
  "cola": 8_551,
  "mnli": 392_702,
  "mrpc": 7_336,
  "qnli": 108_436,
  "qqp": 363_869,
  "rte": 2_490,
  "sst": 67_349,
  "sts": 11_498,
}
"""Training examples that BAM's code counts with: both orders of MRPC and STS-B, the first QNLI."""

# Places in the stream among which each task has its exact share, as near as whole numbers go.
_BLOCK = 1024


def shares(sizes: Mapping[str, int], exponent: float = 0.75) -> dict[str, float]:
  """Returns the share of every task: size^exponent, normalised.

  >>> round(shares(PAPER_SIZES)["rte"], 6)
  0.008047
  """
  powers = {name: float(size) ** exponent for name, size in sizes.items()}
  total = sum(powers.values())
  return {name: power / total for name, power in powers.items()}


def copies(sizes: Mapping[str, int], exponent: float = 0.75) -> dict[str, tuple[int, float]]:
  """Returns (copies, loss weight) of every task, so that the largest task stands once.

  Weights sum to the number of tasks.

  >>> copies(PAPER_SIZES)["rte"][0], round(copies(PAPER_SIZES)["rte"][1], 6)
  (4, 0.881561)
  """
  wanted = shares(sizes, exponent)
  largest = max(sizes, key=lambda name: sizes[name])
  scale = sizes[largest] / wanted[largest]
  counts = {
    name: max(1, round((wanted[name] * scale + 0.01) / size)) for name, size in sizes.items()
  }
  raw = {name: wanted[name] / (counts[name] * size) for name, size in sizes.items()}
  total = sum(raw.values())
  return {name: (counts[name], len(sizes) * raw[name] / total) for name in sizes}


def weights(sizes: Mapping[str, int], exponent: float = 0.75) -> dict[str, float]:
  """Returns the loss weight of every task, 1 on average over all examples.

  A negative exponent weighs all alike.

  >>> weights({"a": 16, "b": 1})["b"] / weights({"a": 16, "b": 1})["a"]
  2.0
  """
  if exponent < 0:
    return dict.fromkeys(sizes, 1.0)
  raw = {name: float(size) ** (exponent - 1) for name, size in sizes.items()}
  mean = sum(sizes[name] * raw[name] for name in sizes) / sum(sizes.values())
  return {name: value / mean for name, value in raw.items()}


class Proportional:
  """Several streams in one; every place is one's with a given probability, drawn without gaps.

  Of the first n * 1024 places each stream has its share, rounded to a whole number; within a block
  of 1024 they are shuffled. Stream i is read at its own positions, one after the other, so all its
  examples come equally often.
  """

  period = 1

  def __init__(self, parts: Sequence[stream_lib.Stream], shares: Sequence[float], *, seed: int):
    """Mixes `parts`, in these shares, which sum to 1."""
    self.num_classes = parts[0].num_classes
    limit = parts[0].tally.limit
    names = ", ".join(part.tally.name for part in parts)
    size = sum(part.tally.size for part in parts)
    self.tally = stream_lib.Tally(names, size=size, limit=limit)
    self._parts, self._seed = tuple(parts), seed
    self._bounds = np.concatenate([[0.0], np.cumsum(np.asarray(shares, np.float64))])
    self._bounds[-1] = 1.0
    self._block = functools.lru_cache(maxsize=8)(self._draw)

  def read(self, position: int) -> stream_lib.Read:
    """Returns the example at `position`, counting nothing; see `Stream.read`."""
    block, place = divmod(int(position), _BLOCK)
    parts, ranks = self._block(block)
    example, failures = self._parts[parts[place]].read(int(ranks[place]))
    if example is not None:
      example["position"] = streams.words(position)
    return stream_lib.Read(example, failures)

  def __getitem__(self, position: int) -> dict[str, Any]:
    """Returns the example at `position`, counted in `tally`; see `Stream.__getitem__`."""
    return stream_lib.counted(self, position)

  def _draw(self, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for every place in a block, the stream and the position in it."""
    before, after = (
      np.diff(np.floor(self._bounds * (block + ahead) * _BLOCK + 0.5)).astype(np.int64)
      for ahead in (0, 1)
    )
    parts = np.repeat(np.arange(len(self._parts)), after - before)
    ranks = np.concatenate([np.arange(a, b) for a, b in zip(before, after, strict=True)])
    order = np.argsort(draws.generator(self._seed, "tasks", block).random(_BLOCK), kind="stable")
    return parts[order], ranks[order]

  def __getstate__(self):
    return {key: value for key, value in self.__dict__.items() if key != "_block"}

  def __setstate__(self, state):
    self.__dict__.update(state)
    self._block = functools.lru_cache(maxsize=8)(self._draw)
