"""Named random streams: every draw is a function of (seed, position in the stream, stream name).

Nothing is ever split and carried: a resumed run, and a run on another mesh, draws what the
unbroken run on one device would have drawn. Use the default threefry generator only; `rbg` keys
give other numbers under `vmap` inside `shard_map` than under `jit`.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, UInt32


def name_hash(name: str) -> int:
  """Returns a 32-bit hash of `name` that is the same in every process and version."""
  return zlib.crc32(name.encode())


def stream(root: Key[Array, ""], name: str) -> Key[Array, ""]:
  """Returns the key of the stream `name`; adding a stream moves no other stream's numbers."""
  return jax.random.fold_in(root, np.uint32(name_hash(name)))


def example_keys(key: Key[Array, ""], positions: UInt32[Array, "b 2"]) -> Key[Array, " b"]:
  """Returns one key per example from its position, given as (high, low) 32-bit words.

  The position, not the example's identity, is folded in: a duplicated example gets new noise.
  """

  def fold(position):
    return jax.random.fold_in(jax.random.fold_in(key, position[0]), position[1])

  return jax.vmap(fold)(positions)


def words(position: Int[np.ndarray, "*b"] | int) -> UInt32[np.ndarray, "*b 2"]:
  """Returns non-negative integers below 2**64 as (high, low) words; JAX has no 64-bit integers.

  >>> words(2**32 + 5).tolist()
  [1, 5]
  """
  position = np.asarray(position, np.uint64)
  return np.stack([position >> np.uint64(32), position & np.uint64(0xFFFFFFFF)], -1).astype(
    np.uint32
  )


def integer(position: UInt32[np.ndarray, "2"]) -> int:
  """Returns the integer of (high, low) words; the inverse of `words`."""
  high, low = (int(w) for w in np.asarray(position))
  return (high << 32) | low


def advance(position: UInt32[Array, "2"], count: int) -> UInt32[Array, "2"]:
  """Returns `position + count` as (high, low) words, on the device; `count` below 2**32."""
  low = position[1] + jnp.uint32(count)
  return jnp.stack([position[0] + (low < position[1]).astype(jnp.uint32), low])
