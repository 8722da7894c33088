"""`--mode=show` of detectors and segmenters: scenes as a training gets them, with what is true."""

from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from rich import console as rich_console

from effnets import augment, data, streams, tasks, training, workdirs
from effnets.commands import marked

FILE = "plots/augment.png"

_ROWS = 4
_VERSIONS = 6


def show(config: Any, workdir: str) -> None:
  """Draws scenes of the training data as they are evaluated, and six versions as they train.

  Boxes, or classes of pixels, are drawn where the transforms and the policy put them. The picture
  is `plots/augment.png` in `workdir`.

  Raises: UserError for a setting that is wrong, or data that cannot be read.
  """
  source = training.inputs.evaluation(config, "train")
  fixed, random = (tasks.transform(config, training=flag) for flag in (False, True))
  policy = tasks.box_policy(config) if config.task.name == "detection" else None
  rows = np.linspace(0, len(source) - 1, _ROWS).astype(int).tolist()
  tiles = []
  for row, index in enumerate(rows):
    scene = source[index]
    tiles.append([_drawn(config, source, fixed(scene, data.decode.drawing(config.seed, row)))])
    for version in range(_VERSIONS):
      position = row * _VERSIONS + version
      changed = random(scene, data.decode.drawing(config.seed, position))
      tiles[-1].append(_drawn(config, source, _augmented(config, policy, changed, position)))
  if jax.process_index():
    return
  with workdirs.writing(workdir, FILE, binary=True) as file:
    augment.write_png(file, augment.grid(np.array(tiles)))
  name = "no policy" if policy is None else f"{policy}"
  rich_console.Console().print(
    f"{workdir}/{FILE} written: {random}; {name}.", soft_wrap=True, highlight=False, markup=False
  )


def _augmented(config: Any, policy: Any, scene: dict[str, Any], position: int) -> dict[str, Any]:
  if policy is None:
    return scene
  root = streams.stream(jax.random.key(config.seed), "augment")
  keys = streams.example_keys(root, streams.words(np.array([position])))
  boxes, there = scene["boxes"][None], scene["classes"][None] >= 0
  image, boxes, valid = jax.device_get(policy(scene["image"][None], boxes, there, keys))
  classes = np.where(valid[0], scene["classes"], -1)
  return {**scene, "image": image[0], "boxes": boxes[0], "classes": classes}


def _drawn(config: Any, source: Any, scene: dict[str, Any]) -> UInt8[np.ndarray, "h w 3"]:
  picture, ratio = marked.enlarged(scene["image"])
  if config.task.name == "segmentation":
    classes = np.where(scene["semantic"] == data.scenes.IGNORED, 0, scene["semantic"])
    return marked.enlarged(marked.overlay(scene["image"], classes))[0]
  scores = np.ones(len(scene["classes"]))
  return marked.draw(
    picture, scene["boxes"] * ratio, scores, scene["classes"], names=source.class_names, least=0
  )
