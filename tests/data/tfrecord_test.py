"""TFRecords and robots' trajectories against what TensorFlow writes; damage is named."""

import numpy as np
import pytest

from effnets import data, errors
from effnets.data import robot, sequences, sources, tfrecord


def test_checksums():
  # Figures of RFC 3720, B.4, and long data against a plain loop.
  assert tfrecord.crc32c(bytes(32)) == 0x8A9136AA
  assert tfrecord.crc32c(b"\xff" * 32) == 0x62A8AB43
  assert tfrecord.crc32c(bytes(range(32))) == 0x46DD794E
  long = np.random.default_rng(0).integers(0, 256, 100_003).astype(np.uint8).tobytes()
  state = 0xFFFFFFFF
  for byte in long:
    state ^= byte
    for _ in range(8):
      state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
  assert tfrecord.crc32c(long) == state ^ 0xFFFFFFFF


@pytest.fixture(scope="module")
def tensorflow():
  return pytest.importorskip("tensorflow")


FRAMES = 6


def pixels(number):
  return np.random.default_rng(number).integers(0, 256, (FRAMES, 8, 8, 3)).astype(np.uint8)


def write(tensorflow, path, numbers, width=4, encode=None, missing=()):
  train = tensorflow.train
  with tensorflow.io.TFRecordWriter(str(path)) as writer:
    for number in numbers:
      features = {}
      for t, frame in enumerate(pixels(number)):
        stored = encode(frame) if encode else frame.tobytes()
        features[f"{t}/image_aux1/encoded"] = train.Feature(
          bytes_list=train.BytesList(value=[stored])
        )
        if t not in missing:
          action = (number + t * 0.5 + np.arange(width)).astype(np.float32)
          features[f"{t}/action"] = train.Feature(float_list=train.FloatList(value=action))
        features[f"{t}/step"] = train.Feature(int64_list=train.Int64List(value=[t, -t]))
      message = train.Example(features=train.Features(feature=features))
      writer.write(message.SerializeToString())


def open_robot(path, split="train", **options):
  return data.open_source(f"robot:{path}", split, options=options)


def draw(name):
  return np.random.default_rng(0)


def test_trajectories(tensorflow, tmp_path):
  (tmp_path / "train").mkdir()
  (tmp_path / "val").mkdir()
  write(tensorflow, tmp_path / "train" / "traj_0_to_1.tfrecords", [0, 1])
  write(tensorflow, tmp_path / "train" / "traj_2_to_2.tfrecords", [2], missing=(FRAMES - 1,))
  png = lambda frame: tensorflow.io.encode_png(frame).numpy()  # noqa: E731
  write(tensorflow, tmp_path / "val" / "traj_3_to_3.tfrecords", [3], encode=png)
  source = open_robot(tmp_path)
  assert len(source) == 3 and source.num_classes == 1
  for number in range(3):
    film = source[number]["film"]
    assert film.frames == FRAMES
    np.testing.assert_array_equal(film.read([0, 2, 5]), pixels(number)[[0, 2, 5]])
    expected = [number + t * 0.5 + np.arange(4) for t in (1, 4)]
    np.testing.assert_allclose(film.actions([1, 4]), expected)
  # The last frame leads nowhere.
  np.testing.assert_array_equal(source[2]["film"].actions([4, 5])[1], np.zeros(4))
  test = open_robot(tmp_path, "test")
  np.testing.assert_array_equal(test[0]["film"].read([1]), pixels(3)[[1]])
  path, offset, length = source._records[1]
  features = tfrecord.example(tfrecord.read(path, offset, length), "x")
  assert features["2/step"].tolist() == [2, -2]

  transform = sequences.Sequences(16, 4, training=True, actions=4)
  example = data.Stream(source, seed=0, transform=transform)[0]
  assert example["clip"].shape == (4, 16, 16, 3) and example["actions"].shape == (4, 4)


def test_what_is_broken_is_named(tensorflow, tmp_path):
  folder = tmp_path / "train"
  folder.mkdir()
  write(tensorflow, folder / "a.tfrecords", [0, 1])
  write(tensorflow, folder / "b.tfrecords", [2], width=3)
  whole = (folder / "a.tfrecords").read_bytes()
  flipped = bytearray(whole)
  flipped[len(whole) // 4] ^= 1
  (folder / "c.tfrecords").write_bytes(bytes(flipped))
  (folder / "d.tfrecords").write_bytes(whole[: len(whole) - 10])
  (folder / "e.tfrecords").write_bytes(b"no records at all, but some text")
  write(tensorflow, folder / "f.tfrecords", [5], missing=(2,))
  source = open_robot(tmp_path)
  assert len(source) == 2 + 1 + 2 + 1 + 1 + 1
  transform = sequences.Sequences(8, 6, actions=4)
  readable, failures = [], []
  for index in range(len(source)):
    try:
      transform(source[index], draw)
      readable.append(index)
    except sources.Unreadable as error:
      failures.append(str(error))
  assert readable == [0, 1, 4]
  wrong, damaged, cut, text, missing = failures
  assert "b.tfrecords" in wrong and "of 3 numbers, config.model.actions=4" in wrong
  assert "c.tfrecords (the record at byte 0 is damaged)" in damaged
  assert "d.tfrecords (cut short at byte" in cut
  assert "e.tfrecords (no TFRecord at byte 0" in text
  assert "no feature 2/action" in missing
  # A stream puts others in their place and counts them.
  stream = data.Stream(source, seed=0, transform=transform, max_unreadable=1.0)
  for position in range(8):
    stream[position]
  assert stream.tally.failed >= 5 and len(stream.tally.names) == 5
  long = sequences.Sequences(8, 7)
  with pytest.raises(sources.Unreadable, match="it has 6 frames, a clip 7"):
    long(source[0], draw)


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"camera": "a b"}, "options.camera='a b' should be a name"),
    ({"picture": (3,)}, "options.picture=.*height and width"),
    ({"cameras": "x"}, "'cameras' is not an option of robot"),
  ],
)
def test_options(tmp_path, options, words):
  (tmp_path / "train").mkdir()
  with pytest.raises(errors.UserError, match=words):
    open_robot(tmp_path, **options)


def test_no_files(tmp_path):
  with pytest.raises(errors.UserError, match="there is no folder"):
    open_robot(tmp_path / "nothing")
  (tmp_path / "train").mkdir()
  with pytest.raises(errors.UserError, match="no files in"):
    open_robot(tmp_path)
  with pytest.raises(errors.UserError, match="data.split='validation' is not a folder.*'train'"):
    open_robot(tmp_path, "validation")


def test_a_film_without_frames():
  with pytest.raises(sources.Unreadable, match="no feature 0/image_view0/encoded"):
    robot.Trajectory("x", {})
  with pytest.raises(sources.Unreadable, match=r"10 bytes, 1x1 pixels 3"):
    robot.Trajectory("x", {"0/image_main/encoded": [bytes(10)]}).read([0])
