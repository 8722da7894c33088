"""What is exported of networks of films: a function of several arrays."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from effnets.weights.programs import base

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Films:
  """A function with its weights, as the formats take a `base.Program`.

  call: (variables, *arrays) -> outputs by name. variables: host arrays. inputs: by name, in the
  order of `call`, shape without the batch, and type. names: of the outputs. batch: examples that
  the program takes, None for any number.
  """

  call: Callable[..., dict[str, Array]]
  variables: Mapping[str, Any]
  inputs: Mapping[str, tuple[Shape, Any]]
  names: tuple[str, ...]
  batch: int | None = None

  def outputs(self, variables: Any, *arrays: Array) -> dict[str, Array]:
    """Returns what `call` does."""
    return self.call(variables, *arrays)

  def reference(self) -> base.Run:
    """Returns what the exported program should be, on the CPU."""
    compiled = jax.jit(lambda *arrays: self.call(self.variables, *arrays))

    def run(*arrays: np.ndarray) -> dict[str, np.ndarray]:
      with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return jax.device_get(compiled(*arrays))

    return run
