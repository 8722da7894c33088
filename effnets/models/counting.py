"""Parameters and multiply-adds from shapes alone."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
from jax.extend import core

from effnets.models import initialize


@dataclasses.dataclass(frozen=True)
class Count:
  """What a network holds and computes.

  params: trainable numbers. madds: multiply-adds of convolutions and dense layers, one image.
  shapes: of its variables.
  """

  params: int
  madds: int
  shapes: Any = dataclasses.field(default=None, compare=False, repr=False)


def count(
  module: nn.Module, image_size: int | tuple[int, int] | None = None, **kwargs: Any
) -> Count:
  """Returns what `module` holds and computes for one image; no weights are made.

  A convolution counts output numbers times taps times input channels of a group, padding included,
  as the papers' FLOPS do. Norms, activations, pooling and additions are left out, as there.
  Args: as of `initialize.trace`.
  """
  if hasattr(module, "plain"):
    # The other lowerings compute the same with other operations.
    module = module.clone(plain=True)
  run, arguments = initialize.trace(module, image_size, **kwargs)
  jaxpr, shapes = jax.make_jaxpr(run, return_shape=True)(*arguments)
  return Count(parameters(shapes["params"]), _madds(jaxpr.jaxpr), shapes)


def parameters(tree: Any) -> int:
  """Returns how many numbers the arrays, or shapes, of a pytree hold.

  >>> import numpy as np
  >>> parameters({'kernel': np.zeros((3, 3, 1, 8)), 'bias': np.zeros(8)})
  80
  """
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _inner(value: Any) -> Iterator[core.Jaxpr]:
  if isinstance(value, core.ClosedJaxpr):
    yield value.jaxpr
  elif isinstance(value, core.Jaxpr):
    yield value
  elif isinstance(value, list | tuple):
    for item in value:
      yield from _inner(item)


def _madds(jaxpr: core.Jaxpr) -> int:
  total = 0
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    if name == "conv_general_dilated":
      kernel = equation.invars[1].aval.shape
      outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
      numbers = math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
      # A transposed convolution's input is mostly zeros, which nothing has to multiply.
      total += numbers // math.prod(params["lhs_dilation"])
    elif name == "dot_general":
      (contracted, _), _ = params["dimension_numbers"]
      shape = equation.invars[0].aval.shape
      total += math.prod(equation.outvars[0].aval.shape) * math.prod(shape[d] for d in contracted)
    else:
      inner = [_madds(j) for value in params.values() for j in _inner(value)]
      if inner:
        # One branch of a conditional runs; a scan runs its body `length` times.
        once = max(inner) if name == "cond" else sum(inner)
        total += once * params.get("length", 1)
  return total
