"""Freed pages stay with the process: counted in page faults, in a process of its own."""

import platform
import subprocess
import sys

import pytest

_SCRIPT = """
import resource
from effnets.parallel import memory
assert memory.keep_freed_pages()
def touch():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  bytearray(64 << 20)
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first, second = touch(), touch()
assert first > 1000 and second < 100, (first, second)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_second_use_of_a_large_block_faults_no_pages():
  done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
