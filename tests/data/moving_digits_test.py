"""The embedded films to predict: what moves, what turns it, what actions tell; folders of films."""

import numpy as np
import pytest
from PIL import Image

from effnets import data, errors
from effnets.data import sequences, sources


def films(count=24, **options):
  source = data.open_source("moving_digits", "train", options={"examples": count, **options})
  return [source[i]["film"] for i in range(count)]


def steps(film):
  return np.diff(film.tracks[:, 0], axis=0)


def draw(name):
  return np.random.default_rng(0)


def test_films():
  source = data.open_source("moving_digits", "train")
  assert len(source) == 2048 and source.name == "moving_digits/train"
  film = source[3]["film"]
  frames = film.read(range(film.frames))
  assert frames.shape == (20, 32, 32, 3) and frames.dtype == np.uint8
  np.testing.assert_array_equal(frames, source[3]["film"].read(range(20)))
  np.testing.assert_array_equal(film.read([4, 9]), frames[[4, 9]])
  few = {"held_out": 5}
  assert [len(data.open_source("moving_digits", s, options=few)) for s in ("train", "test")] == [
    2048,
    5,
  ]
  fewer = data.open_source("moving_digits", "train", options={"examples": 8})
  np.testing.assert_array_equal(fewer[3]["film"].read([0]), frames[:1])
  other = data.open_source("moving_digits", "test")
  assert np.any(other[3]["film"].read([0]) != frames[:1])
  # All ink stays inside: as much in every frame as in the first.
  for film in films(8):
    total = film.read(range(20)).astype(np.int64).sum((1, 2, 3))
    assert (total == total[0]).all() and total[0] > 0


def turned(film):
  """Returns the steps after which the way is another; whole pixels hide a fraction of one."""
  way = np.diff(film.tracks[:, 0], n=2, axis=0)
  return np.flatnonzero((np.abs(way) > 1).any(1)) + 1


def test_only_walls_turn_and_at_random():
  angles = []
  for film in films(64):
    for step in turned(film):
      place = film.tracks[step, 0]
      assert (np.minimum(place, 16 - place) <= 3).any()
      y, x = film.tracks[step + 1, 0] - place
      if 16 - film.tracks[step, 0, 1] <= 1 and 3 < film.tracks[step, 0, 0] < 13:
        angles.append(np.arctan2(y, -x))
  # Off the right wall: anywhere to the left, up and down.
  assert len(angles) > 20 and np.std(angles) > 0.4
  mirrored = films(64, stochastic=0)
  for film in mirrored:
    for step in range(1, 18):
      before, after = film.tracks[step, 0] - film.tracks[step - 1, 0], steps(film)[step]
      # The pace along a wall is kept.
      free = np.abs(np.abs(after) - np.abs(before)) <= 1
      assert free.any()


def test_actions_tell_the_way():
  for film in films(8, actions=1, digits=2):
    ways = film.actions(range(20))
    assert ways.shape == (20, 4) and np.abs(ways).max() <= 1
    for digit in range(2):
      told = 3.0 * ways[:-1, 2 * digit : 2 * digit + 2][:, ::-1]
      seen = np.diff(film.tracks[:, digit], axis=0)
      assert np.abs(told - seen).max() <= 1
      # Sums do not drift apart.
      assert np.abs(told.cumsum(0) - seen.cumsum(0)).max() <= 1.01
  assert not hasattr(films(1)[0], "actions")


def test_options():
  for option, words in (
    ({"digits": 5}, "options.digits=5 must be a whole number from 1 to 4; default: 1"),
    ({"actions": 2}, "options.actions=2 must be a whole number from 0 to 1; default: 0"),
    ({"pace": 1}, "'pace' is not an option of moving_digits"),
  ):
    with pytest.raises(errors.UserError, match=words):
      data.open_source("moving_digits", "train", options=option)
  with pytest.raises(errors.UserError, match="a split of moving_digits"):
    data.open_source("moving_digits", "labelled")


# ---- Clips of them -------------------------------------------------------------------------------


def test_sequences():
  source = data.open_source("moving_digits", "test", options={"actions": 1})
  film = source[0]["film"]
  frames = film.read(range(20))
  fixed = sequences.Sequences(32, 7, stride=3, actions=2)
  found = fixed(source[0], draw)
  np.testing.assert_array_equal(found["clip"], frames[:19:3])
  np.testing.assert_allclose(found["actions"], film.actions(range(0, 19, 3)))
  drawn = sequences.Sequences(32, 5, training=True)
  starts = set()
  for seed in range(60):
    clip = drawn(source[0], lambda name, seed=seed: np.random.default_rng(seed))["clip"]
    (start,) = [s for s in range(16) if (clip == frames[s : s + 5]).all()]
    starts.add(start)
  assert {0, 15} <= starts and len(starts) > 10
  with pytest.raises(sources.Unreadable, match="#0 .it has 20 frames, a clip 21"):
    sequences.Sequences(32, 21)(source[0], draw)
  held = sequences.Sequences(32, 22, short="hold")
  clip = held(source[0], draw)["clip"]
  np.testing.assert_array_equal(clip[19:], np.repeat(frames[19:], 3, 0))
  assert len(held.shorts) == 1
  with pytest.raises(sources.Unreadable, match="actions are of 2 numbers, config.model.actions=3"):
    sequences.Sequences(32, 4, actions=3)(source[0], draw)
  plain = data.open_source("moving_digits", "test")
  with pytest.raises(errors.UserError, match="config.model.actions=2: films such as"):
    sequences.Sequences(32, 4, actions=2)(plain[0], draw)


def write(folder, count, size=(40, 30), start=0):
  folder.mkdir(parents=True)
  for number in range(count):
    picture = np.full((size[1], size[0], 3), start + number, np.uint8)
    Image.fromarray(picture).save(folder / f"{number:010d}.png")


def test_kitti(tmp_path):
  day = tmp_path / "2011_09_26"
  names = ["0001", "0005", "0104", "0079"]
  for place, number in enumerate(names):
    for camera in ("image_00", "image_02", "image_03"):
      write(day / f"2011_09_26_drive_{number}_sync" / camera / "data", 5, start=50 * place)
  open_kitti = lambda split, **o: data.open_source(f"kitti:{tmp_path}", split, options=o)  # noqa: E731
  train, test = open_kitti("train"), open_kitti("test")
  assert [len(train), len(test), len(open_kitti("validation"))] == [2, 4, 2]
  assert {p.split("/")[-3] for p in train.paths} == {"2011_09_26_drive_0001_sync"}
  assert test[0]["film"].read([1])[0, 0, 0, 0] in (101, 151)
  assert len(open_kitti("test", cameras=("image_02",))) == 2
  other = "2011_09_26_drive_0001_sync"
  assert len(open_kitti("test", test=(other,))) == 2
  assert len(open_kitti("train", test=(other,))) == 4
  windows = open_kitti("test", window=2)
  assert len(windows) == 8
  assert windows[1]["film"].read([0])[0, 0, 0, 0] == test[0]["film"].read([2])[0, 0, 0, 0]
  clip = sequences.Sequences(16, 2)(windows[0], draw)["clip"]
  assert clip.shape == (2, 16, 16, 3)
  for options, words in (
    ({"test": ("0001",)}, "'0001' is no recording"),
    ({"cameras": ("image_04",)}, "'image_04' is not a camera"),
    ({"window": -1}, "options.window=-1"),
  ):
    with pytest.raises(errors.UserError, match=words):
      open_kitti("test", **options)
  with pytest.raises(errors.UserError, match="there is no folder"):
    data.open_source("kitti:/no/where", "train")


def test_human36m(tmp_path):
  for place, name in enumerate(("S1", "S8", "S9", "S11")):
    write(tmp_path / name / "Walking.54138969", 4, start=40 * place)
  write(tmp_path / "S1" / "Broken", 3)
  (tmp_path / "S1" / "Broken" / "0000000001.png").write_bytes(b"nothing")
  write(tmp_path / "S1" / "Mixed", 2)
  Image.new("RGB", (9, 9)).save(tmp_path / "S1" / "Mixed" / "1.png")
  open_them = lambda split, **o: data.open_source(f"human36m:{tmp_path}", split, options=o)  # noqa: E731
  train = open_them("train")
  assert (len(train), len(open_them("test")), len(open_them("validation"))) == (4, 2, 2)
  kept = {"validation": ("S8",)}
  assert (len(open_them("train", **kept)), len(open_them("validation", **kept))) == (3, 1)
  failures = []
  for index in range(4):
    try:
      sequences.Sequences(16, 3)(train[index], draw)
    except sources.Unreadable as error:
      failures.append(str(error))
  broken, mixed = failures
  assert "Broken/0000000001.png" in broken
  assert "Mixed (its frames differ in size: 40x30 and 9x9 pixels)" in mixed or "9x9" in mixed
  with pytest.raises(errors.UserError, match="'S9' is not a subject of training"):
    open_them("train", validation=("S9",))


def test_frames(tmp_path):
  write(tmp_path / "train" / "a" / "one", 4)
  write(tmp_path / "train" / "two", 3)
  write(tmp_path / "val" / "three", 7)
  source = data.open_source(f"frames:{tmp_path}", "train", options={"window": 3})
  assert [source[i]["film"].frames for i in range(len(source))] == [4, 3]
  assert len(data.open_source(f"frames:{tmp_path}", "validation", options={"window": 3})) == 2
  with pytest.raises(errors.UserError, match="data.split='test' is not a folder"):
    data.open_source(f"frames:{tmp_path}", "test")
  (tmp_path / "test").mkdir()
  with pytest.raises(errors.UserError, match="no films; expected PATH/SPLIT"):
    data.open_source(f"frames:{tmp_path}", "test")
