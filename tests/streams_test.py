"""Named random streams: their hash, their keys, and 64-bit positions in 32-bit words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import streams

POSITIONS = [0, 1, 7, 2**31, 2**32 - 1, 2**32, 2**32 + 5, 2**40 + 3, 2**64 - 1]
NAMES = ["params", "dropout", "drop_path", "augment", "mixup", "crop", "shuffle", "shift", "flip"]


def bits(key):
  return np.asarray(jax.random.key_data(key)).tolist()


def test_the_hash_is_crc32():
  # The check value that every description of CRC-32 gives.
  assert streams.name_hash("123456789") == 0xCBF43926
  assert streams.name_hash("") == 0
  assert len({streams.name_hash(name) for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("position", POSITIONS)
def test_words_hold_the_position(position):
  words = streams.words(position)
  assert words.dtype == np.uint32
  assert words.tolist() == list(divmod(position, 2**32))
  assert streams.integer(words) == position


def test_words_of_arrays():
  found = streams.words(np.array([[3, 2**33], [2**32 - 1, 0]]))
  assert found.tolist() == [[[0, 3], [2, 0]], [[0, 2**32 - 1], [0, 0]]]


@pytest.mark.parametrize("count", [0, 1, 96, 2**31, 2**32 - 1])
@pytest.mark.parametrize("position", POSITIONS[:-1])
def test_advance_carries(position, count):
  found = jax.jit(streams.advance, static_argnums=1)(jnp.asarray(streams.words(position)), count)
  assert streams.integer(found) == position + count


def test_keys_are_two_folds_of_the_default_generator():
  root = jax.random.key(5)
  assert bits(streams.stream(root, "augment")) == bits(
    jax.random.fold_in(root, np.uint32(streams.name_hash("augment")))
  )
  key = streams.stream(root, "dropout")
  keys = streams.example_keys(key, jnp.asarray(streams.words(np.array(POSITIONS, np.uint64))))
  for position, found in zip(POSITIONS, keys, strict=True):
    high, low = divmod(position, 2**32)
    expected = jax.random.fold_in(jax.random.fold_in(key, np.uint32(high)), np.uint32(low))
    assert bits(found) == bits(expected)


def test_a_key_depends_on_its_own_position_only():
  key = jax.random.key(0)
  positions = jnp.asarray(streams.words(np.arange(40)))
  whole = bits(streams.example_keys(key, positions))
  order = np.random.default_rng(0).permutation(40)
  assert bits(streams.example_keys(key, positions[order])) == [whole[i] for i in order]
  assert bits(jax.jit(streams.example_keys)(key, positions[3:5])) == whole[3:5]
  assert len({tuple(k) for k in whole}) == 40


def test_streams_and_seeds_do_not_meet():
  drawn = {
    tuple(bits(streams.stream(jax.random.key(seed), name))) for seed in range(20) for name in NAMES
  }
  assert len(drawn) == 20 * len(NAMES)


def test_high_and_low_words_are_told_apart():
  keys = streams.example_keys(jax.random.key(0), jnp.array([[0, 1], [1, 0]], jnp.uint32))
  assert bits(keys[0]) != bits(keys[1])
