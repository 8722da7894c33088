"""What is exported: a classifier from uint8 images to logits and probabilities."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from effnets import augment, errors

INPUT, OUTPUTS = "images", ("logits", "probabilities")
# A program as a function of uint8 images, in its own runtime.
Run = Callable[[UInt8[np.ndarray, "b h w 3"]], dict[str, Float[np.ndarray, "b k"]]]

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


@dataclasses.dataclass(frozen=True)
class Program:
  """A classifier with its weights and the normalisation of its input.

  module: gives logits `b k` of normalised images. variables: of it, host arrays.
  image_size: pixels of the square input. mean, std: per channel, in shares of the full range.
  """

  module: nn.Module
  variables: dict[str, Any]
  image_size: int
  mean: tuple[float, ...]
  std: tuple[float, ...]

  @property
  def shape(self) -> tuple[int, int, int]:
    """Height, width and channels of an image."""
    return self.image_size, self.image_size, 3

  def reference(self) -> Run:
    """Returns what the exported program should be: the module as it is, in float32, on the CPU."""
    compiled = jax.jit(lambda images: self.outputs(self.variables, images))

    def run(images):
      with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return jax.device_get(compiled(images))

    return run

  def outputs(
    self, variables: dict[str, Any], images: Array, *, plain: bool = False
  ) -> dict[str, Float[Array, "b k"]]:
    """Returns logits and probabilities, computed in float32.

    Args:
      images: levels in [0, 255], uint8 or float32.
      plain: by whole operations that every runtime has a name for. What is not plain is faster
        where XLA compiles it.
    """
    settings = {"dtype": "float32", "remat": "none", "plain": plain, "split": None}
    module = self.module.clone(**{k: v for k, v in settings.items() if hasattr(self.module, k)})
    logits = module.apply(variables, augment.normalize(images, self.mean, self.std), train=False)
    return {"logits": logits, "probabilities": jax.nn.softmax(logits)}
