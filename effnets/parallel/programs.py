"""What a compiled program costs: memory, arithmetic, traffic and messages of one device.

The figures are the compiler's own. Compiling for a slice that is not here can take minutes, and
JAX's cache of programs does not serve absent devices, so the figures are kept: in one small file
for each lowered text, slice, set of versions and flags.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import time
from collections.abc import Mapping

import jax
import numpy as np
from absl import logging

from effnets.parallel import slices

COLLECTIVES = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "collective-permute",
  "all-to-all",
)


@dataclasses.dataclass(frozen=True)
class Facts:
  """A program's costs on each device; all bytes and operations are those of one execution.

  fits: whether the compiler found room; reason: what it said if not, and all else is 0.
  arguments, outputs, aliased, temporaries, code: bytes of memory; aliased are outputs that take the
    place of arguments. flops, traffic: floating-point operations, and bytes read and written.
  collectives: kind -> (how many, bytes of their results). program: sha256 of the optimised program;
  empty if the compiler could not print it, and then its collectives are not known.
  seconds: that compiling took.
  """

  fits: bool
  reason: str = ""
  arguments: int = 0
  outputs: int = 0
  aliased: int = 0
  temporaries: int = 0
  code: int = 0
  flops: float = 0.0
  traffic: float = 0.0
  collectives: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
  program: str = ""
  seconds: float = 0.0

  @property
  def memory(self) -> int:
    """Bytes that have to be there at once."""
    return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


def versions() -> dict[str, str]:
  """Returns the versions of what compiles."""
  found = {}
  for name in ("jax", "jaxlib", "libtpu"):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found


def inspect(
  lowered: jax.stages.Lowered, where: slices.Slice, *, folder: str | os.PathLike[str] = ""
) -> Facts:
  """Returns the costs of a program that was lowered for the devices of `where`.

  folder: where figures are kept; default: `effnets/plans` below the user's cache folder. Those of a
    program that is there already are read, nothing is compiled.
  """
  cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  path = pathlib.Path(folder or f"{cache}/effnets/plans")
  key = [lowered.as_text(), where.name, versions(), _flags()]
  file = path / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.json"
  with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
    known = json.loads(file.read_text(encoding="utf-8"))
    known["collectives"] = {name: tuple(cost) for name, cost in known["collectives"].items()}
    return Facts(**known)
  started = time.perf_counter()
  try:
    with _without_cache(where.absent):
      compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    facts = Facts(False, _shortage(str(error)), seconds=time.perf_counter() - started)
  else:
    facts = _facts(compiled, time.perf_counter() - started)
  path.mkdir(parents=True, exist_ok=True)
  partial = file.with_suffix(f".{os.getpid()}.tmp")
  partial.write_text(json.dumps(dataclasses.asdict(facts)), encoding="utf-8")
  partial.replace(file)
  return facts


def _flags() -> list[str]:
  return [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]


@contextlib.contextmanager
def _without_cache(absent: bool):
  """Compiles without JAX's own cache, which would be filled for an absent device and never read."""
  before = jax.config.jax_enable_compilation_cache
  jax.config.update("jax_enable_compilation_cache", before and not absent)
  try:
    yield
  finally:
    jax.config.update("jax_enable_compilation_cache", before)


def _facts(compiled: jax.stages.Compiled, seconds: float) -> Facts:
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
  try:
    text = compiled.as_text()
  except jax.errors.JaxRuntimeError as error:  # seen of scans, after an hour of compiling
    logging.warning("the compiler cannot print its program (%s).", str(error).splitlines()[0])
    text = ""
  return Facts(
    fits=True,
    arguments=memory.argument_size_in_bytes,
    outputs=memory.output_size_in_bytes,
    aliased=memory.alias_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    code=memory.generated_code_size_in_bytes,
    flops=float(cost.get("flops", 0.0)),
    traffic=float(cost.get("bytes accessed", 0.0)),
    collectives=collectives(text),
    program=fingerprint(text) if text else "",
    seconds=seconds,
  )


def fingerprint(text: str) -> str:
  """Returns the sha256 of an optimised program's text, less the places in the source it names."""
  text = re.sub(r", metadata=\{[^{}]*\}", "", text)
  # Tables of files and frames stand before the first computation, where there are any.
  text = re.sub(r"\n(FileNames|FunctionNames|FileLocations|StackFrames)\n(.+\n)*", "\n", text)
  return hashlib.sha256(text.encode()).hexdigest()


_INSTRUCTION = re.compile(
  rf"= (?P<shape>\(.*?\)|\S+) (?P<kind>{'|'.join(COLLECTIVES)})(?P<start>-start)?\("
)
_SHAPE = re.compile(r"\b(pred|[sufc]\d+|bf16|f8\w+)\[([\d,]*)\]")


def collectives(text: str) -> dict[str, tuple[int, int]]:
  """Returns kind -> (how many, bytes of the results) of the messages in an optimised program.

  >>> collectives("%a = f32[8,4]{1,0} all-reduce(%x), to_apply=%sum")
  {'all-reduce': (1, 128)}
  """
  found: dict[str, tuple[int, int]] = {}
  for match in _INSTRUCTION.finditer(text):
    shapes = [_bytes(*shape) for shape in _SHAPE.findall(match["shape"])]
    if match["start"] and match["kind"] in ("all-gather", "collective-permute"):
      # What starts one gives (operands, results, ...): as many results as operands.
      count = 1 if match["kind"] == "collective-permute" else len(shapes) // 2
      shapes = shapes[count : 2 * count]
    before = found.get(match["kind"], (0, 0))
    found[match["kind"]] = before[0] + 1, before[1] + sum(shapes)
  return found


def _bytes(kind: str, sizes: str) -> int:
  bits = 8 if kind == "pred" or kind.startswith("f8") else int(re.sub(r"\D", "", kind))
  count = int(np.prod([int(size) for size in sizes.split(",") if size], dtype=np.int64))
  return -(-count * bits // 8)


def _shortage(message: str) -> str:
  """Returns the compiler's words for how much memory is missing."""
  found = re.search(r"Used [\d.]+\w? of [\d.]+\w? \w+", message)
  return found[0] if found else message.strip().splitlines()[0][:200]
