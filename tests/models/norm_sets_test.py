"""Auxiliary norms: every part of a batch goes through its set as if it were alone."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import models, ops
from effnets.models import layers

_RNG = np.random.default_rng(0)


def _interleaved(parts, shards):
  """Returns the parts' images as `shards` blocks, each with its share of every part."""
  shares = [np.split(part, shards) for part in parts]
  return np.concatenate([share[i] for i in range(shards) for share in shares])


def _apart(images, count, shards):
  blocks = np.split(np.asarray(images), shards)
  shares = [np.split(block, count) for block in blocks]
  return [np.concatenate([share[part] for share in shares]) for part in range(count)]


def _reference(x, scale, bias, images):
  """Returns the normalised `x`, and the mean over groups of its moments."""
  y, means, variances = np.empty_like(x), [], []
  for start in range(0, len(x), images):
    part = x[start : start + images].astype(np.float64)
    mean, var = part.mean((0, 1, 2)), part.var((0, 1, 2))
    y[start : start + images] = (part - mean) / np.sqrt(var + 1e-3) * scale + bias
    means.append(mean)
    variances.append(var)
  return y, np.mean(means, 0), np.mean(variances, 0)


@pytest.mark.parametrize(
  ("sets", "shards", "images"),
  [
    ((0, 1), 1, 4),
    ((0, 1), 1, 2),
    ((0, 1), 2, 4),
    ((0, 1), 2, 2),
    ((0, 1), 2, 1),
    ((2, 0, 1), 2, 4),
  ]
  + [((1, 0, 1), 4, 2)],
)
def test_parts_are_normalised_apart(sets, shards, images):
  parts = [_RNG.normal(i, 1 + i, (4, 3, 5, 6)).astype(np.float32) for i in range(len(sets))]
  count = max(sets) + 1
  leaf = lambda: _RNG.uniform(0.5, 2, 6).astype(np.float32)  # noqa: E731
  suffixes = ["", *(f"_{i}" for i in range(1, count))]
  params = {f"{name}{s}": leaf() for name in ("scale", "bias") for s in suffixes}
  stats = {f"{name}{s}": leaf() for name in ("mean", "var") for s in suffixes}
  settings = layers.Settings(
    group=ops.Group(images), norms=layers.NormSets(count, sets, shards), momentum=0.9
  )
  norm = layers.BatchNorm(settings=settings)
  variables = {"params": params, "batch_stats": stats}
  y, new = norm.apply(variables, _interleaved(parts, shards), True, mutable=["batch_stats"])
  found = _apart(y, len(sets), shards)
  expected = dict(stats)
  for part, index, own in zip(parts, sets, found, strict=True):
    s = suffixes[index]
    reference, _, _ = _reference(part, params[f"scale{s}"], params[f"bias{s}"], images)
    np.testing.assert_allclose(own, reference, rtol=1e-4, atol=1e-4)
  for index in set(sets):
    s = suffixes[index]
    moments = [
      _reference(p, 1, 0, images)[1:] for p, i in zip(parts, sets, strict=True) if i == index
    ]
    for name, value in zip(("mean", "var"), np.mean(moments, 0), strict=True):
      expected[f"{name}{s}"] = 0.9 * stats[f"{name}{s}"] + 0.1 * value
  assert new["batch_stats"].keys() == stats.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(new["batch_stats"][name], value, rtol=1e-4, err_msg=name)
  # With running moments the parts are as if each had been alone, too.
  still = _apart(norm.apply(variables, _interleaved(parts, shards)), len(sets), shards)
  for part, index, own in zip(parts, sets, still, strict=True):
    alone = layers.BatchNorm(settings=layers.Settings(norms=layers.NormSets(count, (index,))))
    np.testing.assert_allclose(own, alone.apply(variables, part), rtol=1e-5, atol=1e-5)


def test_parts_of_one_set_are_one_batch():
  parts = [_RNG.normal(i, 1, (4, 2, 2, 3)).astype(np.float32) for i in range(2)]
  both = np.concatenate(parts)
  norm = layers.BatchNorm(
    settings=layers.Settings(group=ops.Group(4), norms=layers.NormSets(1, (0, 0)))
  )
  variables = norm.init(jax.random.key(0), both)
  y, _ = norm.apply(variables, both, True, mutable=["batch_stats"])
  np.testing.assert_allclose(y, _reference(both, 1.0, 0.0, 8)[0], rtol=1e-4, atol=1e-4)


def _network(**fields):
  settings = {"num_classes": 7, "width": 0.5, "depth": 0.25, "plain": True, "norm_sets": 2}
  return models.create("efficientnet_tiny", **{**settings, **fields})


def test_a_network_keeps_its_parts_apart():
  """Values, moments and gradients of the mixture are those of two networks that share weights."""
  variables = models.init(_network(), 0, image_size=16)
  flat = flax.traverse_util.flatten_dict(variables)
  flat = {k: v + 0.1 * _RNG.uniform(size=v.shape).astype(np.float32) for k, v in flat.items()}
  variables = flax.traverse_util.unflatten_dict(flat)
  clean, other = (_RNG.normal(size=(4, 16, 16, 3)).astype(np.float32) for _ in range(2))
  module = _network(group=ops.Group(4))

  def mixed(params):
    network = module.clone(norm_parts=(0, 1))
    images = jnp.concatenate([clean, other])
    logits, new = network.apply(
      {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
    )
    return jnp.sum(jnp.sin(logits)), (logits, new)

  def separate(params):
    logits, stats = [], variables["batch_stats"]
    for index, images in enumerate((clean, other)):
      network = module.clone(norm_parts=(index,))
      part, new = network.apply(
        {"params": params, "batch_stats": stats}, images, train=True, mutable=["batch_stats"]
      )
      logits.append(part)
      stats = new["batch_stats"]
    logits = jnp.concatenate(logits)
    return jnp.sum(jnp.sin(logits)), (logits, {"batch_stats": stats})

  found, expected = (
    jax.jit(jax.value_and_grad(f, has_aux=True))(variables["params"]) for f in (mixed, separate)
  )
  largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * largest), found, expected
  )


def test_the_main_set_is_the_plain_network():
  variables = models.init(_network(), 3, image_size=16)
  plain = models.init(_network(norm_sets=1), 3, image_size=16)
  kept = models.main_set(variables)
  jax.tree.map(np.testing.assert_array_equal, kept, plain)
  images = _RNG.normal(size=(2, 16, 16, 3)).astype(np.float32)
  with_sets = _network().apply(variables, images)
  np.testing.assert_array_equal(with_sets, _network(norm_sets=1).apply(kept, images))


@pytest.mark.parametrize(
  ("name", "sets", "params"),
  # Sheet of AdvProp: the plain count, and the affine parameters of every further set.
  [
    ("efficientnet_b0", 2, 5_330_564),
    ("efficientnet_b0", 3, 5_372_580),
    ("efficientnet_b7", 2, 66_658_680),
    ("efficientnet_b8", 2, 87_793_174),
  ],
)
def test_parameters(name, sets, params):
  assert models.count(models.create(name, norm_sets=sets), 64).params == params
