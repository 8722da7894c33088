"""Mask R-CNN against the counts of the official code's heads, and its heads against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import models
from effnets.models import counting, layers, mask_rcnn


@pytest.mark.parametrize(
  ("name", "params", "madds", "heads"),
  [
    ("49s", 13_946_608, 59.77e9, (150_799, 4_037_575, 669_019)),
    ("49", 40_753_521, 215.57e9, (596_495, 15_676_871, 2_648_667)),
    ("190", 176_198_465, 2077.2e9, (9_767_439, 29_477_191, 10_366_171)),
  ],
)
def test_counts(name, params, madds, heads):
  count = models.count(models.create(f"mask_rcnn_spinenet_{name}"))
  found = count.shapes["params"]
  parts = ("proposal_head", "box_head", "mask_head")
  assert count.params == params
  assert tuple(counting.parameters(found[part]) for part in parts) == heads
  # The sheet's is a profiler's, which counts norms and activations too.
  assert count.madds == pytest.approx(madds, rel=2e-3)


def test_doubled_against_a_loop():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
  kernel, bias = rng.normal(size=(2, 2, 5, 6)).astype(np.float32), rng.normal(size=6)
  want = np.zeros((2, 6, 8, 6))
  for i in range(3):
    for j in range(4):
      for di in range(2):
        for dj in range(2):
          want[:, 2 * i + di, 2 * j + dj] = x[:, i, j] @ kernel[di, dj] + bias
  module = mask_rcnn.Doubled(6, layers.Settings())
  got = module.apply({"params": {"kernel": kernel, "bias": bias.astype(np.float32)}}, x)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_regions_are_the_callers():
  module = models.create(
    "mask_rcnn_r50",
    4,
    backbone="efficientnet_tiny",
    pyramid="bifpn",
    width=16,
    region_width=16,
    dense=(8,),
    max_level=4,
  )
  images = jnp.zeros((2, 64, 96, 3))
  variables = models.abstract(module, 64)

  def regions(features, scores, proposals):
    assert [x.shape[3] for x in scores] == [3, 3, 3]
    assert [x.shape[3] for x in proposals] == [12, 12, 12]
    assert sum(x[0].size // 4 for x in proposals) == len(module.anchors((64, 96)))
    crops = jnp.zeros((2, 5, 7, 7, features[0].shape[-1]))
    return crops, jnp.zeros((2, 3, 14, 14, 16)), jnp.zeros(5)

  found = jax.eval_shape(
    lambda v: module.apply(v, images, train=True, regions=regions, mutable=["batch_stats"])[0],
    variables,
  )
  assert found["classes"].shape == (2, 5, 4) and found["boxes"].shape == (2, 5, 16)
  assert found["masks"].shape == (2, 3, 28, 28, 4) and found["regions"].shape == (5,)
  alone = jax.eval_shape(
    lambda v, x: module.apply(v, x, method="mask"), variables, jnp.zeros((1, 2, 14, 14, 16))
  )
  assert alone.shape == (1, 2, 28, 28, 4)
