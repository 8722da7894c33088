"""The endless stream: every example once an epoch, seekable, with replacements and mixtures."""

import pickle
import threading

import numpy as np
import pytest

from effnets import errors, streams
from effnets.data import decode
from effnets.data import stream as stream_lib
from tests.data import fakes


def _ids(stream, positions):
  return [int(stream[p]["image"][0, 0, 0]) for p in positions]


@pytest.mark.parametrize("count", [1, 2, 7, 100, 255])
def test_each_epoch_visits_each_example_once_in_a_new_order(count):
  stream = stream_lib.Stream(fakes.Numbered(count), seed=5)
  epochs = [_ids(stream, range(e * count, (e + 1) * count)) for e in range(3)]
  for epoch in epochs:
    assert sorted(epoch) == list(range(count))
  if count > 5:
    assert epochs[0] != epochs[1] != epochs[2] != list(range(count)) != epochs[0]


def test_large_sources_are_permuted_without_a_table():
  count = stream_lib._LARGE + 3
  stream = stream_lib.Stream(fakes.Numbered(count), seed=5)
  epochs = [np.array([stream.index(e * count + i) for i in range(count)]) for e in (0, 1)]
  for order in epochs:
    np.testing.assert_array_equal(np.sort(order), np.arange(count))
    # A random order has no memory: the correlation with the place is 0 +- 1/sqrt(n).
    assert abs(np.corrcoef(order, np.arange(count))[0, 1]) < 5 / np.sqrt(count)
  assert np.mean(epochs[0] == epochs[1]) < 1e-3


def test_orders_are_uniform():
  # Where does example 0 of 6 stand? 3,000 epochs: each place 500 +- 20.
  stream = stream_lib.Stream(fakes.Numbered(6), seed=0)
  places = [[stream.index(e * 6 + i) for i in range(6)].index(0) for e in range(3000)]
  counts = np.bincount(places, minlength=6)
  assert ((counts - 500) ** 2 / 500).sum() < 20.5  # chi-square, 5 degrees of freedom, p = 0.001


def test_seed_and_name_change_the_order_and_nothing_else_does():
  source = fakes.Numbered(50)

  def order(**settings):
    return _ids(stream_lib.Stream(source, **settings), range(50))

  assert order(seed=1) == order(seed=1)
  assert len({tuple(order(seed=s, name=n)) for s in (1, 2) for n in ("", "a", "b")}) == 6
  assert order(seed=1, shuffle=False) == list(range(50))
  assert order(seed=1, transform=decode.CentreCrop(2)) == order(seed=1)


def test_seeking_equals_iterating():
  source = fakes.Numbered(40, size=12, soft=True)
  stream = stream_lib.Stream(source, seed=2, transform=decode.RandomCrop(6))
  there = [stream[p] for p in range(90)]
  fresh = stream_lib.Stream(source, seed=2, transform=decode.RandomCrop(6))
  for p in (89, 3, 41, 40, 0):
    for name, value in fresh[p].items():
      np.testing.assert_array_equal(value, there[p][name])
  far = 2**33 + 5
  assert fresh[far]["position"].tolist() == [2, 5]
  assert streams.integer(fresh[far]["position"]) == far


def test_fields_and_types():
  example = stream_lib.Stream(fakes.Numbered(9, soft=True), seed=0)[4]
  kinds = {k: (v.dtype.name, v.shape) for k, v in example.items()}
  assert kinds == {
    "image": ("uint8", (4, 4, 3)),
    "label": ("int32", ()),
    "position": ("uint32", (2,)),
    "weight": ("float32", ()),
    "probabilities": ("float32", (10,)),
    "soft": ("bool", ()),
  }
  assert example["soft"] and example["weight"] == 1
  assert "soft" not in stream_lib.Stream(fakes.Numbered(9), seed=0)[4]


def test_crops_depend_on_the_position_not_on_the_example():
  source = fakes.Numbered(3, size=32)
  rows = np.arange(32 * 32 * 3, dtype=np.uint32).reshape(32, 32, 3).astype(np.uint8)
  seen = []

  def transform(example, draw):
    seen.append(draw("crop").random())
    return decode.RandomCrop(8)({**example, "image": rows}, draw)

  stream = stream_lib.Stream(source, seed=0, transform=transform)
  images = [stream[p]["image"].tobytes() for p in range(12)]
  assert len(set(images)) == len(set(seen)) == 12  # three examples, four epochs, twelve crops


def test_unreadable_examples_are_replaced_by_the_next_in_order(caplog):
  whole = stream_lib.Stream(fakes.Numbered(30), seed=3)
  stream = stream_lib.Stream(fakes.Numbered(30, broken=(4, 17, 18)), seed=3, max_unreadable=0.3)
  order = [whole.index(p) for p in range(61)]

  def slow(p):
    while order[p] in (4, 17, 18):
      p += 1
    return order[p]

  with caplog.at_level("WARNING", logger="absl"):
    assert _ids(stream, range(60)) == [slow(p) for p in range(60)]
  assert [streams.integer(stream[p]["position"]) for p in range(60)] == list(range(60))
  # Read in any order, by anybody: the same.
  assert _ids(stream, reversed(range(60))) == [slow(p) for p in reversed(range(60))]
  assert set(stream.tally.names) == {f"file{i}.jpg (damaged)" for i in (4, 17, 18)}
  assert stream.tally.reads == 180 + stream.tally.failed
  assert stream.tally.failed == sum(stream.tally.names.values()) >= 18
  warned = [r.getMessage() for r in caplog.records if "Unreadable" in r.getMessage()]
  assert len(warned) == 3 and any("file17.jpg" in text for text in warned)


def test_too_many_unreadable_examples_stop_the_run():
  stream = stream_lib.Stream(fakes.Numbered(200, broken=range(0, 200, 20)), seed=0)
  message = r"\d+ of \d+ reads of numbered failed, .*config.data.max_unreadable=0.01 .*file\d+.jpg"
  with pytest.raises(errors.UserError, match=message):
    _ids(stream, range(200))
  assert stream.tally.reads >= 100
  few = stream_lib.Stream(fakes.Numbered(200, broken=[7]), seed=0)
  assert len(_ids(few, range(600))) == 600  # 0.5 %
  none = stream_lib.Stream(fakes.Numbered(200, broken=[7]), seed=0, max_unreadable=0)
  with pytest.raises(errors.UserError, match="1 of .*max_unreadable=0 allows. First: file7.jpg"):
    _ids(none, range(200))


@pytest.mark.parametrize("share, stops", [(0.005, False), (0.02, True)])
def test_the_share_is_judged_without_haste(share, stops):
  # 20 sets each: a set with half the share allowed is never stopped, one with twice always is.
  for seed in range(20):
    broken = np.random.default_rng(seed).permutation(2000)[: int(2000 * share)].tolist()
    tally = stream_lib.Tally("x", size=2000, limit=0.01)
    stopped = False
    for i in range(2000):
      try:
        tally.add(1, [f"{i}"] if i in broken else [])
      except errors.UserError:
        stopped = True
        break
    assert stopped == stops


@pytest.mark.parametrize("count", [1, 20, 500])
def test_a_source_without_any_readable_example_stops_at_once(count):
  stream = stream_lib.Stream(fakes.Numbered(count, broken=range(count)), seed=0, max_unreadable=1.0)
  with pytest.raises(errors.UserError, match=r"reads of numbered failed"):
    stream[0]
  alone = stream_lib.Stream(fakes.Numbered(20, broken=range(19)), seed=0, max_unreadable=1.0)
  assert _ids(alone, range(40)) == [19] * 40


def test_tally_is_safe_between_threads_and_travels():
  tally = stream_lib.Tally("x", size=10, limit=1.0)
  jobs = [
    threading.Thread(target=lambda: [tally.add(1, ["a"]) for _ in range(500)]) for _ in "abcd"
  ]
  for job in jobs:
    job.start()
  for job in jobs:
    job.join()
  again = pickle.loads(pickle.dumps(tally))
  again.add(0)
  assert (again.reads, again.failed, again.names) == (2000, 2000, {"a": 2000})


def _mixture(counts, weights, parts=None):
  parts = parts or [
    stream_lib.Stream(fakes.Numbered(20 + 5 * i, soft=i > 0), seed=0, name=str(i))
    for i in range(len(counts))
  ]
  return stream_lib.Mixture(parts, counts, weights), parts


@pytest.mark.parametrize("counts", [(64, 192), (1, 1), (3, 4), (5, 1), (1, 2, 3)])
def test_mixture_counts_slots_and_positions(counts):
  total = sum(counts)
  mixture, parts = _mixture(counts, [1.0] * len(counts))
  assert mixture.period == total
  first = [(s + 1) * counts[0] // total > s * counts[0] // total for s in range(total)]
  taken = [0] * len(counts)
  for p in range(3 * total):
    example = mixture[p]
    assert bool(example["soft"]) != first[p % total]  # the first stream alone has no soft labels
    if len(counts) == 2:
      part = 0 if first[p % total] else 1
      own = parts[part][taken[part]]  # each is read at its own next position
      np.testing.assert_array_equal(example["image"], own["image"])
      np.testing.assert_allclose(example["weight"], total / counts[part], rtol=1e-6)
      taken[part] += 1
    assert streams.integer(example["position"]) == p
  dealt = np.bincount([part for part, _ in mixture._slots])
  assert dealt.tolist() == list(counts)
  # Evenly spread: any run of slots holds its share of the first stream, to within one.
  running = np.cumsum(first)
  assert np.abs(running - np.arange(1, total + 1) * counts[0] / total).max() < 1


def test_mixture_mean_is_the_weighted_sum_of_the_parts_means():
  counts, weights = (3, 5), (1.0, 7.0)
  mixture, _ = _mixture(counts, weights)
  for start in (0, 5, 16):  # any window of a period, also across its border
    batch = [mixture[start + i] for i in range(8)]
    losses = np.random.default_rng(start).random(8)
    soft = np.array([e["soft"] for e in batch])
    weight = np.array([e["weight"] for e in batch])
    expected = 1.0 * losses[~soft].mean() + 7.0 * losses[soft].mean()
    np.testing.assert_allclose((weight * losses).mean(), expected, rtol=1e-6)


def test_mixture_brings_fields_together():
  mixture, _ = _mixture((1, 1), (1, 1))
  hard, soft = sorted((mixture[p] for p in (0, 1)), key=lambda e: bool(e["soft"]))
  assert hard.keys() == soft.keys()
  assert not hard["soft"] and hard["probabilities"].tolist() == [0] * 10
  assert soft["soft"] and np.isclose(soft["probabilities"].sum(), 1)
  plain = [stream_lib.Stream(fakes.Numbered(5), seed=0, name=n) for n in "ab"]
  assert "soft" not in _mixture((1, 1), (1, 1), plain)[0][0]


def test_mixture_counts_unreadable_examples():
  parts = [
    stream_lib.Stream(fakes.Numbered(50), seed=0),
    stream_lib.Stream(fakes.Numbered(50, broken=range(10), name="bad"), seed=0),
  ]
  mixture = stream_lib.Mixture(parts, (1, 1), (1, 1))
  with pytest.raises(errors.UserError, match="of numbered, bad failed"):
    _ids(mixture, range(200))


@pytest.mark.parametrize(
  "make, error, message",
  [
    (lambda s: stream_lib.Stream(fakes.Numbered(0), seed=0), errors.UserError, "no examples"),
    (lambda s: stream_lib.Stream(fakes.Numbered(3, size=None), seed=0), ValueError, "transform"),
    (lambda s: stream_lib.Stream(fakes.Numbered(3), seed=-1)[0], ValueError, "seed=-1"),
    (lambda s: s[-1], IndexError, "-1 is negative"),
    (
      lambda s: stream_lib.Stream(fakes.Numbered(3), seed=0, max_unreadable=2),
      errors.UserError,
      "config.data.max_unreadable=2 must be a share",
    ),
    (lambda s: stream_lib.Mixture([s], [0], [1]), ValueError, "at least 1"),
    (lambda s: stream_lib.Mixture([s], [1, 2], [1]), ValueError, "1 streams, 2 counts"),
    (
      lambda s: stream_lib.Mixture(
        [s, stream_lib.Stream(fakes.Numbered(3, classes=4), seed=0)], [1, 1], [1, 1]
      ),
      ValueError,
      "different numbers of classes",
    ),
  ],
)
def test_wrong_settings(make, error, message):
  with pytest.raises(error, match=message):
    make(stream_lib.Stream(fakes.Numbered(3), seed=0))
