"""Imported weights on the command line: what they find in pictures, and how well they do."""

import csv
import json
import types

import numpy as np
import pytest
from PIL import Image

from effnets import data, main, models, weights
from effnets.commands import trained as trained_lib
from effnets.weights import catalog
from tests.training import tiny

pytestmark = pytest.mark.usefixtures("process_state")

NAME = "tf_mobilenetv3_small_minimal_100"
SMALL = "--config.data.image_size=32"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """Returns a folder with weights of ten classes, pictures, and what is none."""
  folder = tmp_path_factory.mktemp("imported")
  module = catalog.find(NAME).architecture.create(10)
  variables = tiny.perturbed(models.init(module, 7, image_size=32))
  np.savez(folder / "ten.npz", **weights.to_timm(module, variables))
  pictures = folder / "pictures"
  (pictures / "more").mkdir(parents=True)
  rng = np.random.default_rng(0)
  for index, (name, shape) in enumerate((("a.png", (40, 60)), ("b.jpg", (64, 32)))):
    pixels = rng.integers(0, 255, (*shape, 3), np.uint8)
    Image.fromarray(pixels).save(pictures / ("more" if index else "") / name)
  (folder / "none.png").write_text("no picture")
  return folder


def call(folder, *arguments):
  return main.run(["main", f"--config.weights={NAME}:{folder / 'ten.npz'}", SMALL, *arguments])


def _expected(folder, picture):
  """Returns class -> probability, by PIL, NumPy and the convolutions of XLA."""
  image = Image.open(picture).convert("RGB")
  side = int(0.875 * min(image.size))
  left, top = ((length - side + 1) // 2 for length in image.size)
  image = image.resize((32, 32), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
  pixels = (np.asarray(image, np.float32) / 255 - 0.5) / 0.5
  loaded = weights.load(NAME, folder / "ten.npz")
  logits = loaded.module.clone(plain=True).apply(loaded.variables, pixels[None], train=False)[0]
  shares = np.exp(np.asarray(logits, np.float64))
  return {f"class {i}": share for i, share in enumerate(shares / shares.sum())}


def test_predictions_of_a_folder(made, tmp_path, capsys):
  assert call(made, "--mode=predict", f"--config.input={made / 'pictures'}", _to(tmp_path)) == 0
  out, err = capsys.readouterr()
  assert err == "" and "predictions.csv written" in out
  with open(tmp_path / "w" / "predictions.csv", newline="") as file:
    header, *rows = csv.reader(file)
  assert header[:3] == ["picture", "class_1", "probability_1"] and len(header) == 11
  files = [made / "pictures" / "a.png", made / "pictures" / "more" / "b.jpg"]
  assert [row[0] for row in rows] == [str(file) for file in files]
  for row in rows:
    expected = _expected(made, row[0])
    found = dict(zip(row[1::2], map(float, row[2::2]), strict=True))
    assert list(found) == sorted(expected, key=expected.get, reverse=True)[:5]
    for name, share in found.items():
      assert share == pytest.approx(expected[name], abs=2e-6)
    assert f"{row[0]}\n" in out and f"{max(found.values()):.1%}  {row[1]}\n" in out


def test_names_from_a_file(made, tmp_path, capsys):
  names = tmp_path / "names.txt"
  names.write_text("".join(f"thing {i}\n" for i in range(10)))
  picture = f"--config.input={made / 'pictures' / 'a.png'}"
  words = ["--mode=predict", picture, _to(tmp_path), f"--config.class_names={names}"]
  assert call(made, *words) == 0
  assert "thing " in capsys.readouterr().out
  names.write_text("one\ntwo\n")
  assert call(made, *words) == 2
  assert "has 2 names, the model 10 classes" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("classes", "known", "first"),
  [
    (1000, (), "tench"),
    (1000, tuple(f"n{i:08d}" for i in range(1000)), "tench"),
    (1000, tuple(f"kind {i}" for i in range(1000)), "kind 0"),
    (2, ("cat", "dog"), "cat"),
    (3, (), "class 0"),
  ],
)
def test_names_without_a_file(classes, known, first):
  trained = types.SimpleNamespace(
    task=types.SimpleNamespace(num_classes=classes), class_names=known
  )
  names = trained_lib.class_names(types.SimpleNamespace(class_names=""), trained)
  assert names[0] == first and len(names) == classes


@pytest.mark.parametrize(
  ("input", "words"),
  [
    ("none.png", ["none.png' is no picture that can be read", "no known image format"]),
    ("missing.png", ["missing.png' does not exist"]),
    ("empty", ["no pictures in this folder", ".jpg"]),
    ("mixed", ["1 of 2 reads", "broken.png", "config.data.max_unreadable"]),
    ("", ["config.input is empty", "--config.input=PATH"]),
  ],
)
def test_what_is_no_picture(input, words, made, tmp_path, capsys):
  (tmp_path / "empty").mkdir()
  (tmp_path / "mixed").mkdir()
  (tmp_path / "mixed" / "broken.png").write_bytes(b"x")
  Image.new("RGB", (8, 8)).save(tmp_path / "mixed" / "whole.png")
  (tmp_path / "none.png").write_text("no picture")
  path = tmp_path / input if input else ""
  assert call(made, "--mode=predict", f"--config.input={path}", _to(tmp_path)) == 2
  err = capsys.readouterr().err.splitlines()[-1]
  assert err.startswith("Error: ")
  for word in words:
    assert word in err
  assert not any((tmp_path / "w").glob("*")) if (tmp_path / "w").exists() else True


def test_evaluation(made, tmp_path, capsys):
  assert call(made, "--mode=evaluate", _to(tmp_path)) == 0
  out, err = capsys.readouterr()
  assert err == "" and "mobilenetv3_small_minimal" in out
  figures = json.loads((tmp_path / "w" / "evaluation.json").read_text())
  assert figures["weights"].startswith(f"{NAME}:")
  source = data.open_source("digits", "test")
  images = np.stack([source[i]["image"] for i in range(len(source))])
  labels = np.array([source[i]["label"] for i in range(len(source))])
  loaded = weights.load(NAME, made / "ten.npz")
  pixels = (images.astype(np.float32) / 255 - 0.5) / 0.5
  logits = loaded.module.clone(plain=True).apply(loaded.variables, pixels, train=False)
  top1 = np.mean(np.argmax(np.asarray(logits), -1) == labels)
  assert figures["test"]["top1"] == pytest.approx(top1, abs=2 / 400)
  assert figures["test"]["examples"] == 400


def test_data_of_other_classes(made, tmp_path, capsys):
  for label in ("cat", "dog"):
    folder = tmp_path / "pets" / "train" / label
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "x.png")
  source = [f"--config.data.source=folder:{tmp_path / 'pets'}", "--config.data.split.test=train"]
  source += ["--config.data.split.validation=train"]
  assert call(made, "--mode=evaluate", *source, _to(tmp_path)) == 2
  assert "has 2 classes, the model 10" in capsys.readouterr().err
  assert not (tmp_path / "w").exists()


def _to(tmp_path):
  return f"--workdir={tmp_path / 'w'}"
