"""What a TPU that is not here would need at least, from the program compiled for it.

A roofline of the compiled program: the longer of its arithmetic at the chip's peak and its memory
traffic at full bandwidth. It knows what the compiler fused. What it does not know: the time of
operations that reach neither peak (depthwise convolutions, narrow channels, pads), what overlaps
and what waits, the start of a call. It ranks networks that are bound alike; it is a bound from
below, no forecast, and says nothing of phones or processors.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from effnets import errors, models
from effnets.parallel import programs, slices
from effnets.search import space, spaces


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Of one forward pass of `batch` images on one chip.

  seconds: at least. bound: `arithmetic` or `memory`. flops, traffic: of the program, in operations
  and bytes. memory: bytes it holds.
  """

  seconds: float
  bound: str
  flops: float
  traffic: float
  memory: float
  batch: int


def estimate(
  where: space.Space,
  tokens: Sequence[int],
  *,
  topology: str = "v5e-1",
  batch: int = 128,
  image_size: int | None = None,
  num_classes: int | None = None,
  folder: str | os.PathLike[str] = "",
  **overrides: Any,
) -> Estimate:
  """Returns the roofline of a network's forward pass in bfloat16, with batch norm folded.

  topology: of one chip, see `slices`. folder: see `programs.inspect`. The others: see
  `spaces.network`. The first call has to come before JAX has looked for a TPU.

  Raises: UserError for another slice, a missing compiler, or a network that does not fit.
  """
  target = slices.resolve(topology)
  if target.chip is None or target.chips != 1:
    raise errors.UserError(f"topology={topology!r} should be one TPU chip, such as 'v5e-1'.")
  jax.config.update("jax_platforms", "cpu")  # else JAX would look for a TPU, as its library is here
  device = jax.sharding.SingleDeviceSharding(target.devices()[0])
  module = spaces.network(where, tokens, num_classes, dtype="bfloat16", **overrides)
  module = module.clone(folded=True)
  size = module.image_size if image_size is None else image_size
  height, width = (size, size) if isinstance(size, int) else size
  placed = lambda leaf, dtype: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=device)  # noqa: E731
  variables = jax.tree.map(
    lambda leaf: placed(leaf, jnp.bfloat16), models.abstract(module, (height, width))
  )
  images = placed(jax.ShapeDtypeStruct((batch, height, width, 3), jnp.bfloat16), jnp.bfloat16)
  lowered = jax.jit(module.apply).trace(variables, images).lower(lowering_platforms=("tpu",))
  facts = programs.inspect(lowered, target, folder=folder)
  if not facts.fits:
    raise errors.UserError(f"the network does not fit {topology}: {facts.reason}")
  arithmetic, memory = facts.flops / target.chip.flops, facts.traffic / target.chip.bandwidth
  return Estimate(
    max(arithmetic, memory),
    "arithmetic" if arithmetic >= memory else "memory",
    facts.flops,
    facts.traffic,
    facts.memory,
    batch,
  )
