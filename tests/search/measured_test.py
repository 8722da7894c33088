"""`experiments/search`: a table has every network of its space, and searches only look them up.

And `experiments/akd`: what its card compares.
"""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from effnets import configuration, errors
from effnets.evaluation import cards
from effnets.search import cost, proxy, settings, spaces
from effnets.search.algorithms import Proposal
from effnets.search.study import Record, State

ROOT = pathlib.Path(__file__).parents[2]
SPACE = spaces.create("mnas_micro")


PLAIN = {
  "title": "A paper",
  "claim": "New beats old.",
  "command": "python measure.py",
  "setting": "Digits.",
  "figure": "test AP",
  "seeds": [0, 1],
  "arms": {"old": [0.5, 0.6], "new": [0.6, 0.8]},
  "comparisons": [["new", "old"]],
  "seconds": [1.0, 2.0],
  "machine": {"cores": 2},
  "paper": {"command": "train", "table": [["model"], ["L2"]]},
  "differences": ["Smaller."],
}


def module(name, folder="search"):
  spec = importlib.util.spec_from_file_location(name, ROOT / f"experiments/{folder}/{name}.py")
  made = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(made)
  return made


def values(tokens):
  """More of everything is better, and costs more."""
  return {"accuracy": 0.3 + 0.03 * sum(tokens), "latency": 0.04 * (1 + sum(tokens))}


def records(points):
  return [
    Record(number, Proposal(point), SPACE.key(point), State.COMPLETE, 0.5, values(point))
    for number, point in enumerate(points)
  ]


def test_a_table_has_every_network(tmp_path):
  table, measure = module("table"), module("measure")
  path = tmp_path / "table.jsonl"
  done = records(SPACE.points())
  with pytest.raises(errors.UserError, match="5 of 512 networks of 'mnas_micro' are not trained"):
    table.store(SPACE, [done, done[5:]], path)
  assert not path.exists()
  with pytest.raises(errors.UserError, match="there is no .*table.jsonl"):
    measure.load(path)
  # A file that somebody has cut.
  proxy.write_table(path, SPACE, done[:500], "by hand")
  with pytest.raises(errors.UserError, match="has 500 of 512 networks"):
    measure.load(path)
  assert table.store(SPACE, [done, done], path) == 1024
  space, found = measure.load(path)
  assert space.version == SPACE.version and found.about["command"] == table.COMMAND
  last = done[-1].tokens
  assert found(SPACE, last, 0) == values(last)


@pytest.mark.parametrize("method", ["random", "regularised evolution"])
def test_searches_look_networks_up(method, tmp_path):
  table, measure = module("table"), module("measure")
  path = tmp_path / "table.jsonl"
  table.store(SPACE, [records(SPACE.points())], path)
  space, found = measure.load(path)
  name, options = measure.METHODS[method]
  trials = measure.search(space, found, 3, name, **options)
  assert len(trials) == measure.TRIALS
  if method == "random":
    assert len(dict(trials)) == measure.TRIALS  # none twice
  for tokens, reward in trials[:20]:
    known = values(tokens)
    assert reward == pytest.approx(known["accuracy"] * (known["latency"] / 0.08) ** -0.07)
  top = max(reward for _, reward in trials[:50])
  assert dict(trials)[measure.best(trials, 50)] == top
  assert trials == measure.search(space, found, 3, name, **options)


def test_searches_that_train_stand_beside_those_that_look_up():
  measure = module("measure")
  every = {(number,): number / 100 for number in range(10)}
  half = measure.DECISIVE // 2
  trained = [((3,), 0.5)] * half + [((7,), 0.4), ((9,), 0.2)] * (half // 2)
  looked_up = [((3,), 0.03)] * half + [((9,), 0.09)] * half
  made = measure.confirmed(every, {"a": trained}, {"a": [looked_up, looked_up]})
  # Best and later mean of each; of what is best live, (3,), six of the table's are better.
  row = ["a", "50.00%", "9.00% ± 0.00%", "30.00%", "9.00% ± 0.00%", "7"]
  assert made["table"][1] == row
  assert "Over the 3 networks" in made["text"] and "is -1.00;" in made["text"]


def test_stored_latencies_are_those_of_the_stored_table():
  space, found = module("measure").load()
  pieces = json.loads((ROOT / "experiments/search/lut.json").read_text(encoding="utf-8"))
  entries, check = pieces["entries"], pieces["check"]
  for point in list(space.points())[::37]:
    layers = [piece.key for piece in cost.pieces(space.decode(point), 16, 10)]
    summed = pieces["call"] + sum(entries[key] for key in layers)
    want = check["offset"] + check["scale"] * summed
    assert found(space, point, 0)["latency"] == pytest.approx(want)


def test_a_search_in_a_table_takes_other_latencies(tmp_path):
  stored = json.loads((ROOT / "experiments/search/lut.json").read_text(encoding="utf-8"))
  other = {**stored, "call": stored["call"] + 1}
  path = tmp_path / "lut.json"
  path.write_text(json.dumps(other), encoding="utf-8")
  config = module("table").get_config(f"latency={path}").unlock()
  config.search.evaluator.name = "table"
  config.search.table = str(ROOT / "experiments/search/table.jsonl")
  (evaluate,) = settings.create(config, tmp_path).evaluators()
  _, found = module("measure").load()
  point = next(iter(SPACE.points()))
  slower = evaluate(SPACE, point, 0)["latency"] - found(SPACE, point, 0)["latency"]
  assert slower == pytest.approx(stored["check"]["scale"])  # a millisecond more, on the line
  assert evaluate(SPACE, point, 0)["accuracy"] == found(SPACE, point, 0)["accuracy"]


def test_its_proxy_is_one_that_children_share(tmp_path):
  config = module("table").get_config("seed=4,trials=7,algorithm=random")
  assert (config.seed, config.search.trials, config.search.algorithm.name) == (4, 7, "random")
  made = proxy.Proxy(config, tmp_path, execution="shared")
  costs = [made.cost(SPACE, point)["madds"] for point in SPACE.points()]
  assert (min(costs), max(costs)) == (59_392, 322_048)


def test_the_card_compares_what_was_found(tmp_path, monkeypatch):
  table, measure = module("table"), module("measure")
  monkeypatch.setattr(measure, "METHODS", {"good": ("random", {}), "random": ("random", {})})
  monkeypatch.setattr(measure, "SEEDS", (0, 1))
  asked = []

  def retrain(points):
    asked.extend(points)
    return {point: [sum(point) / 100] * len(measure.AGAIN) for point in points}

  monkeypatch.setattr(measure, "retrain", retrain)
  path = tmp_path / "table.jsonl"
  table.store(SPACE, [records(SPACE.points())], path)
  space, found = measure.load(path)
  reward = {point: measure.REWARD(values(point)) for point in space.points()}
  worst, *_, best = sorted(reward, key=reward.get)
  # One that finds the best network late, and one that never finds it.
  late = [(worst, reward[worst])] * 60 + [(best, reward[best])] * 140
  never = [(worst, reward[worst])] * 200
  made = measure.results(
    space, found, {"good": [late, late], "random": [never, never]}, [1.0, 1.0], tmp_path
  )
  assert made["arms"] == {"good": [reward[best]] * 2, "random": [reward[worst]] * 2}
  assert made["columns"][f"different networks in {measure.DECISIVE} trials"]["good"] == "2"
  # The best of all has every block alike, so the cell space has it too.
  same = made["more"][1]["arms"]
  assert best in asked and same["cell"] == same["factorised hierarchical"]
  ranks = made["sections"][1]["table"]
  assert ranks[1] == ["good", *["512.0 ± 0.0"] * 2, *["1.0 ± 0.0"] * 2]
  cards.draw(made, tmp_path)
  assert "reproduced" in cards.render(made) and (tmp_path / "curves.png").exists()


def test_the_card_of_teachers():
  measure = module("measure", "akd")
  config = measure.get_config("seed=7,trials=3")
  assert config.akd.seeds == (7,) and config.search.trials == 3
  assert measure.get_config().akd.seeds == measure.LIVE_SEEDS

  def students(plain, taught):
    rows = zip(plain, taught, strict=True)
    return [
      {"seed": seed, "madds": 1e5, "params": 9e3, "plain": p, "taught": t}
      for seed, (p, t) in enumerate(rows)
    ]

  live = {
    "teachers": {"teacher": {"top1": 0.8}},
    "students": {
      "plain": students((0.5, 0.6, 0.5), (0.6, 0.6, 0.6)),
      "teacher": students((0.5, 0.5, 0.5), (0.7, 0.8, 0.7)),
    },
    "structure": {"networks": 24, "by_arm": 0.1, "by_seed": -0.1},
  }
  first, second, *_ = SPACE.points()
  best = {"plain": [[first] * 2] * 3, "teacher": [[first, second]] * 3}
  judged = {
    ("teacher", "taught"): [0.60, 0.66, 0.63],
    ("plain", "taught"): [0.62] * 3,
    ("teacher", "plain"): [0.5] * 3,
    ("plain", "plain"): [0.4] * 3,
  }
  text = cards.render(measure.results(live, best, judged, [60.0]))
  # Of searches that train, differences 0.1, 0.2, 0.1: mean 2/15, s.e. 1/30.
  pair = "searched with the teacher, then taught over searched without, then taught"
  assert f"| {pair} | +13.33% ± 3.33% | +4.0 |" in text
  # In tables -0.02, 0.04, 0.01: mean 0.01, s.e. 0.03 / sqrt(3).
  assert f"| {pair} | +1.00% ± 1.73% | +0.6 |" in text
  assert "(test top-1 80.00%)" in text
  verdicts = [line for line in text.splitlines() if line.startswith("The claim is")]
  assert ["not reproduced" in line for line in verdicts] == [True, False]


def tables(tmp_path, *worths):
  """Returns a table of several trainings; worths: the accuracy of a point, of each."""
  trained = [
    [
      Record(
        n, Proposal(p), SPACE.key(p), State.COMPLETE, 0.5, {"accuracy": worth(p), "madds": 1e5}
      )
      for n, p in enumerate(SPACE.points())
    ]
    for worth in worths
  ]
  module("table").store(SPACE, trained, tmp_path / "table.jsonl")
  return proxy.Table(tmp_path / "table.jsonl", SPACE)


def test_searches_with_and_without_a_teacher_look_up_their_own_table(tmp_path, monkeypatch):
  measure = module("measure", "akd")
  monkeypatch.setattr(measure, "SEARCHES", 2)
  monkeypatch.setattr(measure, "TRIALS", 500)
  monkeypatch.setattr(measure, "ALGORITHM", ("random", {}))
  points = list(SPACE.points())
  prefers = lambda own: lambda point: 0.9 if point == own else 0.5  # noqa: E731
  plain = tables(tmp_path, prefers(points[0]), prefers(points[1]))
  teacher = tables(tmp_path, prefers(points[-1]), prefers(points[-2]))
  found = measure.look_up({"plain": plain, "teacher": teacher})
  # 500 of 512 without a repetition: one of two searches meets what it looks for.
  for arm, preferred in (("plain", points[:2]), ("teacher", points[:-3:-1])):
    assert [len(of_training) for of_training in found[arm]] == [2, 2]
    for of_training, own in zip(found[arm], preferred, strict=True):
      assert own in of_training


def test_agreement_of_rankings(tmp_path):
  measure = module("measure", "akd")
  order = {point: place / 1000 for place, point in enumerate(SPACE.points())}
  plain = tables(tmp_path, order.get, order.get)
  teacher = tables(tmp_path, order.get, lambda point: -order[point])
  made = measure.ranks({"plain": plain, "teacher": teacher})["table"]
  # Alike without; opposite under the teacher; between them once alike, once opposite.
  assert [row[1:] for row in made[1:]] == [["1.000", "0.000"], ["0.000", "-1.000"]]


def test_orders_of_scales_that_were_found_are_judged_beside_the_start(monkeypatch, tmp_path):
  measure = module("measure", "spinenet")
  monkeypatch.setattr(measure, "RUNS", tmp_path)
  space = spaces.create("spinenet_tiny")
  # Scales fall and rise again, as in a ResNet with an FPN.
  assert [block.level for block in space.decode(space.encode(measure.START))] == [
    *(2, 3, 4, 5),
    *(5, 4, 3, 6),
  ]
  drawn = [space.sample(np.random.default_rng(seed)) for seed in range(16)]
  asked = []

  def search(config, workdir):
    config = configuration.load(config)
    assert config.search.algorithm.name == "factorised" and config.data.options.agnostic
    assert config.seed == int(workdir.name)
    # The best child is another at each seed.
    worth = lambda i: {"accuracy": 0.5 if i == config.seed else 0.1, "madds": 9e6}  # noqa: E731
    return [
      Record(i, Proposal(p), space.key(p), State.COMPLETE, worth(i)["accuracy"], worth(i))
      for i, p in enumerate(drawn)
    ]

  def train_anew(config, points, seeds, path):
    assert config.data.split.validation == "test" and config.train.steps == measure.AGAIN_STEPS
    asked.append((list(points), seeds))
    base = lambda point: 0.2 + 0.01 * drawn.index(point) if point in drawn else 0.0  # noqa: E731
    one = lambda point, seed: {"accuracy": base(point) + seed / 1e5, "madds": 8e6}  # noqa: E731
    return {point: [one(point, seed) for seed in seeds] for point in points}

  monkeypatch.setattr(measure.card, "search", search)
  monkeypatch.setattr(measure.card, "train_anew", train_anew)
  part = measure.search_part()
  arms = part["arms"]
  # Seeds 1000 to 1002 add 0.01001.
  assert arms["found by the search"] == pytest.approx([0.21001, 0.22001, 0.23001])
  assert arms["falling scales, the start"] == pytest.approx([0.01011, 0.01021, 0.01031])
  found, start = asked
  assert found[0] == drawn[:3] and start[0] == [space.encode(measure.START)]
  assert len(set(start[1])) == 9 and not set(start[1]) & set(found[1])
  assert part["columns"]["children of the later half"]["found by the search"].startswith("10.00%")
  text = cards.render({**PLAIN, "more": [part]})
  assert "| found by the search over falling scales, the start | +20.98% ± 0.57% |" in text
