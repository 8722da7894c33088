"""SIGTERM means: save and stop at the next step; between trainings, stop now."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils


class Stopped(BaseException):
  """The run was asked to stop, has lost nothing and is resumed by the same command.

  No `Exception`, as KeyboardInterrupt is none: who catches damage of any kind must not catch it.
  """


@contextlib.contextmanager
def stopping() -> Iterator[None]:
  """A context in which SIGTERM raises `Stopped`, except inside a `StopSignal`.

  For what is not worth saving half-done: loading, labelling, the time between two trainings. With
  several processes JAX's preemption service takes the signal, and this does nothing.
  """

  def stop(number: int, frame: FrameType | None) -> None:
    raise Stopped("Stopped between two trainings; the same command goes on from there.")

  if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
    yield
    return
  previous = signal.signal(signal.SIGTERM, stop)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)


class StopSignal:
  """A context in which SIGTERM is a request; afterwards it does again what it did before.

  A request that came too late for anybody to ask about it is passed on to what was before.

  With several processes the request of any of them reaches all at the same step, through JAX's
  preemption service.
  """

  def __init__(self) -> None:
    self._requested = self._answered = False
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
      if self._requested and not self._answered and error is None:
        signal.raise_signal(signal.SIGTERM)

  def _handle(self, number: int, frame: FrameType | None) -> None:
    self._requested = True

  def requested(self, step: int) -> bool:
    """Returns whether to stop before `step`; the same answer in every process."""
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    self._answered = self._requested
    return self._requested
