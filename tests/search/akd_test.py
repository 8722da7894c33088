"""Structure against a simulation, the matrix against closed forms, the whole at its smallest."""

import json

import ml_collections
import numpy as np
import pytest
from scipy import stats

from effnets import commands, configuration, errors
from effnets.search import akd, akd_matrix, akd_structure, cost, space, spaces
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
  found = akd_structure.structure(made, np.array(tokens), arms, seeds)
  assert found["by_arm"] > 0.6
  assert found["by_seed"] < 0.1
  # The principal plane keeps the teachers apart as well.
  places = np.array(found["map"])
  flat = np.linalg.norm(places[:, None] - places[None], axis=-1)
  assert akd_structure.silhouette(flat, arms) > 0.5
  shares = found["choices"]["d0"]["t0"]
  assert sum(shares) == pytest.approx(1, abs=1e-3)
  assert np.argmax(shares) == _target(0)[0]


def test_students_are_all_those_of_nearly_the_target():
  """Against the enumeration of a space, whose cost is the sum of the tokens."""
  made = space.Space("sums", [space.Decision(f"d{i}", (0, 1, 2), "d") for i in range(5)])
  right = {point for point in made.points() if 4 <= sum(point) <= 6}
  draw = lambda count, within=0.2: akd_matrix.draw(  # noqa: E731
    made, sum, 5.0, count=count, within=within, seed=3, what="cost"
  )
  every = draw(len(right))
  assert len(every) == len(right) and set(every) == right
  assert draw(4) == every[:4]
  assert {sum(tokens) for tokens in draw(20, 1e-9)} == {5}
  message = rf"students={len(right) + 1}: of 243 random .* {len(right)} have cost within 20%"
  with pytest.raises(errors.UserError, match=message):
    draw(len(right) + 1)


def test_students_cost_what_the_search_counts():
  config = configuration.load("configs/akd.py:matrix=3,target=5e5")
  found = akd_matrix.choose(config)
  made = spaces.create("mnas_tiny")
  assert len({made.key(row["tokens"]) for row in found}) == 3
  for row in found:
    counted = cost.of(made, tuple(row["tokens"]), image_size=32, num_classes=10)
    assert (row["madds"], row["params"]) == (counted.madds, counted.params)
    assert 4.5e5 <= row["madds"] <= 5.5e5


def test_figures_of_the_matrix():
  """Tau of 4 of 5 pairs in order, of none, and, with a tie, SciPy's."""
  rows = {
    "plain": (0.1, 0.2, 0.3, 0.4, 0.5),
    "a": (0.2, 0.1, 0.4, 0.3, 0.5),
    "b": (0.9, 0.8, 0.7, 0.6, 0.5),
    "c": (0.3, 0.7, 0.7, 0.1, 0.2),
    "same": (0.5,) * 5,
  }
  found = akd_matrix.figures(rows)
  assert found["best"] == {"plain": 5, "a": 5, "b": 1, "c": 2, "same": 1}
  assert found["spread"] == pytest.approx({"plain": 0.4, "a": 0.4, "b": 0.4, "c": 0.6, "same": 0})
  tau = found["tau"]
  assert (tau["plain"]["a"], tau["plain"]["b"]) == (pytest.approx(0.6), pytest.approx(-1))
  assert tau["c"]["a"] == tau["a"]["c"] == pytest.approx(stats.kendalltau(rows["a"], rows["c"])[0])
  assert set(tau["same"].values()) == {0.0} and "same" not in tau["same"]


def test_the_matrix_is_of_means_over_seeds(tmp_path):
  luck = {(1, 0): 0.2, (2, 1): 0.3}
  asked = []

  def train(tokens, teacher, seed):
    asked.append((tokens, teacher, seed))
    fits = 0.5 if teacher == "plain" else 0.4 + 0.1 * (tokens[0] == 2)
    return fits + luck.get((tokens[0], seed), 0.0)

  students = [{"tokens": [1], "madds": 9}, {"tokens": [2], "madds": 8}]
  found = akd_matrix.run(students, ("plain", "a"), (0, 1), train)
  assert len(set(asked)) == len(asked) == 8
  assert found["students"] == students
  assert found["figures"]["plain"] == [[0.7, 0.5], [0.5, 0.8]]
  # Single seeds would say otherwise of the first.
  assert found["best"] == {"plain": 2, "a": 2}
  assert found["spread"] == pytest.approx({"plain": 0.05, "a": 0.15})
  akd_matrix.picture(found, tmp_path / "matrix.png", label="test top1")
  assert (tmp_path / "matrix.png").stat().st_size > 1000


def test_the_transfer_is_that_of_published_networks():
  """But for the network and how its pictures are prepared, which come with the student."""
  config = configuration.load("configs/akd.py:imagenet,transfer=cars")
  ours = configuration.flatten(akd._elsewhere(config))
  theirs = configuration.flatten(configuration.load("configs/mixnet.py:s,transfer=cars"))
  prepared = (
    "crop_fraction",
    "crop_padding",
    "image_size",
    "interpolation",
    "mean",
    "resize",
    "std",
  )
  own = {"weights", *(f"data.{key}" for key in prepared)}
  differ = {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)} - own
  assert {key for key in differ if not key.startswith("model.")} == set()
  assert ours["model.momentum"] == theirs["model.momentum"] and ours["new_head"]


@pytest.mark.parametrize(
  "words, arms, tutors",
  [
    ("", "plain,efficient", ("efficient",)),
    ("teachers=2", "plain,efficient,mixed,efficient+mixed", ("efficient",)),
    ("ensemble", "plain,efficient+mixed", ("efficient", "mixed")),
  ],
)
def test_arms(words, arms, tutors):
  """The conventional search's winner learns from those who guide the next one."""
  found = akd.plan(configuration.load(f"configs/akd.py:{words}"))
  assert ",".join(found.arms) == arms and found.tutors["plain"] == tutors
  assert all(found.tutors[arm] == taught for arm, taught in found.arms.items() if taught)


@pytest.mark.slow
def test_the_experiment(tmp_path):
  config = configuration.load("configs/akd.py:trials=2")
  config.search.space.name = config.model.space = "mnas_micro"
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

  # The matrix and the transfer are added to what is finished, which stays as it is.
  more = configuration.load("configs/akd.py:trials=2,matrix=2,transfer")
  config.unlock()
  config.akd.matrix, config.akd.transfer = more.akd.matrix, more.akd.transfer
  config.lock()
  config.akd.matrix.within = 0.9
  config.akd.transfer.train.steps = 2
  commands.search(config, str(tmp_path))
  added = json.loads((tmp_path / akd.RESULT).read_text())
  assert {key: added[key] for key in result} == result
  matrix, moved = added["matrix"], added["transfer"]
  assert set(matrix["figures"]) == set(matrix["best"]) == {"plain", "efficient"}
  assert [len(values) for row in matrix["figures"].values() for values in row] == [1] * 4
  tasks = [
    json.loads(file.read_text())["task"]["name"]
    for file in sorted((tmp_path / "matrix").glob("*/*/config.json"))
  ]
  assert tasks == ["distillation", "classification"] * 2
  assert (moved["data"], moved["figure"]) == ("cluttered_digits", "top1")
  assert [len(rows) for rows in moved["students"].values()] == [1, 1]
  saved = json.loads((tmp_path / "transfer/efficient_0_1/taught/config.json").read_text())
  assert saved["weights"] == f"run:{tmp_path / 'students/efficient_0_1/taught'}"
  assert saved["data"]["image_size"] == 16 and saved["task"]["name"] == "classification"
  for name in (akd_matrix.PICTURE, akd.TRANSFER):
    assert (tmp_path / name).stat().st_size > 1000

  # Everything is there: another start trains nothing and says the same.
  before = (tmp_path / akd.RESULT).read_text()
  commands.search(config, str(tmp_path))
  assert (tmp_path / akd.RESULT).read_text() == before
  config.akd.transfer.train.steps = 3
  with pytest.raises(errors.UserError, match="config.train.steps: 2 there, 3 now"):
    commands.search(config, str(tmp_path))


@pytest.mark.parametrize(
  "key, value, words",
  [
    ("searches", "plain,effcient", "'effcient' is not plain or a teacher.*'efficient'"),
    ("top", 0, "config.akd.top=0"),
    ("width", 1, "config.akd='width' is not a setting. Nearest: 'weight'"),
    ("teachers", {"plain": {"weights": "run:x"}}, "config.akd.teachers.plain: this is what"),
    ("matrix", {"students": 1, "within": 0.1}, "matrix.students=1 should be 0.* or at least 2"),
    ("matrix", {"students": 5, "within": 0}, "matrix.within=0 is a share.* such as 0.1"),
    ("matrix", {"student": 5, "within": 0}, "'student' is not a setting. Nearest: 'students'"),
    ("matrix", {"students": 5}, "config.akd.matrix.within is missing"),
    ("transfer", {"train": {"step": 5}}, "akd.transfer.train.step=5 is not a setting"),
    ("transfer", {"data": {"source": "digits"}}, "one says how long to train"),
  ],
)
def test_mistakes(key, value, words):
  config = configuration.load("configs/akd.py")
  with config.unlocked(), config.ignore_type():
    config.akd[key] = ml_collections.ConfigDict(value) if isinstance(value, dict) else value
  with pytest.raises(errors.UserError, match=words):
    akd.plan(config)


def test_students_need_a_cost():
  config = configuration.load("configs/akd.py:matrix=2")
  config.search.reward.costs = config.search.reward.targets = ()
  with pytest.raises(errors.UserError, match="config.search.reward.costs is empty"):
    akd_matrix.choose(config)


@pytest.mark.parametrize(
  "words, message",
  [
    ("transfer=cars", "transfer='cars' goes with imagenet"),
    ("imagenet,transfer", "transfer with imagenet names a set, such as transfer=cars"),
    ("imagenet,transfer=car", "transfer='car' is not a data set.*Nearest: 'cars'"),
    ("imagenet,transfer=aircraft", "TensorFlow Datasets has no .*folder=PATH"),
    ("imagenet,folder=/data", "folder='/data' goes with transfer=SET"),
    ("teachers=3", "teachers is 1 or 2"),
  ],
)
def test_mistakes_in_arguments(words, message):
  with pytest.raises(errors.UserError, match=message):
    configuration.load(f"configs/akd.py:{words}")
