"""What is exported of networks of films: a function of several arrays."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import Array

from effnets.weights.programs import base

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Films:
  """A function with its weights, as the formats take a `base.Program`.

  call: (variables, *arrays) -> outputs by name. variables: host arrays. shapes: of the inputs by
  name, in the order of `call`: without the batch, and the type. names: of the outputs. batch:
  examples that the program takes, None for any number.
  """

  call: Callable[..., dict[str, Array]]
  variables: Mapping[str, Any]
  shapes: Mapping[str, tuple[Shape, Any]]
  names: tuple[str, ...]
  batch: int | None = None

  def inputs(self, batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns names and shapes of the inputs, in order. batch: clips, a number or a symbol."""
    return {
      name: jax.ShapeDtypeStruct((batch, *shape), kind)
      for name, (shape, kind) in self.shapes.items()
    }

  def outputs(self, variables: Any, *arrays: Array) -> dict[str, Array]:
    """Returns what `call` does."""
    return self.call(variables, *arrays)

  def reference(self) -> base.Run:
    """Returns what the exported program should be, on the CPU."""
    return base.on_cpu(jax.jit(lambda *arrays: self.call(self.variables, *arrays)))
