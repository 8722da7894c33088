"""Images per second of whole networks, forward and training, beside other frameworks.

  python benchmarks/classification.py --models efficientnet_b0,mobilenetv3_large,mixnet_s \
    --batches 8,1 --peer_python=/path/to/other/venv/bin/python

Contestants: `effnets`; `effnets folded` (batch norm folded into the kernels, forward only);
`effnets plain` (the compiler's own convolutions and derivatives; not measured unless asked for);
`timm` (PyTorch), `keras` (TensorFlow) and `keras jax`, from the interpreter given by
`--peer_python`; one that is missing there is said to be so. For detectors, forward only and up to
their class and box predictions: `effdet`, and `torchvision` for `ssdlite_mobilenetv3_large`. Each
lives in a process of its own; they run in turn, a little apart, and all others sleep while one
runs. A round is one timing of each, the first of a round the last of the next, so a busy machine
slows all of them alike; the ratios are of medians, over the fastest peer. Training is
forward, backward, plain SGD and the moving batch moments, on random images; float32 on a CPU,
bfloat16 on a GPU. The table and a bar chart are written to `--out`.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time

import contestants
import report

KINDS = ("train", "forward")
_PAUSE = 0.3  # seconds in which the threads of the one before stop to spin


# ---- Workers -------------------------------------------------------------------------------------


def work(contestant: str, name: str, batch: int, size: int, kinds: list[str]) -> None:
  """Answers commands from standard input with one JSON line each, until it closes."""
  answers = os.fdopen(os.dup(1), "w", buffering=1)
  os.dup2(2, 1)  # frameworks may print
  try:
    steps = contestants.ALL[contestant](name, batch, size)
    steps = {kind: step for kind, step in steps.items() if kind in kinds}
    first = {}
    for kind, step in steps.items():
      begin = time.perf_counter()
      step()
      first[kind] = time.perf_counter() - begin
      step()
  except (ImportError, AttributeError, RuntimeError, ValueError) as err:
    answers.write(json.dumps({"missing": f"{type(err).__name__}: {err}"[:200]}) + "\n")
    return
  ready = {"first": first, "versions": contestants.versions(), "platform": contestants.platform()}
  answers.write(json.dumps(ready) + "\n")
  for line in sys.stdin:
    kind, count = line.split()
    steps[kind]()  # not timed: caches are cold and threads asleep after the pause
    begin = time.perf_counter()
    for _ in range(int(count)):
      steps[kind]()
    answers.write(json.dumps({"seconds": (time.perf_counter() - begin) / int(count)}) + "\n")


# ---- The parent: one contestant at a time --------------------------------------------------------


def _ask(process: subprocess.Popen, line: str | None = None) -> dict:
  if line is not None:
    process.stdin.write(line + "\n")
    process.stdin.flush()
  answer = process.stdout.readline()
  return json.loads(answer) if answer else {"missing": "the process ended"}


def _interpreter(contestant: str, peer_python: str) -> str:
  """Returns the interpreter of a contestant, or "" if there is none."""
  if contestant.startswith("effnets"):
    return sys.executable
  # Keras on JAX can be compared on the very same JAX, where both are installed.
  if contestant == "keras jax" and importlib.util.find_spec("keras"):
    return sys.executable
  return peer_python


def measure(
  name: str, batch: int, options: argparse.Namespace
) -> tuple[dict[tuple[str, str], list[float]], dict[str, str], dict[str, dict]]:
  """Returns the seconds by (contestant, kind), why some did not run, and what the others said."""
  processes, notes, said, seconds = {}, {}, {}, {}
  with contextlib.ExitStack() as stack:
    for contestant in options.contestants:
      interpreter = _interpreter(contestant, options.peer_python)
      if not interpreter:
        notes[contestant] = "not run: no --peer_python"
        continue
      command = [interpreter, __file__, "--worker", contestant, "--models", name]
      command += ["--batches", str(batch), "--size", str(options.size)]
      command += ["--kinds", ",".join(options.kinds)]
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
        processes[contestant], said[contestant] = process, answer
    order = list(processes)
    for _ in range(options.rounds):
      for kind in options.kinds:
        count = max(1, (8 if kind == "train" else 24) // (8 * batch))
        for contestant in order:
          if kind in said[contestant]["first"]:
            time.sleep(_PAUSE)
            answer = _ask(processes[contestant], f"{kind} {count}")
            seconds.setdefault((contestant, kind), []).append(answer["seconds"])
      order.append(order.pop(0))  # nobody always follows the same one
    for process in processes.values():
      process.stdin.close()
  return seconds, notes, said


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  listed = lambda text: text.split(",")  # noqa: E731
  parser.add_argument("--models", type=listed, default=["efficientnet_b0"], help="comma list")
  parser.add_argument(
    "--batches", type=lambda text: [int(b) for b in text.split(",")], default=[8], help="comma list"
  )
  parser.add_argument("--size", type=int, default=224, help="pixels")
  parser.add_argument("--rounds", type=int, default=9, help="timings of each contestant")
  parser.add_argument("--kinds", type=listed, default=list(KINDS), help="comma list")
  parser.add_argument(
    "--contestants", type=listed, default=list(contestants.USUAL), help="comma list"
  )
  parser.add_argument("--peer_python", default="", help="interpreter with the other frameworks")
  parser.add_argument("--out", default="", help="folder for the table and the bar chart")
  parser.add_argument("--verbose", action="store_true", help="show what the frameworks print")
  parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
  options = parser.parse_args()
  for key, known in (("contestants", contestants.ALL), ("kinds", KINDS)):
    for value in getattr(options, key):
      if value not in known:
        parser.error(f"--{key}: {value!r} is none of {', '.join(known)}.")
  if options.worker:
    work(options.worker, options.models[0], options.batches[0], options.size, options.kinds)
    return
  measured, tables, versions, platform = {}, [], set(), "cpu"
  for name in options.models:
    for batch in options.batches:
      seconds, notes, said = measure(name, batch, options)
      measured[name, batch] = seconds
      versions |= {part for s in said.values() for part in s["versions"].split(", ") if part}
      platform = next((s["platform"] for s in said.values()), platform)
      title = (
        f"{name}, {options.size} px, batch {batch}, {contestants.cores()} cores, "
        f"{options.rounds} rounds; images/s: median (best round), and that over the best peer's"
      )
      tables.append(
        report.table(
          title, seconds, options.contestants, kinds=options.kinds, batch=batch, notes=notes
        )
      )
      sys.stdout.write(tables[-1] + "\n")
      first = ", ".join(
        f"{c} {k} {s:.1f} s" for c, a in said.items() for k, s in a["first"].items()
      )
      tables[-1] += f"\nfirst step, with compilation: {first}"
      sys.stdout.flush()
  if options.out:
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    heading = f"{platform}, {', '.join(sorted(versions))}"
    report.write("\n\n".join([heading, *tables]) + "\n", out / f"classification_{platform}.txt")
    report.chart(
      measured,
      options.contestants,
      out / f"classification_{platform}.png",
      kinds=options.kinds,
      heading=heading,
    )


if __name__ == "__main__":
  main()
