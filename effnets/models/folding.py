"""Batch norm folded into the convolutions before it: the same network for inference, cheaper."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def fold(module: nn.Module, variables: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
  """Returns a module and its variables that compute `module.apply(variables, x, train=False)`.

  With f = scale / sqrt(var + epsilon), a kernel becomes kernel * f and a norm's bias becomes
  bias - mean * f: the same function up to the rounding of float32. What is left of a norm is its
  bias and its activation, and f as its scale if no convolution comes right before it; there are no
  running moments, and `train=True` is an error.

  Args:
    module: a network of `create`. variables: its `params` and `batch_stats`.
  Raises: ValueError if the module is folded already, or the variables have no running moments.

  >>> from effnets import models
  >>> module = models.create("efficientnet_tiny", num_classes=10)
  >>> folded, weights = fold(module, models.init(module, 0))
  >>> sorted(weights), sorted(weights["params"]["stem"]["norm"])
  (['params'], ['bias'])
  """
  if module.folded:
    raise ValueError("this module is folded already.")
  moments = variables.get("batch_stats")
  if not moments:
    raise ValueError(f"there is no batch_stats in these variables: {sorted(variables)}.")
  params = {
    name: _fold(part, moments[name], _epsilon(module, name)) if name in moments else part
    for name, part in variables["params"].items()
  }
  return module.clone(folded=True), {"params": params}


def _epsilon(module: nn.Module, name: str) -> float:
  """Returns the epsilon of the norms in the part of a module that is called `name`."""
  tell = getattr(module, "norm_epsilon", None)
  return module.epsilon if tell is None else tell(name)


def _fold(params: Mapping[str, Any], moments: Mapping[str, Any], epsilon: float) -> dict[str, Any]:
  if "scale" in params:
    factor = params["scale"] / jnp.sqrt(moments["var"] + epsilon)
    return {"scale": factor, "bias": params["bias"] - moments["mean"] * factor}
  if "conv" in params and "norm" in params:
    norm = _fold(params["norm"], moments["norm"], epsilon)
    beside = {name: part for name, part in params.items() if name not in ("conv", "norm")}
    return {
      **_fold(beside, moments, epsilon),
      "conv": _scale(params["conv"], norm["scale"]),
      "norm": {"bias": norm["bias"]},
    }
  return {
    name: _fold(part, moments[name], epsilon) if name in moments else part
    for name, part in params.items()
  }


def _scale(kernels: Mapping[str, Any], factor: jax.Array) -> dict[str, Any]:
  """Returns the kernel, or those of all parts in the order of their channels, times `factor`."""
  if "kernel" in kernels:
    return {name: value * factor for name, value in kernels.items()}  # the kernel, and a bias
  scaled, start = {}, 0
  for name in sorted(kernels, key=int):
    width = kernels[name]["kernel"].shape[-1]
    scaled[name] = _scale(kernels[name], factor[start : start + width])
    start += width
  return scaled
