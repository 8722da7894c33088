"""Children per hour of a search by how they are trained, and the share of time spent compiling.

  python benchmarks/search.py --children 12 --steps 100

The same networks, drawn from a space, are trained on the embedded digits

  loop        one after the other, each by the one loop, compiled anew: what a search without any
              thought for it does
  shared      one after the other by programs that they share (effnets/search/shared.py), none of
              which is there when the first child starts
  known       the same children again: what a search comes to when its parts are known
  threads     the same, several at a time, each on its own part of the devices if there are several
  population  as many trainings of one network, different in seed, as one program

in one process, without the cache of compiled programs on disk. `tau` is Kendall's rank correlation
of their accuracies with the loop's; children of different precision may swap ranks that are near.
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
import numpy as np

from effnets import configuration, training
from effnets.search import population, proxy, rewards, settings, shared, spaces

MODES = ("loop", "shared", "known", "threads", "population")


def main() -> None:
  """Measures and prints one line a mode, or JSON."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--children", type=int, default=12)
  parser.add_argument("--steps", type=int, default=100)
  parser.add_argument("--space", default="mnas_tiny")
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--modes", default=",".join(MODES))
  parser.add_argument("--json", action="store_true")
  parsed = parser.parse_args()
  config = configuration.load("configs/search_mnasnet.py")
  config.train.steps = parsed.steps
  space = spaces.create(parsed.space)
  rng = np.random.default_rng(0)
  points = [space.sample(rng) for _ in range(parsed.children)]
  rows = measure(config, space, points, parsed.threads, parsed.modes.split(","))
  if parsed.json:
    sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    return
  base = next((row["per_hour"] for row in rows if row["mode"] == "loop"), None)
  sys.stdout.write(f"{'mode':12}{'children/h':>12}{'compiling':>12}{'ratio':>8}{'tau':>8}\n")
  for row in rows:
    ratio = f"{row['per_hour'] / base:.1f}" if base else ""
    tau = "" if row["tau"] is None else f"{row['tau']:.2f}"
    line = f"{row['mode']:12}{row['per_hour']:12,.0f}{row['compiling']:12.0%}{ratio:>8}{tau:>8}\n"
    sys.stdout.write(line)


def measure(config, space, points, threads, modes):
  """Returns one row a mode."""
  children = [proxy.child(config, space, tokens, 0) for tokens in points]
  groups = settings.device_groups(jax.local_devices(), threads)
  trainers = [shared.Shared(config, group[0]) for group in groups]
  if len({str(group[0]) for group in groups}) == 1:
    trainers = trainers[:1] * threads  # one device: threads share its programs too
  rows, truth = [], None
  for mode in modes:
    started, compiling = time.perf_counter(), 0.0
    before = sum(t.compiling for t in {id(t): t for t in trainers}.values())
    if mode == "loop":
      found = [_loop(child) for child in children]
      compiling, accuracies = sum(s for s, _ in found), [a for _, a in found]
      truth = accuracies
    elif mode in ("shared", "known"):
      accuracies = [trainers[0].train(child)["top1"] for child in children]
    elif mode == "threads":
      accuracies = _threads(trainers, children)
    else:
      members = [population.Member(seed) for seed in range(len(children))]
      population.train(children[0], members)
      accuracies = None
    seconds = time.perf_counter() - started
    if mode in ("shared", "known", "threads"):
      after = sum(t.compiling for t in {id(t): t for t in trainers}.values())
      compiling = after - before
    tau = rewards.kendall(truth, accuracies) if truth and accuracies and mode != "loop" else None
    per_hour = 3600 * len(children) / seconds
    share = min(1.0, compiling / seconds)
    rows.append({"mode": mode, "per_hour": per_hour, "compiling": share, "tau": tau})
    sys.stderr.write(f"{mode}: {seconds:.1f} s for {len(children)} children\n")
  return rows


def _loop(child):
  with tempfile.TemporaryDirectory() as folder:
    result = training.train(child, pathlib.Path(folder) / "run", name="")
    spent = training.events.account(
      training.events.read(pathlib.Path(folder) / "run" / training.events.FILE)
    )
  jax.clear_caches()
  return spent.seconds.get("compile", 0.0), result.figures[child.data.split.validation]["top1"]


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


if __name__ == "__main__":
  main()
