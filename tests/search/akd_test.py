"""The structural measure against a simulation, and the whole experiment at its smallest."""

import json

import numpy as np
import pytest

from effnets import commands, configuration, errors
from effnets.search import akd, space
from effnets.search.algorithms import registry
from effnets.search.algorithms.base import Result

ARITIES = (4, 2, 2, 3, 3, 3) * 7


def _target(k):
  return np.array([(3 * i * i + (k + 1) * i + 1) % arity for i, arity in enumerate(ARITIES)])


def test_searches_by_one_teacher_resemble_each_other():
  """Each teacher has its best architecture; silhouettes measured elsewhere: .754, .000."""
  decisions = [
    space.Decision(f"d{i}", tuple(range(arity)), f"k{i}") for i, arity in enumerate(ARITIES)
  ]
  made = space.Space("teachers", decisions)
  tokens, arms, seeds = [], [], []
  for teacher in range(3):
    for seed in range(2):
      algorithm = registry.create("factorised", made, seed, learning_rate=0.05)
      told = []
      for number in range(2000):
        proposal = algorithm.propose(number)
        own = np.array(proposal.tokens)
        plain, taught = (np.mean(own == _target(k)) for k in (0, teacher))
        reward = 0.3 * plain + 0.7 * taught
        algorithm.tell(Result(number, proposal, float(reward)))
        told.append((reward, proposal.tokens))
      told.sort(key=lambda pair: -pair[0])
      tokens += [best for _, best in told[:100]]
      arms += [f"t{teacher}"] * 100
      seeds += [seed] * 100
  found = akd.structure(made, np.array(tokens), arms, seeds)
  assert found["by_arm"] > 0.6
  assert found["by_seed"] < 0.1
  # The principal plane keeps the teachers apart as well.
  places = np.array(found["map"])
  flat = np.linalg.norm(places[:, None] - places[None], axis=-1)
  assert akd.silhouette(flat, arms) > 0.5
  shares = found["choices"]["d0"]["t0"]
  assert sum(shares) == pytest.approx(1, abs=1e-3)
  assert np.argmax(shares) == _target(0)[0]


@pytest.mark.slow
def test_the_experiment(tmp_path):
  config = configuration.load("configs/akd.py:trials=2")
  config.data.image_size = 16
  config.batch_size = 16
  config.train.steps = 2
  config.akd.retrain.train.steps = 2
  config.akd.teachers.efficient.train.steps = 2
  commands.search(config, str(tmp_path))
  result = json.loads((tmp_path / akd.RESULT).read_text())
  assert set(result["students"]) == {"plain", "efficient"}
  for rows in result["students"].values():
    assert all(0 <= row[how] <= 1 for row in rows for how in ("plain", "taught"))
  assert set(result["structure"]["choices"]["block0.op"]) == {"plain", "efficient"}
  for name in (akd.STRUCTURE, akd.STUDENTS, "searches/plain_0/report.html"):
    assert (tmp_path / name).stat().st_size > 1000
  saved = json.loads((tmp_path / "students/plain_0_1/taught/config.json").read_text())
  assert saved["task"]["name"] == "distillation"
  plain, taught = (
    json.loads((tmp_path / f"searches/{arm}_0/config.json").read_text())
    for arm in ("plain", "efficient")
  )
  assert plain["search"] == taught["search"] and plain["seed"] == taught["seed"]
  # Everything is there: a second start trains nothing and says the same.
  before = (tmp_path / akd.RESULT).read_text()
  commands.search(config, str(tmp_path))
  assert (tmp_path / akd.RESULT).read_text() == before


@pytest.mark.parametrize(
  "key, value, words",
  [
    ("searches", "plain,effcient", "'effcient' is not plain or a teacher.*'efficient'"),
    ("top", 0, "config.akd.top=0"),
    ("width", 1, "config.akd='width' is not a setting. Nearest: 'weight'"),
  ],
)
def test_mistakes(key, value, words):
  config = configuration.load("configs/akd.py")
  with config.unlocked():
    config.akd[key] = value
  with pytest.raises(errors.UserError, match=words):
    akd.plan(config)
