"""Milliseconds per operator: this package's lowering, the compiler's own, and the memory's floor.

  python benchmarks/operators.py --batch 8

Each row is one layer shape of EfficientNet-B0 at 224 pixels, forward or forward plus all gradients.
`error` is the largest difference between the two lowerings over the largest value. `floor` is the
time to read every input and write every output of that row once, at the speed of a plain copy in
the same round, or to do its multiply-adds at that of a large matrix product, whichever is longer.
Rounds are interleaved, one timing of each; figures are medians.
"""

import argparse
import functools
import os
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from effnets import ops
from effnets.parallel import memory

# kind, input pixels, channels in, channels out, kernel, stride
_ROWS = (
  ("conv", 224, 3, 32, 3, 2),
  ("depthwise", 112, 32, 32, 3, 1),
  ("depthwise", 112, 96, 96, 3, 2),
  ("depthwise", 56, 144, 144, 3, 1),
  ("depthwise", 56, 144, 144, 5, 2),
  ("depthwise", 28, 240, 240, 5, 1),
  ("depthwise", 28, 240, 240, 3, 2),
  ("depthwise", 14, 480, 480, 3, 1),
  ("depthwise", 14, 672, 672, 5, 1),
  ("depthwise", 14, 672, 672, 5, 2),
  ("depthwise", 7, 1152, 1152, 5, 1),
  ("depthwise", 7, 1152, 1152, 3, 1),
  ("pointwise", 112, 16, 96, 1, 1),
  ("pointwise", 56, 144, 24, 1, 1),
  ("pointwise", 14, 80, 480, 1, 1),
  ("pointwise", 7, 1152, 320, 1, 1),
  ("norm + swish", 112, 96, 96, 0, 1),
  ("norm + swish", 56, 144, 144, 0, 1),
  ("norm + swish", 14, 672, 672, 0, 1),
)


def _row(kind: str, size: int, channels: int, outputs: int, kernel: int, stride: int, batch: int):
  """Returns (function of plain -> function of arrays, arrays, multiply-adds) of one row."""
  numbers = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(numbers.standard_normal(shape), jnp.float32)  # noqa: E731
  x = draw(batch, size, size, channels)
  if kind == "norm + swish":

    def build(plain):
      def run(x, scale, bias):
        mean, var = ops.moments(x, ops.Group())
        return ops.normalize(x, mean, var, scale, bias, activation="swish", plain=plain)

      return run

    return build, (x, draw(channels), draw(channels)), 0
  groups = channels if kind == "depthwise" else 1

  def build(plain):
    return functools.partial(ops.conv, stride=stride, groups=groups, plain=plain)

  taps = kernel * kernel * channels // groups
  products = batch * (-(-size // stride)) ** 2 * outputs * taps
  return build, (x, draw(kernel, kernel, channels // groups, outputs)), products


def _gradients(function):
  def run(arrays, cotangent):
    # A producer on both sides, as in a network: operands that are parameters have a fixed layout.
    y, pullback = jax.vjp(lambda x, *rest: function(x + 1.0, *rest), *arrays)
    return y, pullback(cotangent * 0.5)

  return jax.jit(run)


def _timed(function, *arguments) -> float:
  begin = time.perf_counter()
  jax.block_until_ready(function(*arguments))
  return time.perf_counter() - begin


def _difference(actual, expected) -> float:
  pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
  return max(float(jnp.abs(a - e).max() / jnp.abs(e).max()) for a, e in pairs)


def measure(row, batch: int, rounds: int) -> list[str]:
  """Returns the two table lines of one row: forward, and forward with gradients."""
  build, arrays, products = _row(*row, batch)
  output = jax.eval_shape(build(False), *arrays)
  cotangent = jnp.cos(jnp.arange(output.size, dtype=jnp.float32)).reshape(output.shape)
  copy, block = jax.jit(lambda x: x + 1.0), jnp.ones((1 << 21,), jnp.float32)
  matmul, square = jax.jit(jnp.dot), jnp.ones((512, 512), jnp.float32)
  lines = []
  nbytes = sum(a.nbytes for a in arrays)
  for name, arguments, traffic, work in (
    ("forward", arrays, nbytes + cotangent.nbytes, products),
    ("gradients", (arrays, cotangent), 2 * nbytes + 2 * cotangent.nbytes, 3 * products),
  ):
    ours, plain = (
      jax.jit(build(p)) if name == "forward" else _gradients(build(p)) for p in (False, True)
    )
    error = _difference(ours(*arguments), plain(*arguments))
    jax.block_until_ready((copy(block), matmul(square, square)))
    times = {key: [] for key in ("ours", "plain", "floor")}
    for _ in range(rounds):
      times["ours"].append(_timed(ours, *arguments))
      times["plain"].append(_timed(plain, *arguments))
      by_memory = _timed(copy, block) * traffic / (2 * block.nbytes)
      by_products = _timed(matmul, square, square) * work / 512**3
      times["floor"].append(max(by_memory, by_products))
    ms = {key: 1e3 * statistics.median(values) for key, values in times.items()}
    kind, size, channels, outputs, kernel, stride = row
    shape = f"{kind} {size}x{size} {channels}->{outputs}" + (
      f" {kernel}x{kernel}/{stride}" if kernel else ""
    )
    lines.append(
      f"{shape:40}{name:>10}{ms['ours']:9.2f}{ms['plain']:10.2f}{ms['plain'] / ms['ours']:8.1f}x"
      f"{ms['floor']:9.2f}{error:11.1e}"
    )
  return lines


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--batch", type=int, default=8, help="images")
  parser.add_argument("--rounds", type=int, default=7, help="timings of each")
  parser.add_argument("--only", default="", help="rows whose kind starts with this")
  options = parser.parse_args()
  memory.keep_freed_pages()
  write = sys.stdout.write
  write(
    f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, batch {options.batch}, float32, "
    f"median ms of {options.rounds}\n"
  )
  write(f"{'':40}{'':>10}{'ours':>9}{'plain':>10}{'ratio':>9}{'floor':>9}{'error':>11}\n")
  for row in _ROWS:
    if row[0].startswith(options.only):
      write("\n".join(measure(row, options.batch, options.rounds)) + "\n")
      sys.stdout.flush()


if __name__ == "__main__":
  main()
