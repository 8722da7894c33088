"""Films: every frame, in order and once; which films a folder holds; what is no film."""

import pickle

import numpy as np
import pytest
from PIL import Image

from effnets import data, errors
from effnets.commands import robustness_suites as suites
from effnets.data import films, sources
from tests.data import fakes


def noise(frames=31, height=16, width=24, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


def test_every_frame_is_read_as_it_was_written(tmp_path):
  frames = noise()
  fakes.write_film(tmp_path / "a.mp4", frames)
  np.testing.assert_array_equal(films.read(str(tmp_path / "a.mp4")), frames)
  # At uneven times, as if frames had been left out: still each frame once.
  fakes.write_film(
    tmp_path / "b.mp4", frames, more=["-vf", "setpts=N*N/16/TB", "-fps_mode", "passthrough"]
  )
  np.testing.assert_array_equal(films.read(str(tmp_path / "b.mp4")), frames)
  # As films are published, with colours at half the resolution: smooth ones stay what they were.
  smooth = np.linspace(30, 220, 31).astype(np.uint8)[:, None, None, None] + np.zeros_like(frames)
  fakes.write_film(tmp_path / "c.mp4", smooth, lossless=False)
  found = films.read(str(tmp_path / "c.mp4")).astype(int)
  assert found.shape == frames.shape and np.abs(found - smooth).max() <= 4


def test_pixels_are_those_of_the_benchmarks_own_reader(tmp_path):
  cv2 = pytest.importorskip("cv2")
  path = str(tmp_path / "a.mp4")
  fakes.write_film(tmp_path / "a.mp4", noise(5), lossless=False)
  capture, frames = cv2.VideoCapture(path), []
  while (read := capture.read())[0]:
    frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
  np.testing.assert_array_equal(films.read(path), np.stack(frames))


def test_the_films_of_a_folder(tmp_path):
  stored = {}
  for index, place in enumerate(("n1/b.mp4", "n1/a.mp4", "n2/c.mp4")):
    stored[place] = noise(41, seed=index)
    fakes.write_film(tmp_path / "geometric/translate" / place, stored[place])
  found = films.published(str(tmp_path), "translate", difficulty=2, key="config.x")
  assert found.frames == 41 and len(found) == 3 * 41 and found.class_names == ("n1", "n2")
  assert isinstance(found, sources.Source)
  for film, place in enumerate(("n1/a.mp4", "n1/b.mp4", "n2/c.mp4")):
    for frame in (0, 17, 40):
      example = found[41 * film + frame]
      np.testing.assert_array_equal(example["image"], stored[place][frame])
      assert example["label"] == (place[1] == "2")
  part = found.subset(2)
  assert len(part) == 82 and found.subset(0) is found and found.subset(3) is found
  np.testing.assert_array_equal(part[41]["image"], stored["n1/b.mp4"][0])
  # Reading in processes of their own.
  other = pickle.loads(pickle.dumps(found))
  np.testing.assert_array_equal(other[5]["image"], found[5]["image"])
  assert films.published(str(tmp_path), "rotate", difficulty=1, key="config.x") is None


def test_harder_noise_has_a_folder_of_its_own(tmp_path):
  for name in ("shot_noise", "shot_noise_3", "tilt"):
    (tmp_path / name / "n1").mkdir(parents=True)
    (tmp_path / name / "n1" / "a.mp4").touch()

  def found(name, difficulty):
    return films.published(str(tmp_path), name, difficulty=difficulty, key="config.x")

  assert found("shot_noise", 1).paths[0].endswith("shot_noise/n1/a.mp4")
  assert found("shot_noise", 2) is None
  assert found("shot_noise", 3).paths[0].endswith("shot_noise_3/n1/a.mp4")
  assert found("tilt", 3).paths[0].endswith("tilt/n1/a.mp4")


def test_what_is_no_film(tmp_path):
  folder = tmp_path / "rotate" / "n1"
  fakes.write_film(folder / "long.mp4", noise(33))
  (folder / "text.mp4").write_text("this is no film\n" * 9)
  found = films.published(str(tmp_path), "rotate", difficulty=1, key="config.x")
  with pytest.raises(sources.Unreadable, match=r"long.mp4 \(it has 33 frames, not 31\)"):
    found[0]
  with pytest.raises(sources.Unreadable, match=r"text.mp4 \(.*Invalid data"):
    found[31]
  with pytest.raises(errors.UserError, match="reads of .*/rotate failed.*long.mp4.*text.mp4"):
    next(data.eval_batches(found, 62, transform=data.decode.CentreCrop(8, 1.0), threads=2))
  (tmp_path / "tilt" / "n1").mkdir(parents=True)
  with pytest.raises(
    errors.UserError, match="config.x=.*/tilt holds no films; expected CLASS/FILM"
  ):
    films.published(str(tmp_path), "tilt", difficulty=1, key="config.x")


def test_without_the_library(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
  (tmp_path / "tilt" / "n1").mkdir(parents=True)
  with pytest.raises(errors.UserError, match=r"^imageio-ffmpeg is not .*'effnets\[video\]'"):
    films.published(str(tmp_path), "tilt", difficulty=1, key="config.x")


class Colours(suites.Examiner):
  """Answers with the class whose level a frame has: class k is the grey level 20 k + 10."""

  def __init__(self, size):
    self.trained = type("Trained", (), {"task": type("Task", (), {"image_size": size})})

  def batches(self, source):
    for batch in data.eval_batches(source, 40, transform=self.transform(source), threads=2):
      levels = batch["image"].reshape(40, -1)
      assert batch["image"].shape[1:] == (24, 24, 3)
      real = batch.pop("mask")
      distance = np.abs(levels.mean(1)[:, None] - (20 * np.arange(10) + 10))
      yield -distance[real], {name: x[real] for name, x in batch.items()}


@pytest.mark.parametrize(
  ("name", "difficulty", "back"),
  [("rotate", 1, 1), ("rotate", 2, 2), ("translate", 1, 1), ("shot_noise", 1, 0)],
)
def test_flips_of_known_answers(tmp_path, name, difficulty, back):
  """back: with which frame before a frame is compared; 0: with the first."""
  frames = 41 if name == "translate" else 31
  answers = np.random.default_rng(1).integers(0, 10, (3, frames))
  for film, row in enumerate(answers):
    levels = (20 * row + 10).astype(np.uint8)[:, None, None, None]
    fakes.write_film(
      tmp_path / name / "n1" / f"{film}.mp4", levels + np.zeros((1, 16, 20, 3), np.uint8)
    )
  view = films.published(str(tmp_path), name, difficulty=1, key="config.x")
  found = suites.sequences(Colours(24), lambda name: view, (name,), difficulty=difficulty)
  flips = []
  for row in answers:
    for t in range(back or 1, frames):
      flips.append(row[t] != row[t - back if back else 0])
  assert found["flip_probability"][name] == pytest.approx(np.mean(flips))
  assert found["sequences"] == {name: 3}


def test_frames_are_resized_whole(tmp_path):
  """Straight to the model's size, without a crop: the outermost pixels are still there."""
  frames = np.zeros((31, 20, 40, 3), np.uint8)
  frames[:, :, :10] = 255
  fakes.write_film(tmp_path / "tilt" / "n1" / "a.mp4", frames)
  view = films.published(str(tmp_path), "tilt", difficulty=1, key="config.x")
  transform = Colours(16).transform(view)
  seen = transform(view[3], data.decode.drawing(0, 0))["image"]
  expected = Image.fromarray(frames[3]).resize((16, 16), Image.Resampling.BICUBIC)
  np.testing.assert_array_equal(seen, np.asarray(expected))
