"""The quiet process that measures: `python -m effnets.search.latency_process [RUNTIME]`.

It reads one JSON request a line and writes one JSON answer a line: what to run, and the times of
its runs in milliseconds. Everything else goes to standard error. The environment that `latency`
starts it in, one thread and one core, is what makes it quiet.
"""

import dataclasses
import json
import math
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float

from effnets import errors, models
from effnets.models import blocks, layers, stage_tables
from effnets.search import space, spaces
from effnets.weights import programs

SHORTEST = 10.0
"""Milliseconds below which clocks, interrupts and a virtual machine's neighbours blur a run.

Runs of 0.1 ms spread by 7 to 12 % when averaged over 1 ms, by 2 to 6 % over 10 ms."""
RUNTIMES = ("jax", "onnx", "tflite")
"""What runs a network: XLA's program, or the exported one in ONNX Runtime or LiteRT."""
_PACKAGES = {"jax": "jax", "onnx": "onnxruntime", "tflite": "ai-edge-litert"}


class _Classifier(nn.Module):
  """Mean, hidden layer, dense layer."""

  hidden: int
  classes: int
  settings: layers.Settings

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
    """Returns logits."""
    y = x.mean((1, 2))
    if self.hidden:
      hidden = layers.Conv(self.hidden, bias=True, settings=self.settings, name="hidden")
      y = jax.nn.hard_silu(hidden(y[:, None, None])).squeeze((1, 2))
    return layers.Dense(self.classes, self.settings, name="classifier")(y)


def pack(row: stage_tables.Row | None) -> dict[str, Any] | None:
  """Returns a row as JSON values."""
  if row is None:
    return None
  found = dict(vars(row))
  found["squeeze"] = None if row.squeeze is None else vars(row.squeeze)
  return found


def unpack(found: dict[str, Any]) -> stage_tables.Row:
  """Returns the row that `pack` wrote."""
  fields = {name: space.plain(value) for name, value in found.items() if name != "squeeze"}
  squeeze = found["squeeze"]
  return stage_tables.Row(**fields, squeeze=None if squeeze is None else layers.Squeeze(**squeeze))


def _network(request: dict[str, Any], plain: bool) -> tuple[nn.Module, tuple[int, ...]]:
  where = space.Space.from_json(request["space"])
  size, classes = request["image_size"], request["num_classes"]
  module = spaces.network(where, request["tokens"], classes, **request["overrides"])
  size = module.image_size if size is None else size
  height, width = (size, size) if isinstance(size, int) else size
  return module.clone(folded=True, plain=plain), (request["batch"], height, width, 3)


def _piece(request: dict[str, Any], plain: bool) -> tuple[nn.Module, tuple[int, ...]]:
  settings = layers.Settings(folded=True, plain=plain)
  shape = (request["batch"], request["size"], request["size"], request["inputs"])
  if request["row"] is None:
    return _Classifier(request["hidden"], request["outputs"], settings), shape
  row = unpack(request["row"])
  if row.op in blocks.BLOCKS:
    return blocks.BLOCKS[row.op](row, settings=settings), shape
  kernel = row.kernel if isinstance(row.kernel, int) else row.kernel[0]
  return (
    layers.ConvNorm(row.channels, kernel, row.stride, activation=row.activation, settings=settings),
    shape,
  )


@dataclasses.dataclass(frozen=True)
class _Floats:
  """A network of one float32 input as what is exported: `variables`, `inputs`, `outputs`."""

  apply: Callable[..., Any]
  variables: Any
  shape: tuple[int, ...]

  def inputs(self, batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the one input, of the batch that is measured."""
    del batch
    return {programs.INPUT: jax.ShapeDtypeStruct(self.shape, np.float32)}

  def outputs(self, variables: Any, x: Array, *, plain: bool = True) -> dict[str, Array]:
    """Returns the one output."""
    del plain
    return {programs.OUTPUTS[0]: self.apply(variables, x)}


def _ready(
  apply: Callable[..., Any], variables: Any, x: np.ndarray, runtime: str
) -> Callable[[], Any]:
  """Returns one run of (variables, x) -> result, compiled or exported, on one thread."""
  if runtime == "jax":
    variables, placed = jax.device_put((variables, x))
    compiled = jax.jit(apply).lower(variables, placed).compile()
    return lambda: jax.block_until_ready(compiled(variables, placed))
  made = _Floats(apply, variables, x.shape)
  programs.FORMATS[runtime].check()
  if runtime == "onnx":
    onnxruntime = programs.base.package("onnxruntime", "export")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    content = programs.onnx_file.build(
      lambda x: apply(variables, x), made.inputs(None), programs.OUTPUTS[0]
    )
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {programs.INPUT: x})
  interpreter = programs.base.package("ai_edge_litert.interpreter", "tf")
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "model.tflite"
    programs.tensorflow.write_tflite(made, path, batch_size=x.shape[0])
    found = interpreter.Interpreter(model_content=path.read_bytes(), num_threads=1)
  found.allocate_tensors()
  found.set_tensor(found.get_input_details()[0]["index"], x)
  return found.invoke


def timed(
  run: Callable[[], Any],
  *,
  warmup: int,
  runs: int,
  clock: Callable[[], int] = time.perf_counter_ns,
) -> list[float]:
  """Returns the milliseconds of `runs` runs behind `warmup` others.

  Where one is shorter than `SHORTEST` milliseconds, several in a row count as one and are averaged.
  """
  fastest = math.inf
  for _ in range(warmup):
    started = clock()
    run()
    fastest = min(fastest, (clock() - started) / 1e6)
  repeats = max(1, math.ceil(SHORTEST / max(fastest, SHORTEST / 1000)))
  found = []
  for _ in range(runs):
    started = clock()
    for _ in range(repeats):
      run()
    found.append((clock() - started) / 1e6 / repeats)
  return found


def answer(
  request: dict[str, Any], ready: dict[str, Callable[[], Any]], runtime: str = "jax"
) -> dict[str, Any]:
  """Returns the answer to one request; ready: what was compiled for the one before, by its key."""
  if request["key"] not in ready:
    ready.clear()
    make = _network if request["what"] == "network" else _piece
    if request["what"] == "nothing":
      ready[request["key"]] = _ready(lambda _, x: x + 1, {}, np.zeros((1,), np.float32), runtime)
    else:
      module, shape = make(request, runtime != "jax")
      x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
      variables = models.init(module, 0, inputs=(x,))
      ready[request["key"]] = _ready(module.apply, variables, x, runtime)
  times = timed(ready[request["key"]], warmup=request["warmup"], runs=request["runs"])
  return {"times": times, "load": os.getloadavg()[0]}


def hello(runtime: str = "jax") -> dict[str, Any]:
  """Returns what measures: device, core, threads, versions."""
  model = ""
  if os.path.exists("/proc/cpuinfo"):
    with open("/proc/cpuinfo", encoding="utf-8") as file:
      names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    model = names[0] if names else ""
  device = jax.devices()[0]
  governor, path = "", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
  if os.path.exists(path):
    with open(path, encoding="utf-8") as file:
      governor = file.read().strip()
  return {
    "platform": device.platform,
    "device": model if device.platform == "cpu" else device.device_kind,
    "threads": 1 if device.platform == "cpu" else None,
    "governor": governor,
    "jax": jax.__version__,
    "runtime": f"{_PACKAGES[runtime]} {_version(_PACKAGES[runtime])}",
  }


def _version(package: str) -> str:
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:
    return "missing"


def main(runtime: str = "jax") -> None:
  """Answers requests until there are no more."""
  # What libraries print must not come between answers.
  out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
  say = lambda answer: (out.write(json.dumps(answer) + "\n"), out.flush())  # noqa: E731
  say(hello(runtime))
  ready: dict[str, Callable[[], Any]] = {}
  for line in sys.stdin:
    try:
      say(answer(json.loads(line), ready, runtime))
    except errors.UserError as error:
      say({"error": str(error)})


if __name__ == "__main__":
  main(*sys.argv[1:])
