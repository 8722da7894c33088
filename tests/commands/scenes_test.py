"""Detectors and segmenters from the command line: trained, judged, and asked about pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from effnets import data, main
from effnets.data import video
from effnets.evaluation import detection as judge

pytestmark = [pytest.mark.usefixtures("process_state"), pytest.mark.slow]

SMALL = [
  "--config.data.options.canvas=64",
  "--config.data.options.examples=24",
  "--config.data.image_size=64",
  "--config.train.steps=2",
  "--config.batch_size=8",
  "--config.eval_batch_size=8",
  "--config.tensorboard=False",
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  """Returns a folder with an oblong picture and a video of two frames."""
  folder = tmp_path_factory.mktemp("pictures")
  rng = np.random.default_rng(0)
  Image.fromarray(rng.integers(0, 255, (40, 90, 3), np.uint8)).save(folder / "one.png")
  video.write(folder / "two.mp4", rng.integers(0, 255, (2, 48, 64, 3), np.uint8), rate=5, key="x")
  return folder


def run(capsys, config, workdir, *arguments):
  capsys.readouterr()
  flags = [f"--config={config}", f"--workdir={workdir}", *SMALL, *arguments]
  status = main.run(["main", *flags])
  return status, *capsys.readouterr()


def test_a_detector_is_trained_judged_and_draws(tmp_path, pictures, capsys):
  config, workdir = "configs/mobilenetv3.py:digit_scenes", tmp_path / "run"
  assert run(capsys, config, workdir)[0] == 0
  assert (workdir / "plots" / "detections.png").read_bytes().startswith(b"\x89PNG")
  status, out, _ = run(capsys, config, workdir, "--mode=evaluate")
  assert status == 0 and "ap75" in out
  told = json.loads((workdir / "evaluation.json").read_text())
  assert set(told["ap_of_classes"]["test"]) == set("0123456789")
  # The result file, judged by the official tool alone, gives what was told, but for its rounding.
  options = {"canvas": 64, "examples": 24}
  source = data.open_source("digit_scenes", "test", options=options)
  found = json.loads((workdir / "detections_test.json").read_text())
  figures, _ = judge.average_precision(source.truth(), found)
  assert figures["ap"] == pytest.approx(told["test"]["ap"], abs=1e-3)

  status, out, err = run(capsys, config, workdir, "--mode=predict", f"--config.input={pictures}")
  assert status == 0, err
  (one,) = json.loads((workdir / "predictions.json").read_text())
  assert one["picture"].endswith("one.png")
  drawn = np.asarray(Image.open(workdir / "predictions" / "00000_one.png"))
  assert drawn.shape == (40, 90, 3)
  # As a program that JAX alone runs, suppression inside: told to be the model's by the command.
  flags = ("--mode=export", "--config.export.batch_size=2")
  status, out, err = run(capsys, config, workdir, *flags)
  assert status == 0, err
  about = json.loads((workdir / "export" / "stablehlo" / "export.json").read_text())
  assert about["outputs"]["boxes"] == {"dtype": "float32", "shape": [2, 20, 4]}
  assert about["input"]["shape"] == [2, 64, 64, 3] and about["resize"] == "pad"
  status, _, err = run(capsys, config, workdir, "--mode=export", "--config.export.format=onnx")
  assert status == 2 and "detectors and segmenters go as stablehlo or savedmodel" in err
  for mode in ("robustness", "few_shot"):
    status, _, err = run(capsys, config, workdir, f"--mode={mode}")
    assert status == 2 and f"--mode={mode} is for classifiers" in err
  status, out, _ = run(
    capsys, config, workdir, "--mode=show", "--config.augment.randaugment.layers=1"
  )
  assert status == 0 and "RandAugment" in out
  flag = f"--config.input={pictures / 'two.mp4'}"
  assert run(capsys, config, workdir, "--mode=predict", flag)[0] == 0
  assert len(json.loads((workdir / "predictions.json").read_text())) == 2
  assert len(video.Video(str(workdir / "predictions" / "two.mp4"), key="x")) == 2


def test_a_segmenter_is_trained_judged_and_draws(tmp_path, pictures, capsys):
  config, workdir = "configs/mobilenetv3.py:digit_scenes_seg", tmp_path / "run"
  status, _, err = run(capsys, config, workdir)
  assert status == 0, err
  assert (workdir / "plots" / "segmentation.png").read_bytes().startswith(b"\x89PNG")
  status, out, _ = run(capsys, config, workdir, "--mode=evaluate")
  assert status == 0 and "miou" in out
  status, _, err = run(capsys, config, workdir, "--mode=predict", f"--config.input={pictures}")
  assert status == 0, err
  classes = np.asarray(Image.open(workdir / "predictions" / "00000_one_classes.png"))
  assert classes.shape == (40, 90) and classes.max() < 11
  (one,) = json.loads((workdir / "predictions.json").read_text())
  assert sum(one["classes"].values()) == pytest.approx(1, abs=1e-3)
  status, out, err = run(capsys, config, workdir, "--mode=export")
  assert status == 0, err
  about = json.loads((workdir / "export" / "stablehlo" / "export.json").read_text())
  assert about["outputs"]["classes"]["shape"] == [None, 64, 64]
  status, _, err = run(capsys, config, workdir, "--mode=export", "--config.export.batch_size=2")
  assert status == 2 and "batches of any size" in err


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--config.task.gama=2.0", "gama"),
    ("--config.detections.kind=soft", "soft"),
    ("--config.data.scenes.jitter=2.0,0.1", "ascending"),
    ("--config.model.name=efficientnet_tiny", "a model for detection"),
    ("--config.input=/nowhere.mp4", "no video"),
  ],
)
def test_mistakes_are_one_message(tmp_path, capsys, flag, message):
  config = "configs/mobilenetv3.py:digit_scenes"
  mode = "--mode=predict" if "input" in flag else "--mode=train"
  status, _, err = run(capsys, config, tmp_path / "run", mode, flag)
  assert status == 2 and message in err and "Traceback" not in err
