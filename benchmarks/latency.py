"""Seconds per image of pairs of networks, one image at a time on one thread of a CPU.

  python benchmarks/latency.py --peer_python=/path/to/other/venv/bin/python

The EfficientNet paper's table 4: EfficientNet-B1 against ResNet-152 (there 5.7 times as fast) and
EfficientNet-B7 against GPipe's AmoebaNet of 557 million parameters (6.1 times). The latter is not
built here; `--large` takes instead a ResNet-152 that this project's own scaling widens to about as
many parameters, at the 480 pixels of that network. It needs about 8 GB of memory.

Each network lives in a process of its own, which is bound to one core and tells the compiler to use
one thread; they run in turn, and the others sleep while one runs. Networks are folded (see
`effnets.models.fold`), float32, with random weights; figures are medians, ratios are of medians.
With `--peer_python`, an interpreter with timm, timm's networks of the same names are timed too.
Source: Tan and Le 2019, table 4 (mean of 20 runs on a Xeon E5-2690).
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import contestants
import report


@dataclasses.dataclass(frozen=True)
class Member:
  """A network: its name here, its image size in pixels, and settings of `models.create`."""

  label: str
  name: str
  size: int
  settings: tuple[tuple[str, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two networks of like accuracy, and how many times as fast as `slow` the paper finds `fast`."""

  fast: Member
  slow: Member
  paper: float


B1 = Pair(
  Member("EfficientNet-B1", "efficientnet_b1", 240), Member("ResNet-152", "resnet152", 224), 5.7
)
B7 = Pair(
  Member("EfficientNet-B7", "efficientnet_b7", 600),
  Member("ResNet-152, 3.05 times as wide", "resnet152", 480, (("width", 3.05),)),
  6.1,
)


def work(contestant: str, member: Member) -> None:
  """Answers each line of standard input with the seconds of one forward pass, in JSON."""
  if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  if contestant.startswith("effnets"):
    contestants.prepare()
  flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
  answers = os.fdopen(os.dup(1), "w", buffering=1)
  os.dup2(2, 1)
  try:
    build = contestants.ALL[contestant]
    forward = build(member.name, 1, member.size, **dict(member.settings))["forward"]
    for _ in range(2):
      forward()
  except (ImportError, AttributeError, RuntimeError, ValueError, TypeError) as err:
    answers.write(json.dumps({"missing": f"{type(err).__name__}: {err}"[:200]}) + "\n")
    return
  answers.write(json.dumps({"versions": contestants.versions()}) + "\n")
  for _ in sys.stdin:
    begin = time.perf_counter()
    forward()
    answers.write(json.dumps({"seconds": time.perf_counter() - begin}) + "\n")


def measure(pair: Pair, contestant: str, interpreter: str, rounds: int) -> str:
  """Returns the lines of one pair in one framework."""
  times: dict[Member, list[float]] = {pair.fast: [], pair.slow: []}
  with contextlib.ExitStack() as stack:
    processes = {}
    for member in times:
      command = [interpreter, __file__, "--worker", contestant]
      command += ["--member", json.dumps(dataclasses.asdict(member))]
      process = processes[member] = stack.enter_context(
        subprocess.Popen(
          command,
          stdin=subprocess.PIPE,
          stdout=subprocess.PIPE,
          stderr=subprocess.DEVNULL,
          text=True,
        )
      )
      answer = process.stdout.readline()
      missing = json.loads(answer).get("missing") if answer else "the process ended"
      if missing:
        for other in processes.values():
          other.stdin.close()
        return f"{contestant:16} {member.label}: not run: {missing}"
    for _ in range(rounds):
      for member, process in processes.items():
        process.stdin.write("go\n")
        process.stdin.flush()
        times[member].append(json.loads(process.stdout.readline())["seconds"])
    for process in processes.values():
      process.stdin.close()
  fast, slow = (statistics.median(times[m]) for m in (pair.fast, pair.slow))
  lines = [
    f"{contestant:16} {member.label:32} {member.size} px "
    f"{1e3 * statistics.median(seconds):9.1f} ms (best {1e3 * min(seconds):.1f})"
    for member, seconds in times.items()
  ]
  return "\n".join([*lines, f"{contestant:16} ratio {slow / fast:.2f} (paper {pair.paper})"])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--large", action="store_true", help="EfficientNet-B7's pair instead")
  parser.add_argument("--rounds", type=int, default=20, help="timings of each network")
  parser.add_argument("--peer_python", default="", help="interpreter with timm")
  parser.add_argument("--out", default="", help="folder for the table")
  parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
  parser.add_argument("--member", default="", help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.worker:
    fields = json.loads(options.member)
    settings = tuple((key, value) for key, value in fields.pop("settings"))
    work(options.worker, Member(**fields, settings=settings))
    return
  pair = B7 if options.large else B1
  lines = [f"one image, one thread of one core, float32, {options.rounds} rounds"]
  sys.stdout.write(lines[0] + "\n")
  peers = [("timm", options.peer_python)] if options.peer_python and not options.large else []
  for contestant, interpreter in [("effnets folded", sys.executable), *peers]:
    lines.append(measure(pair, contestant, interpreter, options.rounds))
    sys.stdout.write(lines[-1] + "\n")
    sys.stdout.flush()
  if options.out:
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    report.write(
      "\n".join(lines) + "\n", out / f"latency_{'b7' if options.large else 'b1'}_cpu.txt"
    )


if __name__ == "__main__":
  main()
