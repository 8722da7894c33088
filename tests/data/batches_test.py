"""Batches are equal on any number of processes; evaluation sees each example once."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from effnets import errors, streams
from effnets.data import batches, decode, sources
from effnets.data import stream as stream_lib
from tests.data import fakes


def _stream(**settings):
  return stream_lib.Stream(fakes.Numbered(37, size=9, soft=True), seed=1, **settings)


def _take(iterator, count):
  taken = [next(iterator) for _ in range(count)]
  iterator.close()
  return taken


def _equal(left, right):
  assert len(left) == len(right)
  for a, b in zip(left, right, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      assert a[name].dtype == b[name].dtype
      np.testing.assert_array_equal(a[name], b[name])


def _side_by_side(parts):
  return [
    {k: np.concatenate([p[k] for p in step]) for k in step[0]} for step in zip(*parts, strict=True)
  ]


def _mixture():
  labelled = stream_lib.Stream(fakes.Numbered(10, size=9), seed=0, name="labelled")
  return stream_lib.Mixture([labelled, _stream(name="unlabelled")], (10, 30), (1, 3))


@pytest.mark.parametrize("make", [lambda: _stream(transform=decode.RandomCrop(4)), _mixture])
@pytest.mark.parametrize("start", [0, 50, 2**32 - 3])
def test_any_number_of_processes_gives_the_same_batches(make, start):
  stream = make()
  size = 80
  slow = []
  for t in range(3):
    examples = [stream[start + t * size + i] for i in range(size)]
    slow.append({k: np.stack([e[k] for e in examples]) for k in examples[0]})
  for hosts in (1, 2, 4):
    parts = [
      _take(
        batches.train_batches(
          make(), size, start=start, process_index=h, process_count=hosts, threads=h % 3
        ),
        3,
      )
      for h in range(hosts)
    ]
    assert len(parts[0][0]["label"]) == size // hosts
    _equal(_side_by_side(parts), slow)


def test_contract_of_a_training_batch():
  (batch,) = _take(batches.train_batches(_mixture(), 40, start=2**32 - 20), 1)
  assert {k: (v.dtype.name, v.shape) for k, v in batch.items()} == {
    "image": ("uint8", (40, 9, 9, 3)),
    "label": ("int32", (40,)),
    "position": ("uint32", (40, 2)),
    "weight": ("float32", (40,)),
    "probabilities": ("float32", (40, 10)),
    "soft": ("bool", (40,)),
  }
  assert [streams.integer(p) for p in batch["position"]] == list(range(2**32 - 20, 2**32 + 20))
  assert batch["soft"].sum() == 30
  np.testing.assert_allclose(batch["weight"].mean(), 1 + 3, rtol=1e-6)


def test_resuming_with_another_batch_size_goes_on_where_it_was():
  whole = _take(batches.train_batches(_stream(), 24), 4)
  parts = _take(batches.train_batches(_stream(), 8, start=24), 9)
  np.testing.assert_array_equal(
    np.concatenate([b["image"] for b in whole[1:]]), np.concatenate([b["image"] for b in parts])
  )


def test_worker_processes_change_nothing(tmp_path):
  for i in range(40):
    path = tmp_path / "train" / "ab"[i % 2] / f"{i:02}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((9, 12 + i, 3), 6 * i, np.uint8)).save(path)
  path.write_bytes(b"damaged")
  settings = {"start": 7, "process_index": 1, "process_count": 2}

  def read(**how):
    stream = stream_lib.Stream(
      sources.open_source(f"folder:{tmp_path}", "train"),
      seed=4,
      transform=decode.RandomCrop(24),
      max_unreadable=0.2,
    )
    taken = _take(batches.train_batches(stream, 140, **how, **settings), 5)
    return taken, (stream.tally.reads, stream.tally.failed, stream.tally.names)

  there, tally = read()
  again, counted = read(workers=2, threads=1)
  _equal(again, there)
  assert counted == tally and tally[1] > 0 and list(tally[2]) == [f"{path} (no known image format)"]


@pytest.mark.parametrize("count, size, hosts", [(37, 8, 1), (37, 8, 4), (64, 64, 2), (3, 8, 4)])
def test_evaluation_sees_each_example_exactly_once(count, size, hosts):
  source = fakes.Numbered(count)
  parts = [
    list(batches.eval_batches(source, size, process_index=h, process_count=hosts))
    for h in range(hosts)
  ]
  whole = _side_by_side(parts)
  assert {len(p) for p in parts} == {-(-count // size)}
  assert {len(b["mask"]) for b in whole} == {size}
  image, label, mask, index = (
    np.concatenate([b[k] for b in whole]) for k in ("image", "label", "mask", "index")
  )
  assert index[mask].tolist() == list(range(count)) and (index[~mask] == -1).all()
  assert mask.dtype == bool and index.dtype == label.dtype == np.int32 and image.dtype == np.uint8
  np.testing.assert_array_equal(image[mask][:, 0, 0, 0], np.arange(count) % 256)
  np.testing.assert_array_equal(label[mask], np.arange(count) % 10)
  assert not image[~mask].any() and not label[~mask].any()


def test_unreadable_examples_are_counted_once_in_the_readers_process():
  source = fakes.Numbered(300, broken=[3, 8])
  stream = stream_lib.Stream(source, seed=0)
  _take(batches.train_batches(stream, 100), 3)
  assert (stream.tally.reads, stream.tally.failed) == (302, 2)
  none = stream_lib.Stream(fakes.Numbered(70, broken=range(70)), seed=0)
  with pytest.raises(errors.UserError, match="100 of 100 reads of numbered failed"):
    _take(batches.train_batches(none, 100), 1)


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"batch_size": 30, "process_count": 4}, r"batch_size=30 .* 4 processes; nearest: 28 or 32"),
    ({"batch_size": 60}, r"config.batch_size=60 must be a multiple of 40.*nearest: 40 or 80"),
    ({"batch_size": 20}, r"nearest: 40\."),
  ],
)
def test_batch_sizes_that_do_not_divide(settings, message):
  with pytest.raises(errors.UserError, match=message):
    batches.train_batches(_mixture(), **settings)


def _mesh(**axes):
  return jax.make_mesh(
    tuple(axes.values()),
    tuple(axes),
    axis_types=(jax.sharding.AxisType.Auto,) * len(axes),
  )


@pytest.mark.parametrize("axes", [{"data": 8}, {"data": 4, "fsdp": 2}, {"data": 2, "space": 4}])
def test_place_splits_batches_over_the_mesh(axes):
  mesh = _mesh(**axes)
  there = _take(batches.train_batches(_mixture(), 40), 4)
  specs = {}
  if "space" in axes:
    specs["image"] = jax.sharding.PartitionSpec("data", "space")
    there = [{**b, "image": b["image"][:, :8]} for b in there]
  placed = batches.place(iter(there), mesh, specs=specs)
  parts = axes["data"] * axes.get("fsdp", 1)
  with jax.transfer_guard("disallow"):
    found = list(placed)
    assert placed.waited > 0
    for batch in found:
      assert batch["label"].addressable_shards[0].data.shape == (40 // parts,)
      rows, height = batch["image"].addressable_shards[0].data.shape[:2]
      assert (rows, height) == (40 // parts, 8 // 4 if "space" in axes else 9)
    _equal(jax.device_get(found), there)
  placed.close()


def test_place_works_ahead_and_closes():
  made = []

  class Slow:
    closed = False

    def __next__(self):
      made.append(len(made))
      return {"label": np.full(8, made[-1], np.int32)}

    def close(self):
      self.closed = True

  slow = Slow()
  before = threading.active_count()
  with batches.place(slow, _mesh(data=8), depth=2) as placed:
    assert int(next(placed)["label"][0]) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
      time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 4  # one taken, two ready, one in hand
  assert slow.closed and threading.active_count() == before
  with pytest.raises(StopIteration):
    next(placed)


def test_place_raises_where_the_batch_would_have_come():
  def broken():
    yield {"label": np.zeros(8, np.int32)}
    raise errors.UserError("config.data: enough")

  placed = batches.place(broken(), _mesh(data=8))
  next(placed)
  for _ in range(2):
    with pytest.raises(errors.UserError, match="enough"):
      next(placed)
  placed.close()
  with pytest.raises(ValueError, match="depth=0"):
    batches.place(broken(), _mesh(data=8), depth=0)


def test_waiting_is_measured():
  def late():
    for _ in range(2):
      time.sleep(0.2)
      yield {"label": np.zeros(8, np.int32)}

  placed = batches.place(late(), _mesh(data=8))
  assert len(list(placed)) == 2
  assert 0.3 < placed.waited < 5
  ready = batches.place(iter([{"label": np.zeros(8, np.int32)}]), _mesh(data=8))
  time.sleep(0.3)
  next(ready)
  assert ready.waited < 0.2
  ready.close()


def test_a_compiled_step_takes_placed_batches_under_the_guard():
  mesh = _mesh(data=4, fsdp=2)
  stream = _stream()
  iterator = batches.place(batches.train_batches(stream, 16), mesh)
  mean = jax.jit(lambda b: jnp.mean(b["weight"] * b["label"]))
  with jax.transfer_guard("disallow"):
    found = jax.device_get([mean(next(iterator)) for _ in range(2)])
  iterator.close()
  expected = [np.mean([stream[t * 16 + i]["label"] for i in range(16)]) for t in (0, 1)]
  np.testing.assert_allclose(found, expected, rtol=1e-6)
