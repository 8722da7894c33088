"""A TFDS data set, prepared here without TensorFlow, is read; what is wrong is said."""

import io
import json
import pickle
import sys

import numpy as np
import pytest
import tensorflow_datasets
from array_record.python import array_record_module
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from effnets import errors
from effnets.data import sources

_COUNT = 7


def _pixels(i):
  return np.random.default_rng(i).integers(0, 256, (6 + i, 9, 3), np.uint8)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """Writes `tiny_images` 1.0.0 in TFDS's own layout: 7 PNGs of different sizes, 3 classes."""
  root = tmp_path_factory.mktemp("tfds")
  folder = root / "tiny_images" / "1.0.0"
  folder.mkdir(parents=True)
  features = tensorflow_datasets.features.FeaturesDict(
    {
      "image": tensorflow_datasets.features.Image(shape=(None, None, 3), encoding_format="png"),
      "label": tensorflow_datasets.features.ClassLabel(names=["ant", "bee", "cat"]),
    }
  )
  features.save_config(folder)
  size = 0
  name = "tiny_images-train.array_record-00000-of-00001"
  writer = array_record_module.ArrayRecordWriter(str(folder / name), "group_size:1")
  for i in range(_COUNT):
    file = io.BytesIO()
    Image.fromarray(_pixels(i)).save(file, "PNG")
    encoded = file.getvalue() if i != 5 else file.getvalue()[:60]  # number 5 is cut off
    example = tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(encoded)
    example.features.feature["label"].int64_list.value.append(i % 3)
    size += len(example.SerializeToString())
    writer.write(example.SerializeToString())
  writer.close()
  (folder / "dataset_info.json").write_text(
    json.dumps(
      {
        "name": "tiny_images",
        "version": "1.0.0",
        "fileFormat": "array_record",
        "moduleName": "tiny_images",
        "splits": [
          {
            "name": "train",
            "shardLengths": [str(_COUNT)],
            "numBytes": str(size),
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
          }
        ],
      }
    )
  )
  return root


@pytest.mark.parametrize("name", ["tiny_images", "tfds:tiny_images", "tiny_images:1.0.0"])
def test_reads_examples_without_tensorflow(data_dir, name):
  before = "tensorflow" in sys.modules  # another test of this process may have asked for it
  source = sources.open_source(name, "train", options={"data_dir": str(data_dir)})
  assert len(source) == _COUNT and source.num_classes == 3 and source.image_size is None
  assert list(source.class_names) == ["ant", "bee", "cat"]
  for i in (0, 3, 6):
    np.testing.assert_array_equal(source[i]["image"], _pixels(i))
    assert source[i]["label"] == i % 3 and source[i]["label"].dtype == np.int32
  assert ("tensorflow" in sys.modules) == before


def test_slices_broken_images_and_pickling(data_dir):
  options = {"data_dir": str(data_dir)}
  part = sources.open_source("tiny_images", "train[3:]", options=options)
  np.testing.assert_array_equal(part[0]["image"], _pixels(3))
  with pytest.raises(sources.Unreadable, match=r"train\[3:\] #2"):
    part[2]
  again = pickle.loads(pickle.dumps(part))
  assert len(again) == 4
  np.testing.assert_array_equal(again[1]["image"], _pixels(4))


@pytest.mark.parametrize(
  "name, split, options, message",
  [
    (
      "cifar1O",
      "train",
      {},
      r"config.data.source='cifar1O' is not a data set. Nearest: .*'cifar10'",
    ),
    ("digit", "train", {}, r"config.data.source='digit' is not a data set. Nearest: 'digits'"),
    ("cifar10", "train", {}, r"'cifar10' is not prepared in .*`python -m effnets.prepare cifar10 "),
    ("tiny_images", "test", {}, r"config.data.split='test' is not a split .*'train'"),
    ("tiny_images", "train", {"label": "lable"}, r"options.label='lable' .*'label'"),
    ("tiny_images", "train", {"label": "image"}, r"options.label='image' .* is no class label"),
    ("tiny_images", "train", {"data_dri": "x"}, r"options='data_dri' .*'data_dir'"),
    ("folder:", "train", {}, r"source='folder:' lacks a path"),
  ],
)
def test_messages(data_dir, name, split, options, message):
  with pytest.raises(errors.UserError, match=message):
    sources.open_source(name, split, options={"data_dir": str(data_dir), **options})


def test_a_format_without_random_access_is_named(data_dir, tmp_path):
  folder = tmp_path / "tiny_images" / "1.0.0"
  folder.mkdir(parents=True)
  for path in (data_dir / "tiny_images" / "1.0.0").iterdir():
    text = path.read_bytes()
    if path.name == "dataset_info.json":
      text = text.replace(b"array_record", b"tfrecord")
    (folder / path.name.replace("array_record", "tfrecord")).write_bytes(text)
  with pytest.raises(errors.UserError, match="as tfrecord, which has no random access. Prepare it"):
    sources.open_source("tiny_images", "train", options={"data_dir": str(tmp_path)})


def test_a_sum_of_splits(data_dir):
  options = {"data_dir": str(data_dir)}
  both = sources.open_source("tiny_images", "train[:2]+train[6:]", options=options)
  assert len(both) == 3
  for index, number in enumerate((0, 1, 6)):
    np.testing.assert_array_equal(both[index]["image"], _pixels(number))
    assert both[index]["label"] == number % 3
