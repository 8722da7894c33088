"""Soft targets, mixup and CutMix against slow loops and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from effnets import augment, streams

_BATCH = 16


def _keys(count):
  key = streams.stream(jax.random.key(0), "mixup")
  return streams.example_keys(key, streams.words(np.arange(count)))


def _batch(count=_BATCH):
  rng = np.random.default_rng(0)
  images = rng.normal(size=(count, 3, 4, 2)).astype(np.float32)
  targets = augment.smooth_one_hot(rng.integers(0, 5, count), 5, 0.1)
  return images, np.asarray(targets)


_mixup = jax.jit(augment.mixup, static_argnames=("alpha", "group"))


@pytest.mark.parametrize("group", [None, 2])
def test_partner_and_weight(group):
  images, targets = _batch()
  mixed, mixed_targets = _mixup(images, targets, _keys(_BATCH), alpha=0.2, group=group)
  size = group or _BATCH
  weights = []
  for i in range(_BATCH):
    j = i // size * size + size - 1 - i % size
    # The first value gives the weight away; all others and the targets must obey it.
    m = float((mixed[i] - images[j]).ravel()[0] / (images[i] - images[j]).ravel()[0])
    np.testing.assert_allclose(mixed[i], m * images[i] + (1 - m) * images[j], atol=1e-5)
    np.testing.assert_allclose(mixed_targets[i], m * targets[i] + (1 - m) * targets[j], atol=1e-5)
    weights.append(m)
  assert min(weights) > 0.5 - 1e-5 and max(weights) < 1 + 1e-5
  assert len(set(np.round(weights, 3))) > _BATCH // 2
  np.testing.assert_allclose(np.sum(mixed_targets, -1), 1, atol=1e-6)


def test_weights_are_beta_distributed():
  # One-hot images over places show the weight itself. Beta(1/2, 1/2) is the arcsine law: the larger
  # part is (1 + |cos t|) / 2 for a uniform t, with mean 1/2 + 1/pi and the variance below.
  count = 4096
  images = np.zeros((count, 1, 1, 1), np.float32)
  images[: count // 2] = 1
  mixed, _ = _mixup(images, images[:, :, 0, 0], _keys(count), alpha=0.5)
  weights = np.asarray(mixed[: count // 2]).ravel()
  variance = (1 / 2 - 4 / np.pi**2) / 4
  assert weights.min() >= 0.5 and weights.max() <= 1
  assert abs(weights.mean() - (1 / 2 + 1 / np.pi)) < 4 * np.sqrt(variance / weights.size)
  assert abs(weights.var() / variance - 1) < 0.1


def test_same_on_eight_devices():
  images, targets = _batch()
  expected = _mixup(images, targets, _keys(_BATCH), alpha=0.2, group=2)
  mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
  mapped = jax.shard_map(
    lambda i, t, k: augment.mixup(i, t, k, alpha=0.2, group=2),
    mesh=mesh,
    in_specs=P("data"),
    out_specs=P("data"),
    check_vma=False,
  )
  for got, want in zip(jax.jit(mapped)(images, targets, _keys(_BATCH)), expected, strict=True):
    np.testing.assert_allclose(got, want, atol=1e-6)


def _cut(count, size, **settings):
  """Returns where each image has its partner's pixels, and the share of its own target."""
  images = np.arange(count, dtype=np.float32)[:, None, None, None] * np.ones((*size, 1), np.float32)
  targets = np.eye(count, dtype=np.float32)
  mixed, shares = jax.jit(functools.partial(augment.cutmix, **settings))(
    images, targets, _keys(count)
  )
  return np.asarray(mixed)[..., 0], np.asarray(shares)


@pytest.mark.parametrize("group", [None, 4])
def test_cutmix_targets_are_the_areas_that_are_seen(group):
  count, size = 64, (9, 14)
  mixed, shares = _cut(count, size, alpha=1.0, group=group)
  run = group or count
  smaller = 0
  for i in range(count):
    j = i // run * run + run - 1 - i % run
    pasted = mixed[i] == j
    assert ((mixed[i] == i) | pasted).all()
    rows, columns = np.nonzero(pasted.any(1))[0], np.nonzero(pasted.any(0))[0]
    if len(rows):
      assert pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    expected = np.zeros(count)
    expected[i] += 1 - pasted.mean()
    expected[j] += pasted.mean()
    np.testing.assert_allclose(shares[i], expected, atol=1e-6)
    smaller += pasted.mean() > 0.5
  assert smaller > 5


def test_cutmix_rectangles():
  count, size = 4096, (24, 32)
  mixed, _ = _cut(count, size, alpha=1.0, group=2)
  pasted = mixed != np.arange(count)[:, None, None]
  # Each pixel is covered as often as by a slow loop's rectangles.
  rng = np.random.default_rng(0)
  expected = np.zeros(size)
  for _ in range(20_000):
    share = rng.random()
    row, column = rng.integers(size[0]), rng.integers(size[1])
    high, wide = (int(side * np.sqrt(share)) // 2 for side in size)
    expected[max(row - high, 0) : row + high, max(column - wide, 0) : column + wide] += 1 / 20_000
  assert np.abs(pasted.mean(0) - expected).max() < 0.035
  assert abs(pasted.mean() - expected.mean()) < 0.012


def test_cutmix_probability_and_what_else():
  images, targets = _batch(512)
  other = (images + 100, targets * 0)
  cut = jax.jit(functools.partial(augment.cutmix, alpha=1.0, probability=0.3, group=2))
  mixed, mixed_targets = cut(images, targets, _keys(512), otherwise=other)
  left = np.asarray(mixed_targets).sum(-1) == 0
  assert abs(left.mean() - 0.7) < 0.08
  np.testing.assert_array_equal(np.asarray(mixed)[left], images[left] + 100)
  assert np.asarray(mixed)[~left].max() < 50
  # Those that are mixed are mixed as if all were.
  everything, _ = jax.jit(functools.partial(augment.cutmix, alpha=1.0, group=2))(
    images, targets, _keys(512)
  )
  np.testing.assert_array_equal(np.asarray(mixed)[~left], np.asarray(everything)[~left])
  same, _ = augment.cutmix(images, targets, _keys(512), alpha=0)
  np.testing.assert_array_equal(same, images)


def test_cutmix_is_the_same_on_eight_devices():
  images, targets = _batch()
  cut = functools.partial(augment.cutmix, alpha=1.0, group=2)
  mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
  mapped = jax.shard_map(cut, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False)
  expected = jax.jit(cut)(images, targets, _keys(_BATCH))
  for got, want in zip(jax.jit(mapped)(images, targets, _keys(_BATCH)), expected, strict=True):
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_dtypes_and_no_mixing():
  images, targets = _batch()
  same, same_targets = augment.mixup(images, targets, _keys(_BATCH), alpha=0)
  np.testing.assert_array_equal(same, images)
  np.testing.assert_array_equal(same_targets, targets)
  mix = functools.partial(augment.mixup, alpha=0.4)
  for given, kept in ((jnp.bfloat16, jnp.bfloat16), (jnp.uint8, jnp.float32)):
    mixed, _ = jax.eval_shape(mix, images.astype(given), targets, _keys(_BATCH))
    assert mixed.dtype == kept


def test_smooth_one_hot():
  targets = np.asarray(augment.smooth_one_hot(np.array([0, 2]), 4, 0.2))
  np.testing.assert_allclose(targets, [[0.85, 0.05, 0.05, 0.05], [0.05, 0.05, 0.85, 0.05]])
  np.testing.assert_array_equal(augment.smooth_one_hot(np.array([1]), 3), [[0, 1, 0]])


def test_errors():
  images, targets = _batch()
  with pytest.raises(ValueError, match="group=3 does not divide the batch of 16; nearest: [24]"):
    augment.mixup(images, targets, _keys(_BATCH), alpha=0.2, group=3)
  with pytest.raises(ValueError, match="alpha=-1 is negative"):
    augment.mixup(images, targets, _keys(_BATCH), alpha=-1)
  with pytest.raises(ValueError, match="cutmix group=5 does not divide"):
    augment.cutmix(images, targets, _keys(_BATCH), alpha=1, group=5)
  with pytest.raises(ValueError, match="cutmix alpha=-1 is negative"):
    augment.cutmix(images, targets, _keys(_BATCH), alpha=-1)
  with pytest.raises(ValueError, match=r"cutmix probability=2 is not in \[0, 1\]"):
    augment.cutmix(images, targets, _keys(_BATCH), alpha=1, probability=2)
  with pytest.raises(ValueError, match=r"smoothing=1 is not in \[0, 1\)"):
    augment.smooth_one_hot(np.array([1]), 3, 1)
