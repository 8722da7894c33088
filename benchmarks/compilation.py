"""Seconds that networks take to trace and to compile, forward and training step, batch 8.

  python benchmarks/compilation.py --models efficientnet_b0,efficientnet_b4,efficientnet_b7

Wall and processor seconds, each at its model's own image size, without the persistent cache; no
arrays are made and nothing runs. The processor's seconds depend less on what else is running.
"""

import argparse
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import contestants
import jax
import jax.numpy as jnp

from effnets import models


def _programs(name: str, batch: int, plain: bool):
  """Yields (kind, function, its abstract arguments)."""
  module = models.create(name, plain=plain)
  size = module.image_size
  variables = models.abstract(module, image_size=size)
  images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
  labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
  yield "forward", lambda v, x: module.apply(v, x, train=False), (variables, images)

  def train(variables, images, labels):
    def loss(params):
      logits, new = module.apply(
        {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
      )
      picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
      return -picked.mean(), new

    (_, new), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    return jax.tree.map(lambda p, g: p - g, variables["params"], grads), new

  yield "training", train, (variables, images, labels)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--models", default="efficientnet_b0", help="comma list of names")
  parser.add_argument("--batch", type=int, default=8, help="images")
  parser.add_argument("--plain", action="store_true", help="the compiler's own convolutions")
  options = parser.parse_args()
  contestants.prepare()
  jax.config.update("jax_enable_compilation_cache", False)
  sys.stdout.write(f"{'':20}{'':10}{'trace':>14}{'compile':>16}   wall (processor) seconds\n")
  for name in options.models.split(","):
    for kind, function, arguments in _programs(name, options.batch, options.plain):
      marks = [(time.perf_counter(), time.process_time())]
      lowered = jax.jit(function).lower(*arguments)
      marks.append((time.perf_counter(), time.process_time()))
      lowered.compile()
      marks.append((time.perf_counter(), time.process_time()))
      cells = [
        f"{after[0] - before[0]:8.1f} ({after[1] - before[1]:5.1f})"
        for before, after in zip(marks, marks[1:], strict=False)
      ]
      sys.stdout.write(f"{name:20}{kind:10}" + "".join(cells) + "\n")
      sys.stdout.flush()


if __name__ == "__main__":
  main()
