"""What `--mode=robustness` measures: one function a suite, from a model to plain figures."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jaxtyping import Array, Bool, Float, Int

from effnets import data, errors, evaluation, streams, training
from effnets.augment import corruptions
from effnets.evaluation import robustness
from effnets.ops import attacks


@dataclasses.dataclass(frozen=True)
class Judged:
  """A model's answers. index: which examples. confidence: the largest probability."""

  index: Int[np.ndarray, " n"]
  label: Int[np.ndarray, " n"]
  predicted: Int[np.ndarray, " n"]
  confidence: Float[np.ndarray, " n"]

  @property
  def correct(self) -> Bool[np.ndarray, " n"]:
    """Whether the answer is the label."""
    return self.predicted == self.label

  @property
  def error(self) -> float:
    """The share of wrong answers."""
    return float(1 - self.correct.mean())

  def figures(self) -> dict[str, float]:
    """Returns error, calibration error and count."""
    return {
      "error": self.error,
      "calibration_error": evaluation.calibration_error(self.confidence, self.correct),
      "examples": len(self.label),
    }


class Examiner:
  """A model that looks at sources; compiled once for all pictures."""

  def __init__(self, trained: training.results.Trained):
    """Takes a model of `commands.open_model`."""
    self.trained = trained
    self._predictor = training.evaluator.create(trained.config, trained.task, trained.placement)

  def batches(
    self, source: data.Source
  ) -> Iterator[tuple[Float[np.ndarray, "b k"], dict[str, np.ndarray]]]:
    """Yields logits, and label and index, in the source's order."""
    logging.info("%s: %d examples", source.name, len(source))
    transform = self.transform(source)
    for outputs, examples in self._predictor.batches(self.trained.variables, source, transform):
      yield outputs["logits"], examples

  def judge(
    self, source: data.Source, *, classes: Sequence[int] = (), labels: np.ndarray | None = None
  ) -> Judged:
    """Returns the answers to all pictures.

    classes: the only ones that may be answered; labels count within them. labels: instead of the
    source's own.
    """
    parts = []
    for logits, examples in self.batches(source):
      if classes:
        logits = robustness.masked(logits, classes)
      logits = logits.astype(np.float64)
      shares = np.exp(logits - logits.max(1, keepdims=True))
      confidence = 1 / shares.sum(1)
      parts.append((examples["index"], examples["label"], logits.argmax(1), confidence))
    index, label, predicted, confidence = (np.concatenate(x) for x in zip(*parts, strict=True))
    return Judged(index, label if labels is None else labels[index], predicted, confidence)

  def transform(self, source: data.Source) -> data.decode.Transform | None:
    """Returns what brings pictures to the model's size.

    Those of a data set are cut as always; changed ones were cut before, and are only resized.
    """
    size = self.trained.task.image_size
    if source.image_size == size:
      return None
    cut = isinstance(source, data.folder.Folder | data.films.Films)
    if cut or source.image_size is not None:
      return data.decode.CentreCrop(size, 1.0, "bicubic", squash=True)
    return training.inputs.evaluation_transform(self.trained.config, source)


def corruption_errors(
  examiner: Examiner,
  view: Callable[[str, int], data.Source | None],
  names: Sequence[str],
  severities: Sequence[int],
  *,
  labels: np.ndarray | None = None,
) -> dict[str, Any]:
  """Returns errors and calibration errors by corruption and severity.

  view: (corruption, severity) -> pictures, or None if there are none. labels: see `Examiner.judge`.
  """
  figures = {"errors": {}, "calibration_errors": {}}
  for name in names:
    for severity in severities:
      source = view(name, severity)
      if source is None:
        continue
      found = examiner.judge(source, labels=labels).figures()
      figures["errors"].setdefault(name, {})[severity] = found["error"]
      by = figures["calibration_errors"].setdefault(name, {})
      by[severity] = found["calibration_error"]
  return figures


def sequences(
  examiner: Examiner, view: Callable[[str], Any], names: Sequence[str], *, difficulty: int
) -> dict[str, Any]:
  """Returns flip probability, top-5 distance and number of sequences by perturbation.

  view: perturbation -> `data.corrupted.Sequences` or `data.films.Films`, or None if there are none.
  A sequence with a frame that cannot be read is left out.
  """
  flips, distances, counts = {}, {}, {}
  for name in names:
    source = view(name)
    if source is None:
      continue
    how = {"noise": name in corruptions.NOISE_SEQUENCES, "difficulty": difficulty}
    parts = []
    for logits in _whole_sequences(examiner, source):
      parts.append(
        (
          len(logits),
          robustness.flip_probability(logits.argmax(-1), **how),
          robustness.top5_distance(logits, **how).mean(),
        )
      )
    if not parts:
      continue
    weights, flip, distance = np.array(parts).T
    counts[name] = int(weights.sum())
    flips[name] = float(np.average(flip, weights=weights))
    distances[name] = float(np.average(distance, weights=weights))
  return {"flip_probability": flips, "top5_distance": distances, "sequences": counts}


def _whole_sequences(examiner: Examiner, source: Any) -> Iterator[Float[np.ndarray, "n t k"]]:
  """Yields logits of whole sequences, some at a time: all logits would not fit into memory."""
  frames, left, left_index = source.frames, None, np.zeros(0, np.int64)
  for logits, examples in examiner.batches(source):
    logits = logits if left is None else np.concatenate([left, logits])
    index = np.concatenate([left_index, examples["index"]])
    if not len(index):
      continue
    ended = index // frames < (index[-1] + 1) // frames
    of, counts = np.unique(index[ended] // frames, return_counts=True)
    whole = np.isin(index // frames, of[counts == frames])
    if whole.any():
      yield logits[whole].reshape(-1, frames, logits.shape[-1])
    left, left_index = logits[~ended], index[~ended]


@dataclasses.dataclass(frozen=True)
class _Attacked:
  """A task that looks at pictures after an attack on itself, for each of several ε at once."""

  task: Any
  attack: attacks.Attack
  epsilons: tuple[float, ...]
  seed: int

  def predict(self, variables: Any, batch: dict[str, Array]) -> dict[str, Array]:
    """Returns `correct`, bool (b, epsilons)."""
    images, labels = batch["image"].astype(jnp.float32), batch["label"]

    def loss(pixels):
      logits = self.task.logits(variables, pixels).astype(jnp.float32)
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    key = streams.stream(jax.random.key(self.seed), "adversary")
    words = batch["index"].astype(jnp.uint32)
    keys = streams.example_keys(key, jnp.stack([jnp.zeros_like(words), words], -1))

    def correct(epsilon):
      # The steps are in proportion to ε, so that one program serves all.
      moved = attacks.perturb(self.attack, loss, images, keys, scale=epsilon / 100)
      return jnp.argmax(self.task.logits(variables, moved), -1) == labels

    return {"correct": jax.lax.map(correct, jnp.float32(self.epsilons)).T}


def attacked(
  examiner: Examiner,
  source: data.Source,
  names: Sequence[str],
  epsilons: Sequence[float],
  *,
  steps: int,
  seed: int,
) -> dict[str, dict[float, float]]:
  """Returns top-1 by attacker and ε in levels of 255, against the true label.

  FGSM takes one step of ε, the others `steps` of 2.5 ε / steps.
  """
  trained, figures = examiner.trained, {}
  for name in names:
    # Told for ε=100 and scaled, since a step may be less than what `Attack` takes for a level.
    attack = attacks.Attack(name, epsilon=100.0, step=250 / steps, steps=steps, targeted=False)
    task = _Attacked(trained.task, attack, tuple(epsilons), seed)
    predictor = training.evaluator.create(trained.config, task, trained.placement)
    batches = predictor.batches(trained.variables, source, examiner.transform(source))
    correct = np.concatenate([outputs["correct"] for outputs, _ in batches])
    figures[name] = dict(zip(map(float, epsilons), correct.mean(0).tolist(), strict=True))
  return figures


def imagenet_a(examiner: Examiner, source: data.Source) -> dict[str, float]:
  """Returns the figures on ImageNet-A, where only its 200 classes can be answered.

  Raises: UserError if the model or the folder has other classes.
  """
  count = len(robustness.IMAGENET_A)
  if examiner.trained.task.num_classes not in (1000, 1001) or source.num_classes != count:
    raise errors.UserError(
      f"config.robustness.imagenet_a: {source.name} has {source.num_classes} classes and the model "
      f"{examiner.trained.task.num_classes}; they should be {count} and ImageNet's 1000."
    )
  found = examiner.judge(source, classes=robustness.IMAGENET_A)
  return {
    **found.figures(),
    "rms_calibration_error": robustness.rms_calibration_error(found.confidence, found.correct),
    "aurra": robustness.aurra(found.confidence, found.correct),
  }
