"""`--mode=predict`: names what is in pictures."""

import collections
import csv
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from rich import console as rich_console

from effnets import data, errors, tasks, training, workdirs
from effnets.commands import (
  predict_boxes,
  predict_glimpses,
  predict_pixels,
  predict_texts,
  predicted,
)
from effnets.commands import trained as models
from effnets.data import video

FILE = "predictions.csv"

_BEST = 5
_SHOWN = 20  # pictures of a folder that are printed; the file has them all
_BATCH = 32  # pictures a device looks at together, at the most


@dataclasses.dataclass(frozen=True)
class Prediction:
  """The most likely classes of a picture. best: (class name, probability), likeliest first."""

  picture: str
  best: tuple[tuple[str, float], ...]


def predict(config: Any, workdir: str) -> None:
  """Prints the five likeliest classes of the pictures in `config.input`, and writes them all.

  Detectors, segmentation and texts: see `predict_boxes`, `predict_pixels` and `predict_texts`;
  where networks of glimpses looked: `predict_glimpses`.
  They go to `predictions.csv` in `workdir`: picture, class_1, probability_1, class_2, …

  Raises: UserError if there is no model, no picture, or one cannot be read.
  """
  if config.task.name == "text":
    predict_texts.predict(config, workdir, models.open_model(config, workdir))
    return
  if config.task.name == "prediction":
    told = predicted.predict(config, workdir, models.open_model(config, workdir))
    rich_console.Console().print(told, soft_wrap=True, highlight=False, markup=False)
    return
  pictures = _pictures(config)
  trained = models.open_model(config, workdir)
  if isinstance(trained.task, tasks.ObjectTask):
    predict_boxes.predict(config, workdir, trained, pictures)
    return
  if isinstance(trained.task, tasks.Segmentation):
    predict_pixels.predict(config, workdir, trained, pictures)
    return
  if isinstance(pictures, video.Video):
    raise errors.UserError(
      f"config.input={config.input!r} is a video, which a classifier does not take; give pictures."
    )
  names = models.class_names(config, trained)
  predictions = _predictions(trained, pictures, names)
  if isinstance(trained.task, tasks.glimpses.Glimpses):
    predict_glimpses.draw(workdir, trained, pictures)
  if jax.process_index():  # works along with the others; the first process tells
    collections.deque(predictions, maxlen=0)
    return
  shown, count = [], 0
  with workdirs.writing(workdir, FILE, newline="") as file:
    writer = csv.writer(file)
    ranks = range(1, min(_BEST, len(names)) + 1)
    writer.writerow(
      ["picture", *(f"{cell}_{i}" for i in ranks for cell in ("class", "probability"))]
    )
    for found in predictions:
      cells = (cell for name, share in found.best for cell in (name, f"{share:.6f}"))
      writer.writerow([found.picture, *cells])
      shown += [found] if count < _SHOWN else []
      count += 1
  more = f" {count - _SHOWN} more are in it." if count > _SHOWN else ""
  end = f"{models.describe(trained, workdir)}: {pathlib.Path(workdir) / FILE} written.{more}"
  text = "\n".join([*map(_lines, shown), end])
  rich_console.Console().print(text, soft_wrap=True, highlight=False, markup=False)


def _pictures(config: Any) -> data.Source:
  if not config.input:
    raise errors.UserError(
      "config.input is empty; give a picture, a folder of pictures, or for a detector a video, "
      "--config.input=PATH."
    )
  if video.is_video(config.input):
    return video.Video(config.input, key="config.input")
  return data.folder.pictures(config.input, key="config.input")


def _predictions(
  trained: training.results.Trained, pictures: data.Source, names: tuple[str, ...]
) -> Iterator[Prediction]:
  """Yields the predictions in the pictures' order, as they are made."""
  shards = trained.placement.batch_shards
  most = min(trained.config.eval_batch_size, _BATCH * shards)
  # One picture is not to be padded to a batch of hundreds.
  batch_size = shards * max(1, min(most // shards, -(-len(pictures) // shards)))
  predictor = training.evaluator.create(
    trained.config, trained.task, trained.placement, batch_size=batch_size
  )
  transform = training.inputs.evaluation_transform(trained.config, pictures)
  for outputs, examples in predictor.batches(trained.variables, pictures, transform):
    for logits, index in zip(outputs["logits"], examples["index"], strict=True):
      yield Prediction(pictures.paths[index], best(logits, names))


def best(
  logits: Float[np.ndarray, "k"], names: tuple[str, ...], count: int = _BEST
) -> tuple[tuple[str, float], ...]:
  """Returns the `count` likeliest classes with their softmax probabilities.

  >>> best(np.log([0.2, 0.5, 0.3]), ("ant", "bee", "cow"), 2)[0][0]
  'bee'
  """
  shares = np.exp(logits.astype(np.float64) - logits.max())
  shares /= shares.sum()
  order = np.argsort(-shares, kind="stable")[:count]
  return tuple((names[i], float(shares[i])) for i in order)


def _lines(found: Prediction) -> str:
  rows = (f"  {share:6.1%}  {name}" for name, share in found.best)
  return "\n".join([found.picture, *rows])
