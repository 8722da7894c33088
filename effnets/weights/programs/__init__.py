"""Networks as programs of other runtimes, and those runtimes.

Whatever the format, a program of images takes `images`, uint8 `b h w 3` of the network's own size;
a classifier's gives `logits` and `probabilities`, float32 `b k`. Normalisation is inside. One of
texts takes `ids`, `token_type_ids` and `mask`, int32 `b s`, and gives `logits` of all heads and
each task's answers. What networks of films take and give, in StableHLO, is said by their `Films`.
"""

import dataclasses
import pathlib
from collections.abc import Callable

from effnets.weights.programs import base, onnx_file, stablehlo, tensorflow
from effnets.weights.programs.base import INPUT as INPUT
from effnets.weights.programs.base import OUTPUTS as OUTPUTS
from effnets.weights.programs.base import Program as Program
from effnets.weights.programs.base import Run as Run
from effnets.weights.programs.base import TextProgram as TextProgram
from effnets.weights.programs.films import Films as Films


@dataclasses.dataclass(frozen=True)
class Format:
  """A format of programs.

  file: name of its file or folder. write: (program, path), `tflite` takes keywords too.
  read: from a path, the program as a function of its inputs, run by the format's own runtime.
  extra: of effnets, which brings `packages`, what writer and runtime need.
  any_batch: whether one file takes any number of images.
  """

  file: str
  write: Callable[..., None]
  read: Callable[[pathlib.Path], base.Run]
  extra: str
  packages: tuple[str, ...]
  any_batch: bool = True

  def check(self) -> None:
    """Checks that what it needs is installed. Raises: UserError that names the extra."""
    for name in self.packages:
      base.package(name, self.extra)


FORMATS: dict[str, Format] = {
  "stablehlo": Format(
    "model.stablehlo", stablehlo.write, stablehlo.read, "export", ("flatbuffers",)
  ),
  "onnx": Format("model.onnx", onnx_file.write, onnx_file.read, "export", ("onnx", "onnxruntime")),
  "savedmodel": Format(
    "saved_model",
    tensorflow.write_savedmodel,
    tensorflow.read_savedmodel,
    "tf",
    ("tensorflow", "jax.experimental.jax2tf"),
  ),
  "tflite": Format(
    "model.tflite",
    tensorflow.write_tflite,
    tensorflow.read_tflite,
    "tf",
    ("tensorflow", "jax.experimental.jax2tf", "ai_edge_litert.interpreter"),
    any_batch=False,
  ),
}
