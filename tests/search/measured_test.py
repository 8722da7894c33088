"""`experiments/search`: a table has every network of its space, and searches only look them up."""

import importlib.util
import pathlib

import pytest

from effnets import errors
from effnets.search import proxy, spaces
from effnets.search.algorithms import Proposal
from effnets.search.study import Record, State

ROOT = pathlib.Path(__file__).parents[2]
SPACE = spaces.create("mnas_micro")


def module(name):
  spec = importlib.util.spec_from_file_location(name, ROOT / f"experiments/search/{name}.py")
  made = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(made)
  return made


def values(tokens):
  """More of everything is better, and costs more."""
  return {"accuracy": 0.3 + 0.03 * sum(tokens), "madds": 1e5 * (1 + sum(tokens))}


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
    table.store(SPACE, done[5:], path)
  assert not path.exists()
  with pytest.raises(errors.UserError, match="there is no .*table.jsonl"):
    measure.load(path)
  # A file that somebody has cut.
  proxy.write_table(path, SPACE, done[:500], "by hand")
  with pytest.raises(errors.UserError, match="has 500 of 512 networks"):
    measure.load(path)
  latencies = lambda space, tokens: 2.0 + tokens[0]  # noqa: E731
  assert table.store(SPACE, done, path, latencies) == 512
  space, found = measure.load(path)
  assert space.version == SPACE.version and found.about["command"] == table.COMMAND
  last = done[-1].tokens
  assert found(SPACE, last, 0) == {**values(last), "latency": 3.0}


@pytest.mark.parametrize("method", ["random", "regularised evolution"])
def test_searches_look_networks_up(method, tmp_path):
  table, measure = module("table"), module("measure")
  path = tmp_path / "table.jsonl"
  table.store(SPACE, records(SPACE.points()), path)
  space, found = measure.load(path)
  name, settings = measure.METHODS[method]
  trials = measure.search(space, found, 3, name, **settings)
  assert len(trials) == measure.TRIALS
  if method == "random":
    assert len(dict(trials)) == measure.TRIALS  # none twice
  for tokens, reward in trials[:20]:
    known = values(tokens)
    assert reward == pytest.approx(known["accuracy"] * (known["madds"] / 2e5) ** -0.07)
  top = max(reward for _, reward in trials[:50])
  assert dict(trials)[measure.best(trials, 50)] == top
  assert trials == measure.search(space, found, 3, name, **settings)


def test_its_proxy_is_one_that_children_share(tmp_path):
  config = module("table").get_config("seed=4,trials=7,algorithm=random")
  assert (config.seed, config.search.trials, config.search.algorithm.name) == (4, 7, "random")
  made = proxy.Proxy(config, tmp_path, execution="shared")
  costs = [made.cost(SPACE, point)["madds"] for point in SPACE.points()]
  assert (min(costs), max(costs)) == (59_392, 322_048)
