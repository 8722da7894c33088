"""Several tasks on texts with one encoder, and teachers that give way to the gold labels.

All heads answer every text; the loss of a text is that of its own task's head alone, so one
compiled step serves all tasks.
Source: Clark et al. 2019 (BAM, arXiv 1907.04829), section 3, and its official code.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from effnets import errors, evaluation, models, parallel, streams
from effnets.data import glue
from effnets.tasks import base

DISTILLATION = ("annealed", "fixed")
REDUCTIONS = ("sum", "mean")


@dataclasses.dataclass(frozen=True)
class Text:
  """Cross-entropy of classes and squared error of values, by the task of every text.

  module: gives the outputs of all heads side by side. placement: of the step that calls `loss`.
  problems: the tasks, in the order of their numbers and of the heads. length: tokens of a text.
  distillation: the target of a text that a teacher has seen is g * gold + (1 - g) * teacher.
    annealed: g is the share of training that is done.
    fixed: g is `gold_weight`, always.
  temperature: of the teacher's softmax, > 0.
  reduction: over the texts of a whole step. sum: as BAM's code has it. mean: as the rest here.
  step_texts: how many texts a whole step has. total_steps: of the training; 0 if it is not known.
  """

  module: nn.Module
  placement: parallel.Placement
  problems: tuple[glue.Task, ...]
  length: int
  distillation: str = "annealed"
  gold_weight: float = 0.5
  temperature: float = 1.0
  reduction: str = "sum"
  step_texts: int = 1
  total_steps: int = 0

  @property
  def num_classes(self) -> int:
    """How many outputs all heads have."""
    return sum(problem.units for problem in self.problems)

  @property
  def frozen(self) -> tuple[str, ...]:
    """Path prefixes of the module's frozen parameters."""
    return self.module.frozen_names()

  @property
  def network(self) -> nn.Module:
    """The module as it is tested, which takes the task's variables."""
    return self.module

  def tested(self, variables: base.Variables) -> tuple[nn.Module, base.Variables]:
    """Returns the network as it is tested and its variables."""
    return self.network, variables

  def check(self, source: Any) -> None:
    """Checks that a network is to be judged by texts that are texts of its own.

    Raises: UserError if their vocabulary has another number of entries than the network has
      embeddings (some checkpoints have these filled up to a round number), or their answers are
      hidden.
    """
    entries, known = len(source.tokenizer), self.module.backbone.vocab_size
    if not entries <= known < entries + 64:
      raise errors.UserError(
        f"config.data.options.vocabulary has {entries} entries (those of {source.name}), the "
        f"network, config.model.vocab_size={known}, has another number; they do not belong "
        "together. Give the vocab.txt that came with the weights."
      )
    for task, found in zip(source.tasks, source.examples, strict=True):
      if all(e.label < 0 and math.isnan(e.value) for e in found):
        raise errors.UserError(
          f"{source.name}: the answers of {task.name} are hidden, so nothing can be judged by "
          "them; set config.data.split.validation and test to 'dev'."
        )

  def init(self, seed: int) -> base.Variables:
    """Returns fresh variables drawn from (seed, leaf path), as host arrays."""
    return models.init(self.module, seed)

  def abstract(self) -> base.Variables:
    """Returns the shapes of `init`'s result."""
    return models.abstract(self.module)

  def loss(
    self,
    variables: base.Variables,
    frozen: PyTree,
    batch: base.Batch,
    root: Key[Array, ""],
    step: Int[Array, ""],
  ) -> tuple[Float[Array, ""], base.Aux]:
    """Returns the sum, or mean, over the batch of weight * loss; see `base.Task`."""
    del frozen
    keys = streams.example_keys(streams.stream(root, "dropout"), batch["position"])
    outputs = self._outputs(variables, batch, train=True, keys={"dropout": keys})
    losses, metrics = self.losses(outputs, batch, step)
    total = jnp.mean(batch["weight"] * losses)
    if self.reduction == "sum":
      # Parts and devices of a step are averaged by whoever calls this.
      total = total * self.step_texts
    return total, base.Aux(metrics, {})

  def _outputs(
    self, variables: base.Variables, batch: base.Batch, **how: Any
  ) -> Float[Array, "b k"]:
    return self.module.apply(variables, *self.inputs(batch), **how)

  def inputs(self, batch: base.Batch) -> tuple[Int[Array, "b s"], ...]:
    """Returns what the network takes of a batch: ids, segments, and the mask of what is there."""
    place = jnp.arange(batch["ids"].shape[1])[None]
    total, first = batch["lengths"][:, :1], batch["lengths"][:, 1:]
    mask = (place < total).astype(jnp.int32)
    segments = ((place >= first) & (place < total)).astype(jnp.int32)
    return batch["ids"], segments, mask

  def losses(
    self, outputs: Float[Array, "b k"], batch: base.Batch, step: Int[Array, ""] | int
  ) -> tuple[Float[Array, " b"], dict[str, tuple[Array, Array]]]:
    """Returns the loss of every text, not weighted, and the metrics of all."""
    taught = batch.get("taught")
    gold = self._gold_share(step)
    losses = jnp.zeros(outputs.shape[:1], jnp.float32)
    metrics = {}
    for number, (problem, own) in enumerate(zip(self.problems, self._own(outputs), strict=True)):
      mine = batch["task"] == number
      teacher = None if taught is None else (batch["targets"][:, : problem.units], taught, gold)
      one = _squares if problem.regression else _entropies
      each = one(own, batch, teacher, self.temperature)
      # Chosen, not multiplied by 0: what another task's head says of a text may be anything.
      losses = jnp.where(mine, each, losses)
      count = jnp.sum(mine).astype(jnp.float32)
      metrics[f"{problem.name}_loss"] = (jnp.sum(jnp.where(mine, each, 0)), count)
      if not problem.regression:
        hit = (jnp.argmax(own, -1) == batch["label"]) & mine
        metrics[f"{problem.name}_accuracy"] = (jnp.sum(hit).astype(jnp.float32), count)
    return losses, metrics

  def _own(self, outputs: Float[Array, "b k"]) -> list[Float[Array, "b u"]]:
    """Returns the outputs of every head."""
    bounds = np.cumsum([0, *(problem.units for problem in self.problems)])
    return [outputs[:, low:high] for low, high in zip(bounds[:-1], bounds[1:], strict=True)]

  def _gold_share(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
    if self.distillation == "fixed":
      return jnp.float32(self.gold_weight)
    return jnp.float32(step) / max(1, self.total_steps)

  def predict(self, variables: base.Variables, batch: base.Batch) -> dict[str, Array]:
    """Returns `logits`, float32 `b k`, of all heads side by side, without noise."""
    return {"logits": self._outputs(variables, batch, train=False)}

  @property
  def answer_names(self) -> tuple[str, ...]:
    """Names of what `answers` returns."""
    return ("logits", *(problem.name for problem in self.problems))

  def answers(self, outputs: Float[Array, "b k"]) -> dict[str, Array]:
    """Returns `logits` of all heads, and by each task's name what they mean, float32.

    That is `b u` probabilities of classes, or `b` values on the task's own scale.
    """
    found, start = {"logits": outputs}, 0
    for problem in self.problems:
      # A slice of an unknown number of texts, too.
      own = jax.lax.slice_in_dim(outputs, start, start + problem.units, axis=1)
      start += problem.units
      found[problem.name] = (
        jnp.squeeze(own, 1) * problem.scale if problem.regression else jax.nn.softmax(own)
      )
    return found

  def of_task(self, logits: Float[np.ndarray, "n k"], name: str) -> Float[np.ndarray, "n u"]:
    """Returns the outputs of one task's head."""
    names = [problem.name for problem in self.problems]
    return self._own(logits)[names.index(name)]

  @property
  def figures(self) -> tuple[str, ...]:
    """Names of the figures that `evaluate` returns of a split with all tasks."""
    own = (f"{p.name}_{metric}" for p in self.problems for metric in p.metrics)
    return ("average", *own, "truncated", "examples")

  def evaluate(
    self, outputs: dict[str, np.ndarray], examples: dict[str, np.ndarray], source: Any = None
  ) -> dict[str, float]:
    """Returns the metrics of every task that the examples are of, and their average as GLUE has it.

    truncated: how many texts lost tokens to the limit. Examples without an answer count there
    alone; a task of which there are no others is left out.
    """
    figures: dict[str, float] = {}
    judged = {}
    for number, problem in enumerate(self.problems):
      rows = examples["task"] == number
      if source is not None:
        rows = _numbered(examples, source, problem)
      known = rows & (examples["label"] >= 0)
      if not known.any():
        continue
      own = self.of_task(outputs["logits"], problem.name)[known]
      found = own[:, 0] if problem.regression else own.argmax(-1)
      truth = examples["value" if problem.regression else "label"][known]
      judged[problem.name] = problem.metrics
      for metric in problem.metrics:
        figures[f"{problem.name}_{metric}"] = evaluation.glue.METRICS[metric](found, truth)
    average = evaluation.glue.average(figures, judged) if judged else float("nan")
    counted = {
      "truncated": int(np.sum(examples["cut"] > 0)),
      "examples": len(examples["task"]),
    }
    return {"average": average, **figures, **counted}


def _numbered(
  examples: dict[str, np.ndarray], source: Any, problem: glue.Task
) -> Bool[np.ndarray, " n"]:
  """Returns which examples are of a task, whose number in the source may be another."""
  names = [task.name for task in source.tasks]
  if problem.name not in names:
    return np.zeros(len(examples["task"]), bool)
  return examples["task"] == names.index(problem.name)


_Teacher = tuple[Float[Array, "b u"], Bool[Array, " b"], Float[Array, ""]] | None


def _entropies(
  logits: Float[Array, "b u"], batch: base.Batch, teacher: _Teacher, temperature: float
) -> Float[Array, " b"]:
  """Returns cross-entropies in nats. teacher: (logits, which texts it has seen, share of gold)."""
  target = jax.nn.one_hot(batch["label"], logits.shape[-1])
  if teacher is not None:
    theirs, taught, gold = teacher
    soft = gold * target + (1 - gold) * jax.nn.softmax(theirs / temperature)
    target = jnp.where(taught[:, None], soft, target)
  return -jnp.sum(target * jax.nn.log_softmax(logits), -1)


def _squares(
  outputs: Float[Array, "b 1"], batch: base.Batch, teacher: _Teacher, temperature: float
) -> Float[Array, " b"]:
  """Returns squared errors. teacher: as of `_entropies`, with values for logits."""
  del temperature
  target = batch["value"]
  if teacher is not None:
    theirs, taught, gold = teacher
    target = jnp.where(taught, gold * target + (1 - gold) * theirs[:, 0], target)
  return jnp.square(outputs[:, 0] - target)
