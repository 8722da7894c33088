"""A whole run that predicts films: trained, judged, drawn, asked for films of one's own."""

import json

import numpy as np
import pytest
from PIL import Image

from effnets import commands, configuration, errors
from effnets.commands import predicted
from effnets.data import video, videos


@pytest.fixture
def config():
  made = configuration.load("configs/video_prediction.py:steps=2")
  configuration.merge(
    made,
    {
      "batch_size": 8,
      "eval_batch_size": 8,
      "tensorboard": False,
      "data": {"image_size": 16, "options": {"canvas": 16, "held_out": 6}},
      "task": {"context": 2, "horizon": 2, "test_horizon": 3, "samples": 2},
      "model": {"k": 0.05, "m": 0.02, "code": 4, "latent": 2, "image_size": 16},
    },
    key="test",
  )
  return made


def test_clips_are_shown(config, tmp_path):
  commands.show(config, str(tmp_path))
  # Eight clips of four frames, tiles of 64 pixels.
  assert Image.open(tmp_path / "plots" / "clips.png").size == (4 * 66 - 2, 8 * 66 - 2)


@pytest.mark.parametrize("library", [True, False])
def test_films_are_written_as_gif_and_mp4(tmp_path, monkeypatch, library):
  if library:
    pytest.importorskip("cv2")
  monkeypatch.setattr(video, "can_write", lambda: library)
  given, truth, told = [30, 70], [110, 150, 190], [200, 160, 120]
  of = lambda levels: np.tile(np.array(levels, np.uint8)[:, None, None, None], (1, 32, 32, 3))  # noqa: E731
  whole, shown = np.stack([of(given + truth)] * 2), np.stack([of(told)[None]] * 2)
  predicted.pictures(tmp_path, "plots/told", {"whole": whole, "shown": shown}, 2)
  with Image.open(tmp_path / "plots" / "told.gif") as film:
    size = film.size
    assert film.n_frames == 5
  assert (tmp_path / "plots" / "told.mp4").exists() == library
  if not library:
    return
  film = videos.film(str(tmp_path / "plots" / "told.mp4"))
  assert (film.frames, film.rate) == (5, 5.0)
  frames = film.read(range(5)).astype(int)
  assert frames.shape == (5, size[1], size[0], 3)
  # Truth beside what was told; codecs lose a little. The first two frames were given.
  for left, levels in ((20, given + truth), (86, given + told)):
    inside = frames[:, 20:44, left : left + 24].mean((1, 2, 3))
    np.testing.assert_allclose(inside, levels, atol=5)


@pytest.mark.slow
def test_a_run(config, tmp_path):
  workdir = tmp_path / "run"
  commands.train(config, str(workdir))
  result = json.loads((workdir / "result.json").read_text())
  names = ("psnr", "ssim", "psnr_best", "ssim_best", "psnr_copy", "ssim_copy", "frechet_digits")
  assert set(names) == set(result["test"]) and result["steps"] == 2
  assert all(np.isfinite(value) for value in result["test"].values())
  with Image.open(workdir / "plots" / "prediction.gif") as film:
    assert film.n_frames == 5
  # Of four clips truth, the best and both samples.
  assert Image.open(workdir / "plots" / "prediction.png").size == (5 * 66 - 2, 16 * 66 - 2)
  assert (workdir / "plots" / "frames.png").is_file()

  commands.evaluate(config, str(workdir))
  found = json.loads((workdir / "evaluation.json").read_text())
  assert found["test"] == pytest.approx(result["test"], rel=1e-3)
  curve = found["over_time"]["test"]["psnr_best"]
  assert len(curve) == 3
  assert np.mean(curve) == pytest.approx(result["test"]["psnr_best"], rel=1e-4)

  folder = tmp_path / "walk"
  folder.mkdir()
  for number in range(3):
    Image.new("RGB", (20, 16), (50 * number, 0, 0)).save(folder / f"{number}.png")
  config.input = str(folder)
  commands.predict(config, str(workdir))
  with Image.open(workdir / "predictions" / "walk.gif") as film:
    assert film.n_frames == 5
  assert (workdir / "predictions" / "walk.mp4").is_file() == video.can_write()
  (folder / "0.png").unlink()
  (folder / "1.png").unlink()
  with pytest.raises(errors.UserError, match="has 1 frames; a context takes 2"):
    commands.predict(config, str(workdir))
  config.input = str(tmp_path / "nothing")
  with pytest.raises(errors.UserError, match="neither a folder of frames nor a video"):
    commands.predict(config, str(workdir))
