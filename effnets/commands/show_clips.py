"""`--mode=show` of clips: frames and flow as a training gets them."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from effnets import augment, data, errors, ops, streams, tasks, training, workdirs

FILE = "plots/clips.png"

_FILMS = 3
_VERSIONS = 2
_FRAMES = 12  # of a clip, at the most
_SIDE = 96  # pixels of a tile, at the least


def show(config: Any, workdir: str) -> str:
  """Draws augmented clips of the training data, and their flow; returns what was written.

  Of three films spread over the data there are two versions each, as a training with this seed
  could see them: cut, resized, changed by the policy, mirrored. Where the network reads flow, it
  stands below the frames, given or computed by the network's own layer: the colour is its
  direction, full where it is as fast as anywhere in the clip. The picture is `plots/clips.png`.

  Raises: UserError for a setting that is wrong, or films that cannot be read.
  """
  source = training.inputs.evaluation(config, "train")
  task, _ = training.results.model(config, source.num_classes)
  batch = _batch(config, source)

  @jax.jit
  def seen(batch):
    clips, flow = task.augmented(batch, jax.random.key(config.seed))
    return clips, _flow(task, clips, flow)

  clips, flow = jax.device_get(seen(batch))
  rows = [_enlarged(clips)]
  if flow is not None:
    rows.append(_enlarged(np.stack([colours(each) for each in flow])))
  tiles = np.stack(rows, 1).reshape(-1, *rows[0].shape[1:])
  if not jax.process_index():
    with workdirs.writing(workdir, FILE, binary=True) as file:
      augment.write_png(file, augment.grid(tiles[:, :_FRAMES]))
  below = "" if flow is None else ", their flow below"
  return f"{workdir}/{FILE}: {_VERSIONS} clips each of {_FILMS} films of {source.name}{below}."


def _batch(config: Any, source: data.Source) -> dict[str, np.ndarray]:
  """Returns clips, and flow, of some films, with positions as in the stream of a training."""
  transform = training.inputs.training_transform(config, source)
  made = []
  for number, index in enumerate(np.linspace(0, len(source) - 1, _FILMS).astype(int)):
    try:
      for version in range(_VERSIONS):
        position = number * _VERSIONS + version
        draw = data.decode.drawing(config.seed, position)
        made.append(transform(source[int(index)], draw))
    except data.sources.Unreadable as error:
      raise errors.UserError(f"{error} cannot be read.") from error
  names = [name for name in ("clip", "flow") if name in made[0]]
  batch = {name: np.stack([each[name] for each in made]) for name in names}
  return {**batch, "position": np.asarray(streams.words(np.arange(len(made))))}


def _flow(task: tasks.Task, clips: jax.Array, flow: jax.Array | None) -> jax.Array | None:
  """Returns the flow that the network reads, float32, or None if it reads none."""
  if flow is not None:
    return ops.flow.from_levels(flow)
  module = task.module
  if not module.graph.reads("flow"):
    return None
  frames = augment.normalize(clips, task.mean, task.std)
  return ops.flow.representation_flow(
    frames, iterations=module.flow_iterations, per_clip=module.flow_per_clip
  )


def colours(flow: Float[np.ndarray, "t h w 2"]) -> UInt8[np.ndarray, "t h w 3"]:
  """Returns flow as colours: white where nothing moves, full where it is fastest.

  Red is to the right, then round the wheel of hues by way of yellow, down, and cyan, left.

  >>> flow = np.array([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]).reshape(1, 1, 3, 2)
  >>> colours(flow)[0, 0].tolist()
  [[255, 0, 0], [255, 255, 255], [0, 255, 255]]
  """
  speed = np.linalg.norm(flow, axis=-1)
  fastest = speed.max()
  share = speed / fastest if fastest > 0 else speed
  turn = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1
  # Each of red, green, blue falls over a third of the wheel to either side of its own hue.
  away = np.abs((turn[..., None] - np.array([0, 1 / 3, 2 / 3]) + 0.5) % 1 - 0.5)
  hue = np.clip(2 - 6 * away, 0, 1)
  return np.rint(255 * (1 - share[..., None] * (1 - hue))).astype(np.uint8)


def _enlarged(clips: UInt8[np.ndarray, "n t h w 3"]) -> UInt8[np.ndarray, "n t H W 3"]:
  side = clips.shape[2]
  if side >= _SIDE:
    # Frames of films need no more to be judged by the eye.
    shrink = lambda frame: np.asarray(Image.fromarray(frame).resize((_SIDE, _SIDE)))  # noqa: E731
    return np.stack([np.stack([shrink(frame) for frame in clip]) for clip in clips])
  factor = -(-_SIDE // side)
  return clips.repeat(factor, 2).repeat(factor, 3)
