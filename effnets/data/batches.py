"""From streams and sources to batches, and from the host on to the mesh.

Hosts are cut last: a global batch is a run of positions, and each process takes a contiguous part
of it. So the parts of 1, 2 or 4 processes, put side by side, are the same batch bit for bit.
"""

import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from effnets import errors
from effnets.data import decode, sources
from effnets.data import stream as stream_lib

Batch = dict[str, np.ndarray]

# Examples a thread reads at a time: enough to hide the cost of a hand-over (40 us), few enough to
# keep all threads busy in one batch and the read-ahead small.
_CHUNK = 32


class Batches(Iterator[Batch]):
  """An iterator of host-local batches that reads ahead; `close()` ends its threads and processes.

  tally: the count of unreadable examples, exact for the batches handed out so far.
  """

  def __init__(
    self,
    chunks: grain.MapDataset,
    per_batch: int,
    assemble: Callable[[int, list[dict[str, Any]]], Batch],
    tally: stream_lib.Tally,
    *,
    workers: int,
    threads: int,
  ):
    """Reads `chunks` in order, `per_batch` of them for each batch `assemble(t, chunks)`."""
    # Two batches ahead, and never so few chunks that a thread stands idle.
    ahead = max(threads, 2 * per_batch) if threads else 0
    data = chunks.to_iter_dataset(grain.ReadOptions(threads, ahead))
    if workers:
      if not flags.FLAGS.is_parsed():
        # grain reads absl flags when it starts processes; notebooks and tests parse none.
        flags.FLAGS.mark_as_parsed()
      data = data.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=per_batch)
      )
    self.tally = tally
    self._per_batch = per_batch
    self._assemble = assemble
    self._count = 0
    self._chunks = iter(data)

  def __next__(self) -> Batch:
    chunks = [next(self._chunks)]
    chunks += [next(self._chunks) for _ in range(self._per_batch - 1)]
    # Counted here and not where chunks are read: in the batches' order, whatever thread or process
    # was faster, and only for what is used.
    for chunk in chunks:
      self.tally.add(chunk["reads"], chunk["failures"])
      if chunk["lost"]:
        raise self.tally.error()
    batch = self._assemble(self._count, chunks)
    self._count += 1
    return batch

  def close(self) -> None:
    """Ends the threads and processes that read ahead."""
    close = getattr(self._chunks, "close", None)
    if close:
      close()


def train_batches(
  stream: stream_lib.Readable,
  batch_size: int,
  *,
  start: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  workers: int = 0,
  threads: int = 8,
) -> Batches:
  """Returns the endless iterator of this process's part of each global batch.

  Batch t of the iterator is positions [start + t * batch_size, start + (t + 1) * batch_size), of
  which process i of n takes the i-th n-th. `start` may be any position: a run may resume with
  another batch size, and a mixture's counts hold in every window of its period.

  Args:
    stream: a `Stream` or `Mixture`. batch_size: global; a multiple of process_count and of the
      stream's period. start: first position, >= 0. process_index: which part; process_count: of how
      many. workers: processes to read in (0: threads only); threads: per process, 0 reads without
      any, when asked. Neither changes what is read.
  Returns: batches of arrays with leading size batch_size / process_count: image uint8 (b, h, w, 3)
    or the source's own inputs, label int32 (b,), position uint32 (b, 2), weight float32 (b,), and
    with soft labels probabilities float32 (b, k), soft bool (b,); and the fields of the stream's
    transform.
  Raises: errors.UserError if the batch size does not divide, and, when iterated, if too many
    examples are unreadable.
  """
  local = _part(batch_size, process_index, process_count)
  if batch_size % stream.period:
    raise errors.UserError(
      f"config.batch_size={batch_size} must be a multiple of {stream.period}, the sum of the "
      f"mixture's counts; nearest: {_multiples(batch_size, stream.period)}."
    )
  if start < 0:
    raise ValueError(f"start={start} must be a position, >= 0.")
  cuts = _cuts(local)
  first = start + process_index * local
  chunks = _TrainChunks(stream, batch_size, first, cuts)

  def assemble(t: int, parts: list[dict[str, Any]]) -> Batch:
    del t
    arrays = [part["arrays"] for part in parts]
    return {name: np.concatenate([a[name] for a in arrays]) for name in arrays[0]}

  return Batches(chunks, len(cuts) - 1, assemble, stream.tally, workers=workers, threads=threads)


def eval_batches(
  source: sources.Source,
  batch_size: int,
  *,
  transform: decode.Transform | None = None,
  process_index: int = 0,
  process_count: int = 1,
  workers: int = 0,
  threads: int = 8,
  max_unreadable: float = 0.01,
  tally: stream_lib.Tally | None = None,
) -> Batches:
  """Returns an iterator over this process's part of every example, each exactly once, in order.

  Every process gets ceil(n / batch_size) batches of equal shape. What is left over in the last one
  is padding: image 0, label 0, index -1, mask False, and fields of the transform as of a blank
  picture. An unreadable example cannot be replaced
  here, as another would count twice: it keeps its index, with image 0 and mask False.

  Args: as `train_batches`; transform: brings images to one size; nothing may be drawn from
    anything but (seed 0, index). max_unreadable: share of unreadable examples that stops it.
    tally: counts them with those of other parts of a set, of which this one is a part.
  Returns: batches of image uint8 (b, h, w, 3) or the source's own inputs, label int32 (b,), mask
    bool (b,), index int32 (b,), and the fields of the transform.
  Raises: errors.UserError if the batch size does not divide, the source is empty, or too many
    examples are unreadable.
  """
  local = _part(batch_size, process_index, process_count)
  if not len(source):
    raise errors.UserError(f"config.data: {source.name} holds no examples.")
  if "image" in sources.inputs(source) and source.image_size is None and transform is None:
    raise ValueError(f"images of {source.name} differ in size: give a transform from decode.")
  size = len(source)
  cuts = _cuts(local)
  chunks = _EvalChunks(source, transform, batch_size, process_index * local, cuts)
  blank = _blank(source, transform)
  tally = tally or stream_lib.Tally(source.name, size=size, limit=max_unreadable)

  def assemble(t: int, parts: list[dict[str, Any]]) -> Batch:
    index = t * batch_size + process_index * local + np.arange(local)
    batch = {
      "label": np.zeros(local, np.int32),
      "mask": np.zeros(local, bool),
      "index": np.where(index < size, index, -1).astype(np.int32),
    }
    for field in (*sources.inputs(source), *decode.fields(transform)):
      batch[field] = np.repeat(np.asarray(blank[field])[None], local, 0)
    for low, part in zip(cuts, parts, strict=False):
      rows = low + np.asarray(part["rows"], np.int64)
      if len(rows):
        for name, array in part["arrays"].items():
          batch[name][rows] = array
        batch["mask"][rows] = True
    return batch

  return Batches(chunks, len(cuts) - 1, assemble, tally, workers=workers, threads=threads)


def eval_shapes(
  source: sources.Source, batch_size: int, transform: decode.Transform | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of a whole batch of `eval_batches`, of all processes; nothing is read."""
  blank = _blank(source, transform)
  found = {
    name: np.asarray(blank[name]) for name in (*sources.inputs(source), *decode.fields(transform))
  }
  found |= {"label": np.int32(0), "mask": np.bool_(0), "index": np.int32(0)}
  return {
    name: jax.ShapeDtypeStruct((batch_size, *value.shape), value.dtype)
    for name, value in found.items()
  }


def place(
  batches: Iterator[Batch],
  mesh: jax.sharding.Mesh,
  *,
  batch_axes: Sequence[str] = ("data", "fsdp"),
  specs: Mapping[str, jax.sharding.PartitionSpec] | None = None,
  depth: int = 2,
) -> "Placed":
  """Returns an iterator of the same batches as global arrays on the mesh, placed ahead of time.

  Args:
    batches: host-local parts, contiguous by process; every array has the batch first.
    mesh: dimension 0 is split over those of `batch_axes` that it has.
    specs: other placements by field name, such as the image's height over `space`.
    depth: batches kept ready on the device, >= 1.
  Exceptions of `batches` are raised again where the batch would have come.
  """
  if depth < 1:
    raise ValueError(f"depth={depth} must be at least 1.")
  axes = tuple(axis for axis in batch_axes if axis in mesh.shape)
  default = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(axes))
  special = {k: jax.sharding.NamedSharding(mesh, v) for k, v in (specs or {}).items()}
  return Placed(batches, lambda name: special.get(name, default), depth)


class Placed(Iterator[dict[str, jax.Array]]):
  """Batches on the mesh, made on a background thread. Made by `place`.

  waited: seconds that `next` stood waiting so far; over the wall time, the share lost to input.
  """

  def __init__(
    self, batches: Iterator[Batch], sharding: Callable[[str], jax.sharding.Sharding], depth: int
  ):
    self.waited = 0.0
    self._batches = batches
    self._queue: queue.Queue = queue.Queue(maxsize=depth)
    self._stop = threading.Event()
    self._end: BaseException | None = None
    # The thread holds no reference to this object: forgetting it ends the thread.
    self._thread = threading.Thread(
      target=_place_all,
      args=(batches, sharding, self._queue, self._stop),
      name="effnets-place",
      daemon=True,
    )
    weakref.finalize(self, self._stop.set)
    self._thread.start()

  def __next__(self) -> dict[str, jax.Array]:
    if self._end is None:
      before = time.perf_counter()
      batch, self._end = self._queue.get()
      self.waited += time.perf_counter() - before
    if self._end is not None:
      raise self._end
    return batch

  def close(self) -> None:
    """Ends the thread and closes `batches`; `next` then raises StopIteration. May be repeated."""
    self._stop.set()
    self._thread.join()
    self._end = self._end or StopIteration()
    close = getattr(self._batches, "close", None)
    if close:
      close()

  def __enter__(self) -> "Placed":
    return self

  def __exit__(self, *_) -> None:
    self.close()


def _place_all(batches, sharding, ready: queue.Queue, stop: threading.Event) -> None:
  """Puts (batch on the mesh, None), at last (None, exception), into `ready`."""
  # A guard against hidden transfers is the consumer's; all transfers here are meant.
  with jax.transfer_guard("allow"):
    end = None
    while end is None and not stop.is_set():
      placed = None
      try:
        placed = {
          name: jax.make_array_from_process_local_data(sharding(name), array)
          for name, array in next(batches).items()
        }
      except BaseException as error:
        end = error
      while not stop.is_set():
        try:
          ready.put((placed, end), timeout=0.1)
          break
        except queue.Full:
          pass


class _Chunks(grain.MapDataset):
  """Chunk i: the examples numbered `first + t * stride + [cuts[c], cuts[c+1])`, t, c of i.

  A chunk is a dict: `arrays` the readable examples stacked by field ({} if none), `rows` their
  places in the chunk, `reads`, `failures` for the tally, `lost` if an example has no replacement.
  """

  def __init__(self, stride: int, first: int, cuts: Sequence[int], batches: int | None):
    super().__init__()
    self._stride, self._first, self._cuts = stride, first, cuts
    self._batches = batches

  def __len__(self) -> int:
    if self._batches is None:
      return sys.maxsize
    return self._batches * (len(self._cuts) - 1)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.slice(index)
    t, c = divmod(index, len(self._cuts) - 1)
    examples, rows, failures, reads, lost = [], [], [], 0, False
    for row in range(self._cuts[c], self._cuts[c + 1]):
      read = self._read(self._first + t * self._stride + row)
      if read is None:
        continue
      reads += len(read.failures) + (read.example is not None)
      failures += read.failures
      if read.example is None:
        if self._batches is None:
          lost = True
          break
        continue
      examples.append(read.example)
      rows.append(row - self._cuts[c])
    fields = examples[0] if examples else ()
    return {
      "arrays": {} if lost else {k: np.stack([e[k] for e in examples]) for k in fields},
      "rows": np.array(rows, np.int64),
      "reads": reads,
      "failures": failures,
      "lost": lost,
    }

  def _read(self, number: int) -> stream_lib.Read | None:
    raise NotImplementedError


class _TrainChunks(_Chunks):
  """Chunks of an endless stream."""

  def __init__(self, stream: stream_lib.Readable, stride: int, first: int, cuts: Sequence[int]):
    super().__init__(stride, first, cuts, None)
    self._stream = stream

  def _read(self, number: int) -> stream_lib.Read:
    return self._stream.read(number)


class _EvalChunks(_Chunks):
  """Chunks of a source, padded to whole batches."""

  def __init__(self, source, transform, stride: int, first: int, cuts: Sequence[int]):
    super().__init__(stride, first, cuts, -(-len(source) // stride))
    self._source, self._transform = source, transform

  def _read(self, number: int) -> stream_lib.Read | None:
    if number >= len(self._source):
      return None
    try:
      example = self._source[number]
      if self._transform:
        example = self._transform(example, decode.drawing(0, number))
    except sources.Unreadable as error:
      return stream_lib.Read(None, (str(error),))
    names = (*sources.inputs(self._source), *decode.fields(self._transform))
    read = {"label": np.int32(example["label"]), **{name: example[name] for name in names}}
    return stream_lib.Read(read, ())


def _blank(source: sources.Source, transform: decode.Transform | None) -> sources.Example:
  """Returns what an example without content becomes, such as a black picture, for its shapes."""
  blank = sources.blank(source)
  return transform(blank, decode.drawing(0, 0)) if transform else blank


def _part(batch_size: int, process_index: int, process_count: int) -> int:
  """Returns how many examples of each global batch one process takes."""
  if not 0 <= process_index < process_count:
    raise ValueError(f"process_index={process_index} must be in [0, {process_count}).")
  if batch_size < 1 or batch_size % process_count:
    raise errors.UserError(
      f"config.batch_size={batch_size} does not divide over {process_count} processes; "
      f"nearest: {_multiples(batch_size, process_count)}."
    )
  return batch_size // process_count


def _multiples(value: int, of: int) -> str:
  low = value // of * of
  return f"{low} or {low + of}" if low else f"{of}"


def _cuts(size: int) -> list[int]:
  """Returns where to cut `size` examples into nearly equal chunks: [0, …, size]."""
  count = -(-size // _CHUNK)
  return [size * i // count for i in range(count + 1)]
