"""Soft targets and mixup against slow loops and closed forms."""

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
  with pytest.raises(ValueError, match=r"smoothing=1 is not in \[0, 1\)"):
    augment.smooth_one_hot(np.array([1]), 3, 1)
