"""How processes are joined; the persistent compilation cache, and an entry that was damaged."""

import contextlib
import http.server
import os
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from effnets import errors
from effnets.parallel import processes
from tests.training import tiny

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


# A machine of a slice as far as JAX looks: a TPU that is found, and no word of its absence.
_WORKER = """
import os
import jax
from jax._src import cloud_tpu_init
from effnets.parallel import processes
cloud_tpu_init.running_in_cloud_tpu_vm or exit("not taken for a TPU VM")
if "GCE_METADATA_IP" in os.environ:  # a JobSet says that there is none to ask
  os.environ.pop("TPU_SKIP_MDS_QUERY", None)
processes.slices.without_tpu = lambda: False
processes.initialize(num_processes=2)
from jax.experimental import multihost_utils
shown = multihost_utils.process_allgather(jax.numpy.array([jax.process_index()]))
print(jax.process_index(), jax.process_count(), shown.ravel().tolist())
"""


class _Metadata(http.server.BaseHTTPRequestHandler):
  """What Compute Engine tells a worker of a slice of two; one port a worker."""

  def do_GET(self):
    wanted = self.path.rpartition("/")[2]
    known = {
      "agent-worker-number": str(self.server.number),
      "worker-network-endpoints": "first:0:127.0.0.1,second:1:127.0.0.1",
      "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\n",
    }
    self.send_response(200 if wanted in known else 404)
    self.end_headers()
    self.wfile.write(known.get(wanted, "").encode())

  def log_message(self, *_):
    pass


@contextlib.contextmanager
def _metadata_of(number):
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Metadata) as server:
    server.number = number
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}
    server.shutdown()


def _job_of(number):
  """What a JobSet of two slices tells the only worker of one."""
  slices = {"MEGASCALE_COORDINATOR_ADDRESS": "127.0.0.1", "MEGASCALE_NUM_SLICES": "2"}
  worker = {"TPU_WORKER_HOSTNAMES": f"slice-{number}", "TPU_WORKER_ID": "0"}
  return contextlib.nullcontext({**slices, **worker, "MEGASCALE_SLICE_ID": str(number)})


@pytest.mark.parametrize("told", [_metadata_of, _job_of], ids=["tpu_vm", "job_set"])
def test_workers_of_a_slice_find_each_other(told, tmp_path):
  pytest.importorskip("libtpu")
  port = str(tiny.free_port())
  plain = {k: v for k, v in os.environ.items() if not k.startswith(("TPU_", "MEGASCALE_", "XLA_"))}
  plain |= {"JAX_PLATFORMS": "cpu", "JAX_FORCE_TPU_INIT": "1", "JAX_COORDINATOR_PORT": port}
  plain["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path)
  with contextlib.ExitStack() as stack:
    workers = [
      subprocess.Popen(
        [sys.executable, "-c", _WORKER],
        env=plain | stack.enter_context(told(number)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
      for number in range(2)
    ]
    for number, worker in enumerate(workers):
      out, err = worker.communicate(timeout=120)
      assert worker.returncode == 0, err
      assert out.splitlines()[-1] == f"{number} 2 [0, 1]"
