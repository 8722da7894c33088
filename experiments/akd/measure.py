"""Measures at embedded scale what a search with a teacher is worth to that teacher's students.

`python experiments/akd/measure.py`

Trains a teacher; trains every network of a small space under it at three seeds, as
`experiments/search/table.py` has without it, and searches in both tables; trains what is found
without and with the teacher, at other seeds. Then the experiment of `configs/akd.py` in small:
searches without and with it whose children are trained, at three seeds, and their winners. Writes
`table.jsonl` and `results.json` here. Resumable: what is finished is not done again.
"""

import importlib.util
import itertools
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from effnets import card, configuration, errors
from effnets.search import akd, proxy, recipes, rewards, spaces

HERE = pathlib.Path(__file__).parent
RUN = pathlib.Path("runs/cards/akd")
TABLES = {"plain": HERE.parent / "search" / "table.jsonl", "teacher": HERE / "table.jsonl"}
SPACE = "mnas_micro"
TARGET = 1.5e5
REWARD = rewards.Reward("hard", {"madds": TARGET})
TEACHER, TEACHER_STEPS = "efficientnet_tiny", 1000
# Searches in tables: so many in each of a table's trainings of all networks.
SEARCHES, TRIALS = 20, 100
ALGORITHM = ("factorised", {"batch": 10, "learning_rate": 0.2})
AGAIN = (1000, 1001, 1002)  # seeds of the trainings that judge what was found
# Searches whose children are trained.
LIVE_SEEDS = (0, 1, 2)
LIVE_TRIALS, STEPS = 48, 400
# Search and how its winner is trained -> name on the card.
ARMS = {
  ("teacher", "taught"): "searched with the teacher, then taught",
  ("plain", "taught"): "searched without, then taught",
  ("teacher", "plain"): "searched with the teacher, then not taught",
  ("plain", "plain"): "searched without, then not taught",
}
Best = Mapping[str, Sequence[Sequence[tuple[int, ...]]]]
"""Search -> training of the table -> what each of its searches takes for the best."""
Found = Mapping[tuple[str, str], Sequence[float]]
"""Search and how its winner is trained -> a figure of every seed."""


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the live experiment; `seed=`, `trials=` and `steps=` make another, such as a trial.

  With `table` and a seed, the search that trains all networks of the space under the teacher.
  """
  args = configuration.arguments(
    arg,
    words=["table"],
    **{"seed": -1, "trials": LIVE_TRIALS, "steps": STEPS, "teacher": TEACHER_STEPS},
  )
  config = configuration.base()
  recipes.clutter(config, SPACE, target=TARGET)
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
      "seeds": LIVE_SEEDS if args.seed < 0 else (args.seed,),
      "top": 1,
      "retrain": {"train": {"steps": args.steps}, "ema": {"decay": 0.99}},
      "weight": 0.9,
      "temperature": 1.0,
      "ensemble": "probabilities",
      "matrix": {"students": 0, "within": 0.1},
      "transfer": {},
    }
  )
  if "table" in args.words:
    config.seed = max(args.seed, 0)
    config = akd.searched(config, {"teacher": f"run:{RUN / 'teachers' / 'teacher'}"})
    config.search.algorithm = ml_collections.ConfigDict({"name": "exhaustive", "options": {}})
    config.search.trials = spaces.create(SPACE).count_raw()
  return config.lock()


def tables() -> dict[str, proxy.Table]:
  """Returns the tables of all networks, trained without and under the teacher, by search.

  Raises: UserError if they are not of as many trainings.
  """
  spec = importlib.util.spec_from_file_location("table", HERE.parent / "search" / "table.py")
  table = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(table)
  space = spaces.create(SPACE)
  command = "python experiments/akd/measure.py"
  searches = [
    card.search(f"{__file__}:table,seed={seed}", RUN / "table" / str(seed)) for seed in table.SEEDS
  ]
  table.store(space, searches, TABLES["teacher"], command)
  found = {arm: proxy.Table(path, space) for arm, path in TABLES.items()}
  counts = {arm: len(each.trainings(space, next(space.points()))) for arm, each in found.items()}
  if len(set(counts.values())) > 1:
    raise errors.UserError(
      f"trainings of a network differ, {counts}; `{table.COMMAND}` makes them."
    )
  return found


def look_up(found: Mapping[str, Any]) -> Best:
  """Returns the best networks of the searches in each training of the tables."""
  space, (name, options) = spaces.create(SPACE), ALGORITHM
  trainings = len(found["plain"].trainings(space, next(space.points())))
  best: dict[str, list[list[tuple[int, ...]]]] = {}
  for arm, table in found.items():
    best[arm] = []
    for training in range(trainings):
      looked_up = lambda space, tokens, _: table(space, tokens, training)  # noqa: B023, E731
      trials = [
        card.look_up(looked_up, space, REWARD, name, seed, TRIALS, **options)
        for seed in range(SEARCHES)
      ]
      best[arm].append([max(each, key=lambda trial: trial[1])[0] for each in trials])
  return best


def judge(best: Best) -> dict[tuple[str, str], list[float]]:
  """Returns the test accuracies of what was found, means over `AGAIN` and the searches."""
  points = {point for of_arm in best.values() for found in of_arm for point in found}
  judged = {}
  for how, teachers in (
    ("taught", {"teacher": f"run:{RUN / 'teachers' / 'teacher'}"}),
    ("plain", {}),
  ):
    config = akd.searched(get_config(), teachers)
    # The searches are over: what they have not seen judges.
    config.data.split.update({"validation": "test", "test": "validation"})
    again = card.train_anew(config, points, AGAIN, RUN / f"anew_{how}.json")
    for arm, of_arm in best.items():
      judged[arm, how] = [
        float(np.mean([values["accuracy"] for point in found for values in again[point]]))
        for found in of_arm
      ]
  return judged


def ranks(found: Mapping[str, proxy.Table]) -> dict[str, Any]:
  """Returns the card's section of how networks rank with and without the teacher."""
  space = spaces.create(SPACE)
  points = list(space.points())
  worth = {
    arm: np.array([[v["accuracy"] for v in table.trainings(space, p)] for p in points]).T
    for arm, table in found.items()
  }
  pairs = list(itertools.permutations(range(len(worth["plain"])), 2))
  between = {
    (a, b): [rewards.kendall(worth[a][i], worth[b][j]) for i, j in pairs]
    for a, b in itertools.product(worth, worth)
  }
  names = {"plain": "without", "teacher": "under the teacher"}
  rows = [["Kendall's tau of accuracies at two seeds", *names.values()]]
  for a, name in names.items():
    rows.append([name, *(f"{np.mean(between[a, b]):.3f}" for b in names)])
  return {
    "title": "Do networks rank otherwise under a teacher?",
    "text": (
      f"Over all {len(points)} networks, means over pairs of different seeds. A teacher changes "
      "the ranking if networks trained without it and under it agree less than those trained "
      "alike."
    ),
    "table": rows,
  }


def main() -> int:
  """Runs what is missing and writes `results.json`; returns the exit status."""
  started = time.perf_counter()
  subprocess.run(
    [
      *(sys.executable, "-m", "effnets.main", "--mode=search"),
      *(f"--config={__file__}", f"--workdir={RUN}"),
    ],
    check=True,
  )
  seconds = [(time.perf_counter() - started) / len(LIVE_SEEDS)]
  path = HERE / "results.json"
  if path.exists():
    # Of a start that had less to do, the earlier figure.
    seconds = max(seconds, json.loads(path.read_text(encoding="utf-8"))["seconds"])
  live = json.loads((RUN / "akd.json").read_text(encoding="utf-8"))
  try:
    found = tables()
  except errors.UserError as error:
    sys.stderr.write(f"Error: {error}\n")
    return 2
  best = look_up(found)
  made = results(live, best, judge(best), seconds)
  made["sections"].append(ranks(found))
  path.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
  return 0


def _compared(found: Found) -> dict[str, Any]:
  """Returns arms and comparisons of a part of the card."""
  taught, distilled, untaught, plain = ARMS.values()
  return {
    "arms": {name: list(found[arm]) for arm, name in ARMS.items()},
    "comparisons": [[taught, distilled], [untaught, plain], [distilled, plain], [taught, untaught]],
    "decisive": 1,
  }


def results(
  live: Mapping[str, Any],
  best: Best,
  judged: Found,
  seconds: Sequence[float],
) -> dict[str, Any]:
  """Returns what the card shows.

  live: what `akd.json` holds. best: of `look_up`. judged: of `judge`. seconds: of the live part.
  """
  space = spaces.create(SPACE)
  plain = proxy.Table(TABLES["plain"], space)
  points = {arm: [p for found in of_arm for p in found] for arm, of_arm in best.items()}
  madds = {arm: [plain(space, p, 0)["madds"] for p in each] for arm, each in points.items()}
  rows = {arm: live["students"][arm] for arm in ("teacher", "plain")}
  structure, teacher = live["structure"], live["teachers"]["teacher"]
  name = ALGORITHM[0]
  return {
    "title": "AKD (Liu et al. 2020, arXiv 1911.09074)",
    "claim": (
      "Of one teacher, the student that a search with that teacher finds is better than the one "
      "of a search without it that is distilled afterwards, at the same cost."
    ),
    "command": "python experiments/akd/measure.py\npython -m effnets.card akd",
    "setting": (
      f"`cluttered_digits` of 16 pixels; the teacher is {TEACHER} after {TEACHER_STEPS} steps "
      f"(test top-1 {teacher['top1']:.2%}). All {space.count_unique()} networks of `{SPACE}` were "
      "trained for 200 steps without it (`experiments/search/table.jsonl`) and under it "
      "(`table.jsonl`; weight 0.9, temperature 1), at seeds of their own. In each such training of "
      f"all networks {SEARCHES} searches, {TRIALS} trials by independent logits (`{name}`), the "
      f"hard reward at {TARGET / 1e3:.0f} thousand multiply-adds; the best of each is trained "
      f"again without and with the teacher at {len(AGAIN)} seeds that the tables have not seen; "
      "means of test top-1 over the searches. A seed below is that of the tables."
    ),
    "figure": "test top-1, trained anew",
    "seeds": list(range(len(best["plain"]))),
    **_compared(judged),
    "columns": {
      "MAdds": {name: f"{np.mean(madds[arm]) / 1e3:.0f}k" for (arm, _), name in ARMS.items()},
      "different networks": {name: str(len(set(points[arm]))) for (arm, _), name in ARMS.items()},
    },
    "more": [
      {
        "title": "Searches that train",
        "claim": "The same, of searches whose children are trained.",
        "setting": (
          f"Each search trains {LIVE_TRIALS} children for 200 steps; the best of each is trained "
          f"for {STEPS} steps. A seed is that of search and trainings; the teacher is one."
        ),
        "figure": "test top-1",
        "seeds": sorted({row["seed"] for row in rows["plain"]}),
        "columns": {
          "MAdds": {
            name: ", ".join(f"{row['madds'] / 1e3:.0f}k" for row in rows[arm])
            for (arm, _), name in ARMS.items()
          },
          "weights": {
            name: ", ".join(f"{row['params'] / 1e3:.1f}k" for row in rows[arm])
            for (arm, _), name in ARMS.items()
          },
        },
        **_compared({(arm, how): [row[how] for row in rows[arm]] for arm, how in ARMS}),
      },
    ],
    "sections": [
      {
        "title": "What the searches chose",
        "text": (
          f"Silhouettes on Hamming distance, best quarter of every search that trains, "
          f"{structure['networks']} networks: by teacher {structure['by_arm']:+.3f}, by seed "
          f"{structure['by_seed']:+.3f}. The teacher would leave a mark in the structure if the "
          "first were the larger."
        ),
      }
    ],
    "seconds": list(seconds),
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
      f"A space of {space.count_unique()} networks and a teacher of thousands of weights; the "
      "paper's searches try 10,000 in MnasNet's space.",
      "Independent logits instead of the recurrent controller, which learns less in so few trials.",
      "The hard reward, so that students cost the same; the paper's is soft.",
    ],
  }


if __name__ == "__main__":
  sys.exit(main())
