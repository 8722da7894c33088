"""A window of steps that JAX's profiler looks at, for TensorBoard and XProf."""

import pathlib
from typing import Any

import jax


class Window:
  """Profiles `steps` updates from the one numbered `start` on, counted from this start of the run.

  What it finds goes below `folder`, as TensorBoard's profile plugin reads it. With 0 steps it does
  nothing.
  """

  def __init__(self, folder: pathlib.Path, settings: Any, *, active: bool):
    """Takes `config.profile`. active: on all processes but one nothing is profiled."""
    self._folder = folder
    self._first = settings.start if active and settings.steps else None
    self._last = settings.start + settings.steps
    self._running = False

  def before(self, step: int, state: Any) -> None:
    """Begins or ends, if it is time to; call before update `step`, from 0, of `state`."""
    if step == self._first:
      jax.block_until_ready(state)
      jax.profiler.start_trace(str(self._folder))
      self._running = True
    elif self._running and step >= self._last:
      jax.block_until_ready(state)
      self.close()

  def close(self) -> None:
    """Ends what has begun."""
    if self._running:
      self._running = False
      jax.profiler.stop_trace()

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()
