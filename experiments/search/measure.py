"""Measures MnasNet's controller against random search and evolution, on a table of all networks.

`python experiments/search/measure.py`

Searches at twenty seeds in `table.jsonl`, which `table.py` has made, retrains what was found at
other seeds, searches once by every method with training in place of the table, and with weights
that all networks share, and writes `results.json` and `curves.png` here. Resumable: what is trained
is not trained again.
"""

import itertools
import json
import pathlib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from effnets import card, configuration, errors
from effnets.evaluation import comparison
from effnets.search import lut, proxy, rewards, sharing, spaces

HERE = pathlib.Path(__file__).parent
TABLE = HERE / "table.jsonl"
# Latencies of layers, and how their sums fare; the first is the reward's.
LUTS = (HERE / "lut.json", HERE / "lut_onnx.json", HERE / "lut_tflite.json")
RUNS = pathlib.Path("runs/cards/search")
SPACE = "mnas_micro"
SEEDS = tuple(range(20))
TRIALS = 200
AT = (25, 50, 100, 200)
DECISIVE = 100
LIVE = 2000  # the seed of the searches that train
AGAIN = (1000, 1001, 1002)  # of the trainings that judge what was found
ONE_SHOT = (0, 1, 2, 3, 4)
REWARD = rewards.Reward("soft", {"latency": 0.08})
# Name on the card -> algorithm and settings.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
  "PPO, LSTM of 100": ("ppo", {"batch": 10, "learning_rate": 0.005}),
  "REINFORCE, LSTM of 100": ("reinforce", {"batch": 10, "learning_rate": 0.005}),
  "independent logits": ("factorised", {"batch": 10, "learning_rate": 0.2}),
  "regularised evolution": ("evolution", {"population": 20, "tournament": 10}),
  "random": ("random", {}),
}
CONTROLLER, RANDOM = next(iter(METHODS)), "random"


def load(path: pathlib.Path = TABLE) -> tuple[Any, proxy.Table]:
  """Returns the space and its table. Raises: UserError if there is none, or not of all networks."""
  space = spaces.create(SPACE)
  if not path.exists():
    raise errors.UserError(f"there is no {path}; `python experiments/search/table.py` makes it.")
  table = proxy.Table(path, space)
  if len(table) != space.count_unique():
    raise errors.UserError(
      f"{path} has {len(table)} of {space.count_unique()} networks; "
      "`python experiments/search/table.py` trains the others."
    )
  return space, table


def search(
  space: Any, table: proxy.Table, seed: int, name: str, **settings: Any
) -> list[tuple[tuple[int, ...], float]]:
  """Returns tokens and reward of every trial of a serial search, `TRIALS` of them.

  A network is worth what its trainings in the table come to in the mean.
  """
  return card.look_up(table.mean, space, REWARD, name, seed, TRIALS, **settings)


def retrain(points: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], list[float]]:
  """Returns the rewards of networks trained anew at the seeds `AGAIN`."""
  config = configuration.load(str(HERE / "table.py"))
  found = card.train_anew(config, points, AGAIN, RUNS / "anew.json")
  return {tokens: [REWARD(values) for values in of_seed] for tokens, of_seed in found.items()}


def live(name: str, **settings: Any) -> list[tuple[tuple[int, ...], float]]:
  """Returns tokens and reward of `DECISIVE` trials of a search whose children are trained."""
  flags = [f"--config.search.algorithm.options.{key}={value}" for key, value in settings.items()]
  config = f"{HERE / 'table.py'}:algorithm={name},seed={LIVE},trials={DECISIVE}"
  records = card.search(config, RUNS / "live" / name, flags)
  return [(record.tokens, record.reward) for record in records]


def confirmed(
  every: Mapping[tuple[int, ...], float],
  found: Mapping[str, Sequence[tuple[tuple[int, ...], float]]],
  trials: Mapping[str, Sequence[Sequence[tuple[tuple[int, ...], float]]]],
) -> dict[str, Any]:
  """Returns the card's section of searches that train, beside those that look up.

  Args: every: the table's rewards. found: method -> trials of the search that trains. trials: as of
  `results`.
  """
  rows = [
    [
      f"{DECISIVE} trials",
      "best reward, trained",
      "by the table",
      "later half, trained",
      "by the table",
      "rank of the best",
    ]
  ]
  ranked = sorted(every.values(), reverse=True)
  pairs = {}
  for method, own in found.items():
    looked_up = [[reward for _, reward in of_seed[:DECISIVE]] for of_seed in trials[method]]
    rows.append(
      [
        method,
        f"{max(reward for _, reward in own):.2%}",
        comparison.shown([max(values) for values in looked_up]),
        f"{np.mean([reward for _, reward in own[DECISIVE // 2 :]]):.2%}",
        comparison.shown([float(np.mean(values[DECISIVE // 2 :])) for values in looked_up]),
        str(1 + ranked.index(every[best(own, len(own))])),
      ]
    )
    pairs |= dict(own)
  tau = rewards.kendall(list(pairs.values()), [every[tokens] for tokens in pairs])
  return {
    "title": "Searches that train",
    "text": (
      "One search by every method whose children are trained, at a seed that the table has not "
      f"seen, beside the searches in the table. Over the {len(pairs)} networks that they trained, "
      f"Kendall's tau between what a network was worth there and in the table is {tau:.2f}; the "
      "last column is the table's rank of what the search takes for the best."
    ),
    "table": rows,
  }


def timed(tables: Sequence[lut.Table]) -> dict[str, Any]:
  """Returns the card's section of tables of latency."""
  head = ["runtime, one thread", "median network", "R²", "Kendall's tau", "error", "steady", "load"]
  rows = [head]
  for table in tables:
    check = table.check
    rows.append(
      [
        str(table.about["runtime"]),
        f"{np.median(check.measured) * 1e3:.0f} µs",
        *(f"{check.r2:.3f}", f"{check.tau:.2f}", f"{check.error * 1e3:.1f} µs"),
        *(f"{check.steady:.0%}", f"{check.load:.1f}"),
      ]
    )
  return {
    "title": "The tables of latency",
    "text": (
      f"Sums of separately measured layers on a line through {tables[0].check.networks} random "
      f"networks that were measured whole, one picture at a time, on {tables[0].about['device']}: "
      "the rank correlation is that of sums and measurements, the error in root mean square. A "
      "network is steady if runs of ten milliseconds spread by at most 5 %. The first is the "
      "reward's:"
    ),
    "table": rows,
  }


def weights_shared(space: Any, table: proxy.Table) -> dict[str, Any]:
  """Returns the card's section of one-shot searches, judged by the table."""
  accuracies = [table.mean(space, point)["accuracy"] for point in space.points()]
  rows = [
    ["seed", "rank of what it found", "its accuracy", "tau over all", "rank of the best score"]
  ]
  for seed in ONE_SHOT:
    config = configuration.load(f"configs/one_shot.py:seed={seed}")
    folder = RUNS / "one_shot" / str(seed)
    found = tuple(card.share(f"configs/one_shot.py:seed={seed}", folder)["tokens"])
    scores = sharing.judge(config, folder / "shared", space.points())
    target, slope = config.one_shot.target, config.one_shot.slope
    gaps = [abs(table.mean(space, point)["madds"] / target - 1) for point in space.points()]
    worth, scored = (
      {p: a + slope * gap for p, a, gap in zip(space.points(), values, gaps, strict=True)}
      for values in (accuracies, scores)
    )
    rank = {p: 1 + place for place, p in enumerate(sorted(worth, key=worth.get, reverse=True))}
    rows.append(
      [
        str(seed),
        str(rank[found]),
        f"{table.mean(space, found)['accuracy']:.2%}",
        f"{rewards.kendall(accuracies, scores):.2f}",
        str(rank[max(scored, key=scored.get)]),
      ]
    )
  return {
    "title": "Weights that all share",
    "text": (
      f"`configs/one_shot.py`: {config.train.steps:,} steps of one network that holds all "
      f"{len(accuracies)}, at five seeds; its reward is accuracy less 0.1 · abs(MAdds / "
      f"{target / 1e3:.0f}k - 1). Below: the rank of what it found by that reward in the table, "
      f"its accuracy there (best {max(accuracies):.2%}, median {np.median(accuracies):.2%}), "
      "Kendall's tau between the accuracies of all networks with shared weights and in the table, "
      "and the rank of the network that the shared weights themselves score best."
    ),
    "table": rows,
  }


def _agreement(space: Any, table: proxy.Table) -> str:
  """Returns a sentence about the trainings in a table, if there are several of each network."""
  every = [[REWARD(v) for v in table.trainings(space, point)] for point in space.points()]
  if len(every[0]) < 2:
    return ""
  columns = itertools.combinations(zip(*every, strict=True), 2)
  tau = np.mean([rewards.kendall(*pair) for pair in columns])
  return (
    f"A network is worth the mean of {len(every[0])} trainings, any two of which rank the networks "
    f"with a Kendall's tau of {tau:.2f}. "
  )


def best(trials: Sequence[tuple[tuple[int, ...], float]], count: int) -> tuple[int, ...]:
  """Returns the tokens of the best of the first `count` trials, the earlier one of equals."""
  return max(trials[:count], key=lambda trial: trial[1])[0]


def draw(curves: Mapping[str, np.ndarray], top: float, path: pathlib.Path) -> None:
  """Draws the best reward so far of every method, with standard errors, to the PNG file `path`."""
  from matplotlib import figure
  from matplotlib.backends import backend_agg

  made = figure.Figure(figsize=(6.4, 4.0), layout="constrained")
  backend_agg.FigureCanvasAgg(made)
  axes = made.subplots()
  for name, values in curves.items():
    mean, error = values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))
    trials = np.arange(1, len(mean) + 1)
    axes.plot(trials, mean, label=name)
    axes.fill_between(trials, mean - error, mean + error, alpha=0.2)
  axes.axhline(top, color="0.5", linestyle=":", label="best of the table")
  axes.set(xlabel="trials", ylabel="best reward so far, mean ± s.e.", xscale="log")
  axes.legend(fontsize=8)
  made.savefig(path, dpi=120)


def main() -> int:
  """Searches, retrains what is missing, writes `results.json`; returns the exit status."""
  try:
    space, table = load()
  except errors.UserError as error:
    sys.stderr.write(f"Error: {error}\n")
    return 2
  trials, seconds = {}, np.zeros(len(SEEDS))
  for method, (name, settings) in METHODS.items():
    trials[method] = []
    for place, seed in enumerate(SEEDS):
      started = time.perf_counter()
      trials[method].append(search(space, table, seed, name, **settings))
      seconds[place] += time.perf_counter() - started
  made = results(space, table, trials, seconds.tolist(), HERE)
  every = {point: REWARD(table.mean(space, point)) for point in space.points()}
  trained = {method: live(name, **settings) for method, (name, settings) in METHODS.items()}
  made["sections"].append(confirmed(every, trained, trials))
  made["sections"].append(weights_shared(space, table))
  made["sections"].append(timed([lut.load(path) for path in LUTS]))
  (HERE / "results.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
  return 0


def results(
  space: Any,
  table: proxy.Table,
  trials: Mapping[str, Sequence[Sequence[tuple[tuple[int, ...], float]]]],
  seconds: Sequence[float],
  folder: pathlib.Path,
) -> dict[str, Any]:
  """Returns what the card shows, and draws `curves.png` into a folder.

  trials: method -> seed -> the trials of `search`.
  """
  every = {point: REWARD(table.mean(space, point)) for point in space.points()}
  ranked = sorted(every, key=every.get, reverse=True)
  rank = {point: place for place, point in enumerate(ranked, 1)}
  # A cell space takes one block's choices for all blocks.
  size = len(space) // 3
  cells = [
    point for point in space.points() if len({point[:size], point[size:-size], point[-size:]}) == 1
  ]
  cell = max(cells, key=every.get)
  rewards_ = {
    method: np.array([[reward for _, reward in of_seed] for of_seed in seeds])
    for method, seeds in trials.items()
  }
  curves = {method: np.maximum.accumulate(values, 1) for method, values in rewards_.items()}
  draw(curves, every[ranked[0]], folder / "curves.png")
  chosen = {m: [best(of_seed, DECISIVE) for of_seed in seeds] for m, seeds in trials.items()}
  points = [cell, ranked[0], *(point for points in chosen.values() for point in points)]
  again = retrain(points)
  judged = {
    method: [float(np.mean(again[point])) for point in found] for method, found in chosen.items()
  }
  shown = comparison.shown
  rows = [["best reward so far", *(f"{count} trials" for count in AT)]]
  rows += [[m, *(shown(values[:, c - 1]) for c in AT)] for m, values in curves.items()]
  ranks = [["rank of the best", *(f"{count} trials" for count in AT)]]
  ranks += [
    [m, *(shown([rank[best(of_seed, c)] for of_seed in seeds], ".1f") for c in AT)]
    for m, seeds in trials.items()
  ]
  means = [["reward of what is proposed", *(f"trials {c // 2 + 1} to {c}" for c in AT)]]
  means += [
    [m, *(shown(values[:, c // 2 : c].mean(1)) for c in AT)] for m, values in rewards_.items()
  ]
  unique = {
    method: {
      count: float(np.mean([len({tokens for tokens, _ in s[:count]}) for s in seeds]))
      for count in AT
    }
    for method, seeds in trials.items()
  }
  latencies = [table.mean(space, point)["latency"] * 1e3 for point in space.points()]
  low, high = min(latencies), max(latencies)
  return {
    "title": "MnasNet's search (Tan et al. 2019, arXiv 1807.11626)",
    "claim": (
      "A recurrent controller trained by PPO on accuracy and cost in one reward finds better "
      "networks than random search does in as many trials."
    ),
    "command": (
      "python -m effnets.search.lut --space=mnas_micro --image_size=16 --num_classes=10 "
      "--out=experiments/search/lut.json\n"
      "python -m effnets.search.lut --space=mnas_micro --image_size=16 --num_classes=10 "
      "--runtime=onnx --out=experiments/search/lut_onnx.json\n"
      "python -m effnets.search.lut --space=mnas_micro --image_size=16 --num_classes=10 "
      "--runtime=tflite --out=experiments/search/lut_tflite.json\n"
      "python experiments/search/table.py\npython experiments/search/measure.py\n"
      "python -m effnets.card search"
    ),
    "setting": (
      f"All {len(table)} networks of `{SPACE}` (three blocks, each of operation, kernel and "
      f"squeeze-excitation; {low:.0f} to {high:.0f} microseconds) were trained for 200 steps "
      "on `cluttered_digits` of 16 pixels (`table.jsonl`), so every proposal is looked up and none "
      "is the nearest of others. Reward: hold-out accuracy × (latency / 80 microseconds)^-0.07; "
      "latency is a picture's on one thread of a processor, by a table of layers. "
      f"{_agreement(space, table)}"
      f"{len(SEEDS)} seeds of each search. Below: the best reward after {DECISIVE} trials; the "
      f"best of the table is {every[ranked[0]]:.2%}, its median "
      f"{np.median(list(every.values())):.2%}."
    ),
    "figure": f"best reward after {DECISIVE} trials",
    "seeds": list(SEEDS),
    "arms": {method: values[:, DECISIVE - 1].tolist() for method, values in curves.items()},
    "columns": {
      f"different networks in {DECISIVE} trials": {
        method: f"{counts[DECISIVE]:.0f}" for method, counts in unique.items()
      }
    },
    "comparisons": [[method, RANDOM] for method in METHODS if method != RANDOM],
    "decisive": 1,
    "more": [
      {
        "title": "What was found, trained anew",
        "claim": "What the controller finds is better at other seeds of the training too.",
        "setting": (
          f"The best network of each search after {DECISIVE} trials, trained at "
          f"{len(AGAIN)} seeds that the table has not seen; means of the same reward."
        ),
        "figure": "reward, trained anew",
        "arms": judged,
        "comparisons": [[method, RANDOM] for method in METHODS if method != RANDOM],
      },
      {
        "title": "Blocks that differ",
        "claim": (
          "The factorised hierarchical space, whose blocks differ, holds better networks than the "
          "cell space, whose blocks are all the same."
        ),
        "setting": (
          f"The cell space is {len(cells)} of the {len(table)} networks; its best by the table "
          f"(reward {every[cell]:.2%}, rank {rank[cell]}) against the best of all, each trained "
          f"anew at {len(AGAIN)} seeds."
        ),
        "figure": "reward, trained anew",
        "seeds": list(AGAIN),
        "arms": {"factorised hierarchical": again[ranked[0]], "cell": again[cell]},
        "comparisons": [["factorised hierarchical", "cell"]],
      },
    ],
    "sections": [
      {
        "title": "Over the trials",
        "text": "![Best reward so far](curves.png)\n\nThe best reward so far:",
        "table": rows,
      },
      {"title": "Its rank among all", "table": ranks},
      {
        "title": "What is proposed",
        "text": "The mean reward of the later half of the trials; the controller learns, whether "
        "or not the best one it has seen is better:",
        "table": means,
      },
    ],
    "seconds": list(seconds),
    "machine": card.machine(),
    "paper": {
      "command": "python -m effnets.main --mode=search --config=configs/search_mnasnet.py:imagenet "
      "--workdir=DIR",
      "table": [
        ["reward and space (its Table 5)", "latency on Pixel 1", "ImageNet top-1"],
        ["accuracy alone, cell space", "183 ms", "74.0"],
        ["with latency, cell space", "100 ms", "72.0"],
        ["with latency, factorised hierarchical", "78 ms", "75.2"],
      ],
    },
    "tried": [
      "One training of each network, so that a search sees one seed: after 100 trials PPO was "
      "ahead of random search by +1.81 % +- 0.32 % in the table, and by -0.62 % +- 0.68 % trained "
      "anew, since the best of such a table is its luckiest; the best of the cell space was 6.86 % "
      "+- 1.01 % ahead of the best of all. Hence the mean of three, which was decided after that.",
    ],
    "differences": [
      "512 networks and 100 to 200 trials, not 10^13 and 8,000; learning rates and batches of the "
      "controllers are larger than the paper's, which learn nothing in so few; they and "
      "evolution's were chosen on made-up rewards of the same networks.",
      "Latency is that of one thread of a server's processor, not of a phone, and of networks so "
      "small that a call counts as much as a layer.",
      "The paper shows no random search beside its controller; the comparison is this project's.",
      "A seed is that of a search. All search in one table and find few different networks, so the "
      "standard errors say nothing of another table.",
      "The same network proposed again is one more trial here, though no more training; random "
      "search proposes none twice.",
    ],
  }


if __name__ == "__main__":
  sys.exit(main())
