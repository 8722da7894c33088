"""The mesh, the rules that place leaves on it, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from effnets import errors, parallel


@pytest.mark.parametrize(
  ("mesh", "shape"),
  [
    ({"data": -1}, (8, 1, 1)),
    ({"data": 4, "fsdp": 2}, (4, 2, 1)),
    ({"data": 2, "fsdp": -1, "space": 2}, (2, 2, 2)),
  ],
)
def test_axes(mesh, shape):
  placement = parallel.create(mesh)
  assert tuple(placement.mesh.shape.values()) == shape
  assert placement.batch_shards == shape[0] * shape[1]
  assert set(placement.mesh.axis_types) == {jax.sharding.AxisType.Auto}


def test_leaves_are_placed_by_the_first_rule_that_matches():
  placement = parallel.create(
    {"data": 2, "fsdp": 4}, rules=[("keep", "replicate"), (".*", "fsdp")], min_size=64
  )
  shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)  # noqa: E731
  tree = {
    "keep": shape(64, 64),
    "conv": shape(3, 3, 16, 32),
    "odd": shape(3, 3, 7, 33),
    "square": shape(16, 16),
    "small": shape(32),
  }
  specs = {name: s.spec for name, s in placement.state(tree).items()}
  assert specs == {
    "keep": P(),
    "conv": P(None, None, None, "fsdp"),
    "odd": P(),
    "square": P(None, "fsdp"),
    "small": P(),
  }


def test_arrays_are_put_where_they_belong():
  placement = parallel.create({"data": 2, "fsdp": 4}, min_size=1)
  tree = {"kernel": np.arange(64.0).reshape(8, 8)}
  placed = placement.put(tree, placement.state(tree))["kernel"]
  assert {s.data.shape for s in placed.addressable_shards} == {(8, 2)}
  np.testing.assert_array_equal(placed, tree["kernel"])


@pytest.mark.parametrize("execution", ["jit", "shard_map"])
def test_per_example_functions_see_one_device_part(execution):
  placement = parallel.create({"data": 4, "fsdp": 2}, execution=execution)
  x = jax.device_put(jnp.arange(16.0), placement.batch)

  def reverse(part):
    return part[::-1]

  fn = placement.per_example(reverse)
  if execution == "shard_map":
    fn = placement.per_device(fn, P(parallel.BATCH_AXES), P(parallel.BATCH_AXES))
  expected = np.arange(16.0).reshape(8, 2)[:, ::-1].ravel()
  np.testing.assert_array_equal(jax.jit(fn)(x), expected)


@pytest.mark.parametrize(
  ("mesh", "arguments", "message"),
  [
    ({"data": 3}, {}, r"config.mesh=.* multiplies to 3 device\(s\), there are 8; set one .* -1"),
    ({"data": -1, "fsdp": 3}, {}, r"config.mesh=.* needs 3 device\(s\) or a multiple.* are 8"),
    ({"data": -1, "fsdp": -1}, {}, r"config.mesh=.*at most one is -1"),
    ({"data": 0}, {}, r"config.mesh=.*positive"),
    ({"dat": 8}, {}, r"config.mesh='dat' is not a mesh axis. Nearest: 'data'"),
    ({"data": 8}, {"execution": "pmap"}, r"config.execution='pmap' .*'shard_map'"),
    (
      {"data": 4, "space": 2},
      {"execution": "shard_map"},
      r"config.execution='shard_map' cannot split .*config.mesh.space=2.*'jit'",
    ),
    ({"data": 8}, {"rules": [(".*", "fspd")]}, r"config.sharding.rules='fspd' .*'fsdp'"),
  ],
)
def test_mistakes(mesh, arguments, message):
  with pytest.raises(errors.UserError, match=message):
    parallel.create(mesh, **arguments)


def test_a_leaf_without_a_rule_is_an_error():
  placement = parallel.create({"data": 8}, rules=[("kernel", "fsdp")])
  with pytest.raises(errors.UserError, match=r"config.sharding.rules: no rule places 'a/bias'"):
    placement.state({"a": {"bias": np.zeros(3)}})
