"""`--mode=export`: what it writes, what it says of it, and what it leaves behind when it fails."""

import json
import sys

import numpy as np
import pytest

from effnets import configuration, data, main, workdirs
from effnets.training import checkpoints, evaluator, inputs, results, state
from effnets.weights import programs
from tests.training import tiny

pytestmark = pytest.mark.usefixtures("process_state")

STEP = 7


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Returns the workdir of a run that was stopped at once, and its variables."""
  folder, config = tmp_path_factory.mktemp("export") / "run", tiny.get_config()
  return folder, _stopped(folder, config)


def _stopped(folder, config):
  """Makes `folder` that of a run that was stopped at once, and returns its variables."""
  workdirs.claim(folder, config)
  workdirs.write_class_names(folder, [f"digit {i}" for i in range(10)])
  task, placement = results.model(config, 10)
  variables = tiny.perturbed(task.init(3))
  optimizer = inputs.optimizer(config, lambda step: 0.0, task)
  fresh = state.create(variables, optimizer, seed=config.seed, average=True)
  with checkpoints.Checkpoints(folder / "checkpoints") as saver:
    saver.save(STEP, placement.put(fresh, placement.state(fresh)))
  return variables


def _call(folder, kind, *arguments):
  words = [f"--workdir={folder}", "--mode=export", f"--config.export.format={kind}"]
  return main.run(["main", *words, *arguments])


def _probabilities(config, variables):
  task, placement = results.model(config)
  predictor = evaluator.create(config, task, placement)
  logits = predictor.all(variables, data.open_source("digits", "test"))[0]["logits"]
  shares = np.exp(logits.astype(np.float64))
  return shares / shares.sum(1, keepdims=True)


def _digits(split):
  source = data.open_source("digits", split)
  examples = [source[i] for i in range(len(source))]
  return (np.stack([e[name] for e in examples]) for name in ("image", "label"))


@pytest.mark.parametrize("kind", programs.FORMATS)
def test_a_run_becomes_a_program(run, tmp_path, capsys, kind):
  folder, variables = run
  place = tmp_path / "programs" / kind
  assert _call(folder, kind, f"--config.export.path={place}") == 0
  out, err = capsys.readouterr()
  file = programs.FORMATS[kind].file
  assert err == "" and f"{folder}, last checkpoint, step {STEP}: {place / file} (" in out
  assert "largest difference in 8 images of digits/validation: logits " in out
  assert sorted(path.name for path in place.iterdir()) == sorted([file, "export.json"])
  assert [path.name for path in place.parent.iterdir()] == [kind]

  about = json.loads((place / "export.json").read_text())
  batch = 1 if kind == "tflite" else None
  assert about["format"] == kind and about["int8"] is False
  assert about["input"] == {"name": "images", "dtype": "uint8", "shape": [batch, 32, 32, 3]}
  assert about["outputs"]["logits"] == {"dtype": "float32", "shape": [batch, 10]}
  assert about["class_names"][3] == "digit 3"
  assert about["source"] == {"run": ".", "checkpoint": "last", "step": STEP}
  assert (about["image_size"], about["interpolation"]) == (32, "bicubic")
  assert about["bytes"] == sum(
    p.stat().st_size for p in (place / file, *(place / file).rglob("*")) if p.is_file()
  )
  # The run's own evaluation of the same images, on eight devices.
  images, _ = _digits("test")
  config = tiny.get_config()
  expected = _probabilities(config, variables)
  actual = programs.FORMATS[kind].read(place / file)(images)
  assert np.abs(actual["probabilities"] - expected).max() < 1e-5
  assert 0 <= about["largest_difference"]["logits"] < 1e-4


def test_int8_tells_what_it_loses(run, tmp_path, capsys):
  folder, variables = run
  place = tmp_path / "int8"
  words = ["--config.export.int8=True", f"--config.export.path={place}"]
  words += ["--config.export.batch_size=16", "--config.export.calibration_examples=64"]
  assert _call(folder, "tflite", *words) == 0
  out, err = capsys.readouterr()
  top1 = json.loads((place / "export.json").read_text())["top1"]
  images, labels = _digits("test")
  config = tiny.get_config()
  exact = _probabilities(config, variables)
  rounded = programs.FORMATS["tflite"].read(place / "model.tflite")(images)["logits"]
  shares = [float(np.mean(values.argmax(1) == labels)) for values in (exact, rounded)]
  assert [top1["float32"], top1["int8"]] == pytest.approx(shares, abs=1e-9)
  assert top1["lost"] == pytest.approx(shares[0] - shares[1], abs=1e-6)
  assert top1["examples"] == len(images) and err == ""
  assert f"top-1 of {len(images)} test images: {shares[0]:.4f} in float32, {shares[1]:.4f}" in out


def test_the_accuracy_of_a_few(run):
  folder, _ = run
  words = ["--config.export.int8=True", "--config.export.accuracy_examples=70"]
  assert _call(folder, "tflite", *words, "--config.export.calibration_examples=4") == 0
  about = json.loads((folder / "export" / "tflite_int8" / "export.json").read_text())
  assert about["top1"]["examples"] == 70


def test_a_later_export_takes_the_place_of_an_earlier_one(run):
  folder, _ = run
  place = folder / "export" / "onnx"
  place.mkdir(parents=True)
  for name in ("export.json", "model.onnx", "more"):
    (place / name).write_text("old")
  assert _call(folder, "onnx") == 0
  assert sorted(path.name for path in place.iterdir()) == ["export.json", "model.onnx"]
  assert (place / "model.onnx").stat().st_size > 1000
  assert not [path.name for path in place.parent.iterdir() if path.name.startswith(".")]


def test_without_data_the_check_runs_on_noise(run, tmp_path, capsys):
  folder, _ = run
  words = [f"--config.export.path={tmp_path / 'p'}", "--config.data.source=folder:/no/where"]
  assert _call(folder, "onnx", *words) == 0
  assert "largest difference in 8 images of noise: logits " in capsys.readouterr().out


# ---- What goes wrong -----------------------------------------------------------------------------


def _refused(capsys, status):
  out, err = capsys.readouterr()
  assert status == 2 and out == ""
  assert err.startswith("Error: ") and err.count("\n") == 1
  return err


def test_a_program_that_differs_is_not_kept(run, tmp_path, capsys, monkeypatch):
  read = programs.onnx_file.read

  def wrong(path):
    return lambda images: {k: v * 1.01 for k, v in read(path)(images).items()}

  broken = programs.Format("model.onnx", programs.onnx_file.write, wrong, "export", ())
  monkeypatch.setitem(programs.FORMATS, "onnx", broken)
  place = tmp_path / "new" / "place"
  message = _refused(capsys, _call(run[0], "onnx", f"--config.export.path={place}"))
  assert "config.export.format='onnx'" in message and "logits differ from the model's" in message
  assert "nothing was written" in message and "savedmodel, stablehlo, tflite" in message
  assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_earlier_export(run, tmp_path, capsys, monkeypatch):
  place = tmp_path / "place"
  assert _call(run[0], "onnx", f"--config.export.path={place}") == 0
  before = {path: path.read_bytes() for path in place.iterdir()}
  capsys.readouterr()

  def full(program, path):
    path.write_text("half")
    raise OSError(28, "No space left on device")

  broken = programs.Format("model.onnx", full, programs.onnx_file.read, "export", ())
  monkeypatch.setitem(programs.FORMATS, "onnx", broken)
  message = _refused(capsys, _call(run[0], "onnx", f"--config.export.path={place}"))
  assert f"{place} cannot be written: No space left on device." in message
  assert {path: path.read_bytes() for path in place.iterdir()} == before
  assert [path.name for path in tmp_path.iterdir()] == ["place"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_export_is_left_alone(run, tmp_path, capsys, kind):
  place = tmp_path / "thesis"
  if kind == "file":
    place.write_text("years of work")
  else:
    place.mkdir()
    (place / "chapter.tex").write_text("years of work")
  message = _refused(capsys, _call(run[0], "onnx", f"--config.export.path={place}"))
  assert "is a file; give a folder" in message or "no export (chapter.tex)" in message
  assert (place if kind == "file" else place / "chapter.tex").read_text() == "years of work"


def test_int8_needs_the_models_own_kind_of_data(run, tmp_path, capsys):
  pictures = tmp_path / "pictures"
  for split in ("train", "validation", "test"):
    for name in ("cat", "dog"):
      (pictures / split / name).mkdir(parents=True)
      (pictures / split / name / "a.png").write_bytes(b"")
  words = ["--config.export.int8=True", f"--config.data.source=folder:{pictures}"]
  words += [f"--config.export.path={tmp_path / 'p'}"]
  message = _refused(capsys, _call(run[0], "tflite", *words))
  assert "has 2 classes, the model 10" in message and "--config.data.source=" in message
  assert not (tmp_path / "p").exists()


def test_int8_needs_a_whole_batch(run, tmp_path, capsys):
  words = ["--config.export.int8=True", "--config.export.batch_size=5000"]
  message = _refused(capsys, _call(run[0], "tflite", *words))
  assert "config.export.batch_size=5000 exceeds the 1197 training images" in message


def test_a_missing_package_is_told_before_anything_is_read(tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "onnxruntime", None)
  workdirs.claim(tmp_path / "run", tiny.get_config())
  message = _refused(capsys, _call(tmp_path / "run", "onnx"))
  assert "onnxruntime is not installed" in message and "pip install 'effnets[export]'" in message


def test_an_export_does_not_keep_a_workdir_from_training(tmp_path):
  (tmp_path / "export" / "onnx").mkdir(parents=True)
  workdirs.claim(tmp_path, tiny.get_config())
  assert (tmp_path / "config.json").is_file() and (tmp_path / "export" / "onnx").is_dir()


def test_auxiliary_norms_stay_behind_or_are_looked_at(tmp_path):
  """An AdvProp run, by either set of norms: evaluated, as plain weights, and exported."""
  config = tiny.get_config()
  config.adversary = configuration.load("configs/advprop.py").adversary
  config.task.name, config.model.norm_sets = "advprop", 2
  folder = tmp_path / "run"
  variables = _stopped(folder, config)

  def evaluated(*words, workdir=folder):
    assert main.run(["main", "--mode=evaluate", f"--workdir={workdir}", *words]) == 0
    return json.loads((workdir / "evaluation.json").read_text())["test"]

  by_main, by_auxiliary = evaluated(), evaluated("--config.adversary.evaluated=1")
  assert by_main != by_auxiliary
  # The plain network takes the weights of the run, and gives the same to the last digit.
  words = [f"--config.weights=run:{folder}", "--config.eval_batch_size=64"]
  assert evaluated(*words, workdir=tmp_path / "plain") == by_main
  images, _ = _digits("test")
  for index in (0, 1):
    config.adversary.evaluated = index
    expected = _probabilities(config, variables)
    place = tmp_path / f"program{index}"
    words = [f"--config.adversary.evaluated={index}", f"--config.export.path={place}"]
    assert _call(folder, "stablehlo", *words) == 0
    actual = programs.FORMATS["stablehlo"].read(place / "model.stablehlo")(images)
    assert np.abs(actual["probabilities"] - expected).max() < 1e-5
