"""`--mode=predict` of detectors: boxes in pictures and videos, as a file and drawn."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from PIL import Image
from rich import console as rich_console

from effnets import training, workdirs
from effnets.commands import marked
from effnets.commands import trained as models
from effnets.data import video

FILE = "predictions.json"

_SHOWN = 20  # pictures that are told of on the terminal; the file has them all


def predict(config: Any, workdir: str, trained: training.results.Trained, pictures: Any) -> None:
  """Writes what is in pictures, or in the frames of a video, and draws it.

  `predictions.json` in `workdir` has, for each picture, `picture` and `objects`: `class`, `score`
  and `box` (y0 x0 y1 x1 in its pixels) of each, best first; where there are masks, `mask` is COCO's
  RLE. The folder `predictions` has the
  pictures with those that score `config.detections.shown` or more drawn on them; of a video it has
  a video.
  """
  names = models.class_names(config, trained)
  least = trained.config.detections.get("shown", marked.SHOWN)
  folder = marked.folder(workdir)
  told: list[dict[str, Any]] = []

  def frames() -> Iterator[np.ndarray]:
    for path, picture, found in _found(trained, pictures):
      rows = zip(*(found[k].tolist() for k in ("classes", "scores", "boxes")), strict=True)
      masks = _masks(picture, found)
      objects = [
        {"class": names[c], "score": round(s, 4), "box": [round(v, 2) for v in box], **mask}
        for (c, s, box), mask in zip(rows, masks, strict=True)
        if c >= 0
      ]
      told.append({"picture": path, "objects": objects})
      yield marked.draw(picture, **found, names=names, least=least)

  if isinstance(pictures, video.Video):
    where = folder / f"{pathlib.Path(pictures.name).stem}.mp4"
    video.write(where, frames(), rate=pictures.rate, key="config.input")
  else:
    where = folder
    for frame, number in zip(frames(), range(len(pictures)), strict=False):
      stem = pathlib.Path(told[-1]["picture"]).stem
      Image.fromarray(frame).save(folder / f"{number:05d}_{stem}.png")
  if jax.process_index():
    return
  workdirs.write(workdir, FILE, json.dumps(told, indent=1) + "\n")
  lines = []
  for one in told[:_SHOWN]:
    seen = [o for o in one["objects"] if o["score"] >= least]
    text = ", ".join(f"{o['class']} {o['score']:.0%}" for o in seen) or "nothing"
    lines.append(f"{one['picture']}\n  {text}")
  end = f"{models.describe(trained, workdir)}: {pathlib.Path(workdir) / FILE} and {where} written."
  rich_console.Console().print(
    "\n".join([*lines, end]), soft_wrap=True, highlight=False, markup=False
  )


def _masks(picture: np.ndarray, found: dict[str, np.ndarray]) -> list[dict[str, Any]]:
  """Returns `mask` of each detection, nothing where there are none."""
  from effnets.evaluation import detection

  if "masks" not in found:
    return [{}] * len(found["classes"])
  height, width = picture.shape[:2]
  likely, there = found["masks"] / np.float32(255), found["classes"] >= 0
  pasted = detection.pasted(likely, found["boxes"], there, height=height, width=width)
  return [{"mask": mask} for mask in pasted]


def _found(trained, pictures) -> Iterator[tuple[str, np.ndarray, dict[str, np.ndarray]]]:
  """Yields path, picture and detections of every picture that can be read, in their order."""
  predictor = training.evaluator.create(
    trained.config,
    trained.task,
    trained.placement,
    batch_size=marked.batch_size(trained, len(pictures)),
  )
  transform = training.inputs.evaluation_transform(trained.config, pictures)
  for outputs, examples in predictor.batches(trained.variables, pictures, transform):
    for row, index in enumerate(examples["index"].tolist()):
      found = marked.of_picture(outputs, row)
      yield pictures.paths[index], pictures[index]["image"], found
