"""Eight virtual CPU devices and one compilation cache for all tests and their worker processes."""

import os
import pathlib
import sys
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
_CACHE = os.path.join(tempfile.gettempdir(), f"effnets-test-jax-cache-{os.getuid()}")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import logging  # noqa: E402
from absl.testing import flagsaver  # noqa: E402

from effnets import parallel, streams  # noqa: E402

parallel.host.order_programs()


# Compiled programs of thousands of tests add up to 8 GB a worker.
_MOST_BYTES = 4 << 30


@pytest.fixture(autouse=True, scope="module")
def bounded_memory():
  """Lets go of compiled programs between test files once a worker has grown large."""
  yield
  if sys.platform == "linux":
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    if pages * os.sysconf("SC_PAGE_SIZE") > _MOST_BYTES:
      jax.clear_caches()


@pytest.fixture
def getkey(request):
  """Returns a function that gives a fresh named key; the numbers depend on the test's name only."""
  root = streams.stream(jax.random.key(0), request.node.name)
  return lambda name="": streams.stream(root, name)


@pytest.fixture
def process_state():
  """Puts back what a command line sets in its process."""
  cache, verbosity = jax.config.jax_compilation_cache_dir, logging.get_verbosity()
  with flagsaver.flagsaver():
    yield
  logging.set_verbosity(verbosity)
  jax.config.update("jax_compilation_cache_dir", cache)
