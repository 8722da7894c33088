"""Measures at embedded scale what a search with a teacher is worth to that teacher's students.

`python experiments/akd/measure.py`

Trains a teacher, searches without and with it at three seeds, trains the winners of both without
and with it (`get_config`), and writes `results.json` here. Resumable: what is finished is not done
again.
"""

import json
import pathlib
import subprocess
import sys
import time

import ml_collections

from effnets import card, configuration
from effnets.search import recipes

HERE = pathlib.Path(__file__).parent
RUN = pathlib.Path("runs/cards/akd")
SEEDS = (0, 1, 2)
TRIALS = 48
TARGET = 1.5e5
STEPS, TEACHER_STEPS = 400, 1000
TEACHER = "efficientnet_tiny"
# Search and how its winner is trained -> name on the card.
ARMS = {
  ("teacher", "taught"): "searched with the teacher, then taught",
  ("plain", "taught"): "searched without, then taught",
  ("teacher", "plain"): "searched with the teacher, then not taught",
  ("plain", "plain"): "searched without, then not taught",
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the experiment; `seed=`, `trials=` and `steps=` make another, such as a trial of it."""
  args = configuration.arguments(arg, seed=-1, trials=TRIALS, steps=STEPS, teacher=TEACHER_STEPS)
  config = configuration.base()
  recipes.clutter(config, "mnas_micro", target=TARGET)
  config.search.reward.form = "hard"
  config.search.algorithm.update({"name": "factorised"})
  config.search.algorithm.options.update({"batch": 8, "learning_rate": 0.2})
  config.search.trials = args.trials
  config.search.any_code = True
  model = {"name": TEACHER, "dropout_rate": 0.0, "drop_path_rate": 0.0, "momentum": 0.9}
  config.akd = ml_collections.ConfigDict(
    {
      "teachers": {
        "teacher": {"model": model, "train": {"steps": args.teacher}, "ema": {"decay": 0.99}}
      },
      "searches": "plain,teacher",
      "seeds": SEEDS if args.seed < 0 else (args.seed,),
      "top": 1,
      "retrain": {"train": {"steps": args.steps}, "ema": {"decay": 0.99}},
      "weight": 0.9,
      "temperature": 1.0,
      "ensemble": "probabilities",
      "matrix": {"students": 0, "within": 0.1},
      "transfer": {},
    }
  )
  return config.lock()


def main() -> None:
  """Runs what is missing and writes `results.json`."""
  started = time.perf_counter()
  subprocess.run(
    [
      *(sys.executable, "-m", "effnets.main", "--mode=search"),
      *(f"--config={__file__}", f"--workdir={RUN}"),
    ],
    check=True,
  )
  seconds = (time.perf_counter() - started) / len(SEEDS)
  found = json.loads((RUN / "akd.json").read_text(encoding="utf-8"))
  path = HERE / "results.json"
  if path.exists():
    seconds = max(seconds, *json.loads(path.read_text(encoding="utf-8"))["seconds"])
  path.write_text(json.dumps(results(found, seconds), indent=2) + "\n", encoding="utf-8")


def results(found: dict, seconds: float) -> dict:
  """Returns what the card shows of `akd.json`."""
  rows = {arm: found["students"][arm] for arm in ("teacher", "plain")}
  arms = {name: [row[how] for row in rows[arm]] for (arm, how), name in ARMS.items()}
  cost = {
    name: ", ".join(f"{row['madds'] / 1e3:.0f}k" for row in rows[arm])
    for (arm, _), name in ARMS.items()
  }
  weights = {
    name: ", ".join(f"{row['params'] / 1e3:.1f}k" for row in rows[arm])
    for (arm, _), name in ARMS.items()
  }
  taught, distilled, untaught, plain = ARMS.values()
  structure, teacher = found["structure"], found["teachers"]["teacher"]
  return {
    "title": "AKD (Liu et al. 2020, arXiv 1911.09074)",
    "claim": (
      "Of one teacher, the student that a search with that teacher finds is better than the one "
      "of a search without it that is distilled afterwards, at the same cost."
    ),
    "command": "python experiments/akd/measure.py\npython -m effnets.card akd",
    "setting": (
      f"`cluttered_digits` of 16 pixels; the teacher is {TEACHER} after {TEACHER_STEPS} steps "
      f"(test top-1 {teacher['top1']:.2%}); each search trains {TRIALS} children of the 512 "
      "networks of `mnas_micro` for 200 steps, by independent logits and the hard reward at "
      f"{TARGET / 1e3:.0f} thousand multiply-adds; the best of each is trained for {STEPS} steps "
      "without and with the teacher (weight 0.9, temperature 1). A seed is that of search and "
      "trainings; the teacher is one."
    ),
    "figure": "test top-1",
    "seeds": sorted({row["seed"] for row in rows["plain"]}),
    "arms": arms,
    "columns": {"MAdds": cost, "weights": weights},
    "comparisons": [[taught, distilled], [untaught, plain], [distilled, plain], [taught, untaught]],
    "decisive": 1,
    "sections": [
      {
        "title": "What the searches chose",
        "text": (
          f"Silhouettes on Hamming distance, best quarter of every search, {structure['networks']} "
          f"networks: by teacher {structure['by_arm']:+.3f}, by seed {structure['by_seed']:+.3f}. "
          "The teacher would leave a mark in the structure if the first were the larger."
        ),
      }
    ],
    "seconds": [seconds],
    "machine": card.machine(),
    "paper": {
      "command": "python -m effnets.main --mode=search --config=configs/akd.py:imagenet "
      "--workdir=DIR",
      "table": [
        ["ImageNet, MnasNet's space", "its abstract"],
        ["KD-guided search", "beats conventional search followed by distillation at every latency"],
      ],
    },
    "differences": [
      "A space of 512 networks, a teacher of thousands of weights, and searches of "
      f"{TRIALS} children; the paper's has 10,000 in MnasNet's space.",
      "Independent logits instead of the recurrent controller, which learns nothing in so few.",
      "The hard reward, so that students cost the same; the paper's is soft.",
    ],
  }


if __name__ == "__main__":
  main()
