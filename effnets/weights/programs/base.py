"""What is exported: a network from uint8 images, or tokens, to what it says of them."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Int, Shaped

from effnets import augment, errors

INPUT, OUTPUTS = "images", ("logits", "probabilities")
TEXT_INPUTS = ("ids", "token_type_ids", "mask")
# A program as a function of its inputs, in order, in its own runtime.
Run = Callable[..., dict[str, Shaped[np.ndarray, " b *s"]]]

_PACKAGES = {  # what pip calls a module, where it is not the module's own name
  "tensorflow": "tensorflow-cpu",
  "ai_edge_litert": "ai-edge-litert",
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Drops what compiled libraries write to the error stream, which no setting silences."""
  sys.stderr.flush()
  kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, 2)
  try:
    yield
  finally:
    os.dup2(kept, 2)
    for number in (kept, nowhere):
      os.close(number)


def package(name: str, extra: str) -> Any:
  """Returns the module `name`, which the optional `extra` of effnets installs.

  Raises: UserError that names the extra, if it is not there.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it as it is imported
  called = _PACKAGES.get(name.partition(".")[0], "")
  with quiet():
    return errors.package(name, extra=extra, what="this format", called=called)


def refused(kind: str, what: str) -> errors.UserError:
  """Returns the error for `what` in a network that the format `kind` has no words for."""
  others = " or ".join(name for name in ("stablehlo", "savedmodel") if name != kind)
  return errors.UserError(
    f"config.export.format={kind!r}: unsupported op in export: {what}. Formats that take almost "
    f"every operation: {others}."
  )


@contextlib.contextmanager
def refusing(kind: str, *exceptions: type[Exception]) -> Iterator[None]:
  """Makes `exceptions`, by which a converter refuses a network, and JAX's own, errors of users."""
  try:
    yield
  except (ValueError, NotImplementedError, *exceptions) as error:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    raise refused(kind, reason[0][:300].rstrip(".")) from error


def _classified(module: nn.Module, variables: dict[str, Any], images: Array) -> dict[str, Array]:
  logits = module.apply(variables, images, train=False)
  return {"logits": logits, "probabilities": jax.nn.softmax(logits)}


@dataclasses.dataclass(frozen=True)
class Program:
  """A network with its weights and the normalisation of its input.

  module: takes normalised images. variables: of it, host arrays. image_size: pixels of the square
  input, or (height, width). mean, std: per channel, in shares of the full range.
  forward: gives the named outputs of (module, variables, normalised images); by default those of
  a classifier. names: of the outputs, by whose first the program is judged. batch: images that the
  program takes, None for any number.
  """

  module: nn.Module
  variables: dict[str, Any]
  image_size: int | tuple[int, int]
  mean: tuple[float, ...]
  std: tuple[float, ...]
  forward: Callable[[nn.Module, dict[str, Any], Array], dict[str, Array]] = _classified
  names: tuple[str, ...] = OUTPUTS
  batch: int | None = None

  def inputs(self, batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns name and shape of the one input. batch: images, a number or a symbol."""
    return {INPUT: jax.ShapeDtypeStruct((batch, *self.shape), np.uint8)}

  @property
  def shape(self) -> tuple[int, int, int]:
    """Height, width and channels of an image."""
    size = self.image_size
    return (size, size, 3) if isinstance(size, int) else (*size, 3)

  def reference(self) -> Run:
    """Returns what the exported program should be: the module as it is, in float32, on the CPU."""
    return on_cpu(jax.jit(lambda images: self.outputs(self.variables, images)))

  def outputs(
    self, variables: dict[str, Any], images: Array, *, plain: bool = False
  ) -> dict[str, Array]:
    """Returns what `forward` gives, computed in float32.

    Args:
      images: levels in [0, 255], uint8 or float32.
      plain: by whole operations that every runtime has a name for. What is not plain is faster
        where XLA compiles it.
    """
    settings = {"dtype": "float32", "remat": "none", "plain": plain, "split": None}
    module = self.module.clone(**{k: v for k, v in settings.items() if hasattr(self.module, k)})
    return self.forward(module, variables, augment.normalize(images, self.mean, self.std))


@dataclasses.dataclass(frozen=True)
class TextProgram:
  """An encoder of texts with its heads, and its weights.

  module: takes `TEXT_INPUTS`. variables: of it, host arrays. length: tokens of a text, padding too.
  finish: makes named outputs of the heads'. names: of the outputs, the first of all heads.
  """

  module: nn.Module
  variables: dict[str, Any]
  length: int
  finish: Callable[[Any], dict[str, Array]]
  names: tuple[str, ...]
  batch: None = None  # any number of texts

  def inputs(self, batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns names and shapes of the inputs, in order. batch: texts, a number or a symbol."""
    return dict.fromkeys(TEXT_INPUTS, jax.ShapeDtypeStruct((batch, self.length), np.int32))

  def reference(self) -> Run:
    """Returns what the exported program should be: the module as it is, in float32, on the CPU."""
    return on_cpu(jax.jit(lambda *arrays: self.outputs(self.variables, *arrays)))

  def outputs(
    self,
    variables: dict[str, Any],
    ids: Int[Array, "b s"],
    token_type_ids: Int[Array, "b s"],
    mask: Int[Array, "b s"],
    *,
    plain: bool = False,
  ) -> dict[str, Array]:
    """Returns what `finish` makes of the heads' outputs, computed in float32.

    plain: by whole operations that every runtime has a name for.
    """
    how = {"attention": "plain"} if plain else {}
    encoder = self.module.backbone.clone(dtype="float32", remat="none", **how)
    module = self.module.clone(backbone=encoder)
    return self.finish(module.apply(variables, ids, token_type_ids, mask, train=False))


def on_cpu(call: Callable[..., Any]) -> Run:
  """Returns a function that JAX runs on the CPU, from host arrays to host arrays."""

  def run(*arrays):
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
      return jax.device_get(call(*arrays))

  return run
