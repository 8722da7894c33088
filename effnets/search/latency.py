"""Measured latency of compiled forward passes, one image at a time, in a process of its own.

One thread on one core, batch norm folded, at least 10 runs before and 50 runs that count; the
median and the spread are kept, and a measurement that spreads by more than 5 % is made again. Do
not measure on a machine while it trains: the load that was seen is kept beside the figures.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from effnets import errors
from effnets.search import cost, latency_process, space

WARMUP, RUNS, TRIES = 10, 50, 5
SPREAD = 0.05
TIMEOUT = 600.0


@dataclasses.dataclass(frozen=True)
class Measured:
  """Milliseconds of one forward pass.

  p10, p50, p90: percentiles. cv: standard deviation over mean. tries: measurements made, of which
  the steadiest is kept. steady: whether it spreads by no more than `SPREAD`. load: processes that
  were running or waiting on the machine then. device: what measured.
  """

  p10: float
  p50: float
  p90: float
  cv: float
  runs: int
  tries: int
  steady: bool
  load: float
  device: str


def summary(
  take: Callable[[], tuple[Sequence[float], float]], *, tries: int, device: str = ""
) -> Measured:
  """Returns the steadiest of up to `tries` measurements, the first steady one.

  take: returns the milliseconds of its runs, and the machine's load.
  """
  best: Measured | None = None
  for count in range(1, tries + 1):
    times, load = take()
    times = np.asarray(times)
    cv = float(times.std() / times.mean())
    p10, p50, p90 = (float(value) for value in np.percentile(times, (10, 50, 90)))
    made = Measured(p10, p50, p90, cv, len(times), count, cv <= SPREAD, load, device)
    if best is None or made.cv < best.cv:
      best = made
    if best.steady:
      break
  assert best is not None
  return dataclasses.replace(best, tries=count)


class Meter:
  """A process that measures; a context manager.

  cache: file of earlier measurements, one JSON line each, which are not made again on the same
  device; "" for none. platform: of JAX. runtime: `jax`, or `onnx` or `tflite`, which measures what
  is exported, on the CPU. warmup, runs, tries: see `Measured`. timeout: seconds that one answer may
  take.

  Raises: UserError for no such runtime, or one that is not the platform's.
  """

  def __init__(
    self,
    *,
    cache: str | os.PathLike[str] = "",
    platform: str = "cpu",
    runtime: str = "jax",
    warmup: int = WARMUP,
    runs: int = RUNS,
    tries: int = TRIES,
    timeout: float = TIMEOUT,
  ):
    if runtime not in latency_process.RUNTIMES:
      raise errors.unknown("runtime", runtime, "one that measures", latency_process.RUNTIMES)
    if runtime != "jax" and platform != "cpu":
      raise errors.UserError(f"runtime={runtime!r} measures on cpu, not on platform={platform!r}.")
    self._platform, self._timeout, self._tries = platform, timeout, tries
    self._runtime = runtime
    self._counts = {"warmup": warmup, "runs": runs}
    self._file = pathlib.Path(cache) if cache else None
    self._known: dict[str, Measured] = {}
    if self._file is not None and self._file.exists():
      for line in self._file.read_text(encoding="utf-8").splitlines():
        # The last line may have been cut off.
        with contextlib.suppress(ValueError):
          found = json.loads(line)
          key = found.pop("key")
          self._known[key] = Measured(**found)
    self._process: subprocess.Popen[bytes] | None = None
    self._buffer = b""
    self.about: dict[str, Any] = {}
    """What measures: platform, device, threads, governor, version of JAX."""

  def __enter__(self) -> "Meter":
    core = sorted(os.sched_getaffinity(0))[-1] if hasattr(os, "sched_getaffinity") else None
    single = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    environment = {
      **os.environ,
      "JAX_PLATFORMS": self._platform,
      "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {single}".strip(),
      "OMP_NUM_THREADS": "1",
      "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", latency_process.__name__, self._runtime]
    if core is not None and self._platform == "cpu":
      # Before anything counts the cores to start as many threads.
      pin = f"import os, runpy; os.sched_setaffinity(0, [{core}]); "
      command[1:3] = [
        "-c",
        f"{pin}runpy.run_module({latency_process.__name__!r}, None, '__main__')",
      ]
    self._errors = tempfile.TemporaryFile()
    self._process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._errors,
      env=environment,
    )
    self.about = self._read()
    return self

  def __exit__(self, *_: object) -> None:
    if self._process is not None:
      assert self._process.stdin is not None and self._process.stdout is not None
      with contextlib.suppress(BrokenPipeError):
        self._process.stdin.close()
      try:
        self._process.wait(5)
      except subprocess.TimeoutExpired:
        self._process.kill()
        self._process.wait()
      self._process.stdout.close()
      self._process = None
      self._errors.close()

  def network(
    self,
    where: space.Space,
    tokens: Sequence[int],
    *,
    image_size: int | None = None,
    num_classes: int | None = None,
    batch: int = 1,
    **overrides: Any,
  ) -> Measured:
    """Returns the latency of the network of `tokens`.

    image_size, num_classes: None for the space's own. overrides: JSON values for
    `spaces.network`.

    Raises: UserError as `spaces.network`; RuntimeError if the process ended; TimeoutError.
    """
    where.validate(tokens)
    shared = {
      "what": "network",
      "image_size": image_size,
      "num_classes": num_classes,
      "batch": batch,
      "overrides": overrides,
    }
    key = space.digest([where.version, where.key(tokens), shared, self.about])
    request = {"space": where.to_json(), "tokens": [int(token) for token in tokens], **shared}
    return self._measure(key, request)

  def piece(self, piece: cost.Piece, *, batch: int = 1) -> Measured:
    """Returns the latency of one layer alone. Raises: as `network`."""
    request = {
      "what": "piece",
      "row": latency_process.pack(piece.row),
      "size": piece.size,
      "inputs": piece.inputs,
      "outputs": piece.outputs,
      "hidden": int(piece.key.partition("hidden")[2].split()[0]) if piece.row is None else 0,
      "batch": batch,
    }
    return self._measure(space.digest([piece.key, batch, self.about]), request)

  def nothing(self) -> Measured:
    """Returns the latency of a program that does nothing: what every call costs."""
    return self._measure(space.digest(["nothing", self.about]), {"what": "nothing"})

  def _measure(self, key: str, request: dict[str, Any]) -> Measured:
    if key in self._known:
      return self._known[key]

    def take() -> tuple[list[float], float]:
      found = self._ask({**request, **self._counts, "key": key})
      return found["times"], found["load"]

    made = summary(take, tries=self._tries, device=self.about["device"])
    self._known[key] = made
    if self._file is not None:
      self._file.parent.mkdir(parents=True, exist_ok=True)
      with self._file.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"key": key, **dataclasses.asdict(made)}) + "\n")
    return made

  def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
    if self._process is None:
      raise RuntimeError("a Meter measures inside its `with` block only.")
    assert self._process.stdin is not None
    try:
      self._process.stdin.write((json.dumps(request) + "\n").encode())
      self._process.stdin.flush()
    except BrokenPipeError:
      raise self._ended() from None
    found = self._read()
    if "error" in found:
      raise errors.UserError(found["error"])
    return found

  def _read(self) -> dict[str, Any]:
    assert self._process is not None and self._process.stdout is not None
    stream = self._process.stdout.fileno()
    while b"\n" not in self._buffer:
      if not select.select([stream], [], [], self._timeout)[0]:
        self._process.kill()
        raise TimeoutError(f"no latency was measured within {self._timeout:g} seconds.")
      read = os.read(stream, 65_536)
      if not read:
        raise self._ended()
      self._buffer += read
    line, _, self._buffer = self._buffer.partition(b"\n")
    return json.loads(line)

  def _ended(self) -> RuntimeError:
    assert self._process is not None
    self._process.wait()
    self._errors.seek(0)
    said = self._errors.read().decode(errors="replace").strip().splitlines()
    last = said[-1] if said else "it said nothing"
    return RuntimeError(
      f"the process that measures latency ended with status {self._process.returncode}: {last}"
    )
