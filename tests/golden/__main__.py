"""Writes all golden dumps anew: `python -m tests.golden`; `git diff` then shows what moved."""

import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

from tests.golden import dump

for config in dump.CONFIGS:
  path = dump.file(config)
  text = dump.dump(config)
  path.write_text(text, encoding="utf-8")
  sys.stdout.write(f"{path}\n")
