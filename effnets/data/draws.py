"""Random draws on the host: every number is a function of (seed, stream name, position).

The device has `effnets.streams`; this is the same idea for NumPy, where an example is cropped and
ordered before it reaches the device. Philox is counter based, so any position costs the same, and
NumPy keeps its raw output and `Generator.random` the same over versions.
"""

import numpy as np

from effnets import streams

_WORD = 2**64


def generator(seed: int, name: str, position: int) -> np.random.Generator:
  """Returns the generator of one position in one named stream; no two share any number.

  Args:
    seed: the run's seed, in [0, 2**64). name: the stream's name, such as `crop`.
    position: position in the endless example stream, in [0, 2**64).
  Raises: ValueError if the seed or the position is out of range.

  >>> float(generator(0, "crop", 5).random()) == float(generator(0, "crop", 5).random())
  True
  """
  if not 0 <= seed < _WORD or not 0 <= position < _WORD:
    raise ValueError(f"seed={seed} and position={position} must be in [0, 2**64).")
  # The position sits above the words that drawing increments: positions never run into each other.
  key = np.array([seed, streams.name_hash(name)], np.uint64)
  return np.random.Generator(
    np.random.Philox(key=key, counter=np.array([0, 0, position, 0], np.uint64))
  )


def below(rng: np.random.Generator, count: int) -> int:
  """Returns a uniform integer in [0, count), from one `random()`; count up to 2**53."""
  return min(int(rng.random() * count), count - 1)
