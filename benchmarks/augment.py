"""Images per second of RandAugment and AutoAugment on the device, beside PIL, timm and torchvision.

  python benchmarks/augment.py [--size 224] [--batch 64] [--rounds 9] [--operations]
    [--peer_python=/path/to/other/venv/bin/python]

One line per contestant and policy: images per second, median and best of `rounds`; the same per
second of processor time, which other programs on the same cores disturb less; and the medians over
those of this project's loop over images. The contestants run in turn and the others sleep
meanwhile, so that a busy machine slows all alike; ratios mean more than rates. The compiled policy
is measured as the training step uses it: on uint8 pixels on the device, draws included. The others
work on decoded pictures and give arrays: `PIL` is this project's operations written for it; `timm`
and `torchvision` are those of this interpreter, or of `--peer_python` (one that is missing is said
to be so), with every operation of RandAugment applied and nearest-neighbour sampling.
`--operations` adds the time of each operation.
"""

import argparse
import contextlib
import functools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

_POLICIES = {"randaugment": "RandAugment N=2 M=9", "autoaugment": "AutoAugment v0"}
_PEERS = ("timm", "torchvision")
_RANDAUGMENT = {"layers": 2, "magnitude": 9, "operations": "code16"}
_GREY = (128, 128, 128)


def _pictures(batch: int, size: int) -> np.ndarray:
  """Returns smooth noise, uint8 (batch, size, size, 3): photo-like enough for timing."""
  coarse = np.random.default_rng(0).integers(0, 256, (batch, 8, 8, 3)).astype(np.uint8)
  resized = [Image.fromarray(c).resize((size, size), Image.Resampling.BICUBIC) for c in coarse]
  return np.stack([np.asarray(picture) for picture in resized])


def _keys(batch: int):
  import jax

  from effnets import streams

  key = streams.stream(jax.random.key(0), "augment")
  return streams.example_keys(key, streams.words(np.arange(batch)))


def _compiled(
  images: np.ndarray, policy: str, execution: str
) -> tuple[Callable[[], object], float]:
  """Returns a function that augments the batch once, and the seconds of its compilation."""
  import jax
  import jax.numpy as jnp

  from effnets import augment

  if policy == "randaugment":
    function = augment.RandAugment(**_RANDAUGMENT, execution=execution)
  else:
    function = augment.AutoAugment("v0", execution=execution)
  arguments = (jnp.asarray(images), _keys(len(images)))
  start = time.perf_counter()
  program = jax.jit(function).lower(*arguments).compile()
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


def _peer(images: np.ndarray, library: str, policy: str) -> Callable[[], None]:
  """Returns a function that augments the batch with timm or torchvision."""
  if library == "timm":
    from timm.data import auto_augment

    settings = {"img_mean": _GREY, "interpolation": Image.Resampling.NEAREST}
    if policy == "randaugment":
      function = auto_augment.rand_augment_transform(
        "rand-m9-n2-p1.0", {**settings, "translate_const": 100}
      )
    else:
      function = auto_augment.auto_augment_transform("v0", {**settings, "translate_const": 250})
  else:
    from torchvision.transforms import v2

    # Its M counts 31 steps; the policy is that of reduced ImageNet.
    function = (
      v2.RandAugment(2, 9, fill=128) if policy == "randaugment" else v2.AutoAugment(fill=128)
    )
  pictures = [Image.fromarray(image) for image in images]

  def run():
    for picture in pictures:
      np.asarray(function(picture))

  return run


def _work(library: str, policy: str, batch: int, size: int) -> None:
  """Answers each line of the standard input with the seconds of one run."""
  answers = os.fdopen(os.dup(1), "w", buffering=1)
  os.dup2(2, 1)  # whatever the library prints is no answer
  try:
    run = _peer(_pictures(batch, size), library, policy)
    run()
  except (ImportError, AttributeError, RuntimeError, ValueError) as err:
    answers.write(json.dumps({"missing": f"{type(err).__name__}: {err}"[:100]}) + "\n")
    return
  answers.write(json.dumps({}) + "\n")
  for _ in sys.stdin:
    answers.write(json.dumps({"seconds": _timed(run)}) + "\n")


def _ask(process: subprocess.Popen) -> dict:
  answer = process.stdout.readline()
  return json.loads(answer) if answer else {"missing": "the process ended"}


def _timed(run: Callable[[], object]) -> tuple[float, float]:
  """Returns seconds, and seconds of this process's processor time."""
  start, used = time.perf_counter(), time.process_time()
  run()
  return time.perf_counter() - start, time.process_time() - used


def _asked(process: subprocess.Popen) -> tuple[float, float]:
  process.stdin.write("\n")
  process.stdin.flush()
  return _ask(process)["seconds"]


def _compare(policy: str, options: argparse.Namespace) -> list[str]:
  """Returns the table of one policy as lines."""
  images = _pictures(options.batch, options.size)
  contestants, notes = {}, {}
  with contextlib.ExitStack() as stack:
    for execution in ("map", "chunks"):
      run, seconds = _compiled(images, policy, execution)
      contestants[f"effnets {execution}"] = functools.partial(_timed, run)
      notes[f"effnets {execution}"] = f"compiled in {seconds:.1f} s"
    if policy == "randaugment":
      contestants["PIL"] = functools.partial(_timed, _pil(images))
    for library in _PEERS:
      command = [options.peer_python or sys.executable, __file__, "--worker", f"{library} {policy}"]
      command += ["--batch", str(options.batch), "--size", str(options.size)]
      process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
      )
      stack.callback(process.stdin.close)
      answer = _ask(process)
      notes[library] = answer.get("missing", "one core")
      if "missing" not in answer:
        contestants[library] = functools.partial(_asked, process)
    seconds = {name: [] for name in contestants}
    for turn in range(options.rounds + 1):
      for name, run in contestants.items():
        took = run()
        if turn:  # the first turn warms up
          seconds[name].append(took)
  lines = [f"{_POLICIES[policy]}: images/s, per processor second, and ratios"]
  first = [statistics.median(column) for column in zip(*seconds["effnets map"], strict=True)]
  for name in (*contestants, *(n for n in notes if n not in contestants)):
    if name not in seconds:
      lines.append(f"  {name:16s} not run: {notes[name]}")
      continue
    cells = []
    for column, base in zip(zip(*seconds[name], strict=True), first, strict=True):
      median, best = statistics.median(column), min(column)
      rates = f"{options.batch / median:7.0f} ({options.batch / best:5.0f})"
      cells.append(f"{rates} {base / median:5.2f}")
    lines.append(f"  {name:16s}{'   '.join(cells)}   {notes.get(name, 'one core')}")
  return lines


def _per_operation(images: np.ndarray, rounds: int) -> dict[str, float]:
  """Returns microseconds per image and application of each operation in the loop over images."""
  import jax
  import jax.numpy as jnp

  from effnets import augment

  layers, micros = 10, {}
  arguments = (jnp.asarray(images), _keys(len(images)))
  for name in augment.OPERATIONS:
    policy = augment.RandAugment(layers=layers, operations=(name,), execution="map")
    program = jax.jit(policy).lower(*arguments).compile()
    best = float("inf")
    for _ in range(rounds + 1):
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
  parser.add_argument("--rounds", type=int, default=9, help="timings of each contestant")
  parser.add_argument("--policies", default=",".join(_POLICIES), help="comma list")
  parser.add_argument("--operations", action="store_true", help="also time each operation")
  parser.add_argument("--peer_python", default="", help="interpreter with timm or torchvision")
  parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
  options = parser.parse_args(argv)
  if options.worker:
    _work(*options.worker.split(), options.batch, options.size)
    return
  import jax

  device = jax.devices()[0]
  lines = [
    f"{options.size} px, batch {options.batch}, {device.platform} {device.device_kind}, "
    f"{os.cpu_count()} cores, {options.rounds} rounds"
  ]
  for policy in options.policies.split(","):
    lines += _compare(policy, options)
  if options.operations:
    lines.append("microseconds per image and operation:")
    images = _pictures(options.batch, options.size)
    for name, micros in _per_operation(images, options.rounds).items():
      lines.append(f"  {name:16s} {micros:8.1f}")
  sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
  main(sys.argv[1:])
