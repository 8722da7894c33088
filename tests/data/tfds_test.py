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
from effnets.data import coco_files, sources

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


def _scene_features(names, extra):
  library = tensorflow_datasets.features
  return library.FeaturesDict(
    {
      "image": library.Image(shape=(None, None, 3), encoding_format="png"),
      "image/id": library.Scalar(np.int64),
      "objects": library.Sequence(
        {
          "bbox": library.BBoxFeature(),
          "label": library.ClassLabel(names=list(names)),
          **{name: library.Scalar(kind) for name, kind in extra.items()},
        }
      ),
    }
  )


def _write_scenes(root, name, features, scenes):
  folder = root / name / "1.0.0"
  folder.mkdir(parents=True)
  features.save_config(folder)
  file = f"{name}-train.array_record-00000-of-00001"
  writer = array_record_module.ArrayRecordWriter(str(folder / file), "group_size:1")
  for scene in scenes:
    writer.write(features.serialize_example(features.encode_example(scene)))
  writer.close()
  info = {
    "name": name,
    "version": "1.0.0",
    "fileFormat": "array_record",
    "moduleName": name,
    "splits": [
      {
        "name": "train",
        "shardLengths": [str(len(scenes))],
        "numBytes": "1",
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
      }
    ],
  }
  (folder / "dataset_info.json").write_text(json.dumps(info))


def _object(box, label, **more):
  return {"bbox": tensorflow_datasets.features.BBox(*box), "label": label, **more}


def test_sets_with_objects_give_scenes(tmp_path):
  pixels = [np.full((20, 40, 3), i, np.uint8) for i in range(2)]
  features = _scene_features(coco_files.NAMES, {"is_crowd": np.bool_, "area": np.int64})
  _write_scenes(
    tmp_path,
    "tiny_coco",
    features,
    [
      {
        "image": pixels[0],
        "image/id": 139,
        "objects": [
          _object((0.1, 0.25, 0.5, 0.75), 79, is_crowd=False, area=77),
          _object((0.5, 0.5, 0.5, 0.75), 2, is_crowd=False, area=1),
          _object((0.0, 0.0, 1.0, 1.0), 0, is_crowd=True, area=800),
        ],
      },
      {"image": pixels[1], "image/id": 7, "objects": []},
    ],
  )
  options = {"data_dir": str(tmp_path)}
  source = sources.open_source("tiny_coco", "train", options=options)
  assert source.num_classes == 80 and source.category_ids[79] == 90
  scene = source[0]
  np.testing.assert_allclose(scene["boxes"], [[2, 10, 10, 30], [0, 0, 20, 40]], rtol=1e-6)
  assert scene["classes"].tolist() == [79, 0] and scene["crowd"].tolist() == [False, True]
  assert source.notes.counts == {"zero area": 1} and source[1]["boxes"].shape == (0, 4)
  assert source.image_ids.tolist() == [139, 7]
  truth = source.truth()
  assert [a["area"] for a in truth["annotations"]] == [77, 800]
  assert truth["annotations"][0]["category_id"] == 90 and truth["images"][0]["id"] == 139
  sparse = sources.open_source("tiny_coco", "train", options={**options, "sparse": True})
  assert sparse.num_classes == 90 and sparse[0]["classes"].tolist() == [89, 0]
  assert pickle.loads(pickle.dumps(sparse))[0]["classes"].tolist() == [89, 0]


def test_difficult_objects_count_as_crowds(tmp_path):
  features = _scene_features(["cat", "dog"], {"is_difficult": np.bool_})
  _write_scenes(
    tmp_path,
    "tiny_voc",
    features,
    [
      {
        "image": np.zeros((10, 10, 3), np.uint8),
        "image/id": 1,
        "objects": [
          _object((0.0, 0.0, 0.5, 0.5), 1, is_difficult=False),
          _object((0.0, 0.0, 1.0, 1.0), 0, is_difficult=True),
        ],
      }
    ],
  )
  source = sources.open_source("tiny_voc", "train", options={"data_dir": str(tmp_path)})
  assert source.class_names == ("cat", "dog") and source.category_ids == (1, 2)
  assert source[0]["crowd"].tolist() == [False, True]
