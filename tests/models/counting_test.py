"""Multiply-adds against sums by hand, through nested programs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from effnets import models
from effnets.models import counting, efficientnet, layers, stage_tables


def test_by_hand():
  table = stage_tables.Table(
    8, (stage_tables.Row("mbconv", 5, 2, 3, 16, 1, layers.Squeeze(0.25)),), 24
  )
  module = efficientnet.efficientnet(table, num_classes=7, image_size=18)
  stem, expand, depthwise = 9 * 9 * 9 * 3 * 8, 9 * 9 * 8 * 24, 5 * 5 * 25 * 24
  squeeze, project = 2 * 24 * 2, 5 * 5 * 24 * 16
  head, dense = 5 * 5 * 16 * 24, 24 * 7
  madds = stem + expand + depthwise + squeeze + project + head + dense
  kernels = 9 * 3 * 8 + 8 * 24 + 25 * 24 + 2 * 24 * 2 + 24 * 16 + 16 * 24 + 24 * 7
  biases, norms = 2 + 24 + 7, 2 * (8 + 24 + 24 + 16 + 24)
  assert models.count(module) == models.Count(kernels + biases + norms, madds)
  # Rectangles, and the same count however the network is run.
  assert models.count(module, (18, 36)).madds - dense - squeeze == pytest.approx(
    2 * (madds - dense - squeeze), rel=0.1
  )
  assert models.count(module.clone(remat="block", dtype="bfloat16")).madds == madds


class _Nested(nn.Module):
  """A product in a scan of three, in a conditional, and in a jit."""

  @nn.compact
  def __call__(self, x):
    w = jnp.ones((4, 4))
    x, _ = jax.lax.scan(lambda c, _: (c @ w, None), x, length=3)
    x = jax.lax.cond(x.sum() > 0, lambda y: y @ w @ w, lambda y: y, x)
    self.param("scale", nn.initializers.ones, ())
    return jax.jit(lambda y: jnp.einsum("bi,bj->bij", y, y))(x)


def test_nested_programs():
  inputs = (jax.ShapeDtypeStruct((2, 4), jnp.float32),)
  assert counting.count(_Nested(), inputs=inputs) == counting.Count(1, 3 * 32 + 2 * 32 + 32)
