"""Every config builds and is what its golden dump says; a recipe cannot move unseen."""

import difflib
import importlib
import itertools

import pytest

from effnets import configuration, errors, training
from effnets.pipelines import sweep
from tests.golden import dump


@pytest.mark.parametrize("config", dump.CONFIGS)
def test_golden(config):
  path = dump.file(config)
  expected, found = path.read_text(encoding="utf-8"), dump.dump(config)
  difference = "\n".join(
    difflib.unified_diff(expected.splitlines(), found.splitlines(), str(path), "now", lineterm="")
  )
  assert not difference, f"{difference}\nIf that is meant: python -m tests.golden"


def test_every_config_has_a_dump_and_every_dump_a_config():
  names = {config.partition(":")[0] for config in dump.CONFIGS}
  assert names == {f"configs/{name}" for name in configuration.shipped()}
  assert {dump.file(c) for c in dump.CONFIGS} == set(dump.FOLDER.glob("*.txt"))


@pytest.mark.parametrize("member", [*(f"b{i}" for i in range(9)), "l2"])
def test_the_recipe_of_every_member(member):
  config = configuration.load(f"configs/efficientnet.py:{member}")
  configuration.check(config)
  assert config.model.name == f"efficientnet_{member}"
  assert (config.batch_size, config.train.epochs) == (2048, 350.0)


@pytest.mark.parametrize("name", ["efficientnet.py", "noisy_student.py"])
def test_embedded_configs_are_ready_to_train(name):
  config = configuration.load(name)
  configuration.check(config)
  if not config.pipeline.name:
    ready = training.prepare(config)
    assert ready.total_steps == config.train.steps
    assert set(ready.splits) == {"validation", "test"}


@pytest.mark.parametrize("config", dump.CONFIGS)
def test_configs_are_locked(config):
  # An unknown key that a config sets by mistake would otherwise be there in silence.
  name, _, arg = config.partition(":")
  module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
  assert module.get_config(arg or None).is_locked


def test_sets_arguments():
  assert configuration.load("configs/noisy_student.py:seed=7").seed == 7
  assert configuration.load("configs/efficientnet.py:b3,batch_size=64").batch_size == 64
  with pytest.raises(errors.UserError, match="argument='b33' is not a word.*Nearest: 'b3'"):
    configuration.load("configs/efficientnet.py:b33")


@pytest.mark.parametrize(
  ("arg", "step", "width", "size"), [("grid", 10, 0.5, 32), ("grid,b0,step=0.05", 5, 1.0, 224)]
)
def test_the_scaling_grid_has_every_candidate(arg, step, width, size):
  config = configuration.load(f"configs/efficientnet.py:{arg},seed=3")
  members = sweep.members_of(config)
  expected = {}
  for depth, wide, sharp in itertools.product(range(100, 201, step), repeat=3):
    if abs(depth * wide**2 * sharp**2 / 100**5 - 2) < 0.1 - 1e-9:
      expected[f"depth{depth}_width{wide}_size{sharp}"] = (depth, wide, sharp)
  assert members.keys() == expected.keys()
  assert len(members) == {10: 20, 5: 108}[step]
  for name, (depth, wide, sharp) in expected.items():
    (seed, run), *others = members[name].configs.items()
    assert (seed, run.seed, others) == (3, 3, [])
    assert run.model.depth == pytest.approx(depth / 100)
    assert run.model.width == pytest.approx(width * wide / 100)
    assert abs(run.data.image_size - size * sharp / 100) <= 0.5
    assert run.train == config.train and run.data.source == config.data.source


def test_the_papers_base_is_a_candidate_of_the_fine_grid():
  config = configuration.load("configs/efficientnet.py:grid,b0,step=0.05")
  run = config.pipeline.runs["depth120_width110_size115"]
  assert (run.model.depth, run.data.image_size) == (1.2, 258)
  assert run.model.width == pytest.approx(1.1)
