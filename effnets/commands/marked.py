"""Pictures with detections drawn on them."""

import colorsys
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from effnets import augment, data, errors, tasks, training, workdirs

# A sheet has so many pictures, the side of each in pixels at the least.
_SHEET = (2, 4)
_SIDE = 256

SHOWN = 0.4
"""The score from which a detection is drawn, if `config.detections.shown` does not say."""


def draw(
  picture: UInt8[np.ndarray, "h w 3"],
  boxes: Float[np.ndarray, "k 4"],
  scores: Float[np.ndarray, " k"],
  classes: Int[np.ndarray, " k"],
  *,
  names: Sequence[str],
  least: float,
  masks: UInt8[np.ndarray, "k s s"] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
  """Returns the picture with a box and a name for each detection with a score of `least` or more.

  boxes: y0 x0 y1 x1 in pixels of the picture. classes: -1 where there is none. masks: probabilities
  over each box, 255 for 1; objects are half covered by their colour. The best is on top.
  """
  if masks is not None:
    picture = _covered(picture, boxes, masks, classes, (classes >= 0) & (scores >= least), scores)
  image = Image.fromarray(np.ascontiguousarray(picture))
  pen = ImageDraw.Draw(image)
  line = max(1, round(min(picture.shape[:2]) / 200))
  font = ImageFont.load_default(max(10, min(picture.shape[:2]) // 30))
  for i in np.argsort(scores, kind="stable"):
    if classes[i] < 0 or scores[i] < least:
      continue
    colour = _colour(int(classes[i]))
    y0, x0, y1, x1 = (float(v) for v in boxes[i])
    pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=line)
    text = f"{names[classes[i]]}: {scores[i]:.0%}"
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    above = y0 - (bottom - top) - 4
    place = (max(x0, 0), above if above >= 0 else max(y0, 0))
    pen.rectangle((*place, place[0] + right - left + 4, place[1] + bottom - top + 4), fill=colour)
    pen.text((place[0] + 2 - left, place[1] + 2 - top), text, font=font, fill=(0, 0, 0))
  return np.asarray(image)


def _covered(picture, boxes, masks, classes, shown, scores) -> UInt8[np.ndarray, "h w 3"]:
  from pycocotools import mask as rle_lib

  from effnets.evaluation import detection

  height, width = picture.shape[:2]
  found = detection.pasted(masks / np.float32(255), boxes, shown, height=height, width=width)
  picture = picture.copy()
  for i in np.argsort(scores, kind="stable"):
    if found[i] is not None:
      inside = rle_lib.decode(found[i]) > 0
      picture[inside] = (picture[inside] + np.array(_colour(int(classes[i])))) // 2
  return picture


def folder(workdir: str) -> pathlib.Path:
  """Returns the folder `predictions` of a workdir, made if need be. Raises: UserError."""
  path = pathlib.Path(workdir) / "predictions"
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise errors.UserError(f"--workdir={workdir} cannot be written: {error}.") from error
  return path


def overlay(
  picture: UInt8[np.ndarray, "h w 3"], classes: UInt8[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
  """Returns the picture, half covered by the colours of its pixels' classes; class 0 has none."""
  colours = np.array([(0, 0, 0), *(_colour(k) for k in range(1, 256))], np.float32)
  mixed = (picture + colours[classes]) / 2
  return np.where((classes > 0)[..., None], np.rint(mixed), picture).astype(np.uint8)


def _colour(number: int) -> tuple[int, int, int]:
  # Steps of the golden ratio: neighbours in number are far apart in hue.
  return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.55, 1.0))


def example(config: Any, workdir: pathlib.Path, result: training.Result) -> None:
  """Writes pictures of the test split with what a training's model detects or sees in them.

  They are in `plots/detections.png` or `plots/segmentation.png`. All processes work at it, the
  first one writes.
  """
  source = training.inputs.evaluation(config, "test")
  task, placement = training.results.model(config, source.num_classes)
  trained = training.results.Trained(config, task, placement, result.variables, result.steps, {})
  if isinstance(task, tasks.Segmentation):
    name, tiles = "segmentation", _segmented(trained, source)
  else:
    least = config.detections.get("shown", SHOWN)
    name, tiles = "detections", sheet(trained, source, names=source.class_names, least=least)
  if not jax.process_index():
    with workdirs.writing(workdir, f"plots/{name}.png", binary=True) as file:
      augment.write_png(file, augment.grid(tiles))


def sheet(
  trained: training.results.Trained, source: Any, *, names: Sequence[str], least: float
) -> UInt8[np.ndarray, "r c h w 3"]:
  """Returns rows of pictures of `source`, spread over it, with what the model detects."""
  rows, columns = _SHEET
  part = data.corrupted.subset(source, rows * columns)
  transform = training.inputs.evaluation_transform(trained.config, part)
  # In batches of evaluation's size: that program is compiled already.
  predictor = training.evaluator.create(trained.config, trained.task, trained.placement)
  tiles = np.full((rows * columns, _SIDE, _SIDE, 3), 255, np.uint8)
  for outputs, examples in predictor.batches(trained.variables, part, transform):
    for row, index in enumerate(examples["index"].tolist()):
      picture, ratio = enlarged(part[index]["image"])
      found = of_picture(outputs, row)
      found["boxes"] = found["boxes"] * ratio
      drawn = draw(picture, **found, names=names, least=least)
      tiles[index, : drawn.shape[0], : drawn.shape[1]] = drawn
  return tiles.reshape(rows, columns, _SIDE, _SIDE, 3)


def of_picture(outputs: dict[str, np.ndarray], row: int) -> dict[str, np.ndarray]:
  """Returns what a detector's outputs say of one picture, as `draw` takes it."""
  names = ("boxes", "scores", "classes", "masks")
  return {name: outputs[name][row] for name in names if name in outputs}


def _segmented(trained: training.results.Trained, source: Any) -> UInt8[np.ndarray, "r c h w 3"]:
  rows, columns = _SHEET
  part = data.corrupted.subset(source, rows * columns)
  tiles = np.full((rows * columns, _SIDE, _SIDE, 3), 255, np.uint8)
  for tile, (_, picture, classes) in zip(tiles, maps(trained, part), strict=False):
    drawn, _ = enlarged(overlay(picture, classes))
    tile[: drawn.shape[0], : drawn.shape[1]] = drawn
  return tiles.reshape(rows, columns, _SIDE, _SIDE, 3)


def maps(
  trained: training.results.Trained, pictures: Any
) -> Iterator[tuple[str, UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]]:
  """Yields name, picture and the classes of its pixels, of every picture that can be read."""
  predictor = training.evaluator.create(
    trained.config,
    trained.task,
    trained.placement,
    batch_size=batch_size(trained, len(pictures)),
    predict=trained.task.mapped,
  )
  transform = training.inputs.evaluation_transform(trained.config, pictures)
  for outputs, examples in predictor.batches(trained.variables, pictures, transform):
    for row, index in enumerate(examples["index"].tolist()):
      height, width = examples["size"][row].tolist()
      picture = pictures[index]["image"]
      found = Image.fromarray(outputs["classes"][row, :height, :width])
      classes = found.resize(picture.shape[1::-1], Image.Resampling.NEAREST)
      paths = getattr(pictures, "paths", None)
      yield paths[index] if paths else f"{pictures.name} #{index}", picture, np.asarray(classes)


def enlarged(picture: UInt8[np.ndarray, "h w 3"]) -> tuple[UInt8[np.ndarray, "H W 3"], float]:
  """Returns the picture at a tile's size, and its scale."""
  ratio = _SIDE / max(picture.shape[:2])
  size = [max(1, round(side * ratio)) for side in picture.shape[:2]]
  how = Image.Resampling.NEAREST if ratio > 1 else Image.Resampling.BOX
  return np.asarray(Image.fromarray(picture).resize(size[::-1], how)), ratio


def batch_size(trained: training.results.Trained, count: int, most: int = 32) -> int:
  """Returns the size of batches that take `count` pictures, with up to `most` on each device."""
  shards = trained.placement.batch_shards
  return shards * max(1, min(most, -(-count // shards)))
