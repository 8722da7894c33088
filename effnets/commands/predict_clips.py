"""`--mode=predict` of films: which classes they are of."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from effnets import data, errors, training
from effnets.commands import likeliest, marked
from effnets.commands import trained as models
from effnets.data import frames, video

_BATCH = 8  # films a device looks at together, at the most


class Films(frames.Frames):
  """Films of which no class is known, for a network that knows some. several: of several each."""

  def __init__(self, name: str, paths: list[str], *, classes: tuple[str, ...], several: bool):
    super().__init__(name, paths)
    self.class_names, self.num_classes, self.targets = classes, len(classes), several

  def __getitem__(self, index: int) -> data.sources.Example:
    found = super().__getitem__(index)
    return found | ({"targets": np.zeros(self.num_classes, np.float32)} if self.targets else {})


def predict(config: Any, workdir: str, trained: training.results.Trained) -> None:
  """Prints the five likeliest classes of the films in `config.input`, and writes them all.

  `config.input`: a video file, a folder of a film's frames, or a folder of such films at any depth.
  They go to `predictions.csv` in `workdir`: film, class_1, probability_1, class_2, …; of a network
  of several classes each probability is the class's own. A film's views come together as in
  evaluation. Where the data brought stored flow, it is computed from the frames, by DIS.

  Raises: UserError if there is no film, or none can be read.
  """
  names = models.class_names(config, trained)
  source = Films(
    config.input, films(config), classes=names, several=trained.config.task.labels == "several"
  )
  likeliest.write(
    workdir,
    _found(trained, source),
    len(names),
    what="film",
    model=models.describe(trained, workdir),
  )


def films(config: Any) -> list[str]:
  """Returns the films in `config.input`, by name. Raises: UserError if there is none."""
  path = pathlib.Path(config.input) if config.input else None
  if path is None:
    raise errors.UserError(
      "config.input is empty; give a video, a folder of its frames, or a folder of films, "
      "--config.input=PATH."
    )
  if path.is_file() and video.is_video(path.name):
    return [str(path)]
  found = list(frames.below(path)) if path.is_dir() else []
  if not found:
    raise errors.UserError(
      f"config.input={config.input!r} is no film and no folder of films; expected files with one "
      f"of {', '.join(video.SUFFIXES)}, or folders of pictures."
    )
  return found


def clips(trained: training.results.Trained, source: data.Source) -> data.clips.Clips:
  """Returns the transform of a model's evaluation, for films that come without flow."""
  transform = training.inputs.evaluation_transform(trained.config, source)
  if transform.flow == "stored":
    data.clips.cv2("config.data.clips.flow='stored': computing flow")
    transform = dataclasses.replace(transform, flow="dis")
  return transform


def _found(trained: training.results.Trained, source: Films) -> Iterator[likeliest.Likeliest]:
  predictor = training.evaluator.create(
    trained.config,
    trained.task,
    trained.placement,
    batch_size=marked.batch_size(trained, len(source), _BATCH),
  )
  batches = predictor.batches(trained.variables, source, clips(trained, source))
  for outputs, examples in batches:
    for logits, index in zip(outputs["logits"], examples["index"], strict=True):
      best = likeliest.best(logits, source.class_names, several=source.targets)
      yield likeliest.Likeliest(source.paths[index], best)
