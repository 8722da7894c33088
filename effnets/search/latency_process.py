"""The quiet process that measures: `python -m effnets.search.latency_process`.

It reads one JSON request a line and writes one JSON answer a line: what to run, and the times of
its runs in milliseconds. Everything else goes to standard error. The environment that `latency`
starts it in, one thread and one core, is what makes it quiet.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float

from effnets import errors, models
from effnets.models import blocks, layers, stage_tables
from effnets.search import space, spaces

SHORTEST = 1.0
"""Milliseconds below which clocks and interrupts blur a run."""


class _Classifier(nn.Module):
  """Mean, hidden layer, dense layer."""

  hidden: int
  classes: int

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
    """Returns logits."""
    settings = layers.Settings(folded=True)
    y = x.mean((1, 2))
    if self.hidden:
      hidden = layers.Conv(self.hidden, bias=True, settings=settings, name="hidden")
      y = jax.nn.hard_silu(hidden(y[:, None, None])).squeeze((1, 2))
    return layers.Dense(self.classes, settings, name="classifier")(y)


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


def _network(request: dict[str, Any]) -> tuple[nn.Module, tuple[int, ...]]:
  where = space.Space.from_json(request["space"])
  size, classes = request["image_size"], request["num_classes"]
  module = spaces.network(where, request["tokens"], classes, **request["overrides"])
  size = module.image_size if size is None else size
  height, width = (size, size) if isinstance(size, int) else size
  return module.clone(folded=True), (request["batch"], height, width, 3)


def _piece(request: dict[str, Any]) -> tuple[nn.Module, tuple[int, ...]]:
  settings = layers.Settings(folded=True)
  shape = (request["batch"], request["size"], request["size"], request["inputs"])
  if request["row"] is None:
    return _Classifier(request["hidden"], request["outputs"]), shape
  row = unpack(request["row"])
  if row.op in blocks.BLOCKS:
    return blocks.BLOCKS[row.op](row, settings=settings), shape
  kernel = row.kernel if isinstance(row.kernel, int) else row.kernel[0]
  return (
    layers.ConvNorm(row.channels, kernel, row.stride, activation=row.activation, settings=settings),
    shape,
  )


def _ready(module: nn.Module, shape: Sequence[int]) -> Callable[[], None]:
  x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
  variables = jax.device_put(models.init(module, 0, inputs=(x,)))
  x = jax.device_put(x)
  compiled = jax.jit(module.apply).lower(variables, x).compile()
  return lambda: jax.block_until_ready(compiled(variables, x))


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


def answer(request: dict[str, Any], ready: dict[str, Callable[[], None]]) -> dict[str, Any]:
  """Returns the answer to one request; ready: what was compiled for the one before, by its key."""
  if request["key"] not in ready:
    ready.clear()
    make = _network if request["what"] == "network" else _piece
    if request["what"] == "nothing":
      still = jax.jit(lambda x: x + 1).lower(np.float32(0)).compile()
      ready[request["key"]] = lambda: jax.block_until_ready(still(np.float32(0)))
    else:
      ready[request["key"]] = _ready(*make(request))
  times = timed(ready[request["key"]], warmup=request["warmup"], runs=request["runs"])
  return {"times": times, "load": os.getloadavg()[0]}


def hello() -> dict[str, Any]:
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
  }


def main() -> None:
  """Answers requests until there are no more."""
  # What libraries print must not come between answers.
  out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
  say = lambda answer: (out.write(json.dumps(answer) + "\n"), out.flush())  # noqa: E731
  say(hello())
  ready: dict[str, Callable[[], None]] = {}
  for line in sys.stdin:
    try:
      say(answer(json.loads(line), ready))
    except errors.UserError as error:
      say({"error": str(error)})


if __name__ == "__main__":
  main()
