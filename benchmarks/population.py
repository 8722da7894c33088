"""Updates of several seeds as one `vmap`ped population, beside the same seeds in turn.

  python benchmarks/population.py --config=configs/efficientnet.py --seeds=5

Both run the training's own update on the same batches; RandAugment is switched off, since its
switch would become a select under `vmap`. The population does in one program what the seeds do in
as many calls of a smaller one, which is compiled once for all of them.
"""

import argparse
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import contestants
import jax
import numpy as np

from effnets import configuration, errors, models, training
from effnets.training import state


def _member(ready: Any, seed: int) -> tuple[Any, dict[str, np.ndarray]]:
  """Returns the first state and batch of the run at `seed`."""
  size = ready.task.image_size
  variables = models.init(ready.task.module, seed, image_size=size)
  examples = [ready.examples.stream[i] for i in range(ready.examples.batch_size)]
  batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
  return state.create(variables, ready.optimizer, seed=seed, average=False), batch


def _seconds(run: Callable[[], Any]) -> float:
  begun = time.perf_counter()
  jax.block_until_ready(run())
  return time.perf_counter() - begun


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--config", default="configs/efficientnet.py")
  parser.add_argument("--seeds", type=int, default=5, help="how many are trained")
  parser.add_argument("--rounds", type=int, default=5, help="of both, in turn")
  options = parser.parse_args()
  contestants.prepare()
  try:
    config = configuration.load(options.config)
  except errors.UserError as error:
    parser.error(str(error))
  with config.unlocked():
    config.augment.randaugment.layers, config.ema.decay = 0, 0.0
  ready = training.prepare(config)
  update = training.assembly.program(config, ready).update
  states, batches = zip(*(_member(ready, s) for s in range(options.seeds)), strict=True)
  stacked = [jax.tree.map(lambda *x: np.stack(x), *trees) for trees in (states, batches)]

  compiled, lines = {}, []
  for name, function, arguments in (
    ("seeds in turn", update, (states[0], (), batches[0])),
    ("population", jax.vmap(update, in_axes=(0, None, 0)), (stacked[0], (), stacked[1])),
  ):
    begun = time.perf_counter()
    compiled[name] = jax.jit(function).lower(*arguments).compile()
    lines.append(f"{name:16}{time.perf_counter() - begun:10.1f} s to compile")
  runs = {
    "seeds in turn": lambda: [
      compiled["seeds in turn"](s, (), b)[0] for s, b in zip(states, batches, strict=True)
    ],
    "population": lambda: compiled["population"](stacked[0], (), stacked[1])[0],
  }
  seconds = {name: [] for name in runs}
  for _ in range(options.rounds + 1):
    for name, run in runs.items():
      seconds[name].append(_seconds(run))
  medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
  images = options.seeds * ready.examples.batch_size
  for name, line in zip(medians, lines, strict=True):
    sys.stdout.write(f"{line}{images / medians[name]:10.0f} images/s\n")
  ratio = medians["seeds in turn"] / medians["population"]
  sys.stdout.write(f"population over seeds in turn: {ratio:.2f}x\n")


if __name__ == "__main__":
  main()
