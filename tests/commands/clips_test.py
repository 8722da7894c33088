"""Commands on films: what they are of, their program, what is shown of the data of a training."""

import csv
import json

import jax
import numpy as np
import pytest
from PIL import Image

from effnets import commands, configuration, data, errors, workdirs
from effnets.commands import export_clips, likeliest, predict_clips, show_clips
from effnets.training import checkpoints, inputs, results, state
from effnets.weights import programs
from tests.training import tiny

pytestmark = pytest.mark.usefixtures("process_state")


def _config(words="", **overrides):
  made = configuration.load(f"configs/assemblenet.py{words}")
  with made.unlocked():
    made.data.options.examples = 16
  graph = "[[-1,1],[-2,1],[0,[0,1],2,1,1,0]]"
  made.model.update({"graph": graph, "inner": (4,), "stem_channels": 4, "flow_iterations": 2})
  made.data.clips.update({"frames": 4, "views": 2})
  made.data.image_size = 16
  made.tensorboard = False
  for key, value in overrides.items():
    configuration.override(made, key, str(value))
  return made.lock()


def _stopped(folder, config, classes=8):
  """Makes `folder` that of a run that was stopped at once, and returns task and variables."""
  workdirs.claim(folder, config)
  workdirs.write_class_names(folder, [f"way {i}" for i in range(classes)])
  task, placement = results.model(config, classes)
  variables = tiny.perturbed(task.init(3))
  optimizer = inputs.optimizer(config, lambda step: 0.0, task)
  fresh = state.create(variables, optimizer, seed=config.seed, average=config.ema.decay > 0)
  with checkpoints.Checkpoints(folder / "checkpoints") as saver:
    saver.save(1, placement.put(fresh, placement.state(fresh)))
  return task, variables


def _film(folder, count, seed, side=20):
  folder.mkdir(parents=True)
  rng = np.random.default_rng(seed)
  for number in range(count):
    pixels = rng.integers(0, 256, (side, side, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / f"{number:02d}.png")


def test_films_are_named_and_exported(tmp_path, capsys):
  config = _config()
  task, variables = _stopped(tmp_path / "run", config)
  for name, count in (("walk", 6), ("deep/run", 5)):
    _film(tmp_path / "films" / name, count, len(name))
  with config.unlocked():
    config.input = str(tmp_path / "films")
  commands.predict(config, str(tmp_path / "run"))
  rows = list(csv.DictReader((tmp_path / "run" / "predictions.csv").open()))
  assert [row["film"].rpartition("/")[2] for row in rows] == ["run", "walk"]
  assert "last checkpoint, step 1" in capsys.readouterr().out

  # The program says the same of the same clips as the command of its two views, averaged.
  commands.export(config, str(tmp_path / "run"))
  place = tmp_path / "run" / "export" / "stablehlo"
  about = json.loads((place / "export.json").read_text())
  assert about["inputs"] == {"clips": {"dtype": "uint8", "shape": [None, 4, 16, 16, 3]}}
  assert about["outputs"]["logits"] == {"dtype": "float32", "shape": [None, 8]}
  assert about["compared_on"] == "2 clips of digit_actions/validation"
  run = programs.FORMATS["stablehlo"].read(place / "model.stablehlo")
  for row in rows:
    source = predict_clips.Films("x", [row["film"]], classes=("a",) * 8, several=False)
    views = inputs.evaluation_transform(config, source)(source[0], None)["clip"]
    shares = run(views)["probabilities"].mean(0)
    best = int(shares.argmax())
    assert row["class_1"] == f"way {best}"
    assert float(row["probability_1"]) == pytest.approx(shares[best], abs=1e-5)


@pytest.mark.slow
def test_given_flow_is_computed_for_films_of_ones_own_and_is_an_input(tmp_path):
  pytest.importorskip("cv2")
  config = _config(":digit_actions_several", **{"data.clips.flow": "stored"})
  _stopped(tmp_path / "run", config)
  _film(tmp_path / "walk", 5, 0)
  with config.unlocked():
    config.input = str(tmp_path / "walk")
  commands.predict(config, str(tmp_path / "run"))
  (row,) = csv.DictReader((tmp_path / "run" / "predictions.csv").open())
  # Each class's own: they need not sum to one.
  assert sum(float(row[f"probability_{i}"]) for i in range(1, 6)) > 1
  commands.export(config, str(tmp_path / "run"))
  about = json.loads((tmp_path / "run" / "export" / "stablehlo" / "export.json").read_text())
  assert about["inputs"]["flow"] == {"dtype": "uint8", "shape": [None, 4, 16, 16, 2]}
  assert about["flow_bound"] == 4.0


def test_clips_are_shown_as_a_training_sees_them(tmp_path):
  config = _config(**{"data.clips.flow": "stored", "augment.flip": 0.5})
  commands.show(config, str(tmp_path))
  picture = np.asarray(Image.open(tmp_path / "plots" / "clips.png"))
  # Three films, two versions, frames and flow; four frames of 16 pixels, six times as large.
  assert picture.shape == (12 * 98 - 2, 4 * 98 - 2, 3)
  source = data.open_source("digit_actions", "train", options={"examples": 16})
  transform = inputs.training_transform(config, source)
  given = transform(source[0], data.decode.drawing(config.seed, 0))
  tiles = [picture[98 * i : 98 * i + 96, :96][::6, ::6] for i in (0, 1)]
  clip, flow = given["clip"], (given["flow"].astype(np.float32) - 128) / 127
  mirrored = flow[:, :, ::-1] * np.array([-1, 1], np.float32)
  expected = [(clip[0], flow), (clip[0, :, ::-1], mirrored)]
  assert any(
    np.array_equal(tiles[0], frame) and np.abs(tiles[1] - show_clips.colours(f)[0] * 1.0).max() <= 1
    for frame, f in expected
  )


def test_probabilities_of_one_and_of_several():
  logits = np.log(np.array([9.0, 1.0, 1 / 9]))
  assert likeliest.best(logits, ("a", "b", "c"), several=True) == (
    ("a", pytest.approx(0.9)),
    ("b", pytest.approx(0.5)),
    ("c", pytest.approx(0.1)),
  )


@pytest.mark.parametrize("given", ["", "/no/where", "README.md"])
def test_what_is_no_film(given):
  config = _config()
  with config.unlocked():
    config.input = given
  with pytest.raises(errors.UserError, match="config.input"):
    predict_clips.films(config)


@pytest.mark.parametrize("key,value", [("int8", True), ("batch_size", 2), ("format", "onnx")])
def test_what_programs_of_films_are_not(tmp_path, key, value):
  config = _config()
  with config.unlocked():
    config.export[key] = value
  with pytest.raises(errors.UserError, match=f"config.export.{key}={value!r}"):
    commands.export(config, str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["moving_digits_actions", "cnn"])
def test_predictors_become_programs(tmp_path, kind):
  config = configuration.load(f"configs/video_prediction.py:{kind}")
  made = {
    "batch_size": 8,
    "data": {"image_size": 16, "options": {"canvas": 16, "held_out": 6}},
    "task": {"context": 2, "horizon": 2, "test_horizon": 3, "samples": 2},
    "model": {"k": 0.05, "m": 0.02, "code": 4, "latent": 2, "image_size": 16},
  }
  configuration.merge(config, made, key="test")
  config.lock()
  task, variables = _stopped(tmp_path / "run", config, classes=1)
  commands.export(config, str(tmp_path / "run"))
  place = tmp_path / "run" / "export" / "stablehlo"
  about = json.loads((place / "export.json").read_text())
  assert about["inputs"]["clips"]["shape"] == [None, 2, 16, 16, 3]
  assert about["outputs"]["frames"]["shape"] == [None, 2, 3, 16, 16, 3]
  actions = task.module.actions
  assert ("actions" in about["inputs"]) == bool(actions)
  rng = np.random.default_rng(0)
  batch = {
    "clip": rng.integers(0, 256, (3, 5, 16, 16, 3)).astype(np.uint8),
    "index": np.array([4, 0, 7], np.int32),
  }
  if actions:
    batch["actions"] = rng.normal(size=(3, 5, actions)).astype(np.float32)
  expected, _ = jax.jit(export_clips._alone(task).futures)(variables, batch)
  run = programs.FORMATS["stablehlo"].read(place / "model.stablehlo")
  given = [batch["clip"][:, :2], batch["index"]]
  found = run(*given, *([batch["actions"][:, :4]] if actions else []))["frames"]
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_other_formats_are_refused(tmp_path):
  config = _config()
  config.export.format = "onnx"
  with pytest.raises(errors.UserError, match="networks of films go as stablehlo"):
    commands.export(config, str(tmp_path / "run"))
