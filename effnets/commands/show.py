"""`--mode=show`: what the augmentation of a config does to pictures, to look at."""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image
from rich import console as rich_console
from rich import markup

from effnets import augment, configuration, data, errors, streams, tasks, training, workdirs
from effnets.commands import predicted, show_clips, show_scenes

FILE = "plots/augment.png"

_ROWS = 6
_VERSIONS = 8
# Pixels of a tile's side, if that is the image size; others are enlarged or reduced.
_TILE = (96, 192)


def show(config: Any, workdir: str) -> None:
  """Draws pictures of the training data and eight augmented versions of each.

  The versions are what a training with this seed could see: random crop, the policy, mixup and
  CutMix, whose partner is in another row. What the policy consists of is printed. The picture is
  `plots/augment.png` in `workdir`. Where the data of the config is a TFDS data set that is not
  prepared here, sample photos and digits take its place.

  Raises: UserError for a setting that is wrong, or data that cannot be read.
  """
  configuration.check(config)
  if config.task.name == "text":
    raise errors.UserError("--mode=show is for pictures; config.task.name is 'text'.")
  if config.task.name in ("prediction", "video"):
    how = predicted.show if config.task.name == "prediction" else show_clips.show
    told = how(config, workdir)
    rich_console.Console().print(told, soft_wrap=True, highlight=False, markup=False)
    return
  if tasks.transform(config, training=False):
    show_scenes.show(config, workdir)
    return
  policy = tasks.policy(config)
  source, instead = _source(config)
  originals, inputs = _pictures(config, source)
  versions = _augmented(config, policy, inputs)
  if jax.process_index():
    return
  tiles = np.concatenate([originals[:, None], versions], axis=1)
  with workdirs.writing(workdir, FILE, binary=True) as file:
    augment.write_png(file, augment.grid(_resized(tiles)))
  console = rich_console.Console()
  lines = [f"{workdir}/{FILE}: on the left {len(originals)} pictures of {source.name}"]
  lines[0] += f", {_VERSIONS} versions of each beside it."
  lines += [f"Instead of config.data.source: {instead}"] if instead else []
  lines += _settings(config) or ["No augmentation is switched on."]
  console.print("\n".join(map(markup.escape, lines)), soft_wrap=True, highlight=False)


@dataclasses.dataclass(frozen=True)
class _Embedded:
  """Pictures that come with the installation: two photos, parts of them and two digits."""

  name: str = "the embedded sample photos and digits"
  image_size: int | None = None

  def __len__(self) -> int:
    return _ROWS

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {"image": _embedded()[index]}


@functools.cache
def _embedded() -> tuple[UInt8[np.ndarray, "h w 3"], ...]:
  from sklearn import datasets

  photos = datasets.load_sample_images().images
  digits = data.open_source("digits", "train")
  parts = [photo[:, photo.shape[1] // 3 :] for photo in photos]
  return (*photos, *parts, digits[3]["image"], digits[7]["image"])


def _source(config: Any) -> tuple[Any, str]:
  """Returns the training data, or the embedded pictures and why."""
  try:
    return training.inputs.evaluation(config, "train"), ""
  except errors.UserError as error:
    # What has a path, or comes with the package, is there or is a mistake.
    if not data.sources.is_tfds(config.data.source):
      raise
    return _Embedded(), str(error)


def _pictures(
  config: Any, source: Any
) -> tuple[UInt8[np.ndarray, "r h w 3"], UInt8[np.ndarray, "r n h w 3"]]:
  """Returns pictures spread over the source as they are evaluated, and as the device gets them."""
  plain = training.inputs.evaluation_transform(config, source)
  random = training.inputs.training_transform(config, source)
  originals, versions = [], []
  for row, index in enumerate(np.linspace(0, len(source) - 1, _ROWS).astype(int)):
    try:
      example = source[int(index)]
    except data.sources.Unreadable as error:
      raise errors.UserError(f"{error} cannot be read.") from error
    originals.append(_transformed(config, plain, example, row))
    versions.append(
      [_transformed(config, random, example, j * _ROWS + row) for j in range(_VERSIONS)]
    )
  return np.stack(originals), np.stack([np.stack(row) for row in versions])


def _transformed(config, transform, example, position):
  if transform is None:
    return example["image"]
  return transform(example, lambda name: data.draws.generator(config.seed, name, position))["image"]


def _augmented(
  config: Any, policy: augment.policy.Policy | None, images: UInt8[np.ndarray, "r n h w 3"]
) -> UInt8[np.ndarray, "r n h w 3"]:
  """Returns the images after the policy and what mixes them, column by column a batch's order."""
  rows, versions = images.shape[:2]
  batch = np.swapaxes(images, 0, 1).reshape(-1, *images.shape[2:])
  task, root = config.task, jax.random.key(config.seed)
  positions = streams.words(np.arange(len(batch)))
  # Partners stand in one column; a larger group would only change which ones.
  group = task.mixup_group if rows % task.mixup_group == 0 else 2

  @jax.jit
  def change(batch):
    keys = {
      name: streams.example_keys(streams.stream(root, name), positions)
      for name in ("augment", "mixup", "cutmix")
    }
    batch = batch if policy is None else policy(batch, keys["augment"])
    targets = np.ones((len(batch), 1), np.float32)
    mixed, _ = augment.mix(
      batch,
      targets,
      keys,
      mixup_alpha=task.mixup,
      cutmix_alpha=task.cutmix,
      cutmix_probability=task.cutmix_probability,
      group=group,
    )
    return mixed

  changed = np.rint(np.asarray(change(batch))).astype(np.uint8)
  return np.swapaxes(changed.reshape(versions, rows, *images.shape[2:]), 0, 1)


def _resized(tiles: UInt8[np.ndarray, "r n h w 3"]) -> UInt8[np.ndarray, "r n H W 3"]:
  side = tiles.shape[2]
  small, large = _TILE
  target = side * math.ceil(small / side) if side < small else min(side, large)
  if target == side:
    return tiles
  how = Image.Resampling.NEAREST if target > side else Image.Resampling.BOX
  flat = tiles.reshape(-1, *tiles.shape[2:])
  flat = [np.asarray(Image.fromarray(t).resize((target, target), how)) for t in flat]
  return np.stack(flat).reshape(*tiles.shape[:2], target, target, 3)


def _settings(config: Any) -> list[str]:
  """Returns lines that say what is switched on, and with which arguments."""
  given, task = config.augment.to_dict(), config.task
  lines = []
  for name in ("crop", "flip", "colour", "shift", "cutout"):
    if given.get(name):
      lines.append(f"{name}: {given[name]}")
  if given.get("erasing", {}).get("probability"):
    lines.append(f"erasing: {given['erasing']}")
  if task.mixup:
    lines.append(f"mixup: alpha {task.mixup:g}")
  if task.cutmix:
    lines.append(f"cutmix: alpha {task.cutmix:g}, probability {task.cutmix_probability:g}")
  if given["autoaugment"]["policy"]:
    policy = augment.AutoAugment(**given["autoaugment"])
    lines.append(f"autoaugment {policy.policy}: one line of these for each image, p probability")
    lines += [
      "  " + ", then ".join(f"{_operation(n, v)} p {p:g}" for n, v, p in sub)
      for sub in policy.table()
    ]
  if given["randaugment"]["layers"]:
    policy = augment.RandAugment(**given["randaugment"])
    of_these = f"{policy.layers} of these for each image"
    lines.append(f"randaugment N={policy.layers} M={policy.magnitude:g}: {of_these}")
    lines += [f"  {_operation(name, value)}" for name, value in policy.table()]
  return lines


def _operation(name: str, value: float | None) -> str:
  if value is None:
    return name
  sign = "±" if augment.OPERATIONS[name].signed and value else ""
  return f"{name} {sign}{value:.4g}"
