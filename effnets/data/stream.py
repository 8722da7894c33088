"""The endless training stream: example, order and crop are functions of (seed, name, position).

A position counts examples, not steps; position p is in epoch p // n, and each epoch is a fresh
permutation. Nothing is carried from one position to the next, so any position can be read first,
by any process: a run resumes anywhere, on any number of hosts, with the examples it would have had.
"""

import functools
import math
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import grain
import numpy as np
from absl import logging

from effnets import errors, streams
from effnets.data import decode, draws, sources

# At or above this size grain's block cipher computes an index in 4 us without memory; below it, it
# walks long cycles (250 us at 100 examples, 5 ms at 2), and a sorted permutation costs nothing.
_LARGE = 2**16

# Fewer reads say nothing about a share of 1 %; as many failures in a row say that nothing works.
_JUDGED_AFTER = 100


class Read(NamedTuple):
  """One position read: the example, or None if too many in a row failed; what failed on the way."""

  example: sources.Example | None
  failures: tuple[str, ...]


class Readable(Protocol):
  """What `batches.train_batches` reads: a `Stream`, a `Mixture` or anything alike.

  period: batch sizes must be multiples of it. num_classes: classes of the labels.
  tally: the count of unreadable examples, kept by whoever reads.
  """

  period: int
  num_classes: int
  tally: "Tally"

  def read(self, position: int) -> Read: ...

  def __getitem__(self, position: int) -> sources.Example: ...


class Tally:
  """Counts unreadable examples, names each once in the log, and stops the run when they are many.

  reads: attempts to read. failed: how many of them failed. names: each failure's text -> count.
  Safe to share between threads.
  """

  def __init__(self, name: str, *, size: int, limit: float = 0.01):
    """Counts for the source `name` of `size` examples; `limit`: the share of failures allowed.

    Judged from 100 reads on (or `size`, if less; at once with limit 0). Until `size` reads the
    failures met are a sample, and three standard errors more than the share are let pass: a set
    with half the share allowed must not be stopped by two damaged files among the first hundred.
    Raises: errors.UserError if `limit` is not in [0, 1].
    """
    if not 0 <= limit <= 1:
      raise errors.UserError(f"config.data.max_unreadable={limit!r} must be a share from 0 to 1.")
    self.name = name
    self.size = size
    self.limit = limit
    self.after = min(_JUDGED_AFTER, size) if limit else 0
    self.reads = 0
    self.failed = 0
    self.names: dict[str, int] = {}
    self._lock = threading.Lock()

  def add(self, reads: int, failures: Sequence[str] = ()) -> None:
    """Counts `reads` attempts, of which `failures` failed.

    Raises: errors.UserError if more than the allowed share has failed.
    """
    with self._lock:
      self.reads += reads
      self.failed += len(failures)
      fresh = [f for f in dict.fromkeys(failures) if f not in self.names]
      for failure in failures:
        self.names[failure] = self.names.get(failure, 0) + 1
      allowed = self.limit * self.reads
      if self.reads < self.size:
        allowed += 3 * math.sqrt(allowed)
      many = self.reads >= self.after and self.failed > allowed
    for failure in fresh:
      logging.warning("Unreadable example of %s: %s", self.name, failure)
    if many:
      raise self.error()

  def error(self) -> errors.UserError:
    """Returns the error that says how many examples failed, and which first."""
    first = "; ".join(list(self.names)[:3])
    more = len(self.names) - 3
    return errors.UserError(
      f"{self.failed} of {self.reads} reads of {self.name} failed, more than the share "
      f"config.data.max_unreadable={self.limit} allows. First: {first}"
      + (f"; and {more} more." if more > 0 else ".")
      + " Mend or remove these files, or allow a larger share."
    )

  def __getstate__(self):
    return {k: v for k, v in self.__dict__.items() if k != "_lock"}

  def __setstate__(self, state):
    self.__dict__.update(state)
    self._lock = threading.Lock()


class Stream:
  """All examples of a source, again and again, each epoch in a new order."""

  period = 1

  def __init__(
    self,
    source: sources.Source,
    *,
    seed: int,
    name: str = "",
    shuffle: bool = True,
    transform: decode.Transform | None = None,
    max_unreadable: float = 0.01,
  ):
    """Makes the stream of `source`.

    Args:
      source: at least one example. seed: the run's seed.
      name: tells streams of one seed apart; streams of equal name and size have equal orders.
      shuffle: a fresh permutation each epoch; False: the source's order.
      transform: brings images to one size, see `decode`; None if they have one.
      max_unreadable: share of unreadable examples, in [0, 1], above which reading stops.
    Raises: errors.UserError if the source is empty or a setting is out of range; ValueError if its
      images differ in size and there is no transform.
    """
    if not len(source):
      raise errors.UserError(f"config.data: {source.name} holds no examples.")
    self._inputs = sources.inputs(source)
    if "image" in self._inputs and source.image_size is None and transform is None:
      raise ValueError(f"images of {source.name} differ in size: give a transform from decode.")
    self.source = source
    self.num_classes = source.num_classes
    self.tally = Tally(source.name, size=len(source), limit=max_unreadable)
    self._seed = seed
    self._shuffle = shuffle
    self._transform = transform
    self._prefix = f"{name}/" if name else ""
    # Long enough to meet every example once whatever epoch it starts in, if the source is small.
    self._attempts = min(2 * len(source), _JUDGED_AFTER)

  def index(self, position: int) -> int:
    """Returns which example of the source stands at `position`, in O(1)."""
    size = len(self.source)
    epoch, place = divmod(int(position), size)
    if not self._shuffle:
      return place
    name = f"{self._prefix}shuffle"
    if size < _LARGE:
      return int(_permutation(size, self._seed, name, epoch)[place])
    key = _epoch_key(self._seed, name, epoch)
    return grain.experimental.index_shuffle(place, max_index=size - 1, seed=key, rounds=4)

  def read(self, position: int) -> Read:
    """Returns the example at `position`, counting nothing.

    An unreadable one is replaced by the next readable one in stream order, cut and numbered as if
    it had stood there: what a position gives depends on the position only. After 100 in a row
    (2n in a source of n < 50) the example is None.
    """
    failures = []
    draw = decode.drawing(self._seed, position, self._prefix)
    for ahead in range(self._attempts):
      try:
        found = self.source[self.index(position + ahead)]
        if self._transform:
          # What is decoded only where it is asked for, such as frames of a film, may fail here.
          found = self._transform(found, draw)
      except sources.Unreadable as error:
        failures.append(str(error))
        continue
      example = {
        **{name: found[name] for name in self._inputs},
        "label": np.int32(found["label"]),
        "position": streams.words(position),
        "weight": np.float32(found.get("weight", 1)),
      }
      if "probabilities" in found:
        example["probabilities"] = np.asarray(found["probabilities"], np.float32)
        example["soft"] = np.bool_(True)
      example.update((field, found[field]) for field in decode.fields(self._transform))
      return Read(example, tuple(failures))
    return Read(None, tuple(failures))

  def __getitem__(self, position: int) -> sources.Example:
    """Returns the example at `position`, >= 0: image, or the source's own inputs, label, position,
    weight (and, where the source has them, probabilities, soft; and the transform's own fields),
    counted in `tally`.

    Raises: errors.UserError if too many examples are unreadable.
    """
    return counted(self, position)


def ordered(source: sources.Source, **settings: Any) -> Readable:
  """Returns the source's own order, if it brings one as `ordered`, else a `Stream` of it.

  settings: of `Stream`.
  """
  own = getattr(source, "ordered", None)
  found = own(**settings) if own is not None else None
  return Stream(source, **settings) if found is None else found


class Mixture:
  """Several streams in one: each batch holds a fixed number of examples of each, evenly spread.

  Slot s of the sum of `counts` belongs to the first stream iff floor((s+1) B/S) > floor(s B/S), B
  its count, S the sum; the other slots are dealt to the other streams by the same rule. Stream i is
  read at its own positions, `counts[i]` per period; `position` is the mixture's own.

  An example's `weight` is w_i S / counts[i], so that the mean of weight * loss over a batch is the
  sum over streams of w_i * (mean loss over the stream's examples).
  Source: Noisy Student's code: L_labelled + ratio * L_unlabelled with weights (1, ratio).
  """

  def __init__(
    self,
    parts: Sequence[Readable],
    counts: Sequence[int],
    weights: Sequence[float],
    *,
    max_unreadable: float = 0.01,
  ):
    """Mixes `parts`, `counts[i]` >= 1 examples of each per period, with loss weights `weights`.

    Raises: ValueError if lengths or numbers of classes differ, or a count is below 1.
    """
    if not parts or not len(parts) == len(counts) == len(weights):
      raise ValueError(f"{len(parts)} streams, {len(counts)} counts, {len(weights)} weights.")
    if min(counts) < 1:
      raise ValueError(f"counts={list(counts)} must all be at least 1.")
    classes = {part.num_classes for part in parts}
    if len(classes) > 1:
      raise ValueError(f"the streams of a mixture have different numbers of classes: {classes}.")
    self.num_classes = classes.pop()
    self.period = sum(counts)
    names = ", ".join(part.tally.name for part in parts)
    # Reads after which every part has met all its examples.
    epochs = (-(-part.tally.size // count) for part, count in zip(parts, counts, strict=True))
    self.tally = Tally(names, size=max(epochs) * self.period, limit=max_unreadable)
    self._parts = tuple(parts)
    self._counts = tuple(int(c) for c in counts)
    self._weights = tuple(
      np.float32(w * self.period / c) for w, c in zip(weights, counts, strict=True)
    )
    self._slots = _slots(self._counts)
    # Known at construction, so that every batch has the same fields whatever is in it.
    self._soft = any(_has_probabilities(part) for part in parts)

  def read(self, position: int) -> Read:
    """Returns the example at `position`, counting nothing; see `Stream.read`."""
    period, slot = divmod(int(position), self.period)
    part, rank = self._slots[slot]
    example, failures = self._parts[part].read(period * self._counts[part] + rank)
    if example is None:
      return Read(None, failures)
    example["position"] = streams.words(position)
    example["weight"] = np.float32(example["weight"] * self._weights[part])
    if self._soft and "probabilities" not in example:
      example["probabilities"] = np.zeros(self.num_classes, np.float32)
      example["soft"] = np.bool_(False)
    return Read(example, failures)

  def __getitem__(self, position: int) -> sources.Example:
    """Returns the example at `position`, counted in `tally`; see `Stream.__getitem__`."""
    return counted(self, position)


def counted(stream: Readable, position: int) -> sources.Example:
  """Returns `stream.read(position).example` and counts its failures in the stream's tally.

  Raises: errors.UserError if too many examples are unreadable.
  """
  if position < 0:
    raise IndexError(f"position {position} is negative.")
  example, failures = stream.read(position)
  stream.tally.add(len(failures) + (example is not None), failures)
  if example is None:
    raise stream.tally.error()
  return example


def _slots(counts: tuple[int, ...]) -> list[tuple[int, int]]:
  """Returns, per slot of a period, (stream, rank of the slot among the stream's slots)."""
  slots: list[tuple[int, int]] = [(0, 0)] * sum(counts)
  left = list(range(sum(counts)))
  for part, count in enumerate(counts):
    size = len(left)
    mine = [i for i in range(size) if (i + 1) * count // size > i * count // size]
    for rank, i in enumerate(mine):
      slots[left[i]] = (part, rank)
    taken = set(mine)
    left = [slot for i, slot in enumerate(left) if i not in taken]
  return slots


def _has_probabilities(part: Readable) -> bool:
  example = part.read(0).example
  return example is not None and "probabilities" in example


@functools.lru_cache(maxsize=32)
def _permutation(size: int, seed: int, name: str, epoch: int) -> np.ndarray:
  # Sorting doubles instead of Generator.permutation, whose algorithm NumPy may change.
  return np.argsort(draws.generator(seed, name, epoch).random(size), kind="stable")


@functools.lru_cache(maxsize=1024)
def _epoch_key(seed: int, name: str, epoch: int) -> int:
  return math.floor(draws.generator(seed, name, epoch).random() * 2**32)
