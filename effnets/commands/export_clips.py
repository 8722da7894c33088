"""`--mode=export` of networks of films: classes of clips, and what comes after some frames."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from effnets import data, errors, parallel, tasks, training
from effnets.tasks import video
from effnets.weights import programs

_CHECKED = 2  # clips


def is_films(task: tasks.Task) -> bool:
  """Returns whether this module exports the task's networks."""
  return isinstance(task, video.Video | tasks.Prediction)


def program(trained: training.results.Trained) -> programs.Films:
  """Returns the network of a model, in float32.

  Of a classifier: `clips` uint8 `b t h w 3`, and where it takes it `flow` uint8 `b t h w 2`, levels
  of `data.clips`, to `logits` and `probabilities`, of a softmax or of a sigmoid for each class.
  Of a predictor: `clips`, the context, uint8 `b t h w 3`; `index` int32 `b`, another number for
  other samples; and maybe `actions` float32 `b t a`, of the context and of all told frames but the
  last; to `frames` float32 `b n t h w 3` in [0, 1].
  """
  task = _alone(trained.task)
  variables = parallel.to_host(trained.variables)
  module, size = task.module, task.image_size
  if isinstance(task, tasks.Prediction):
    inputs: dict[str, Any] = {"clips": ((task.context, size, size, 3), np.uint8)}
    inputs["index"] = ((), np.int32)
    if module.actions:
      inputs["actions"] = ((task.context + task.horizon - 1, module.actions), np.float32)

    def told(variables, clip, index, actions=None) -> dict[str, Array]:
      batch = {"clip": clip, "index": index}
      made, _ = task.futures(variables, batch | ({} if actions is None else {"actions": actions}))
      return {"frames": made}

    return programs.Films(told, variables, inputs, ("frames",))
  frames = module.frames
  inputs = {"clips": ((frames, size, size, 3), np.uint8)}
  if module.takes_flow:
    inputs["flow"] = ((frames, size, size, 2), np.uint8)

  def classes(variables, clip, flow=None) -> dict[str, Array]:
    logits = task.predict(variables, {"clip": clip, "flow": flow})["logits"]
    shares = jax.nn.sigmoid(logits) if task.several else jax.nn.softmax(logits)
    return {"logits": logits, "probabilities": shares}

  return programs.Films(classes, variables, inputs, programs.OUTPUTS)


def _alone(task: Any) -> Any:
  """Returns the task in float32 on one device, without what only trains."""
  module = task.module.clone(dtype="float32", remat="none", split=None)
  placement = parallel.create({"data": 1}, devices=jax.local_devices(backend="cpu")[:1])
  return dataclasses.replace(task, module=module, placement=placement, dtype=jnp.float32)


def examples(
  trained: training.results.Trained, made: programs.Films
) -> tuple[tuple[np.ndarray, ...], str]:
  """Returns some inputs and what they are: of the validation data, or noise if there is none."""
  config, rng = trained.config, np.random.default_rng(0)
  fields = {"clips": "clip", "flow": "flow", "actions": "actions"}
  arrays = {"index": np.arange(_CHECKED, dtype=np.int32)}
  try:
    source = training.inputs.evaluation(config, "validation")
    transform = training.inputs.evaluation_transform(config, source)
    clips = [
      transform(source[i], data.decode.drawing(config.seed, i))
      for i in range(min(_CHECKED, len(source)))
    ]
    for name, (shape, _) in made.shapes.items():
      if name in fields:
        found = np.stack([clip[fields[name]] for clip in clips])
        # The first view, and as many frames as the program takes.
        found = found[:, 0] if found.ndim > len(shape) + 1 else found
        arrays[name] = found[:, : shape[0]]
    what = f"clips of {source.name}"
  except (errors.UserError, data.sources.Unreadable):
    for name, (shape, kind) in made.shapes.items():
      if name in fields:
        levels = rng.integers(0, 256, (_CHECKED, *shape))
        arrays[name] = levels.astype(kind) if kind == np.uint8 else (levels / 255).astype(kind)
    what = "clips of noise"
  count = len(arrays["clips"])
  return tuple(arrays[name][:count] for name in made.shapes), what


def describe(trained: training.results.Trained, made: programs.Films) -> dict[str, Any]:
  """Returns what `export.json` says of inputs, and how clips are cut from films."""
  config, task = trained.config, trained.task
  found = {
    # A batch of null takes any number of clips.
    "inputs": {
      name: {"dtype": np.dtype(kind).name, "shape": [made.batch, *shape]}
      for name, (shape, kind) in made.shapes.items()
    },
    "image_size": task.image_size,
    "stride": config.data.clips.stride,
    "interpolation": config.data.interpolation or "bilinear",
  }
  if isinstance(task, tasks.Prediction):
    return found | {"context": task.context, "horizon": task.horizon, "samples": task.samples}
  transform = tasks.transform(config, training=False)
  found |= {"crop_fraction": transform.fraction, "normalization": _normalization(task)}
  # Levels 1 to 255 of flow are -bound to bound pixels of the input a frame.
  return found | ({"flow_bound": transform.bound} if "flow" in made.shapes else {})


def _normalization(task: video.Video) -> dict[str, list[float]]:
  """Returns what is inside the program: pixels / 255 - mean, over std."""
  return {"mean": list(task.mean), "std": list(task.std)}
