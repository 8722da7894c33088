"""The persistent compilation cache, and what happens to a damaged entry."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from effnets import errors
from effnets.parallel import processes

_PROGRAM = """
import sys
import jax
from effnets import parallel
parallel.processes.use_compilation_cache(sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
print(float(jax.jit(lambda x: (x * x).sum())(jax.numpy.arange(4.0))))
"""


def _run(cache):
  done = subprocess.run(
    [sys.executable, "-c", _PROGRAM, str(cache)], capture_output=True, text=True, check=True
  )
  assert float(done.stdout.split()[-1]) == 14.0
  return done.stderr


def test_a_damaged_entry_is_deleted_and_written_anew(tmp_path):
  _run(tmp_path)
  entry = next(p for p in tmp_path.iterdir() if "lambda" in p.name and p.name.endswith("-cache"))
  whole = entry.read_bytes()
  entry.write_bytes(whole[: len(whole) // 2])
  assert "was damaged; deleted" in _run(tmp_path)
  assert len(entry.read_bytes()) > len(whole) // 2
  assert "damaged" not in _run(tmp_path)


def test_others_that_cannot_be_joined(monkeypatch):
  def nobody(*_):
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", nobody)
  monkeypatch.setattr(processes.memory, "keep_freed_pages", lambda: None)
  monkeypatch.setattr(processes, "use_compilation_cache", lambda _: None)
  try:
    with pytest.raises(errors.UserError, match="config.processes: .*count=2.*should be defined"):
      processes.initialize(num_processes=2)
  finally:
    jax.config.update("jax_enable_preemption_service", False)


def test_a_mistake_of_any_process_is_told_by_all(monkeypatch):
  def allgather(text):
    other = np.zeros_like(text)
    other[:5] = np.frombuffer(b"wrong", np.uint8)
    return np.stack([np.zeros_like(text), other, text])

  monkeypatch.setattr(jax, "process_count", lambda: 3)
  monkeypatch.setattr(processes.multihost_utils, "process_allgather", allgather)
  done = []
  with pytest.raises(errors.UserError, match="^wrong$"):
    processes.on_each(lambda: done.append(1))
  assert done == [1]

  def mistaken():
    raise errors.UserError("my own")

  with pytest.raises(errors.UserError, match="^my own$"):
    processes.on_each(mistaken)
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  with pytest.raises(errors.UserError, match="^wrong$"):
    processes.on_first(lambda: done.append(2))  # not the first: it only waits
  assert done == [1]
