"""What the compiler for the host processor is told before it is first used."""

import os
import pathlib

_FLAG = "--xla_cpu_prefer_vector_width=512"


def prefer_wide_vectors(*, cpuinfo: str | os.PathLike[str] = "/proc/cpuinfo") -> bool:
  """Asks XLA for 512-bit vectors on a CPU that has them; returns whether it did.

  XLA prefers 256 bits everywhere; the wide ones take 5 to 10 % less processor time for
  EfficientNet-B0. Call before JAX has made its backend, which reads `XLA_FLAGS` once. Where that is
  set already it is left alone: whoever set it has chosen.

  Args: cpuinfo: where Linux lists the processor's flags; a missing file means no wide vectors.
  """
  if os.environ.get("XLA_FLAGS"):
    return False
  try:
    known = pathlib.Path(cpuinfo).read_text(encoding="utf-8", errors="replace")
  except OSError:
    return False
  if "avx512f" not in known.split():
    return False
  os.environ["XLA_FLAGS"] = _FLAG
  return True
