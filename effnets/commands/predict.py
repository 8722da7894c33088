"""`--mode=predict`: names what is in pictures."""

from collections.abc import Iterator
from typing import Any

from rich import console as rich_console

from effnets import data, errors, tasks, training
from effnets.commands import (
  likeliest,
  predict_boxes,
  predict_clips,
  predict_glimpses,
  predict_pixels,
  predict_texts,
  predicted,
)
from effnets.commands import trained as models
from effnets.data import video

_BATCH = 32  # pictures a device looks at together, at the most


def predict(config: Any, workdir: str) -> None:
  """Prints the five likeliest classes of the pictures in `config.input`, and writes them all.

  Detectors, segmentation, texts and clips: see `predict_boxes`, `predict_pixels`, `predict_texts`
  and `predict_clips`; where networks of glimpses looked: `predict_glimpses`.
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
  if config.task.name == "video":
    predict_clips.predict(config, workdir, models.open_model(config, workdir))
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
  likeliest.write(
    workdir,
    predictions,
    len(names),
    what="picture",
    model=models.describe(trained, workdir),
  )


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
) -> Iterator[likeliest.Likeliest]:
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
      yield likeliest.Likeliest(pictures.paths[index], likeliest.best(logits, names))
