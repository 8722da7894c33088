"""Metrics of steps that are still running: kept on the device until asked for."""

import collections
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

Metrics = dict[str, tuple[Array, Array]]

# Steps the host may run ahead of the device: enough to keep it busy, few enough to bound memory.
RUN_AHEAD = 2


class Meter:
  """Collects the metrics of steps, and times them.

  batch_size: examples of a step.
  """

  def __init__(self, batch_size: int):
    self._batch_size = batch_size
    self._running: collections.deque[tuple[int, Array]] = collections.deque()
    self._window: list[Metrics] = []
    self.start(0.0)

  def start(self, waited: float) -> None:
    """Starts a new window of time. waited: seconds spent on input since the loop began."""
    self._started, self._waited = time.perf_counter(), waited

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Leaves the block's time out of the window's."""
    before = time.perf_counter()
    try:
      yield
    finally:
      self._started += time.perf_counter() - before

  def add(self, step: int, metrics: Metrics) -> int | None:
    """Takes the metrics of `step`, which may still run; returns as `unhealthy`."""
    self._window.append(metrics)
    self._running.append((step, metrics["healthy"][0]))
    return self.unhealthy(RUN_AHEAD)

  def unhealthy(self, running: int = 0) -> int | None:
    """Waits until at most `running` steps run and returns the first one that was not finite."""
    while len(self._running) > running:
      step, healthy = self._running.popleft()
      if not jax.device_get(healthy):
        return step
    return None

  @property
  def steps(self) -> int:
    """Steps in the window."""
    return len(self._window)

  def flush(self, waited: float) -> dict[str, Any]:
    """Returns the window's figures and starts a new one.

    Metrics are sums over counts under `train/`, without `healthy`; `images_per_second`;
    `seconds` of the window; `input_wait`, the share of it that was spent waiting for input.
    """
    host = jax.device_get(self._window)
    seconds = time.perf_counter() - self._started
    share = (waited - self._waited) / seconds
    figures = {
      "images_per_second": len(host) * self._batch_size / seconds,
      "input_wait": share,
      "seconds": seconds,
    }
    for name in host[0] if host else ():
      if name != "healthy":
        total, count = np.sum([metrics[name] for metrics in host], axis=0, dtype=np.float64)
        figures[f"train/{name}"] = float(total / count) if count else float("nan")
    self._window = []
    self.start(waited)
    return figures
