"""Saccader's stages on a network of three narrow blocks: what starts from what, and resumes."""

import io
import json

import jax
import numpy as np
import pytest
from PIL import Image
from rich import console as rich_console

from effnets import commands, configuration, errors, models, pipelines, training, workdirs
from effnets.pipelines import glimpse_pictures, saccader

_NETWORK = {"repeats": (1, 1, 1), "planes": (2, 2, 2), "kernel3": (1, 1, 1), "stem": 4}


def nano(arg="", **pipeline):
  config = configuration.load(f"configs/saccader.py{arg}")
  changes = {
    "model": _NETWORK,
    "batch_size": 8,
    "eval_batch_size": 80,
    "log_every_steps": 2,
    "train": {"steps": 2},
    "data": {"image_size": 32, "options": {"canvas": 32, "copies": 1, "labels": 100}},
  }
  configuration.merge(config, changes, key="changes")
  saccades = {"model": {"groups": 1, "glimpses": 3}, "train": {"steps": 2}}
  settings = {
    "locate": saccades,
    "reinforce": {**saccades, "model": {**saccades["model"], "glimpses": 2}},
    "dram": {"train": {"steps": 2}, "model": {"repeats": (1,), "lstm": 4, "glimpses": 2}},
    "evaluation": {"glimpses": 4, "policies": "learned,random", "pictures": 3},
  }
  with config.unlocked(), config.ignore_type():
    config.pipeline.update(settings)
    for name, value in pipeline.items():
      if isinstance(value, dict):
        config.pipeline[name].update(value)
      else:
        config.pipeline[name] = value
  return config.lock()


def run(config, workdir):
  out = io.StringIO()
  result = pipelines.registry._named(config).run(
    config, str(workdir), rich_console.Console(file=out, width=80)
  )
  return json.loads(json.dumps(result)), out.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A workdir with the three stages, each run by a command of its own; and the last result."""
  workdir = tmp_path_factory.mktemp("saccader")
  results = [run(nano(stages=name), workdir) for name in ("represent", "locate", "reinforce")]
  return workdir, results


def _variables(workdir, name):
  config = saccader._Pipeline(nano(), workdir).config(name)
  return jax.device_get(training.results.restore(config, workdir / name).variables)


@pytest.mark.slow
def test_stages_alone_start_from_each_other(finished):
  workdir, results = finished
  assert [list(result["stages"]) for result, _ in results] == [
    ["represent"],
    ["locate"],
    ["reinforce"],
  ]
  first, second, third = (_variables(workdir, n) for n in ("represent", "locate", "reinforce"))
  same = lambda a, b: [(x == y).all() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)]  # noqa: E731
  # What has been located has the representation that was there, moments too.
  for kind in first:
    assert all(same(first[kind], second[kind]["backbone"]))
  fresh = models.init(models.create("saccader_mini", 10, image_size=32, **_NETWORK, groups=1), 0)
  assert not all(same(fresh["params"]["mix"], second["params"]["mix"]))
  # And everything has moved in the end, but not far.
  assert not any(
    same(second["params"]["backbone"]["classifier"], third["params"]["backbone"]["classifier"])
  )
  apart = [
    np.abs(x - y).max()
    for x, y in zip(*map(jax.tree.leaves, (second["params"], third["params"])), strict=True)
  ]
  assert max(apart) < 0.01


@pytest.mark.slow
def test_the_result_has_every_policy_by_glimpses(finished):
  workdir, results = finished
  result, out = results[-1]
  assert result == json.loads((workdir / "result.json").read_text())
  policies = result["policies"]["reinforce"]
  assert list(policies) == ["learned", "random", "all", "complement"] and result["glimpses"] == 2
  for name in ("learned", "random"):
    for figure in ("top1", "top5", "coverage", "diversity"):
      assert len(policies[name][figure]) == 4
    assert policies[name]["coverage"] == sorted(policies[name]["coverage"])
  # One patch of 17 pixels of 32; all of them, 4 apart, reach to pixel 29.
  assert policies["learned"]["coverage"][0] == pytest.approx(17**2 / 32**2)
  assert policies["all"]["coverage"] == [pytest.approx(29**2 / 32**2)]
  rest = 29**2 / 32**2 - policies["learned"]["coverage"][1]
  assert policies["complement"]["coverage"] == [pytest.approx(rest)]
  # Two ways to the same figure: the evaluation of the stage, and that of policies.
  assert result["stages"]["reinforce"]["test_top1"] == pytest.approx(policies["learned"]["top1"][1])
  looked_at = result["stages"]["reinforce"]["test_coverage"]
  assert looked_at == pytest.approx(policies["learned"]["coverage"][1])
  assert "reinforce, learned" in out and max(map(len, out.split("\n"))) <= 80
  sheet = Image.open(workdir / "plots" / "glimpses.png")
  assert sheet.width >= 3 * 256 and (workdir / "plots" / "policies.png").stat().st_size > 0


@pytest.mark.slow
def test_what_is_finished_is_kept(finished):
  workdir, results = finished
  stamps = {p: p.stat().st_mtime_ns for p in workdir.glob("*/result.json")}
  result, _ = run(
    nano(evaluation={"glimpses": 3, "policies": "centre", "pictures": 1, "sizes": (40,)}), workdir
  )
  assert {p: p.stat().st_mtime_ns for p in workdir.glob("*/result.json")} == stamps
  assert list(result["stages"]) == ["represent", "locate", "reinforce"]
  assert list(result["policies"]["locate"]) == ["centre", "all", "complement"]
  assert result["sizes"]["40"]["centre"]["coverage"] == [pytest.approx(17**2 / 40**2)] * 3
  _, folder = saccader.last_stage(nano(), workdir)
  assert folder == workdir / "reinforce"


@pytest.mark.slow
def test_predictions_of_the_last_stage(finished, tmp_path):
  workdir, _ = finished
  Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "black.png")
  config = workdirs.saved(workdir)
  config.input = str(tmp_path / "black.png")
  commands.predict(config, str(workdir))
  head, line = (workdir / "predictions.csv").read_text().splitlines()
  assert head.startswith("picture,class_1,probability_1") and line.split(",")[1] in "0123456789"
  assert Image.open(workdir / "predictions" / "00000_black.png").size == (256, 256)
  found = np.load(workdir / "predictions" / "00000_black.npz")
  assert found["windows"].shape == (2, 3) and (found["windows"] % 4 == [0, 0, 1]).all()
  np.testing.assert_allclose(found["location_probabilities"].sum((1, 2)), 1, rtol=1e-5)
  row, column = found["windows"][0, :2] // 4
  assert found["location_probabilities"][0].argmax() == 4 * row + column
  np.testing.assert_array_equal(found["patch_logits"][0], found["logits2d"][row, column])


@pytest.mark.parametrize("name, before", [("locate", "represent"), ("patches", "reinforce")])
def test_a_stage_without_its_predecessor(name, before, tmp_path):
  arg = ":patches" if name == "patches" else ""
  words = f"config.pipeline.stages='{name}': {name} starts from the checkpoint of {before}, which "
  with pytest.raises(errors.UserError, match=f"{words}is not there.*{name}.weights=run:DIR"):
    run(nano(arg, stages=name), tmp_path)
  assert not list(tmp_path.iterdir())


class Fake:
  """Stands for training and restoring: what a stage started from, and variables to start from."""

  def __init__(self, monkeypatch):
    self.initial, self.restored = {}, {}
    monkeypatch.setattr(training, "train", self.train)
    monkeypatch.setattr(training.results, "restore", self.restore)
    monkeypatch.setattr(training.start, "load", lambda config: self.variables(config.weights))

  def variables(self, key):
    """Returns variables of the network of patches that no other key has."""
    module = models.create("bagnet_mini", 10, image_size=32, **_NETWORK)
    return models.init(module, len(key))

  def train(self, config, folder, *, name, initial):
    workdirs.claim(folder, config)
    self.initial[name] = initial
    (folder / "checkpoints" / "2").mkdir(parents=True)
    made = training.results.model(config)[0].init(0) if initial is None else initial
    self.restored[name] = made
    figures = {split: {"top1": 0.5} for split in config.data.split.values()}
    return training.Result(figures, 2, 1.0, made)

  def restore(self, config, folder):
    made = training.results.model(config)
    return training.results.Trained(config, *made, self.restored[folder.name], 2, {})


def _trained(monkeypatch, tmp_path, config):
  fake, pipeline = Fake(monkeypatch), saccader._Pipeline(config, tmp_path)
  pipeline.check()
  for name in pipeline.stages:
    pipeline.train(name)
  return fake, pipeline


def test_stages_start_from_their_predecessors(monkeypatch, tmp_path):
  stages = "represent,locate,reinforce,reinforce_only,patches"
  config = nano(":patches", stages=stages)
  with config.unlocked():
    config.pipeline.patches.data.image_size = 48
    config.pipeline.patches.model.locator_size = 32
    config.pipeline.patches.model.locator_settings.update({**_NETWORK, "groups": 1, "glimpses": 2})
  fake, pipeline = _trained(monkeypatch, tmp_path, config)
  check = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)  # noqa: E731
  assert fake.initial["represent"] is None
  for kind in ("params", "batch_stats"):
    first = fake.restored["represent"][kind]
    for name in ("locate", "reinforce", "reinforce_only"):
      check(fake.initial[name][kind]["backbone"], first)
    check(fake.initial["reinforce"][kind], fake.initial["locate"][kind])
    check(fake.initial["patches"][kind]["locator"], fake.initial["reinforce"][kind])
  ready = training.prepare(pipeline.config("patches"))
  # 17 of 32 pixels are 25 of 48.
  assert ready.task.module.patch_size(48) == 25 and ready.task.frozen == ("locator",)
  shapes = jax.tree.map(np.shape, fake.initial["patches"])
  assert shapes == jax.tree.map(np.shape, ready.task.abstract())
  # A finished stage cannot become another one.
  other = nano(stages="represent", represent={"batch_size": 16})
  with pytest.raises(errors.UserError, match="config.batch_size: 8 there, 16 now"):
    saccader._Pipeline(other, tmp_path).train("represent")
  # Once more: nothing trains.
  fake.initial.clear()
  again = saccader._Pipeline(nano(":patches", stages="locate"), tmp_path)
  again.train("locate")
  assert not fake.initial


def test_a_predecessor_of_another_run(monkeypatch, tmp_path):
  config = nano(stages="locate")
  with config.unlocked():
    config.pipeline.locate.weights = "run:elsewhere"
  fake, _ = _trained(monkeypatch, tmp_path, config)
  expected = fake.variables("run:elsewhere")
  jax.tree.map(
    np.testing.assert_array_equal, fake.initial["locate"]["params"]["backbone"], expected["params"]
  )


def test_the_configs_of_all_stages():
  config = nano(":patches", stages=",".join(saccader.STAGES))
  planned = {name: made.config for name, made in pipelines.planned(config).items()}
  assert list(planned) == list(saccader.STAGES)
  names = {name: (made.task.name, made.model.name) for name, made in planned.items()}
  assert names == {
    "represent": ("classification", "bagnet_mini"),
    "locate": ("location", "saccader_mini"),
    "reinforce": ("reinforcement", "saccader_mini"),
    "reinforce_only": ("reinforcement", "saccader_mini"),
    "dram": ("reinforcement", "dram_mini"),
    "full": ("classification", "efficientnet_tiny"),
    "patches": ("patches", "saccader_classifier"),
  }
  # The Saccader is on the same network of patches, and what is left of a control is its own.
  assert planned["locate"].model.planes == planned["represent"].model.planes == (2, 2, 2)
  assert planned["reinforce_only"].model.glimpses == planned["reinforce"].model.glimpses == 2
  assert "planes" not in planned["full"].model and planned["full"].model.padding == "SAME"


@pytest.mark.parametrize(
  ("settings", "words"),
  [
    ({"stages": "locat"}, "config.pipeline.stages='locat' is not a stage. Nearest: 'locate'"),
    ({"stages": ""}, "config.pipeline.stages is empty"),
    ({"locate": {"model": {"glimses": 3}}}, "glimses"),
    ({"locate": 3}, "config.pipeline.locate=3 is not a section"),
    ({"stage": "locate"}, "config.pipeline='stage' is not a setting"),
    (
      {"evaluation": {"glimpses": 17, "policies": "learned", "pictures": 3, "sizes": ()}},
      "config.pipeline.evaluation.glimpses=17: there are 4 x 4 = 16 positions",
    ),
    (
      {"evaluation": {"glimpses": 1, "policies": "lerned", "pictures": 3, "sizes": ()}},
      "policies='lerned' is not a policy. Nearest: 'learned'",
    ),
    (
      {"evaluation": {"glimpses": 1, "policies": "learned", "pictures": 3, "sizes": (16,)}},
      "evaluation.sizes: .*image_size=16: images are smaller than the receptive field",
    ),
  ],
)
def test_wrong_settings(settings, words, tmp_path):
  with pytest.raises(errors.UserError, match=words):
    run(nano(**settings), tmp_path)
  assert not list(tmp_path.iterdir())


def test_nothing_to_evaluate_yet(tmp_path):
  with pytest.raises(errors.UserError, match="holds no checkpoints"):
    saccader.last_stage(nano(), tmp_path)


def test_squares_are_drawn_around_glimpses():
  black = np.zeros((64, 64, 3), np.uint8)
  drawn = glimpse_pictures.glimpses(black, np.array([[0, 0, 17], [40, 20, 17]]))
  assert drawn.shape == (256, 256, 3)
  # The first is red, the last is blue; four pixels of the picture for one.
  assert drawn[67, 30].tolist() == [255, 0, 0] and drawn[160, 120, 2] == 255
  assert drawn[100, 30].tolist() == [0, 0, 0]


@pytest.mark.slow
def test_controls_and_patches_run(finished):
  workdir, _ = finished
  config = nano(":patches", stages="reinforce,reinforce_only,dram,patches")
  with config.unlocked():
    config.pipeline.patches.train = {"steps": 2}
    config.pipeline.patches.data.image_size = 48
    config.pipeline.patches.model.locator_size = 32
    config.pipeline.patches.model.locator_settings.update({**_NETWORK, "groups": 1, "glimpses": 2})
  result, out = run(config, workdir)
  assert len(result["policies"]["dram"]["dram"]["top1"]) == 2
  assert "reinforce_only, learned" in out and "patches" in out
