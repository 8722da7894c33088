"""Initial values: their distributions, and that they depend on seed and path alone."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import models
from effnets.models import efficientnet, initialize, stage_tables


def _flat(tree):
  return {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def test_distributions_of_b0():
  variables = models.init(models.create("efficientnet_b0"), 3)
  worst = 0.0
  for path, leaf in _flat(variables).items():
    assert isinstance(leaf, np.ndarray) and leaf.dtype == np.float32
    if not path.endswith("['kernel']"):
      assert (leaf == (1 if "'scale'" in path or "'var'" in path else 0)).all(), path
      continue
    if "classifier" in path:
      limit = 1 / math.sqrt(1000)
      assert abs(leaf).max() <= limit and abs(leaf).max() > 0.999 * limit
      std = limit / math.sqrt(3)
    else:
      kernel_h, kernel_w, _, out = leaf.shape
      std = math.sqrt(2 / (kernel_h * kernel_w * (1 if "depthwise" in path else out)))
      worst = max(worst, abs(leaf).max() / std)
    # Five standard errors of the standard deviation and of the mean of that many numbers.
    assert abs(leaf.std() / std - 1) < 5 / math.sqrt(2 * leaf.size), path
    assert abs(leaf.mean()) < 5 * std / math.sqrt(leaf.size), path
  # The normal distribution is not truncated: among four million numbers some pass 4.5.
  assert worst > 4.5


def _small(*rows):
  return efficientnet.efficientnet(stage_tables.Table(8, rows, 16), num_classes=3, image_size=16)


ROW = stage_tables.Row("mbconv", 3, 1, 2, 8)


def test_a_new_layer_moves_no_other_leaf():
  before = _flat(models.init(_small(ROW), 0))
  after = _flat(models.init(_small(ROW, ROW), 0))
  assert before.keys() < after.keys()
  for path, leaf in before.items():
    np.testing.assert_array_equal(after[path], leaf, err_msg=path)
  # Equal shapes at other places, and other seeds, draw other numbers.
  one, two = (after[f"['params']['block_{i}']['expand']['conv']['kernel']"] for i in (0, 1))
  assert (one != two).all()
  other = _flat(models.init(_small(ROW), 1))
  assert (before["['params']['stem']['conv']['kernel']"] != _stem(other)).all()


def _stem(flat):
  return flat["['params']['stem']['conv']['kernel']"]


def test_values_do_not_depend_on_size_or_execution():
  module = _small(ROW)
  want = _flat(models.init(module, 5))
  for variant in (
    dataclasses.replace(module, remat="block"),
    dataclasses.replace(module, plain=True),
    dataclasses.replace(module, dtype="bfloat16"),
    dataclasses.replace(module, padding="SYMMETRIC"),
  ):
    got = _flat(models.init(variant, 5, image_size=(32, 24)))
    assert got.keys() == want.keys()
    for path, leaf in want.items():
      np.testing.assert_array_equal(got[path], leaf, err_msg=path)


def test_numbers_stay():
  # A change of these makes every old seed another run.
  kernel = models.init(_small(ROW), 0)["params"]["classifier"]["kernel"]
  np.testing.assert_allclose(kernel[0], [0.31885967, 0.12561172, 0.17986543], rtol=1e-6)


def test_linen_init_agrees_in_shape():
  module = _small(ROW)
  images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
  linen = jax.eval_shape(lambda key, x: module.init(key, x), jax.random.key(0), images)
  assert jax.tree.map(jnp.shape, linen) == jax.tree.map(jnp.shape, models.abstract(module))


@pytest.mark.parametrize(
  "initializer,std",
  [
    (initialize.Normal(0.5), 0.5),
    (initialize.Uniform(0.3), 0.3 / math.sqrt(3)),
    # A normal cut at two deviations: 0.8796 of its deviation is left.
    (initialize.Truncated(0.5), 0.5 * 0.8796),
    (initialize.Constant(2.0), 0.0),
  ],
)
def test_both_ways_of_drawing(getkey, initializer, std):
  numpy = initializer.draw(np.random.default_rng(0), (200, 200))
  linen = np.asarray(initializer(getkey(), (200, 200)))
  mean = 2.0 if std == 0 else 0.0
  for values in (numpy, linen):
    assert values.dtype == np.float32 and values.shape == (200, 200)
    assert values.std() == pytest.approx(std, rel=0.02)
    assert values.mean() == pytest.approx(mean, abs=0.01)


def test_mobilenetv3_starts_truncated():
  kernels = [
    leaf
    for path, leaf in _flat(models.init(models.create("mobilenetv3_small", 10), 0)).items()
    if "'kernel'" in path
  ]
  highest = max(abs(leaf).max() for leaf in kernels)
  assert 1.99 * 0.008 < highest <= 2 * 0.008
  whole = np.concatenate([leaf.ravel() for leaf in kernels])
  assert whole.std() == pytest.approx(0.008 * 0.8796, rel=0.01)


def test_a_leaf_without_initialiser_is_refused():
  with pytest.raises(ValueError, match="params/bias has no known initialiser"):
    models.init(nn.Dense(2), 0, inputs=(jax.ShapeDtypeStruct((1, 3), jnp.float32),))
