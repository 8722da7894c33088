"""SIGTERM means: save and stop at the next step."""

import signal
import threading
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils


class StopSignal:
  """A context in which SIGTERM is a request; afterwards it does again what it did before.

  With several processes the request of any of them reaches all at the same step, through JAX's
  preemption service.
  """

  def __init__(self) -> None:
    self._requested = False
    self._previous = None

  def __enter__(self) -> "StopSignal":
    alone = jax.process_count() == 1
    if alone and threading.current_thread() is threading.main_thread():
      self._previous = signal.signal(signal.SIGTERM, self._handle)
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)

  def _handle(self, number: int, frame: FrameType | None) -> None:
    self._requested = True

  def requested(self, step: int) -> bool:
    """Returns whether to stop before `step`; the same answer in every process."""
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._requested
