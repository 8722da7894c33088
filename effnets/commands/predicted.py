"""Pictures of predicted films: strips, GIFs, curves over time."""

import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from effnets import augment, data, errors, evaluation, training, workdirs
from effnets.data import video, videos

_CLIPS = 4  # that are shown
_JUDGED = 32  # clips of which curves are the mean after a training
_SIDE = 64  # pixels of a tile at the least
_GREEN, _RED = (0, 158, 115), (213, 94, 0)
_EDGE = 2
_RATE = 5.0  # frames a second


def example(config: Any, workdir: pathlib.Path, result: training.Result) -> None:
  """Writes pictures of what a training's model tells of the first clips of the test split.

  `plots/prediction.png`: of every clip the truth, the sample that is best by SSIM, and others,
  frame by frame; `plots/prediction.gif`: the same in motion; given frames have a green edge, told
  ones a red one. `plots/frames.png`: curves over time. All processes work at it, the first one
  writes.
  """
  source = training.inputs.evaluation(config, "test")
  task, placement = training.results.model(config, source.num_classes)
  trained = training.results.Trained(config, task, placement, result.variables, result.steps, {})
  outputs, _ = _drawn(trained, data.corrupted.subset(source, _JUDGED))
  if not jax.process_index():
    pictures(workdir, "plots/prediction", outputs, task.context)
    figures = evaluation.prediction.curves(outputs)
    curves(workdir, figures, task.context, f"{len(outputs['psnr'])} clips of {source.name}")


def _drawn(
  trained: training.results.Trained, source: Any, transform: Any = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  shards = trained.placement.batch_shards
  batch_size = shards * -(-min(len(source), _JUDGED) // shards)
  predictor = training.evaluator.create(
    trained.config,
    trained.task,
    trained.placement,
    batch_size=batch_size,
    predict=trained.task.drawn,
  )
  transform = transform or training.inputs.evaluation_transform(trained.config, source)
  return predictor.all(trained.variables, source, transform)


def curves(
  workdir: str | pathlib.Path, figures: dict[str, list[float]], context: int, label: str
) -> None:
  """Writes `plots/frames.png`. figures: of `evaluation.prediction.curves`."""
  with workdirs.writing(workdir, "plots/frames.png", binary=True) as file:
    evaluation.prediction.draw(figures, file, first=context + 1, label=label)


def pictures(
  workdir: str | pathlib.Path, name: str, outputs: dict[str, np.ndarray], context: int
) -> None:
  """Writes NAME.png and NAME.gif of the first clips, and NAME.mp4 where OpenCV is installed.

  outputs: of the task's `drawn`.
  """
  shown = outputs["shown"][:_CLIPS]
  rows = [_rows(*pair, context) for pair in zip(outputs["whole"], shown, strict=False)]
  with workdirs.writing(workdir, f"{name}.png", binary=True) as file:
    augment.write_png(file, augment.grid(np.concatenate(rows)))
  with workdirs.writing(workdir, f"{name}.gif", binary=True) as file:
    write_gif(file, list(_moving(np.stack(rows))))
  if video.can_write():
    with (
      tempfile.TemporaryDirectory() as folder,
      workdirs.writing(workdir, f"{name}.mp4", binary=True) as file,
    ):
      # The library writes to paths alone, and a workdir may be a bucket.
      film = pathlib.Path(folder) / "film.mp4"
      video.write(film, _moving(np.stack(rows)), rate=_RATE, key="MP4")
      file.write(film.read_bytes())


def _rows(
  whole: UInt8[np.ndarray, "T h w 3"], shown: UInt8[np.ndarray, "n t h w 3"], context: int
) -> UInt8[np.ndarray, "r T H W 3"]:
  """Returns the truth and the futures behind their context, tiles with an edge."""
  futures = [np.concatenate([whole[:context], future]) for future in shown]
  return _edged(np.stack([whole, *futures]), context)


def _edged(films: UInt8[np.ndarray, "r T h w 3"], context: int) -> UInt8[np.ndarray, "r T H W 3"]:
  """Returns frames as tiles of 64 pixels or more, with an edge that tells given from told ones."""
  factor = -(-_SIDE // films.shape[2])
  films = films.repeat(factor, 2).repeat(factor, 3)
  for time in range(films.shape[1]):
    edged = films[:, time]
    colour = _GREEN if time < context else _RED
    edged[:, :_EDGE] = edged[:, -_EDGE:] = edged[:, :, :_EDGE] = edged[:, :, -_EDGE:] = colour
  return films


def _moving(rows: UInt8[np.ndarray, "c r t h w 3"]) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
  """Yields the frames of a film in which every clip has a row."""
  for time in range(rows.shape[2]):
    yield augment.grid(rows[:, :, time])


def write_gif(
  file: BinaryIO, frames: Sequence[UInt8[np.ndarray, "h w 3"]], *, rate: float = _RATE
) -> None:
  """Writes frames as an endless GIF. rate: frames a second."""
  first, *others = [Image.fromarray(frame) for frame in frames]
  first.save(
    file,
    format="GIF",
    save_all=True,
    append_images=others,
    duration=round(1000 / rate),
    loop=0,
  )


def show(config: Any, workdir: str) -> str:
  """Writes clips as a training gets them, `plots/clips.png`; returns what was written.

  Raises: UserError if they cannot be read.
  """
  source = training.inputs.evaluation(config, "train")
  stream = data.Stream(
    source,
    seed=config.seed,
    transform=training.inputs.training_transform(config, source),
    max_unreadable=config.data.max_unreadable,
  )
  clips = np.stack([stream[position]["clip"] for position in range(2 * _CLIPS)])
  tiles = _edged(clips, config.task.context)
  if not jax.process_index():
    with workdirs.writing(workdir, "plots/clips.png", binary=True) as file:
      augment.write_png(file, augment.grid(tiles))
  return f"{workdir}/plots/clips.png: {len(clips)} clips of {source.name}."


# ---- Films of one's own --------------------------------------------------------------------------


class _One(data.clips.Films):
  """A film as a source."""

  num_classes = 1
  class_names = ("film",)

  def __init__(self, film: data.clips.Film):
    self.name, self._film = film.name, film

  def __len__(self) -> int:
    return 1

  def __getitem__(self, index: int) -> data.sources.Example:
    return {"film": self._film, "label": np.int32(0)}


def predict(config: Any, workdir: str, trained: training.results.Trained) -> str:
  """Writes what comes after the first frames of the film `config.input`; returns what was written.

  A video file, or a folder of its frames. `predictions/NAME.png` and `.gif` in `workdir`, see
  `example`; where the film goes on its own frames stand above, else its last one stands still.

  Raises: UserError if it cannot be read, is shorter than the context, or needs actions.
  """
  task = trained.task
  if not config.input:
    raise errors.UserError(
      "config.input is empty; give a video or a folder of its frames, --config.input=PATH."
    )
  if task.module.actions:
    raise errors.UserError(
      f"config.model.actions={task.module.actions}: a film alone has no actions; "
      "--mode=evaluate takes those of the data."
    )
  path = pathlib.Path(config.input)
  if not (path.is_dir() or video.is_video(str(path))):
    raise errors.UserError(
      f"config.input={config.input!r} is neither a folder of frames nor a video; expected one of "
      f"{', '.join(video.SUFFIXES)}."
    )
  transform = training.inputs.evaluation_transform(trained.config, _One(data.clips.Blank()))
  # The future need not be there.
  transform = data.sequences.Sequences(**{**vars(transform), "short": "hold"})
  try:
    film = videos.film(str(path))
    needed = (task.context - 1) * transform.stride + 1
    if film.frames < needed:
      raise errors.UserError(
        f"config.input={config.input!r} has {film.frames} frames; a context takes {needed}."
      )
    transform(_One(film)[0], lambda name: np.random.default_rng(0))
  except data.sources.Unreadable as error:
    raise errors.UserError(f"config.input: {error} cannot be read.") from error
  outputs, _ = _drawn(trained, _One(film), transform)
  name = f"predictions/{path.stem}"
  if not jax.process_index():
    pictures(workdir, name, outputs, task.context)
  return f"{workdir}/{name}.png and {'.gif, .mp4' if video.can_write() else '.gif'} written."
