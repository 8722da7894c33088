"""`--mode=predict` of segmentation: a class for every pixel of pictures and videos."""

import collections
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
_NAMED = 4  # classes of a picture that are


def predict(config: Any, workdir: str, trained: training.results.Trained, pictures: Any) -> None:
  """Writes the classes of all pixels, as grey PNG files and drawn over the pictures.

  The folder `predictions` in `workdir` has NAME_classes.png, whose levels are classes, and
  NAME.png; of a video it has a video. `predictions.json` has each picture's shares of classes.
  """
  names = models.class_names(config, trained)
  folder = marked.folder(workdir)
  told: list[dict[str, Any]] = []
  moving = isinstance(pictures, video.Video)

  def frames() -> Iterator[np.ndarray]:
    for path, picture, classes in marked.maps(trained, pictures):
      counts = np.bincount(classes.ravel(), minlength=len(names))
      shares = {n: round(c / classes.size, 4) for n, c in zip(names, counts, strict=True) if c}
      told.append({"picture": path, "classes": shares})
      stem = f"{len(told) - 1:05d}_{pathlib.Path(path).stem}"
      if not moving:
        Image.fromarray(classes).save(folder / f"{stem}_classes.png")
      drawn = marked.overlay(picture, classes)
      if not moving:
        Image.fromarray(drawn).save(folder / f"{stem}.png")
      yield drawn

  if moving:
    where = folder / f"{pathlib.Path(pictures.name).stem}.mp4"
    video.write(where, frames(), rate=pictures.rate, key="config.input")
  else:
    where = folder
    collections.deque(frames(), maxlen=0)
  if jax.process_index():
    return
  workdirs.write(workdir, FILE, json.dumps(told, indent=1) + "\n")
  lines = []
  for one in told[:_SHOWN]:
    most = sorted(one["classes"].items(), key=lambda pair: -pair[1])[:_NAMED]
    lines.append(f"{one['picture']}\n  {', '.join(f'{n} {s:.1%}' for n, s in most)}")
  end = f"{models.describe(trained, workdir)}: {pathlib.Path(workdir) / FILE} and {where} written."
  rich_console.Console().print(
    "\n".join([*lines, end]), soft_wrap=True, highlight=False, markup=False
  )
