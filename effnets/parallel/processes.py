"""Joins the processes of a run and switches on the persistent compilation cache."""

import itertools
import os
import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from jax._src import clusters, distributed  # the coordinator has no public door
from jax.experimental import multihost_utils

from effnets import errors
from effnets.parallel import agreement, host, memory, slices, watch

_MESSAGE_BYTES = 2048
_MEETING_SECONDS = 3600  # compiling may take so much longer in one process; losses are told earlier
_meetings = itertools.count()
_CACHE_WARNING = "Error reading persistent compilation cache entry for "


def initialize(
  *, coordinator: str = "", num_processes: int = 0, process_id: int = -1, cache_dir: str = ""
) -> None:
  """Sets the process up and joins it with the run's others; call once, before any JAX array.

  Keeps freed memory for the next step (see `memory`) and compiled programs for the next run, and
  lets a CPU use its wide vectors (see `host`). From then on each process watches over the others
  (see `watch`).

  Args:
    coordinator: `host:port` of process 0. Empty: this process is alone, unless num_processes is
      given, which asks the cluster (Cloud TPU, SLURM, Open MPI) for all three.
    num_processes: how many take part. process_id: which one this is, from 0.
    cache_dir: where compiled programs are kept. Empty: `JAX_COMPILATION_CACHE_DIR` if it is set,
      else `effnets/xla` below the user's cache folder.

  Raises: UserError if the others cannot be joined.
  """
  memory.keep_freed_pages()
  host.prefer_wide_vectors()
  host.order_programs()
  slices.without_tpu()
  use_compilation_cache(cache_dir)
  if coordinator or num_processes:
    # SIGTERM on one process is passed on to all, so that they stop at the same step.
    jax.config.update("jax_enable_preemption_service", True)
    try:
      _join(coordinator, num_processes, process_id)
    except (ValueError, RuntimeError, OSError) as error:
      raise errors.UserError(
        f"config.processes: coordinator={coordinator!r}, count={num_processes}, "
        f"index={process_id}: cannot join the other processes ({error})."
      ) from error


def _join(coordinator: str, num_processes: int, process_id: int) -> None:
  """Joins the others through a relay, so that losing process 0 can be told in words."""
  address, count, index, devices = (
    coordinator or None,
    num_processes or None,
    process_id if process_id >= 0 else None,
    None,
  )
  if not address:  # as `jax.distributed.initialize` would
    detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
    address, count, index, devices = detect(address, count, index, None, None, 300)
  guard = None
  if address and count and count > 1 and index is not None:
    guard = watch.Watch(index, count, address)
  jax.distributed.initialize(guard and guard.address or address, count, index, devices)
  if guard:
    watch.begin(guard, distributed.global_state.client)


def agree(settings: Mapping[str, Any]) -> None:
  """Checks that all processes have the same `settings` and code; nothing is compiled for it.

  settings: key -> anything JSON can hold.

  Raises: UserError on every process, with what differs; see `agreement.check`.
  """
  client, count = distributed.global_state.client, distributed.global_state.num_processes
  if client is not None and count > 1:
    agreement.check(client, distributed.global_state.process_id, count, settings)


def meet(what: str) -> None:
  """Waits until every process is here; does nothing if this one is alone.

  Before the first run of a program that was just compiled: its messages wait for other processes
  30 seconds on CPUs, but compiling may take much longer in one than in another, whose programs were
  kept. what: a word for error messages. Raises: RuntimeError if they do not come within an hour.
  """
  client = distributed.global_state.client
  if client is not None and distributed.global_state.num_processes > 1:
    client.wait_at_barrier(f"effnets_{what}_{next(_meetings)}", _MEETING_SECONDS * 1000)


def on_first(action: Callable[[], object]) -> None:
  """Calls `action` on process 0 alone, and lets all others wait for it.

  Raises: on every process, the UserError that it raised there: none is left waiting for the others.
  """
  on_each(action if jax.process_index() == 0 else lambda: None)


def on_each(action: Callable[[], object]) -> None:
  """Calls `action` on every process, and lets each wait for all.

  Raises: on every process, its own UserError, or else that of the first which raised one.
  """
  error = None
  try:
    action()
  except errors.UserError as raised:
    error = raised
  if jax.process_count() > 1:
    text = np.zeros(_MESSAGE_BYTES, np.uint8)
    cut = str(error or "").encode()[:_MESSAGE_BYTES]
    text[: len(cut)] = np.frombuffer(cut, np.uint8)
    texts = np.asarray(multihost_utils.process_allgather(text))
    messages = [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in texts]
    message = next(filter(None, messages), "")
    error = error or (errors.UserError(message) if message else None)
  if error is not None:
    raise error


def use_compilation_cache(cache_dir: str = "") -> pathlib.Path:
  """Keeps compiled programs in `cache_dir` across runs and returns the folder.

  An entry that was cut (a run killed while writing) makes JAX warn at every later start and is
  never replaced by itself; here the warning deletes it, and the next compilation writes it anew.
  """
  cache_home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  path = pathlib.Path(
    cache_dir or os.environ.get("JAX_COMPILATION_CACHE_DIR") or f"{cache_home}/effnets/xla"
  )
  jax.config.update("jax_compilation_cache_dir", str(path))
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  if not isinstance(warnings.showwarning, _DeleteDamaged):
    warnings.showwarning = _DeleteDamaged(path, warnings.showwarning)
  warnings.showwarning.path = path
  warnings.filterwarnings("always", message=_CACHE_WARNING)
  return path


class _DeleteDamaged:
  """A `warnings.showwarning` that deletes the cache entries of the program JAX complains about."""

  def __init__(self, path: pathlib.Path, otherwise):
    self.path, self._otherwise = path, otherwise

  def __call__(self, message, *args, **kwargs):
    text = str(message)
    if not text.startswith(_CACHE_WARNING):
      return self._otherwise(message, *args, **kwargs)
    name = text[len(_CACHE_WARNING) :].split("'")[1]
    entries = list(self.path.glob(f"{name}-*"))
    for entry in entries:
      entry.unlink(missing_ok=True)
    logging.warning(
      "A compiled program in %s was damaged; deleted %d entries of %r and compiling it again.",
      self.path,
      len(entries),
      name,
    )
