"""Runs a task's predictions over a whole set, each example once, on any mesh."""

from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from effnets import data, parallel
from effnets.tasks import base

Predict = Callable[[base.Variables, base.Batch], dict[str, jax.Array]]


def create(
  config: Any,
  task: base.Task,
  placement: parallel.Placement,
  *,
  batch_size: int = 0,
  predict: Predict | None = None,
) -> "Predictor":
  """Returns the predictor that a config asks for.

  batch_size: 0 for `config.eval_batch_size`. predict: instead of `task.predict`.
  """
  reading = {name: config.data[name] for name in ("workers", "threads", "max_unreadable")}
  size = batch_size or config.eval_batch_size
  return Predictor(task, placement, batch_size=size, predict=predict, **reading)


class Predictor:
  """A compiled `task.predict`, shared by every set and every moment of a run.

  Compiles when first used, or ahead of that on request. Outputs come back whole to every process
  that the mesh spans.
  """

  def __init__(
    self,
    task: base.Task,
    placement: parallel.Placement,
    *,
    batch_size: int,
    predict: Predict | None = None,
    **reading: Any,
  ):
    """Takes the task; `reading`: `workers`, `threads`, `max_unreadable` of `data.eval_batches`.

    predict: what to run instead of `task.predict`.
    """
    self._task, self._placement, self._batch_size = task, placement, batch_size
    self._predict = predict or task.predict
    # Networks that judge predictions are arguments of the program, not constants in it.
    judges = getattr(task, "judges", {})
    whole = jax.tree.map(lambda _: placement.replicated, judges)
    self._judges = {"judges": placement.put(judges, whole)} if judges else {}
    self._reading = reading
    self._compiled = None
    self._ahead: futures.Future | None = None

  def compile_ahead(
    self, variables: PyTree, source: data.Source, transform: Callable | None = None
  ) -> None:
    """Starts compiling on a thread of its own for what `batches` will be given, unless it has."""
    if self._compiled or self._ahead:
      return
    variables = {**variables, **self._judges}
    variables = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), variables
    )
    shapes = data.eval_shapes(source, self._batch_size, transform)
    sharding = self._placement.batch
    batch = {
      name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) for name, x in shapes.items()
    }
    thread = futures.ThreadPoolExecutor(1, thread_name_prefix="effnets-compile")
    self._ahead = thread.submit(self._compile, variables, batch)
    thread.shutdown(wait=False)

  def compile(self, variables: PyTree, batch: PyTree) -> None:
    """Compiles for arrays or shapes with shardings; done by itself at first use."""
    self._compiled = self._ahead.result() if self._ahead else self._compile(variables, batch)
    if self._placement.processes[1] > 1:
      parallel.meet("predict")

  def _compile(self, variables: PyTree, batch: PyTree) -> jax.stages.Compiled:
    def predict(variables, batch):
      variables = {**variables, "params": self._placement.gather(variables["params"])}
      # Pictures and maps of pixels are large, and known to whoever has the source.
      kept = {name: array for name, array in batch.items() if array.dtype != jnp.uint8}
      return self._predict(variables, batch), kept

    jitted = jax.jit(predict, out_shardings=self._placement.replicated)
    return jitted.lower(variables, batch).compile()

  def batches(
    self,
    variables: PyTree,
    source: data.Source,
    transform: Callable | None = None,
    tally: data.Tally | None = None,
  ) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Yields (outputs, examples) batch by batch on the host, in the source's order, unpadded.

    Examples are the fields of the batch but its images and maps (uint8).
    Unreadable examples are left out; `examples["index"]` says which are there.
    tally: see `data.eval_batches`.
    """
    variables = {**variables, **self._judges}
    index, count = self._placement.processes
    host = data.eval_batches(
      source,
      self._batch_size,
      transform=transform,
      process_index=index,
      process_count=count,
      tally=tally,
      **self._reading,
    )
    with data.place(host, self._placement.mesh) as placed:
      for batch in placed:
        if self._compiled is None:
          self.compile(variables, batch)
        outputs, kept = jax.device_get(self._compiled(variables, batch))
        real = kept.pop("mask")
        select = lambda x, real=real: x[real]  # noqa: E731
        yield jax.tree.map(select, outputs), jax.tree.map(select, kept)

  def all(
    self, variables: PyTree, source: data.Source, transform: Callable | None = None
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (outputs, examples) of all readable examples of the source, in its order."""
    parts = list(self.batches(variables, source, transform))
    outputs, examples = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    order = np.argsort(examples["index"], kind="stable")
    return jax.tree.map(lambda x: x[order], (outputs, examples))

  def evaluate(
    self, variables: PyTree, source: data.Source, transform: Callable | None = None
  ) -> dict[str, float]:
    """Returns the task's figures over the whole source."""
    return self._task.evaluate(*self.all(variables, source, transform), source)
