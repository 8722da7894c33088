"""Whole networks on images that are split by height: the numbers of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from effnets import ops
from effnets.models import initialize, layers, network, stage_tables
from effnets.parallel import programs

SQUEEZE = layers.Squeeze(0.25)


def _mbconv(kernels=(3, (3, 5))):
  rows = (
    stage_tables.Row("mbconv", kernels[0], 1, 1, 8, 1, SQUEEZE),
    stage_tables.Row("mbconv", kernels[1], 2, 2, 8, 1, SQUEEZE),
  )
  return network.Network(rows=rows, stem=8, head=16, num_classes=5, group=ops.Group(4))


def _pooled(op, **fields):
  rows = (
    stage_tables.Row(op, 3, 1, 0.5, 16, 1, activation="relu"),
    stage_tables.Row(op, 3, 2, 0.5, 24, 1, activation="relu"),
  )
  return network.Network(rows=rows, stem=8, head=0, num_classes=5, group=ops.Group(8), **fields)


# Every way to make an image smaller: strides, maxima over windows, means over squares.
QUICK = [(_mbconv(), 19, (2, 4))]
SLOW = [
  (_mbconv(), 16, (4, 2)),
  (_mbconv((5, 3)).clone(padding="SYMMETRIC", remat="block"), 27, (2, 4)),
  (_pooled("bottleneck", stem_kernel=7, stem_pool=True), 33, (2, 4)),
  (_pooled("bottleneck", stem_kernel=7, stem_pool=True), 32, (4, 2)),
  (_pooled("preactivated", stem_stride=1, outer_skips=True), 17, (2, 4)),
  (_pooled("pyramid", stem_stride=1), 16, (1, 8)),
]


@pytest.mark.parametrize(
  "module, height, sizes", [*QUICK, *(pytest.param(*row, marks=pytest.mark.slow) for row in SLOW)]
)
def test_loss_moments_and_gradients_are_those_of_one_device(module, height, sizes):
  rng = np.random.default_rng(height)
  images = rng.standard_normal((8, height, 9, 3)).astype(np.float32)
  variables = initialize.init(module, 0, image_size=32)
  params, stats = variables["params"], variables["batch_stats"]
  axes = jax.sharding.AxisType.Auto, jax.sharding.AxisType.Auto
  mesh = jax.make_mesh(sizes, ("data", "space"), axis_types=axes)
  whole, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P("data", "space"))

  def learned(params, images, split):
    def loss(params):
      seen = images if split is None else jax.lax.with_sharding_constraint(images, rows)
      logits, new = module.clone(split=split).apply(
        {"params": params, "batch_stats": stats}, seen, train=True, mutable=["batch_stats"]
      )
      return -jnp.mean(jax.nn.log_softmax(logits)[:, 1]), new["batch_stats"]

    return jax.value_and_grad(loss, has_aux=True)(params)

  split = ops.Split(mesh, ("data",), "space")
  placed = jax.device_put(images, NamedSharding(mesh, P("data")))
  program = jax.jit(lambda p, x: learned(p, x, split), out_shardings=whole)
  compiled = program.lower(jax.device_put(params, whole), placed).compile()
  # Rows travel between neighbours alone; no device ever holds another's whole part.
  messages = programs.collectives(compiled.as_text())
  assert messages["collective-permute"][0] > 0 and "all-gather" not in messages
  got = compiled(jax.device_put(params, whole), placed)
  want = jax.jit(lambda p, x: learned(p, x, None))(params, images)

  (loss, moved), gradients = jax.device_get(got)
  (expected_loss, expected_moved), expected = jax.device_get(want)
  np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
  for ours, theirs in zip(*map(jax.tree.leaves, (moved, expected_moved)), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
  # A bias that feeds another norm has a true gradient of zero: a floor of 1 % of the largest.
  floor = 0.01 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
  for (path, ours), theirs in zip(
    jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(expected), strict=True
  ):
    error = np.abs(ours - theirs).max() / max(floor, np.abs(theirs).max())
    assert error < 5e-5, (path, error)
