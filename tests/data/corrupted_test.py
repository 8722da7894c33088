"""Corrupted views and folders: which pictures they hold, and that only the example decides."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from effnets import errors
from effnets.augment import corruptions
from effnets.data import batches, corrupted, draws, sources


def digits(split="test"):
  return sources.open_source("digits", split)


class Varied:
  """Pictures of different sizes."""

  name, num_classes, class_names, image_size = "varied", 2, ("a", "b"), None

  def __len__(self):
    return 3

  def __getitem__(self, index):
    rows = np.linspace(0, 255, 300 + 10 * index, dtype=np.uint8)[:, None, None]
    columns = np.linspace(0, 255, 400, dtype=np.uint8)[None, :, None]
    image = np.concatenate([rows + 0 * columns, columns + 0 * rows, 0 * rows + 0 * columns], -1)
    return {"image": image, "label": np.int32(index % 2)}


def test_a_view_is_the_corruption_of_each_example():
  source = digits()
  view = corrupted.Corrupted(source, "snow", 4, seed=3)
  assert isinstance(view, sources.Source)
  assert (len(view), view.image_size, view.num_classes) == (400, 32, 10)
  assert view.name == "digits/test, snow 4"
  for index in (0, 399):
    rng = draws.generator(3, "corruption/snow/4", index)
    expected = corruptions.corrupt(source[index]["image"], "snow", 4, rng)
    np.testing.assert_array_equal(view[index]["image"], expected)
    assert view[index]["label"] == source[index]["label"]
  other = corrupted.Corrupted(source, "snow", 4, seed=4)
  assert (other[0]["image"] != view[0]["image"]).any()


def test_threads_and_hosts_see_the_same():
  view = corrupted.subset(corrupted.Corrupted(digits(), "shot_noise", 1), 40)
  whole = next(batches.eval_batches(view, 40, threads=4))["image"]
  parts = [
    next(batches.eval_batches(view, 40, process_index=i, process_count=2, threads=2))["image"]
    for i in range(2)
  ]
  np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_subsets_are_evenly_spread():
  source = digits()
  assert corrupted.subset(source, 0) is source and corrupted.subset(source, 999) is source
  part = corrupted.subset(source, 100)
  np.testing.assert_array_equal(part.indices, np.arange(0, 400, 4))
  assert len(part) == 100
  np.testing.assert_array_equal(part[7]["image"], source[28]["image"])


def test_pictures_of_varied_sizes_become_those_of_the_release():
  source = Varied()
  view = corrupted.Corrupted(source, "contrast", 3)
  assert view.image_size == 224
  image = Image.fromarray(source[1]["image"])  # 310 x 400: a centre of 271 becomes 224
  top, left = (310 - 271 + 1) // 2, (400 - 271 + 1) // 2
  box = (left, top, left + 271, top + 271)
  small = np.asarray(image.crop(box).resize((224, 224), Image.Resampling.BILINEAR))
  expected = corruptions.corrupt(small, "contrast", 3, np.random.default_rng(0))
  file = io.BytesIO()
  Image.fromarray(expected).save(file, "JPEG", quality=85, optimize=True)
  np.testing.assert_array_equal(view[1]["image"], np.asarray(Image.open(file)))
  larger = corrupted.Corrupted(source, "contrast", 3, release=299)
  assert larger[0]["image"].shape == (299, 299, 3)
  # Of each side 87.5 %: the ramps across and down keep nearly all of their range.
  spread = corrupted.Corrupted(source, "brightness", 1, release=299)[0]["image"]
  assert np.ptp(spread[..., 0].astype(int)) > 190 and np.ptp(spread[..., 1].astype(int)) > 190


@pytest.mark.parametrize("name", ["rotate", "gaussian_noise", "translate"])
def test_sequences_frame_by_frame(name):
  source = corrupted.subset(digits(), 5)
  view = corrupted.Sequences(source, name, seed=2, difficulty=3)
  frames = 41 if name == "translate" else 31
  assert view.frames == frames and len(view) == 5 * frames
  rng = draws.generator(2, f"perturbation/{name}/3", 4)
  difficulty = 3 if name == "gaussian_noise" else 1
  expected = corruptions.sequence(source[4]["image"], name, rng, difficulty=difficulty)
  read = np.stack([view[4 * frames + i]["image"] for i in range(frames)])
  np.testing.assert_array_equal(read, expected)
  assert view[4 * frames + 3]["label"] == source[4]["label"]
  # A copy in another process, as `config.data.workers` makes them, holds the same.
  copy = pickle.loads(pickle.dumps(view))
  np.testing.assert_array_equal(copy[4 * frames + 7]["image"], expected[7])


def test_sequences_of_large_pictures_are_cut_from_larger_ones():
  view = corrupted.Sequences(Varied(), "brightness")
  assert view.image_size == 224 and view[15]["image"].shape == (224, 224, 3)
  # 224 of 256 of the shorter side, whose ramp goes from 0 to 255.
  assert np.ptp(view[15]["image"][..., 0].astype(int)) == pytest.approx(255 * 224 / 256, abs=4)


def write(path, shape=(8, 8), value=9):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.full((*shape, 3), value, np.uint8)).save(path)


def test_published_folders(tmp_path):
  for name in ("fog/3/n01/a.JPEG", "fog/3/n02/b.JPEG", "blur/glass_blur/1/n01/a.JPEG"):
    write(tmp_path / name)
  write(tmp_path / "blur/glass_blur/1/n02/a.JPEG")
  read = lambda *what: corrupted.published(str(tmp_path), *what, key="config.x")  # noqa: E731
  assert len(read("fog", 3)) == 2 and read("fog", 3).class_names == ("n01", "n02")
  assert len(read("glass_blur", 1)) == 2
  assert read("fog", 4) is None and read("snow", 1) is None
  (tmp_path / "fog/5/n01").mkdir(parents=True)
  with pytest.raises(errors.UserError, match="config.x: '.*fog/5' holds no classes of pictures"):
    read("fog", 5)


def test_photos_of_frost(tmp_path):
  for index in range(3):
    write(tmp_path / f"frost{index}.png", (300, 400), 50 * index)
  found = corrupted.frost_photos(str(tmp_path), 224, key="config.x")
  assert [(p.shape, p[0, 0, 0]) for p in found] == [((300, 400, 3), 50 * i) for i in range(3)]
  small = corrupted.frost_photos(str(tmp_path), 32, key="config.x")
  assert [p.shape for p in small] == [(60, 80, 3)] * 3
  with pytest.raises(errors.UserError, match="frost0.png is 400 x 300 .* at least 301 x 301"):
    corrupted.frost_photos(str(tmp_path), 301, key="config.x")
  (tmp_path / "frost1.png").write_bytes(b"none")
  with pytest.raises(errors.UserError, match="config.x=.*frost1.png .no known image format"):
    corrupted.frost_photos(str(tmp_path), 32, key="config.x")


def test_as_a_source_of_a_config(tmp_path):
  options = {"corruption": "fog", "severity": 2, "seed": 5, "labels": 50}
  view = sources.open_source("corrupted:digits", "labelled", options=options)
  assert len(view) == 50 and view.name == "digits/labelled, fog 2"
  same = corrupted.Corrupted(digits("labelled"), "fog", 2, seed=5)
  np.testing.assert_array_equal(view[3]["image"][..., 0] > 0, view[3]["image"][..., 1] > 0)
  assert len(same) == 100
  write(tmp_path / "frost.png", (200, 200))
  options = {"corruption": "frost", "severity": 1, "frost": str(tmp_path)}
  assert sources.open_source("corrupted:digits", "test", options=options)[0]["image"].any()


@pytest.mark.parametrize(
  ("name", "options", "words"),
  [
    ("corrupted:", {}, "'corrupted:' lacks a source"),
    ("corrupted:digits", {"corruption": "fogg"}, "options.corruption='fogg' .* Nearest: 'fog'"),
    ("corrupted:digits", {}, "options.corruption='None' is not a corruption"),
    ("corrupted:digits", {"corruption": "fog", "severity": 6}, "severity=6 should be from 1 to 5"),
    ("corrupted:digits", {"corruption": "fog", "release": 256}, "release=256 should be 224 or 299"),
    ("corrupted:digits", {"corruption": "frost"}, "options.frost is missing"),
    ("corrupted:digit", {"corruption": "fog"}, "'digit' is not"),
    ("corrupted:digits", {"corruption": "fog", "label": 1}, "options='label' is not an option"),
  ],
)
def test_mistakes(name, options, words):
  with pytest.raises(errors.UserError, match=words):
    sources.open_source(name, "test", options=options)
