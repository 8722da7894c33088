"""StableHLO: a file of `jax.export`, for a CPU, a GPU or a TPU and any batch size."""

import pathlib

import jax
from jax import export

from effnets.weights.programs import base, films

PLATFORMS = ("cpu", "cuda", "tpu")


def write(program: base.Program | base.TextProgram | films.Films, path: pathlib.Path) -> None:
  """Writes the serialised program, weights inside, to `path`.

  Raises: UserError for an operation that cannot be in a file, such as a call back to Python.
  """
  (batch,) = (program.batch,) if program.batch else export.symbolic_shape("b")
  shapes = program.inputs(batch).values()

  def outputs(*arrays):
    return program.outputs(program.variables, *arrays)

  with base.refusing("stablehlo"):
    content = export.export(jax.jit(outputs), platforms=PLATFORMS)(*shapes).serialize()
  path.write_bytes(content)


def read(path: pathlib.Path) -> base.Run:
  """Returns the program in `path` as a function of its inputs, run by JAX on the CPU."""
  return base.on_cpu(jax.jit(export.deserialize(bytearray(path.read_bytes())).call))
