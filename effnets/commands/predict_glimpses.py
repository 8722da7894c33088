"""`--mode=predict` of networks that look at patches: where they looked, drawn and as numbers."""

import pathlib
from typing import Any

import jax
import numpy as np
from PIL import Image

from effnets import data, models, tasks, training
from effnets.commands import marked
from effnets.models import saccader
from effnets.pipelines import glimpse_pictures


def draw(workdir: str, trained: training.results.Trained, pictures: data.Source) -> pathlib.Path:
  """Writes two files for every picture to the folder `predictions`, which is returned.

  A PNG of what the network was given, with a numbered square for each glimpse; and an NPZ with
  `windows` (t 3: top, left and side in pixels of that picture), `patch_logits` (t k) and, of a
  Saccader, `location_probabilities` (t y x) and `logits2d` (y x k), of all patches.
  """
  task, folder = trained.task, marked.folder(workdir)
  predictor = training.evaluator.create(
    trained.config,
    task,
    trained.placement,
    batch_size=marked.batch_size(trained, len(pictures)),
    predict=_whole(task),
  )
  transform = training.inputs.evaluation_transform(trained.config, pictures)
  for outputs, examples in predictor.batches(trained.variables, pictures, transform):
    windows = task.windows(outputs)
    for row, index in enumerate(examples["index"].tolist()):
      if jax.process_index():
        continue
      picture = _given(trained.config, pictures, transform, index)
      where = folder / f"{index:05d}_{pathlib.Path(pictures.paths[index]).stem}"
      shown = glimpse_pictures.glimpses(picture, windows[row])
      Image.fromarray(shown).save(where.with_suffix(".png"))
      kept = {name: outputs[name][row] for name in _KEPT if name in outputs}
      np.savez_compressed(where.with_suffix(".npz"), windows=windows[row], **kept)
  return folder


_KEPT = ("patch_logits", "location_probabilities", "logits2d")


def _whole(task: tasks.glimpses.Glimpses) -> training.evaluator.Predict:
  """Returns predict(variables, batch) with everything that is kept of a picture."""
  module = task.module

  def predict(variables, batch):
    if isinstance(module, models.dram.DRAM):
      found = task.predict(variables, batch)
      return {**found, "patch_logits": found["step_logits"]}
    images = task.placement.split_images(task.inputs(batch["image"]))
    ends = module.apply(variables, images, method="maps")
    chosen, scores = module.apply(
      variables, ends, images, count=module.glimpses, policy="learned", method="places"
    )
    logits = ends["logits2d"]
    chances = jax.nn.softmax(scores, -1)
    return {
      "places": chosen,
      "logits2d": logits,
      "location_probabilities": chances.reshape(*chosen.shape, *logits.shape[1:3]),
      "patch_logits": saccader.gathered(saccader.flat(logits), chosen),
    }

  return predict


def _given(config: Any, pictures: data.Source, transform: Any, index: int) -> np.ndarray:
  """Returns the picture as the network was given it."""
  example = pictures[index]
  if transform is None:
    return example["image"]
  return transform(example, lambda name: data.draws.generator(config.seed, name, index))["image"]
