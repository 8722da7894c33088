"""Images per second of whole networks, forward and training, beside other frameworks.

  python benchmarks/classification.py --models efficientnet_b0 --batch 8 --size 224 \
    --peer_python=/path/to/other/venv/bin/python

Contestants: `effnets`, `effnets plain` (the compiler's own convolutions and derivatives), `timm`
(PyTorch) and `keras` (TensorFlow), the last two from the interpreter given by `--peer_python`,
which needs `torch` and `timm` or `tensorflow`; one that is missing is said to be so. Each
contestant lives in a process of its own; they run in turn, and all others sleep while one runs. A
round is one timing of each, so a busy machine slows all of them alike; the ratios are of medians.
Training is forward, backward, plain SGD and the moving batch moments, float32, on random images.
"""

import argparse
import contextlib
import functools
import importlib.machinery
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import types

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_CONTESTANTS = ("effnets", "effnets plain", "timm", "keras")
_CLASSES, _RATE = 1000, 0.01


# ---- Workers: each returns (train, forward), functions that run one step -------------------------


def _inputs(batch: int, size: int):
  import numpy as np

  numbers = np.random.default_rng(0)
  images = numbers.standard_normal((batch, size, size, 3)).astype(np.float32)
  return images, numbers.integers(0, _CLASSES, batch)


def _effnets(name: str, batch: int, size: int, *, plain: bool):
  sys.path.insert(0, str(_ROOT))
  import jax
  import jax.numpy as jnp

  from effnets import models
  from effnets.parallel import memory

  memory.keep_freed_pages()
  module = models.create(name, num_classes=_CLASSES, plain=plain)
  variables = jax.tree.map(jnp.asarray, models.init(module, 0, image_size=size))
  images, labels = (jnp.asarray(a) for a in _inputs(batch, size))

  @jax.jit
  def forward(variables, images):
    return module.apply(variables, images, train=False)

  @functools.partial(jax.jit, donate_argnums=0)
  def train(variables, images, labels):
    def loss(params):
      logits, new = module.apply(
        {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
      )
      picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
      return -picked.mean(), new

    (value, new), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    params = jax.tree.map(lambda p, g: p - _RATE * g, variables["params"], grads)
    return {**variables, **new, "params": params}, value

  state = [jax.tree.map(jnp.copy, variables)]

  def train_once():
    state[0], value = train(state[0], images, labels)
    jax.block_until_ready((state[0], value))

  return train_once, lambda: jax.block_until_ready(forward(variables, images))


class _Anything(type):
  """Classes whose every attribute is another such class: enough to be imported from."""

  def __getattr__(cls, name):
    if name.startswith("__"):
      raise AttributeError(name)
    return _Anything(name, (), {})


class _StandIn(types.ModuleType):
  """A module with every name in it."""

  __path__: list[str] = []
  __version__ = "99.0.0"

  def __getattr__(self, name):
    if name.startswith("__"):
      raise AttributeError(name)
    return _Anything(name, (), {})


class _Finder:
  """Gives stand-ins for what timm imports for its data sets, which are not used here."""

  @staticmethod
  def find_spec(name, path=None, target=None):
    if name.split(".")[0] in ("torchvision", "PIL"):
      return importlib.machinery.ModuleSpec(name, _Finder, is_package=True)
    return None

  @staticmethod
  def create_module(spec):
    return _StandIn(spec.name)

  @staticmethod
  def exec_module(module):
    pass


def _timm(name: str, batch: int, size: int):
  import torch

  sys.meta_path.append(_Finder)  # last, so it is asked only for what is not installed
  import timm

  torch.set_num_threads(os.cpu_count())
  images, labels = _inputs(batch, size)
  layout = torch.channels_last
  images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=layout)
  labels = torch.from_numpy(labels)
  trained, fixed = (
    timm.create_model(name, num_classes=_CLASSES, drop_rate=0.0).to(memory_format=layout)
    for _ in range(2)
  )
  trained.train()
  fixed.eval()
  optimizer = torch.optim.SGD(trained.parameters(), lr=_RATE)

  def train():
    optimizer.zero_grad(set_to_none=True)
    torch.nn.functional.cross_entropy(trained(images), labels).backward()
    optimizer.step()

  def forward():
    with torch.inference_mode():
      fixed(images)

  return train, forward


def _keras(name: str, batch: int, size: int):
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("KERAS_BACKEND", "tensorflow")
  import keras
  import tensorflow as tf

  spelled = "EfficientNet" + name.removeprefix("efficientnet_").upper()
  build = getattr(keras.applications, spelled)
  shape = (size, size, 3)
  model = build(weights=None, classes=_CLASSES, input_shape=shape, classifier_activation=None)
  images, labels = (tf.constant(a) for a in _inputs(batch, size))
  optimizer = keras.optimizers.SGD(_RATE)
  optimizer.build(model.trainable_variables)

  @tf.function
  def forward():
    return model(images, training=False)

  @tf.function
  def train():
    with tf.GradientTape() as tape:
      logits = model(images, training=True)
      loss = tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
      )
    grads = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(grads, model.trainable_variables, strict=True))
    return loss

  return (lambda: train().numpy()), (lambda: forward().numpy())


def work(contestant: str, name: str, batch: int, size: int) -> None:
  """Answers commands from standard input with one JSON line each, until it closes."""
  answers = os.fdopen(os.dup(1), "w", buffering=1)
  os.dup2(2, 1)  # frameworks may print
  try:
    if contestant == "timm":
      train, forward = _timm(name, batch, size)
    elif contestant == "keras":
      train, forward = _keras(name, batch, size)
    else:
      train, forward = _effnets(name, batch, size, plain=contestant.endswith("plain"))
    begin = time.perf_counter()
    for step in (train, forward, train, forward):
      step()
    answers.write(json.dumps({"ready": time.perf_counter() - begin}) + "\n")
  except (ImportError, AttributeError, RuntimeError, ValueError) as err:
    answers.write(json.dumps({"missing": f"{type(err).__name__}: {err}"[:200]}) + "\n")
    return
  for line in sys.stdin:
    kind, count = line.split()
    step = {"train": train, "forward": forward}[kind]
    begin = time.perf_counter()
    for _ in range(int(count)):
      step()
    answers.write(json.dumps({"seconds": (time.perf_counter() - begin) / int(count)}) + "\n")


# ---- The parent: one contestant at a time --------------------------------------------------------


def _ask(process: subprocess.Popen, line: str | None = None) -> dict:
  if line is not None:
    process.stdin.write(line + "\n")
    process.stdin.flush()
  answer = process.stdout.readline()
  return json.loads(answer) if answer else {"missing": "the process ended"}


def compare(name: str, contestants: list[str], options: argparse.Namespace) -> str:
  """Returns the table of one model as text."""
  processes, notes = {}, {}
  with contextlib.ExitStack() as stack:
    for contestant in contestants:
      peer = not contestant.startswith("effnets")
      interpreter = options.peer_python if peer else sys.executable
      if not interpreter:
        notes[contestant] = "not run: no --peer_python"
        continue
      command = [interpreter, __file__, "--worker", contestant, "--models", name]
      command += ["--batch", str(options.batch), "--size", str(options.size)]
      process = stack.enter_context(
        subprocess.Popen(
          command,
          stdin=subprocess.PIPE,
          stdout=subprocess.PIPE,
          stderr=None if options.verbose else subprocess.DEVNULL,
          text=True,
        )
      )
      answer = _ask(process)
      if "missing" in answer:
        notes[contestant] = "not run: " + answer["missing"]
      else:
        processes[contestant] = process
    seconds = {(c, k): [] for c in processes for k in ("train", "forward")}
    for _ in range(options.rounds):
      for kind, count in (("train", 1), ("forward", 3)):
        for contestant, process in processes.items():
          seconds[contestant, kind].append(_ask(process, f"{kind} {count}")["seconds"])
    for process in processes.values():
      process.stdin.close()
  best = {
    kind: min(statistics.median(seconds[c, kind]) for c in processes)
    for kind in ("train", "forward")
    if processes
  }
  lines = [
    f"{name}, {options.size} px, batch {options.batch}, {os.cpu_count()} cores, "
    f"{options.rounds} rounds; images/s: median (best), and median over the fastest's",
    f"{'':16}{'training':>24}{'forward':>28}",
  ]
  for contestant in contestants:
    if contestant in notes:
      lines.append(f"{contestant:16}  {notes[contestant]}")
      continue
    cells = []
    for kind in ("train", "forward"):
      times = seconds[contestant, kind]
      median = statistics.median(times)
      rates = options.batch / median, options.batch / min(times), best[kind] / median
      cells.append("{:9.1f} ({:6.1f}) {:5.2f}".format(*rates))
    lines.append(f"{contestant:16}" + "    ".join(cells))
  return "\n".join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--models", default="efficientnet_b0", help="comma list of names")
  parser.add_argument("--batch", type=int, default=8, help="images per step")
  parser.add_argument("--size", type=int, default=224, help="pixels")
  parser.add_argument("--rounds", type=int, default=9, help="timings of each contestant")
  parser.add_argument("--contestants", default=",".join(_CONTESTANTS), help="comma list")
  parser.add_argument("--peer_python", default="", help="interpreter with the other frameworks")
  parser.add_argument("--verbose", action="store_true", help="show what the frameworks print")
  parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.worker:
    work(options.worker, options.models, options.batch, options.size)
    return
  for name in options.models.split(","):
    sys.stdout.write(compare(name, options.contestants.split(","), options) + "\n")


if __name__ == "__main__":
  main()
