"""Fingerprints against a Python loop, on every mesh, with every single bit flipped."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from effnets.training import fingerprints


def loop(array):
  """Returns the fingerprint of a NumPy array, one little-endian 32-bit word at a time."""
  array = np.asarray(array)
  width = min(array.dtype.itemsize, 4)
  data = array.tobytes()
  words = [int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)]
  return sum((2 * i + 1) * word for i, word in enumerate(words)) % 2**32


RNG = np.random.default_rng(0)
LEAVES = {
  "float32": RNG.normal(size=(8, 3, 4)).astype(np.float32),
  "bfloat16": RNG.normal(size=(16, 5)).astype(ml_dtypes.bfloat16),
  "float16": RNG.normal(size=(7,)).astype(np.float16),
  "int32": RNG.integers(-(2**31), 2**31, (8, 2)).astype(np.int32),
  "uint32": RNG.integers(0, 2**32, (2, 8), np.uint32),
  "uint8": RNG.integers(0, 256, (5, 3), np.uint8),
  "bool": RNG.integers(0, 2, (9,)).astype(bool),
  "complex64": (RNG.normal(size=6) + 1j * RNG.normal(size=6)).astype(np.complex64),
  "scalar": np.float32(-0.0),
  "step": np.int32(12345),
  "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("name", LEAVES)
def test_equals_the_loop(name):
  assert fingerprints.fingerprint(LEAVES[name]) == loop(LEAVES[name])
  assert fingerprints.fingerprint(jnp.asarray(LEAVES[name])) == loop(LEAVES[name])


def test_wide_and_strided_arrays():
  wide = RNG.normal(size=(4, 3))
  assert fingerprints.fingerprint(wide) == loop(wide)
  assert fingerprints.fingerprint(LEAVES["float32"].T) == loop(LEAVES["float32"].T.copy())


def test_keys():
  keys = jax.random.split(jax.random.key(3), 4)
  assert fingerprints.fingerprint(keys) == loop(jax.random.key_data(keys))


def test_agrees_with_the_device():
  """The formula as one would write it for a device, independent of the shards."""
  leaf = jnp.asarray(LEAVES["float32"])
  bits = jax.lax.bitcast_convert_type(leaf, jnp.uint32).ravel()
  index = jax.lax.iota(jnp.uint32, bits.size)
  assert fingerprints.fingerprint(leaf) == int(jnp.sum(bits * (2 * index + 1), dtype=jnp.uint32))


def meshes():
  axes = ("data", "fsdp")
  auto = (jax.sharding.AxisType.Auto,) * 2
  for shape in ((1, 1), (2, 1), (2, 2), (8, 1), (4, 2)):
    devices = jax.devices()[: shape[0] * shape[1]]
    yield jax.make_mesh(shape, axes, auto, devices=devices)


def test_same_on_every_mesh_and_sharding():
  spec = jax.sharding.PartitionSpec
  specs = {
    "float32": [spec(), spec("data"), spec(("data", "fsdp")), spec("fsdp", None, "data")],
    "bfloat16": [spec("data", None), spec(("fsdp", "data"))],
    "uint32": [spec("fsdp", "data"), spec(None, ("data", "fsdp")), spec(None, "fsdp")],
    "scalar": [spec()],
  }
  count = 0
  for mesh in meshes():
    for name, options in specs.items():
      for option in options:
        sharding = jax.sharding.NamedSharding(mesh, option)
        try:
          sharding.shard_shape(LEAVES[name].shape)
        except ValueError:
          continue  # does not divide
        leaf = jax.device_put(LEAVES[name], sharding)
        assert fingerprints.fingerprint(leaf) == loop(LEAVES[name]), (mesh, name, option)
        count += 1
  assert count > 40


def test_notices_every_single_bit():
  array = LEAVES["bfloat16"][:2].copy()
  before = fingerprints.fingerprint(array)
  raw = array.view(np.uint8)
  for byte in range(raw.size):
    for bit in range(8):
      raw.reshape(-1)[byte] ^= 1 << bit
      assert fingerprints.fingerprint(array) != before
      raw.reshape(-1)[byte] ^= 1 << bit
  assert fingerprints.fingerprint(array) == before


def test_of_a_tree_and_every_differing_leaf():
  tree = {"params": {"w": jnp.ones(3), "b": None}, "opt": [jnp.int32(1), (jnp.zeros(2),)]}
  before = fingerprints.of(tree)
  assert list(before) == ["opt/0", "opt/1/0", "params/w"]
  assert before["opt/0"] == 1 and before["params/w"] == loop(np.ones(3, np.float32))
  tree["opt"][0], tree["params"]["w"] = jnp.int32(2), jnp.ones(3).at[2].set(1.0000001)
  assert fingerprints.differing(before, fingerprints.of(tree)) == ["opt/0", "params/w"]
  assert fingerprints.of({"a": None}) == {}
