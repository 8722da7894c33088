"""TFDS data sets of films, written here by TFDS itself, are read without TensorFlow."""

import io
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets
from array_record.python import array_record_module
from PIL import Image

from effnets import data, errors
from effnets.data import clips, sequences, sources

# Its serialiser is made of TensorFlow.
pytest.importorskip("tensorflow")

FEATURES = tensorflow_datasets.features


def png(pixels):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "PNG")
  return io.BytesIO(file.getvalue())


def pictures(seed, count, side=8):
  return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def write(root, name, features, examples, split="train"):
  """Writes examples by TFDS's own serialiser."""
  folder = root / name / "1.0.0"
  folder.mkdir(parents=True)
  features = features if hasattr(features, "serialize_example") else FEATURES.FeaturesDict(features)
  features.save_config(folder)
  file = f"{name}-{split}.array_record-00000-of-00001"
  writer = array_record_module.ArrayRecordWriter(str(folder / file), "group_size:1")
  for example in examples:
    writer.write(features.serialize_example(example))
  writer.close()
  about = {
    "name": name,
    "version": "1.0.0",
    "fileFormat": "array_record",
    "moduleName": name,
    "splits": [
      {
        "name": split,
        "shardLengths": [str(len(examples))],
        "numBytes": "1",
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
      }
    ],
  }
  (folder / "dataset_info.json").write_text(json.dumps(about))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  film = lambda seed, count: [png(p) for p in pictures(seed, count)]  # noqa: E731
  names = ["ant", "bee", "cat"]
  write(
    folder,
    "deeds",
    {
      "label": FEATURES.ClassLabel(names=names),
      "video": FEATURES.Video(shape=(None, None, None, 3)),
    },
    [{"video": film(i, 5 + i), "label": i % 3} for i in range(4)],
  )
  write(
    folder,
    "days",
    {
      "labels": FEATURES.Sequence(FEATURES.ClassLabel(names=names)),
      "video": FEATURES.Video(shape=(None, None, None, 3)),
    },
    [{"video": film(i, 5), "labels": labels} for i, labels in enumerate(([0, 2], [], [1]))],
  )
  # As TFDS has `bair_robot_pushing_small`: everything is a sequence.
  steps = FEATURES.Sequence(
    {
      "image_main": FEATURES.Image(shape=(8, 8, 3)),
      "image_aux1": FEATURES.Image(shape=(8, 8, 3)),
      "action": FEATURES.Tensor(shape=(4,), dtype=np.float32),
      "endeffector_pos": FEATURES.Tensor(shape=(3,), dtype=np.float32),
    },
    length=6,
  )
  write(
    folder,
    "pushes",
    steps,
    [
      {
        "image_main": film(50 + i, 6),
        "image_aux1": film(i, 6),
        "action": np.arange(24, dtype=np.float32).reshape(6, 4) + i,
        "endeffector_pos": np.zeros((6, 3), np.float32),
      }
      for i in range(2)
    ],
  )
  return folder


def opened(root, name, split="train", **options):
  return data.open_source(name, split, options={"data_dir": str(root), **options})


def test_films_of_one_class(root):
  source = opened(root, "deeds")
  assert len(source) == 4 and source.class_names == ("ant", "bee", "cat") and not source.targets
  found = source[2]
  assert found["label"] == 2 and found["label"].dtype == np.int32 and found["film"].frames == 7
  np.testing.assert_array_equal(found["film"].read([0, 3, 3, 6]), pictures(2, 7)[[0, 3, 3, 6]])
  clip = clips.Clips(8, 4, fraction=1.0)(found, None)["clip"]
  # The middle four of seven frames; their size is right already.
  np.testing.assert_array_equal(clip[0], pictures(2, 7)[2:6])
  part = pickle.loads(pickle.dumps(opened(root, "deeds", "train[1:3]")))
  assert len(part) == 2 and part[0]["film"].frames == 6


def test_films_of_several_classes(root):
  source = opened(root, "days")
  assert source.targets and [x["targets"].tolist() for x in map(source.__getitem__, range(3))] == [
    [1, 0, 1],
    [0, 0, 0],
    [0, 1, 0],
  ]


def test_a_robots_pushes(root):
  source = opened(root, "pushes")
  assert len(source) == 2 and source.num_classes == 1
  made = sequences.Sequences(8, 5, actions=4)(source[1], None)
  np.testing.assert_array_equal(made["clip"], pictures(1, 6)[:5])
  np.testing.assert_array_equal(made["actions"], np.arange(20).reshape(5, 4) + 1)
  other = opened(root, "pushes", video="image_main")[0]["film"]
  np.testing.assert_array_equal(other.read([5]), pictures(50, 6)[5:])
  with pytest.raises(sources.Unreadable, match="of 3 numbers, config.model.actions=4"):
    source = opened(root, "pushes", action="endeffector_pos")
    sequences.Sequences(8, 5, actions=4)(source[0], None)


def test_nothing_of_it_takes_tensorflow(root):
  code = "\n".join(
    [
      "import sys",
      "from effnets import data",
      f"source = data.open_source('pushes', 'train', options={{'data_dir': {str(root)!r}}})",
      "assert source[0]['film'].read([0]).shape == (1, 8, 8, 3)",
      "assert source[0]['film'].actions([0]).shape == (1, 4)",
      "assert 'tensorflow' not in sys.modules",
    ]
  )
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
  ("name", "options", "words"),
  [
    ("deeds", {"video": "vidoe"}, r"config.data.options.video='vidoe'.*Nearest: 'video'"),
    ("deeds", {"label": "video"}, r"config.data.options.label='video'"),
    ("pushes", {"action": "image_main"}, r"config.data.options.action='image_main'"),
    ("deeds", {"camera": "x"}, r"'camera' is not an option"),
  ],
)
def test_mistakes(root, name, options, words):
  with pytest.raises(errors.UserError, match=words):
    opened(root, name, **options)
  with pytest.raises(errors.UserError, match="config.data.split='test'"):
    opened(root, name, "test")
