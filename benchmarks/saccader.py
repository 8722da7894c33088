"""What more glimpses cost: one pass over the image serves all of them.

  python benchmarks/saccader.py [--model=saccader] [--batch=4]

Times a Saccader at several numbers of glimpses, and its network of patches alone on one patch after
another, which is what as many passes would cost; in turn, on this machine, with random weights.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import numpy as np

from effnets import evaluation, models

GLIMPSES = (1, 2, 6, 12)


def measure(model: str, batch: int, rounds: int) -> dict[str, float]:
  """Returns the median seconds of every way, by name; see the module."""
  module = models.create(model)
  variables = jax.device_put(models.init(module, 0))
  size, side = module.image_size, module.receptive_field
  images, patches = (
    jax.device_put(np.random.default_rng(0).random((batch, s, s, 3), np.float32))
    for s in (size, side)
  )
  body = {kind: tree["backbone"] for kind, tree in variables.items()}
  calls = {}
  for count in GLIMPSES:
    run = jax.jit(module.clone(glimpses=count).apply).lower(variables, images).compile()
    calls[f"{count} glimpses"] = lambda run=run: jax.block_until_ready(run(variables, images))
  once = jax.jit(module.body.module.apply).lower(body, patches).compile()
  whole = jax.jit(module.body.module.apply).lower(body, images).compile()
  calls["all patches"] = lambda: jax.block_until_ready(whole(body, images))
  for count in GLIMPSES[1:]:
    calls[f"{count} patches, one by one"] = lambda count=count: [
      jax.block_until_ready(once(body, patches)) for _ in range(count)
    ]
  return evaluation.timing.interleaved(calls, rounds=rounds)


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  known = [name for name in models.list_models("saccader*") if "classifier" not in name]
  parser.add_argument("--model", default="saccader_mini", choices=known)
  parser.add_argument("--batch", type=int, default=8, help="images at once")
  parser.add_argument("--rounds", type=int, default=20, help="of all, in turn")
  options = parser.parse_args()
  seconds = measure(options.model, options.batch, options.rounds)
  first = seconds[f"{GLIMPSES[0]} glimpses"]
  sys.stdout.write(f"{options.model}, batch {options.batch}, {jax.devices()[0].device_kind}\n")
  for name, value in seconds.items():
    sys.stdout.write(f"{name:26}{1000 * value:10.2f} ms{value / first:8.2f}x\n")


if __name__ == "__main__":
  main()
