"""Children per hour of a search by how they are trained, and the share of time spent compiling.

  python benchmarks/search.py --children 16
  python benchmarks/search.py --proxy digits

The same networks, drawn from a space, are trained as a proxy task has it (`clutter`: the three
blocks of `mnas_micro` on cluttered digits; `digits`: the four of `mnas_tiny` on plain ones, in
which every network comes to 99 % in full)

  loop        one after the other, each by the one loop, compiled anew: what a search without any
              thought for it does
  shared      one after the other by programs that they share (effnets/search/shared.py), none of
              which is there when the first child starts
  known       the same children again: what a search comes to when its parts are known
  threads     the same, several at a time, each on its own part of the devices if there are several
  population  as many trainings of one network, different in seed, as one program
  one_shot    not one by one: weights of a network that holds them all are trained for `--shared`
              steps, in each through the masks of another network, and score every child

in one process, without the cache of compiled programs on disk. `tau` is Kendall's rank correlation
of a mode's accuracies with those of a full training, `--full` times as long, by known programs at
another seed; `tau_loop` that with the loop's.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
# Not what an earlier run has compiled.
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)

import jax
import ml_collections
import numpy as np

from effnets import configuration, training
from effnets.search import (
  population,
  proxy,
  recipes,
  rewards,
  settings,
  shared,
  sharing,
  spaces,
)

PROXIES = {
  "clutter": "experiments/search/table.py:target=180e3",
  "digits": "configs/search_mnasnet.py",
}
MODES = ("loop", "shared", "known", "threads", "population", "one_shot")


def main() -> None:
  """Measures and prints one line a mode, or JSON."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--proxy", choices=tuple(PROXIES), default="clutter")
  parser.add_argument("--children", type=int, default=12)
  parser.add_argument("--steps", type=int, default=0, help="0: the proxy's own")
  parser.add_argument("--full", type=int, default=4, help="times the steps; 0: no full training")
  parser.add_argument("--shared", type=int, default=0, help="0: three times the steps")
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--modes", default=",".join(MODES))
  parser.add_argument("--json", action="store_true")
  parsed = parser.parse_args()
  config = configuration.load(PROXIES[parsed.proxy])
  config.train.steps = steps = parsed.steps or config.train.steps
  space = spaces.create(config.search.space.name)
  rng = np.random.default_rng(0)
  points = [space.sample(rng) for _ in range(parsed.children)]
  modes = parsed.modes.split(",")
  rows = measure(config, space, points, parsed.threads, modes, parsed.shared or 3 * steps)
  compare(config, space, points, rows, parsed.full * steps)
  for row in rows:
    del row["accuracies"]
  if parsed.json:
    sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    return
  base = next((row["per_hour"] for row in rows if row["mode"] == "loop"), None)
  head = f"{'mode':12}{'children/h':>12}{'compiling':>12}{'ratio':>8}{'tau':>8}{'tau_loop':>10}"
  sys.stdout.write(head + "\n")
  for row in rows:
    ratio = f"{row['per_hour'] / base:.1f}" if base else ""
    tau, of_loop = ("" if row[n] is None else f"{row[n]:.2f}" for n in ("tau", "tau_loop"))
    line = f"{row['mode']:12}{row['per_hour']:12,.0f}{row['compiling']:12.0%}{ratio:>8}"
    sys.stdout.write(f"{line}{tau:>8}{of_loop:>10}\n")


def measure(config, space, points, threads, modes, steps):
  """Returns one row a mode; steps: of the weights that all share."""
  children = [proxy.child(config, space, tokens, 0) for tokens in points]
  groups = settings.device_groups(jax.local_devices(), threads)
  trainers = [shared.Shared(config, group[0]) for group in groups]
  if len({str(group[0]) for group in groups}) == 1:
    trainers = trainers[:1] * threads  # one device: threads share its programs too
  rows = []
  for mode in modes:
    started, compiling = time.perf_counter(), 0.0
    before = sum(t.compiling for t in {id(t): t for t in trainers}.values())
    accuracies = None
    if mode == "loop":
      found = [_loop(child) for child in children]
      compiling, accuracies = sum(s for s, _ in found), [a for _, a in found]
    elif mode in ("shared", "known"):
      accuracies = [trainers[0].train(child)["top1"] for child in children]
    elif mode == "threads":
      accuracies = _threads(trainers, children)
    elif mode == "one_shot":
      compiling, accuracies = _one_shot(config, points, steps)
    else:
      members = [population.Member(seed) for seed in range(len(children))]
      population.train(children[0], members)
    seconds = time.perf_counter() - started
    if mode in ("shared", "known", "threads"):
      after = sum(t.compiling for t in {id(t): t for t in trainers}.values())
      compiling = after - before
    rows.append(
      {
        "mode": mode,
        "per_hour": 3600 * len(children) / seconds,
        "compiling": min(1.0, compiling / seconds),
        "accuracies": accuracies,
      }
    )
    sys.stderr.write(f"{mode}: {seconds:.1f} s for {len(children)} children\n")
  return rows


def compare(config, space, points, rows, steps):
  """Adds `tau` and `tau_loop` to the rows; steps: of the full training."""
  full = None
  if steps:
    longer = ml_collections.ConfigDict(config.to_dict())
    longer.train.steps = steps
    trainer = shared.Shared(longer)
    full = [trainer.train(proxy.child(longer, space, tokens, 1))["top1"] for tokens in points]
    sys.stderr.write(f"full: {', '.join(f'{accuracy:.1%}' for accuracy in full)}\n")
  loop = next((row["accuracies"] for row in rows if row["mode"] == "loop"), None)
  for row in rows:
    own = row["accuracies"]
    row["tau"] = rewards.kendall(full, own) if full and own else None
    other = row["mode"] != "loop" and loop and own
    row["tau_loop"] = rewards.kendall(loop, own) if other else None


def _loop(child):
  split = child.data.split.validation
  seconds, accuracy = _trained(child, lambda result, _: result.figures[split]["top1"])
  jax.clear_caches()
  return seconds, accuracy


def _trained(config, look):
  """Returns seconds of compiling, and look(result, workdir) after a training by the one loop."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "run"
    found = look(training.train(config, path, name=""), path)
    spent = training.events.account(training.events.read(path / training.events.FILE))
  return spent.seconds.get("compile", 0.0), found


def _threads(trainers, children):
  accuracies, left, lock = [None] * len(children), list(range(len(children))), threading.Lock()

  def work(trainer):
    while True:
      with lock:
        if not left:
          return
        index = left.pop(0)
      accuracies[index] = trainer.train(children[index])["top1"]

  workers = [threading.Thread(target=work, args=(trainer,)) for trainer in trainers]
  for worker in workers:
    worker.start()
  for worker in workers:
    worker.join()
  return accuracies


def _one_shot(config, points, steps):
  """Returns seconds of compiling, and the accuracy of every point with weights that all share."""
  made = ml_collections.ConfigDict(config.to_dict())
  recipes.one_shot(made, long={})
  made.train.steps = steps
  # The controller idles: which networks are trained is drawn evenly.
  made.one_shot.update({"idle": 0.999})
  made.data.split.test = made.data.split.validation
  made.lock()
  return _trained(made, lambda _, folder: sharing.judge(made, folder, points))


if __name__ == "__main__":
  main()
