"""Images per second of RandAugment on the device, beside PIL and timm where they are installed.

  python benchmarks/augment.py [--size 224] [--batch 64] [--repeats 5] [--operations]

Prints one line per contestant; the best of `repeats` runs taken in turn counts, so that a
disturbance of the machine hits all alike. The compiled policy is measured as the training step uses
it: on uint8 pixels on the device, draws included. PIL and timm run on one core on decoded pictures.
`--operations` adds the time of each operation.
"""

import argparse
import functools
import importlib.util
import random
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from effnets import augment, streams

_SETTINGS = {"layers": 2, "magnitude": 9, "operations": "code16"}
_GREY = (128, 128, 128)


def _pictures(batch: int, size: int) -> np.ndarray:
  """Returns smooth noise, uint8 (batch, size, size, 3): photo-like enough for timing."""
  coarse = np.random.default_rng(0).integers(0, 256, (batch, 8, 8, 3)).astype(np.uint8)
  resized = [Image.fromarray(c).resize((size, size), Image.Resampling.BICUBIC) for c in coarse]
  return np.stack([np.asarray(picture) for picture in resized])


def _keys(batch: int) -> jax.Array:
  key = streams.stream(jax.random.key(0), "augment")
  return streams.example_keys(key, streams.words(np.arange(batch)))


def _compiled(images: np.ndarray, execution: str) -> tuple[Callable[[], object], float]:
  """Returns a function that augments the batch once, and the seconds of its compilation."""
  policy = augment.RandAugment(**_SETTINGS, execution=execution)
  arguments = (jnp.asarray(images), _keys(len(images)))
  start = time.perf_counter()
  program = jax.jit(policy).lower(*arguments).compile()
  seconds = time.perf_counter() - start
  return lambda: program(*arguments).block_until_ready(), seconds


def _affine(matrix, picture):
  return picture.transform(
    picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=_GREY
  )


def _pil_cutout(half, picture):
  row, column = random.randrange(picture.height), random.randrange(picture.width)
  picture = picture.copy()
  picture.paste(_GREY, (column - half, row - half, column + half, row + half))
  return picture


def _pil_operations(size: int) -> list[Callable[[Image.Image], Image.Image]]:
  """Returns the 16 operations at magnitude 9 in PIL (levels differ by 1 here and there)."""
  rng = random.Random(0)

  def sign():
    return rng.choice((-1, 1))

  def enhance(kind):
    return lambda picture: kind(picture).enhance(1.72)

  added = [min(255, level + 99) if level < 128 else level for level in range(256)] * 3
  level = Image.new("RGB", (size, size), (min(255, size * size // 256),) * 3)
  return [
    ImageOps.autocontrast,
    ImageOps.equalize,
    ImageOps.invert,
    lambda p: p.rotate(27 * sign(), Image.Resampling.NEAREST, fillcolor=_GREY),
    lambda p: ImageOps.posterize(p, 3),
    lambda p: ImageOps.solarize(p, 230),
    enhance(ImageEnhance.Color),
    lambda p: Image.blend(level, p, 1.72),
    enhance(ImageEnhance.Brightness),
    enhance(ImageEnhance.Sharpness),
    lambda p: _affine((1, 0.27 * sign(), 0, 0, 1, 0), p),
    lambda p: _affine((1, 0, 0, 0.27 * sign(), 1, 0), p),
    lambda p: _affine((1, 0, 90 * sign(), 0, 1, 0), p),
    lambda p: _affine((1, 0, 0, 0, 1, 90 * sign()), p),
    functools.partial(_pil_cutout, 36),
    lambda p: p.point(added),
  ]


def _pil(images: np.ndarray) -> Callable[[], None]:
  """Returns a function that augments the batch with PIL."""
  pictures = [Image.fromarray(image) for image in images]
  operations = _pil_operations(images.shape[1])
  rng = random.Random(1)

  def run():
    for picture in pictures:
      for operation in rng.choices(operations, k=2):
        picture = operation(picture)
      np.asarray(picture)

  return run


def _timm(images: np.ndarray) -> Callable[[], None]:
  """Returns a function that augments the batch with timm's RandAugment, every operation applied."""
  from timm.data import auto_augment

  settings = {"translate_const": 100, "img_mean": _GREY}
  policy = auto_augment.rand_augment_transform("rand-m9-n2-p1.0", settings)
  pictures = [Image.fromarray(image) for image in images]

  def run():
    for picture in pictures:
      np.asarray(policy(picture))

  return run


def _per_operation(images: np.ndarray, repeats: int) -> dict[str, float]:
  """Returns microseconds per image and application of each operation in the loop over images."""
  layers, micros = 10, {}
  arguments = (jnp.asarray(images), _keys(len(images)))
  for name in augment.OPERATIONS:
    policy = augment.RandAugment(layers=layers, operations=(name,), execution="map")
    program = jax.jit(policy).lower(*arguments).compile()
    best = float("inf")
    for _ in range(repeats + 1):
      start = time.perf_counter()
      program(*arguments).block_until_ready()
      best = min(best, time.perf_counter() - start)
    micros[name] = best / len(images) / layers * 1e6
  return micros


def main(argv: list[str]) -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--size", type=int, default=224, help="side of the pictures in pixels")
  parser.add_argument("--batch", type=int, default=64, help="pictures per call")
  parser.add_argument("--repeats", type=int, default=5, help="runs of each contestant")
  parser.add_argument("--operations", action="store_true", help="also time each operation")
  options = parser.parse_args(argv)
  images = _pictures(options.batch, options.size)

  contestants, notes = {}, {}
  for execution in ("map", "chunks"):
    run, seconds = _compiled(images, execution)
    contestants[f"effnets {execution}"] = run
    notes[f"effnets {execution}"] = f"compiled in {seconds:.1f} s"
  contestants["PIL"] = _pil(images)
  if importlib.util.find_spec("timm"):
    contestants["timm"] = _timm(images)
  best = dict.fromkeys(contestants, float("inf"))
  for turn in range(options.repeats + 1):
    for name, run in contestants.items():
      start = time.perf_counter()
      run()
      if turn:  # the first turn warms up
        best[name] = min(best[name], time.perf_counter() - start)
  device = jax.devices()[0]
  lines = [
    f"RandAugment N=2 M=9 code16, {options.size} px, batch {options.batch}, "
    f"{device.platform} {device.device_kind}"
  ]
  for name, seconds in best.items():
    note = notes.get(name, "one core")
    lines.append(f"{name:16s} {options.batch / seconds:10.0f} images/s   {note}")
  if "timm" not in contestants:
    lines.append("timm             not installed")
  if options.operations:
    lines.append("microseconds per image and operation:")
    for name, micros in _per_operation(images, options.repeats).items():
      lines.append(f"  {name:16s} {micros:8.1f}")
  sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
  main(sys.argv[1:])
