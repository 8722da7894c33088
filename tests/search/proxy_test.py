import json

import jax
import ml_collections
import numpy as np
import pytest

from effnets import configuration, errors, models, recipes, training
from effnets.search import network, population, proxy, shared, spaces
from effnets.search.running import FailedError, InfeasibleError
from effnets.search.study import Record, State
from tests.search import stand_ins

SPACE = spaces.create("mnas_tiny")
# Four blocks of one layer; a plain, a depthwise one and two inverted bottlenecks, one gated.
SMALL = SPACE.tokens(
  {
    "block0.op": "conv",
    "block1.op": "dconv",
    "block2.op": "mbconv3",
    "block2.squeeze": 0.25,
    "block2.kernel": 5,
    "block3.op": "mbconv3",
    "block3.skip": "identity",
  }
)

MADDS = models.count(spaces.network(SPACE, SMALL, num_classes=10), 16).madds


def tiny_config(steps=3):
  config = configuration.base()
  recipes.small_images(config, steps=steps)
  config.model = ml_collections.ConfigDict({"name": "searched", "dropout_rate": 0.2})
  config.model.update({"drop_path_rate": 0.0, "dtype": "float32", "momentum": 0.9})
  config.data.image_size = 16
  config.ema.decay = 0.0
  config.batch_size = 16
  config.eval_batch_size = 200
  config.optimizer.weight_decay = 1e-2  # so that a wrong one would show
  return config


def test_a_searched_network_is_a_model_like_others():
  module = models.create("searched", num_classes=10, space="mnas_tiny", tokens=SMALL)
  ours = spaces.network(SPACE, SMALL, num_classes=10)
  assert models.count(module, 32) == models.count(ours, 32)
  assert "searched" not in models.list_models()
  assert models.create("searched", space="mnas").image_size == 224
  with pytest.raises(errors.UserError, match=r"config.model.tokens: .*no point of 'mnas_tiny'"):
    models.create("searched", space="mnas_tiny", tokens=(1, 2))
  with pytest.raises(errors.UserError, match=r"config.model.widht=2"):
    models.create("searched", space="mnas_tiny", widht=2)


def test_children_see_no_test_picture():
  config = tiny_config()
  made = proxy.child(config, SPACE, SMALL, 7)
  assert made.data.split.to_dict() == {
    "train": "train",
    "validation": "validation",
    "test": "validation",
  }
  assert made.seed == 7 and made.model.tokens == SMALL
  config.data.split.validation = "test"
  with pytest.raises(errors.UserError, match="'test' is the test split; a search needs"):
    proxy.child(config, SPACE, SMALL, 0)


def test_shared_programs_train_as_the_loop_does(tmp_path):
  """Same data, noise, loss, decay, optimizer and start: three steps end at the same figures."""
  config = proxy.child(tiny_config(), SPACE, SMALL, 5)
  result = training.train(config, tmp_path / "run", name="", devices=jax.devices()[:1])
  loop = result.figures["validation"]
  trainer = shared.Shared(config)
  figures = trainer.train(config)
  assert figures["cross_entropy"] == pytest.approx(loop["cross_entropy"], rel=2e-5)
  assert figures["top1"] == pytest.approx(loop["top1"], abs=0.0051)  # one picture near a tie
  # A second child of the same parts compiles nothing.
  before = trainer.compiling
  assert trainer.train(config) == figures
  assert trainer.compiling == before


def test_seeds_of_a_network_are_one_program(tmp_path, monkeypatch):
  config, lowered = tiny_config(), []
  lower = training.assembly.Program.lower
  monkeypatch.setattr(
    training.assembly.Program, "lower", lambda *args: lowered.append(1) or lower(*args)
  )
  evaluator = proxy.Proxy(config, tmp_path, execution="loop", devices=jax.devices()[:1])
  first, second = (evaluator(SPACE, SMALL, seed) for seed in (1, 2))
  assert first != second and len(lowered) == 1
  alone = proxy.Proxy(config, tmp_path, execution="loop", devices=jax.devices()[:1])
  assert alone(SPACE, SMALL, 2) == second


@pytest.mark.slow
def test_graphs_cut_from_one_are_one_program(tmp_path, monkeypatch):
  """Whichever is trained first, each comes to what it comes to alone."""
  config, lowered = (
    configuration.load("configs/search_assemblenet.py").copy_and_resolve_references(),
    [],
  )
  with config.unlocked():
    config.data.options.update({"canvas": 16, "frames": 6, "examples": 32})
    config.data.image_size, config.data.clips.frames = 16, 4
    config.batch_size, config.eval_batch_size, config.train.steps = 8, 8, 3
  space = spaces.create("assemblenet_tiny", dilations=(1,))
  whole = space.with_edges(space.sample(np.random.default_rng(0)), space.edges)
  cut = space.with_edges(whole, [(0, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 6)])
  lower = training.assembly.Program.lower
  monkeypatch.setattr(
    training.assembly.Program, "lower", lambda *args: lowered.append(1) or lower(*args)
  )

  def values(*points):
    evaluator = proxy.Proxy(config, tmp_path, execution="loop", devices=jax.devices()[:1])
    return [evaluator(space, point, 1) for point in points]

  one, other = values(whole, cut)
  assert len(lowered) == 1
  assert one["loss"] != other["loss"] and set(other["edges"]) < set(one["edges"])
  assert values(cut, whole) == [other, one]


@pytest.mark.parametrize(
  "key, value",
  [("ema.decay", 0.9), ("accumulate", 2), ("optimizer.clip_norm", 1.0), ("weights", "x")],
)
def test_what_shared_programs_leave_to_the_loop(key, value):
  config = tiny_config()
  config.optimizer.clip_norm = None
  with config.ignore_type():
    config.update_from_flattened_dict({key: value})
  with pytest.raises(errors.UserError, match=rf"config.{key}=.*proxy.execution='loop'"):
    shared.Shared(config)


class Failing(shared.Shared):
  """Stands for a training that goes wrong."""

  def __init__(self, error):
    self._error = error

  def train(self, config):
    raise self._error


def test_failures_of_a_child_are_told_apart(tmp_path):
  evaluator = proxy.Proxy(tiny_config(), tmp_path, limits={"madds": MADDS})
  for error, kind, message in (
    (FloatingPointError("the loss of step 3 is NaN"), FailedError, "not finite: the loss of step"),
    (MemoryError(), FailedError, "out of memory: MemoryError; give config.batch_size less"),
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GB"), FailedError, "memory: RESOUR"),
    (jax.errors.JaxRuntimeError("INTERNAL: link"), jax.errors.JaxRuntimeError, "link"),
  ):
    evaluator.shared = Failing(error)
    with pytest.raises(kind, match=message):
      evaluator(SPACE, SMALL, 0)
  evaluator = proxy.Proxy(tiny_config(), tmp_path, limits={"madds": MADDS - 1})
  evaluator.shared = Failing(AssertionError("was trained"))
  with pytest.raises(InfeasibleError, match=f"madds={MADDS:,} is more than {MADDS - 1:,}"):
    evaluator(SPACE, SMALL, 0)


def test_costs_are_those_of_the_network(tmp_path):
  costs = proxy.Proxy(tiny_config(), tmp_path, costs=lambda space, tokens: {"latency": 2.5}).cost(
    SPACE, SMALL
  )
  module = spaces.network(SPACE, SMALL, num_classes=10)
  count = models.count(module, 16)
  assert costs == {"params": count.params, "madds": count.madds, "latency": 2.5}


def test_table_of_networks(tmp_path):
  space = stand_ins.Space()
  rng = np.random.default_rng(0)
  records = []
  for number in range(4):
    tokens = tuple(map(int, rng.integers(4, size=6))) if number < 3 else records[0].tokens
    records.append(
      Record(
        number,
        stand_ins.base.Proposal(tokens),
        space.key(tokens),
        State.COMPLETE,
        reward=0.5,
        values={"accuracy": 0.1 * number},
      )
    )
  path = tmp_path / "table.jsonl"
  assert proxy.write_table(path, space, records, "a command") == 4
  table = proxy.Table(path, space)
  assert len(table) == 3 and table.about["command"] == "a command"
  assert table(space, records[1].tokens, 0) == {"accuracy": 0.1}
  assert [table(space, records[0].tokens, s)["accuracy"] for s in (0, 1, 2)] == [
    0.0,
    pytest.approx(0.3),
    0.0,
  ]
  with pytest.raises(InfeasibleError, match="does not have it"):
    table(space, (9,) * 6, 0)
  with pytest.raises(errors.UserError, match="its space has version v1, here it is v2"):
    proxy.Table(path, stand_ins.Space(version="v2"))
  path.write_text("nonsense")
  with pytest.raises(errors.UserError, match="is no table of networks"):
    proxy.Table(path, space)


def test_arch_of_a_search(tmp_path):
  about = {"space": "mnas_tiny", "space_options": "{}", "space_version": SPACE.version}
  path = tmp_path / "best.json"
  other = SPACE.tokens({"block1.kernel": 5})
  top = [{"tokens": list(SMALL), "reward": 0.5}, {"tokens": list(other), "reward": 0.4}]
  path.write_text(json.dumps({"space": about, "top": top}))
  for text, tokens in ((str(path), SMALL), (f"{path}:2", other)):
    config = tiny_config()
    network.configure(config, text)
    assert config.model.tokens == tokens and config.model.space == "mnas_tiny"
  with pytest.raises(errors.UserError, match=r"best.json:3.*has the ranks 1 to 2"):
    network.read(f"{path}:3")
  with pytest.raises(errors.UserError, match="cannot be read"):
    network.read("nowhere.json")
  path.write_text(json.dumps({"space": {**about, "space_version": "0000"}, "top": top}))
  with pytest.raises(errors.UserError, match="config.arch=.*0000"):
    network.read(str(path))


def test_a_population_is_its_members_apart():
  """Two seeds and a doubled learning rate in one program, against shared programs one by one."""
  config = proxy.child(tiny_config(2), SPACE, SMALL, 5)
  members = [population.Member(5), population.Member(6), population.Member(5, rate=2.0)]
  found = population.train(config, members)
  trainer = shared.Shared(config)
  for member, figures in zip(members, found, strict=True):
    alone = proxy.child(tiny_config(2), SPACE, SMALL, member.seed).copy_and_resolve_references()
    alone.optimizer.learning_rate *= member.rate
    if member.rate != 1:
      for key in ("optimizer", "update"):  # all that the rate is part of
        del trainer._programs[key]
    expected = trainer.train(alone)
    assert figures["cross_entropy"] == pytest.approx(expected["cross_entropy"], rel=2e-5)
  assert len({f["cross_entropy"] for f in found}) == 3
