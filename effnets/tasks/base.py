"""What the loop asks of a learning problem."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree

Variables = dict[str, Any]
Batch = dict[str, Array]
# Named outputs of a program outside the loop, of (module, variables, normalised images).
Forward = Callable[[nn.Module, Variables, Array], dict[str, Array]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Aux:
  """What a loss gives beside its value.

  metrics: name -> (sum over examples, count of examples); summed over parts, devices and steps.
  model_state: the model's collections other than `params`, after this batch.
  """

  metrics: dict[str, tuple[Array, Array]]
  model_state: PyTree


def halves(batch: Batch) -> tuple[Batch, Batch]:
  """Returns the rows of a batch's second source, every other one from the first on, and the rest.

  Two sources of equal counts are mixed like this, see `data.Mixture`.
  """
  held, own = ({name: x[start::2] for name, x in batch.items()} for start in (0, 1))
  return held, own


class Task(Protocol):
  """A learning problem as pure functions; a new paper adds one of these, not a loop."""

  @property
  def frozen(self) -> tuple[str, ...]:
    """Path prefixes of the parameters that this task leaves as they are."""

  def init(self, seed: int) -> Variables:
    """Returns fresh host variables, `params` and model state, drawn from (seed, leaf path)."""

  def abstract(self) -> Variables:
    """Returns the shapes and dtypes of `init`'s result; nothing is computed."""

  def loss(
    self,
    variables: Variables,
    frozen: PyTree,
    batch: Batch,
    root: Key[Array, ""],
    step: Int[Array, ""],
  ) -> tuple[Float[Array, ""], Aux]:
    """Returns the mean loss over this part of the batch, and what goes with it.

    Args:
      frozen: whatever the stage needs beside its own variables (a teacher, targets); not trained.
      root: of the named random streams; draws are functions of it and the batch's positions.
    """

  def predict(self, variables: Variables, batch: Batch) -> dict[str, Array]:
    """Returns per-example outputs, deterministic, first dimension the batch."""

  @property
  def figures(self) -> tuple[str, ...]:
    """Names of the figures that `evaluate` returns."""

  def evaluate(
    self, outputs: dict[str, Any], examples: dict[str, Any], source: Any
  ) -> dict[str, float]:
    """Returns figures from all predictions and all labels, host arrays, each example once.

    examples: fields of the batches but images; `index` is the number in `source`, which may know
    more of the truth than a batch of fixed shape holds.
    """
