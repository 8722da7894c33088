"""Measures at embedded scale what multi-task training, teachers and teacher annealing bring.

`python experiments/bam/measure.py`

Trains the matrix of `get_config` at five seeds, single networks, one for all tasks, and students of
these with fixed and with annealed targets, and writes `results.json` here. Resumable: finished
trainings are not run again.
"""

import json
import pathlib
import sys

import ml_collections

from effnets import card, configuration
from effnets.data import toy_glue
from effnets.pipelines import bam

RUNS = pathlib.Path("runs/cards/bam")
# Run -> its name on the card.
ARMS = {
  "single": "single tasks",
  "multi": "multi-task",
  "single_multi_teacher": "single to multi, teachers alone",
  "single_multi_fixed": "single to multi, half gold",
  "single_multi": "single to multi, annealed (BAM)",
}
SMALL = ("rte", "mrpc", "sts")


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the matrix's config; `seeds=N` and `steps=N` make it shorter."""
  args = configuration.arguments(arg, seeds=5, steps=0)
  config = configuration.load("configs/bam.py")
  with config.unlocked():
    config.pipeline.runs = ",".join(ARMS)
    config.pipeline.seeds = tuple(range(args.seeds))
    if args.steps:
      config.train.steps = args.steps
      config.pipeline.single.train.steps = args.steps
  return config.lock()


def main(arguments: list[str]) -> None:
  """Runs what is missing and writes `results.json`; arguments: of the config, for a trial."""
  colon = ":" + ",".join(arguments) if arguments else ""
  workdir = RUNS.with_name("bam_trial") if arguments else RUNS
  result = card.run(f"{__file__}{colon}", workdir)
  rows, tasks = result["runs"], result["tasks"]

  def arms(task: str) -> dict[str, list[float]]:
    return {words: bam.by_task(rows[name], task, tasks) for name, words in ARMS.items()}

  names = list(ARMS.values())
  single, multi, teachers, fixed, annealed = names
  small = {
    words: [sum(values) / len(values) for values in zip(*(arms(t)[words] for t in SMALL))]  # noqa: B905
    for words in names
  }
  results = {
    "title": "BAM (Clark et al. 2019, arXiv 1907.04829)",
    "claim": (
      "A network of all tasks that learns from networks of single tasks, whose share of the target "
      "goes to nothing, is better than both, and than one with a fixed target."
    ),
    "command": "python experiments/bam/measure.py\npython -m effnets.card bam",
    "setting": (
      f"Eight tasks of an invented language of {len(toy_glue.vocabulary())} word pieces, from 80 "
      "(RTE) to 3,000 (MNLI) training examples, 400 test examples each; a BERT of two layers and "
      "64 features from random weights; tasks drawn in proportion to size^0.75; teachers have the "
      "student's seed, which draws initial weights and order."
    ),
    "figure": "test average of tasks, as GLUE's",
    "seeds": result["seeds"],
    "arms": arms("average"),
    "columns": {
      "RTE, MRPC, STS-B": {
        words: f"{100 * sum(values) / len(values):.1f} %" for words, values in small.items()
      },
    },
    "seconds": [
      sum(rows[name]["seconds"][i] for name in ARMS) for i in range(len(result["seeds"]))
    ],
    "comparisons": [
      [multi, single],
      [annealed, single],
      [annealed, multi],
      [annealed, fixed],
      [annealed, teachers],
    ],
    "decisive": 3,
    "machine": card.machine(),
    "paper": {
      "command": (
        "python -m effnets.main --config=configs/bam.py:glue,folder=GLUE --workdir=runs/glue"
      ),
      "table": [
        ["BERT-large, dev sets, median", "average", "RTE", "MRPC", "MNLI"],
        ["Single", "84.0", "70.4", "88.0", "86.6"],
        ["Multi", "85.5", "82.1", "88.0", "86.5"],
        ["Single to Single", "84.3", "70.0", "88.7", "86.8"],
        ["Multi to Multi", "85.6", "82.0", "88.1", "86.7"],
        ["Single to Multi (BAM)", "86.0", "82.8", "89.3", "87.0"],
      ],
    },
    "differences": [
      "Networks start from random weights, the paper's from BERT-large; so single tasks with few "
      "examples have little to teach here.",
      "The language is invented, its words have one meaning, and tasks share more than GLUE's do.",
      "Steps (of 250, 300, 450) and warm-up (of 10 and 25 %) were chosen by dev averages of seeds "
      "that are not here.",
      "Five seeds, the paper has 20 or more.",
    ],
  }
  folder = workdir if arguments else pathlib.Path(__file__).parent
  path = folder / "results.json"
  path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
  main(sys.argv[1:])
