"""How long things take beside each other, on a machine that also does other work."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def interleaved(
  calls: Mapping[str, Callable[[], Any]],
  *,
  rounds: int = 30,
  clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
  """Returns the median seconds of each of `calls`, which take turns for `rounds` rounds.

  Each is called once before, so that nothing is compiled in a round; whatever slows the machine
  down for a while slows all of them down. A call has to wait for its own result.
  """
  seconds: dict[str, list[float]] = {name: [] for name in calls}
  for call in calls.values():
    call()
  for _ in range(rounds):
    for name, call in calls.items():
      started = clock()
      call()
      seconds[name].append(clock() - started)
  return {name: float(np.median(values)) for name, values in seconds.items()}
