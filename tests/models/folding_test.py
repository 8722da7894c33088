"""Folded networks against the ones they came from, and one layer against the formula."""

import jax
import numpy as np
import pytest

from effnets import models


def _moved(module, seed=0):
  """Returns variables in which no scale, bias or moment is special; variances stay positive."""
  rng = np.random.default_rng(seed)

  def move(path, leaf):
    noise = 0.2 * rng.standard_normal(leaf.shape)
    if path[-1].key == "kernel":  # of a gain that lets the images through
      return (5 * noise * np.sqrt(2 / np.prod(leaf.shape[:-1]))).astype("f4")
    return (np.abs(leaf + noise) + 0.1 if path[-1].key == "var" else leaf + noise).astype("f4")

  return jax.tree_util.tree_map_with_path(move, models.init(module, 0))


# Every kind of block, convolutions in parts, a hidden layer, a pool.
@pytest.mark.parametrize(
  "name, settings",
  [
    ("efficientnet_tiny", {}),
    ("mobilenetv2", {"width": 0.25, "depth": 0.3, "kernels": (3, 5)}),
    ("mobilenetv3_small", {"width": 0.25, "depth": 0.3, "padding": "SYMMETRIC", "epsilon": 1e-5}),
    ("mobilenetv1", {"width": 0.25, "depth": 0.3}),
    ("resnet50", {"width": 0.125, "depth": 0.2}),
    # Norms with no convolution before them.
    ("wide_resnet_28_2", {"width": 0.25, "depth": 0.25}),
    ("shake_shake_26_2x32d", {"width": 0.25, "depth": 0.25}),
    ("pyramidnet_272", {"width": 0.25, "depth": 0.02}),
  ],
)
def test_a_folded_network_computes_the_same(name, settings):
  module = models.create(name, num_classes=7, **settings)
  variables = _moved(module)
  images = np.random.default_rng(1).standard_normal((2, 32, 32, 3)).astype(np.float32)
  folded, weights = models.fold(module, variables)
  both = jax.jit(lambda v, w, x: (module.apply(v, x, train=False), folded.apply(w, x, train=False)))
  expected, actual = both(variables, weights, images)
  assert np.std(expected, axis=0).max() > 1e-3 * np.abs(expected).max()  # the images matter
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_folded_kernel_is_the_papers_formula():
  module = models.create("efficientnet_tiny", num_classes=3, epsilon=0.5)
  variables = _moved(module)
  _, weights = models.fold(module, variables)
  assert set(weights) == {"params"}
  kernel = np.asarray(variables["params"]["stem"]["conv"]["kernel"], np.float64)
  norm, running = variables["params"]["stem"]["norm"], variables["batch_stats"]["stem"]["norm"]
  for channel in range(kernel.shape[3]):
    factor = norm["scale"][channel] / (running["var"][channel] + 0.5) ** 0.5
    bias = norm["bias"][channel] - running["mean"][channel] * factor
    np.testing.assert_allclose(
      weights["params"]["stem"]["conv"]["kernel"][..., channel],
      kernel[..., channel] * factor,
      rtol=1e-6,
    )
    np.testing.assert_allclose(weights["params"]["stem"]["norm"]["bias"][channel], bias, rtol=1e-5)
  np.testing.assert_array_equal(
    weights["params"]["classifier"]["kernel"], variables["params"]["classifier"]["kernel"]
  )


def test_folding_refuses_what_it_cannot_fold():
  module = models.create("efficientnet_tiny", num_classes=3)
  variables = models.init(module, 0)
  folded, weights = models.fold(module, variables)
  with pytest.raises(ValueError, match="folded already"):
    models.fold(folded, weights)
  with pytest.raises(ValueError, match="no batch_stats in these variables"):
    models.fold(module, weights)
  images = np.zeros((1, 32, 32, 3), np.float32)
  with pytest.raises(ValueError, match="no batch norm left to train"):
    jax.eval_shape(lambda v, x: folded.apply(v, x, train=True), weights, images)
