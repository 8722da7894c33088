"""The command: from pictures to what a run reads, and what it says when it cannot."""

import io
import re
import shutil
import sys

import jax
import numpy as np
import pytest
import tensorflow_datasets as library
from PIL import Image

from effnets import configuration, errors, evaluation, models, prepare
from effnets.data import records, sources
from effnets.models import i3d


def _picture(path, seed, kind="JPEG"):
  path.parent.mkdir(parents=True, exist_ok=True)
  size = (9 + seed % 5, 7 + seed % 3, 3)
  pixels = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
  Image.fromarray(pixels).save(path, kind)


@pytest.fixture
def pictures(tmp_path):
  """Two splits of three classes; the validation split, called as ImageNet's is, lacks one."""
  root = tmp_path / "pictures"
  for split, classes, count in (("train", "abc", 7), ("val", "ac", 3)):
    for label, name in enumerate(classes):
      for i in range(count):
        _picture(root / split / name / f"{i}.jpg", 100 * label + i)
  _picture(root / "train" / "b" / "9.png", 5, "PNG")
  return root


@pytest.fixture
def call(capsys):
  """Returns a function from arguments to (status, output, error output)."""

  def run(*arguments):
    status = prepare.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return status, out, err

  return run


def _assert_equal(prepared, folder):
  assert len(prepared) == len(folder) and prepared.class_names == folder.class_names
  for i in range(len(folder)):
    found, expected = prepared[i], folder[i]
    np.testing.assert_array_equal(found["image"], expected["image"])
    assert found["label"] == expected["label"]


def test_round_trip(call, pictures, tmp_path):
  status, out, err = call(f"folder:{pictures}", tmp_path / "out", "--shards=3")
  assert status == 0
  assert "train: 22 pictures, 3 classes, 3 file(s), " in out
  assert "train: 22 of 22 pictures (100.0%)\n" in err
  for split, theirs in (("train", "train"), ("validation", "val")):
    prepared = sources.open_source(f"records:{tmp_path / 'out'}", split)
    folder = sources.open_source(f"folder:{pictures}", theirs)
    _assert_equal(prepared, folder)
    assert prepared.provenance["source"] == f"folder:{pictures}/{theirs}"
    files = sorted(p.name for p in (tmp_path / "out" / split).iterdir())
    shards = [f"records-{i:05d}-of-00003.array_record" for i in range(3)]
    assert files == [*shards, "records.json"]
    # Bytes are kept: a JPEG that is encoded again is another picture.
    example = prepared._records[1]
    assert (pictures / theirs / "a" / "1.jpg").read_bytes() in example
  # A split is a data set by itself too.
  alone = sources.open_source(f"records:{tmp_path / 'out' / 'train'}", "all")
  assert len(alone) == 22


def test_what_to_write_in_the_config_can_be_written(call, pictures, tmp_path):
  _, out, _ = call(f"folder:{pictures}", tmp_path / "out")
  options = dict(re.findall(r"--config\.(\S+)=(\S+)", out))
  assert options.pop("data.source") == f"records:{tmp_path / 'out'}"
  assert options == {
    "data.split.train": "train",
    "data.split.validation": "validation",
    "data.split.test": "validation",
  }
  base = configuration.flatten(configuration.base().to_dict())
  assert options.keys() <= base.keys()


def test_one_split_and_folders_without_splits(call, pictures, tmp_path):
  status, out, _ = call(f"folder:{pictures}", tmp_path / "a", "--split=val")
  assert status == 0 and "There is no split `train`" in out
  assert records.splits(tmp_path / "a") == ["validation"]
  # The other one may follow.
  assert call(f"folder:{pictures}", tmp_path / "a", "--split=train")[0] == 0
  assert records.splits(tmp_path / "a") == ["train", "validation"]
  status, out, _ = call(f"folder:{pictures / 'train'}", tmp_path / "b")
  assert status == 0 and "no held-out pictures" in out
  assert len(sources.open_source(f"records:{tmp_path / 'b'}", "train")) == 22


def test_again_does_nothing(call, pictures, tmp_path):
  first = call(f"folder:{pictures}", tmp_path / "out", "--shards=2")
  times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}
  second = call(f"folder:{pictures}", tmp_path / "out", "--shards=2")
  assert second[:2] == first[:2]
  assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}


def test_a_split_that_is_not_there(call, pictures, tmp_path):
  assert call(f"folder:{pictures}", tmp_path / "a")[0] == 0
  with pytest.raises(errors.UserError, match="split='test' is not a data set in .*'validation'"):
    sources.open_source(f"records:{tmp_path / 'a'}", "test")


def _refused(outcome):
  status, out, err = outcome
  assert status == 2 and out == ""
  (message,) = [line for line in err.splitlines() if line.startswith("Error: ")]
  assert err.rstrip().endswith(message) and "Traceback" not in err
  return message


@pytest.mark.parametrize(
  ("arguments", "parts"),
  [
    (["folder:/no/where"], ["there is no folder /no/where", "PATH/SPLIT/CLASS/*.jpg"]),
    (["folder:{pictures}", "--split=vall"], ["--split='vall'", "Nearest: 'val'"]),
    (["folder:{pictures}", "--shards=0"], ["--shards=0 should be at least 1"]),
    (["folder:{pictures}", "--threads=0"], ["--threads=0 should be at least 1"]),
    (["folder:{pictures}", "--shards=99"], ["--shards=99", "the 22 pictures of train", "22"]),
    (["folder:{pictures}", "--manual-dir=x"], ["--manual-dir is for TFDS"]),
    (["{pictures}"], ["is a folder; write 'folder:"]),
    (["digits"], ["'digits' needs no preparation"]),
    (["records:x"], ["'records:x' needs no preparation"]),
    (["cifar1O"], ["'cifar1O' is not a data set", "'cifar10'"]),
    (["cifar10", "--split=train"], ["--split is for folder:PATH"]),
    (["cifar10", "--skip-unreadable"], ["--skip-unreadable is for folder:PATH"]),
  ],
)
def test_mistakes(call, pictures, tmp_path, arguments, parts):
  given = [text.format(pictures=pictures) for text in arguments]
  message = _refused(call(given[0], tmp_path / "out", *given[1:]))
  for part in parts:
    assert part in message, message
  assert not (tmp_path / "out").exists()


def test_folders_without_pictures(call, tmp_path):
  (tmp_path / "empty").mkdir()
  assert "no folders in" in _refused(call(f"folder:{tmp_path / 'empty'}", tmp_path / "out"))
  (tmp_path / "empty" / "train" / "a").mkdir(parents=True)
  assert "no images in" in _refused(call(f"folder:{tmp_path / 'empty'}", tmp_path / "out"))
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["thesis.tex", "train/thesis.tex", "other/thesis.tex"])
def test_a_foreign_folder_is_left_alone(call, pictures, tmp_path, name):
  path = tmp_path / "out" / name
  path.parent.mkdir(parents=True)
  path.write_text("years of work")
  message = _refused(call(f"folder:{pictures}", tmp_path / "out"))
  assert "is not empty and holds what this command has not made" in message and name in message
  assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [path]


def test_a_file_as_target(call, pictures, tmp_path):
  (tmp_path / "out").write_text("")
  assert "is a file; give a new" in _refused(call(f"folder:{pictures}", tmp_path / "out"))


def test_a_target_that_cannot_be_written(call, pictures, tmp_path):
  (tmp_path / "file").write_text("")
  message = _refused(call(f"folder:{pictures}", tmp_path / "file" / "out"))
  assert "file/out' cannot be written: Not a directory" in message


def test_ctrl_c(call, pictures, tmp_path, monkeypatch):
  def stopped(*arguments, **settings):
    raise KeyboardInterrupt

  monkeypatch.setattr(prepare.shards, "write", stopped)
  status, out, err = call(f"folder:{pictures}", tmp_path / "out")
  assert (status, out) == (130, "") and err == "Stopped; the same command goes on from here.\n"


def test_another_data_set_is_left_alone(call, pictures, tmp_path):
  assert call(f"folder:{pictures}", tmp_path / "out")[0] == 0
  before = sorted((p.name, p.read_bytes()) for p in (tmp_path / "out" / "train").iterdir())
  shutil.rmtree(pictures / "train" / "b")
  message = _refused(call(f"folder:{pictures}", tmp_path / "out"))
  assert "holds another data set already, of 22 pictures" in message
  after = sorted((p.name, p.read_bytes()) for p in (tmp_path / "out" / "train").iterdir())
  assert after == before


def test_unreadable_pictures_are_counted_and_named(call, pictures, tmp_path):
  whole = (pictures / "train" / "a" / "3.jpg").read_bytes()
  (pictures / "train" / "a" / "3.jpg").write_bytes(whole[: len(whole) // 2])
  (pictures / "train" / "c" / "0.jpg").write_bytes(b"no picture")
  message = _refused(call(f"folder:{pictures}", tmp_path / "out", "--shards=4"))
  assert "2 of 22 pictures cannot be read" in message and "--skip-unreadable" in message
  assert "a/3.jpg" in message and "c/0.jpg (no known image format)" in message
  assert records.read_manifest(tmp_path / "out" / "train") is None
  status, out, _ = call(
    f"folder:{pictures}", tmp_path / "out", "--shards=4", "--skip-unreadable", "--split=train"
  )
  assert status == 0 and "train: 20 pictures" in out and "2 unreadable left out" in out
  prepared = sources.open_source(f"records:{tmp_path / 'out'}", "train")
  assert len(prepared) == 20
  folder = sources.open_source(f"folder:{pictures}", "train")
  kept = [i for i, path in enumerate(folder.paths) if path[-7:] not in ("a/3.jpg", "c/0.jpg")]
  for found, expected in zip(range(20), kept, strict=True):
    np.testing.assert_array_equal(prepared[found]["image"], folder[expected]["image"])
  assert [name.split(" ")[0][-7:] for name in prepared.provenance["unreadable"]] == [
    "a/3.jpg",
    "c/0.jpg",
  ]


def test_progress_on_a_terminal_is_one_line(monkeypatch):
  err = io.StringIO()
  err.isatty = lambda: True
  monkeypatch.setattr(prepare.sys, "stderr", err)
  clock = iter([0.0, 5.0, 20.0])
  monkeypatch.setattr(prepare.time, "monotonic", lambda: next(clock))
  progress = prepare._Progress("train")
  for done in (0, 50, 200):
    progress(done, 200)
  first, last = err.getvalue().split("\r")[1:]
  assert "50 of 200 pictures (25.0%), 10 images/s, 0:00:15 left" in first
  assert last.endswith("train: 200 of 200 pictures (100.0%)\n") and "\n" not in first


class _Tiny(library.core.GeneratorBasedBuilder):
  """Six pictures in two splits; needs no download."""

  name = "effnets_tiny"
  VERSION = library.core.Version("1.0.0")

  def _info(self):
    features = {
      "image": library.features.Image(shape=(None, None, 3), encoding_format="png"),
      "label": library.features.ClassLabel(names=["ant", "bee"]),
    }
    return self.dataset_info_from_configs(features=library.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples(4), "test": self._generate_examples(2)}

  def _generate_examples(self, count):
    for i in range(count):
      yield i, {"image": np.full((5 + i, 6, 3), i, np.uint8), "label": i % 2}


def test_a_tfds_set(call, tmp_path):
  status, out, _ = call("effnets_tiny", tmp_path)
  assert status == 0
  assert "train: 4 examples\ntest: 2 examples\n" in out
  assert f"--config.data.source=effnets_tiny \\\n  --config.data.options.data_dir={tmp_path}" in out
  assert "--config.data.split.validation=test" in out
  options = {"data_dir": str(tmp_path)}
  source = sources.open_source("effnets_tiny", "train", options=options)
  assert len(source) == 4
  # TFDS shuffles what it writes; each picture's height and value tell its label.
  for example in (source[i] for i in range(4)):
    value = example["image"][0, 0, 0]
    assert example["image"].shape == (5 + value, 6, 3) and example["label"] == value % 2
  assert call("effnets_tiny", tmp_path)[1] == out  # again does nothing


def test_a_tfds_set_without_tensorflow(call, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  message = _refused(call("effnets_tiny", tmp_path / "out"))
  assert "pip install 'effnets[tf]'" in message and "Reading them takes none" in message
  assert not (tmp_path / "out").exists()


def test_a_tfds_set_that_cannot_be_prepared(call, tmp_path, monkeypatch):
  def fails(self, count):
    raise OSError("archive.tar is to be fetched\nby hand")
    yield

  monkeypatch.setattr(_Tiny, "_generate_examples", fails)
  message = _refused(call("effnets_tiny", tmp_path))
  assert "'effnets_tiny' cannot be prepared: " in message
  assert "archive.tar is to be fetched by hand" in message


def test_weights_of_i3d(tmp_path, call):
  abstract = models.abstract(i3d.I3D())
  arrays = {}
  for tree in abstract.values():
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      name = jax.tree_util.keystr(path, simple=True, separator="/")
      arrays[f"RGB/inception_i3d/{name}"] = np.full(leaf.shape, len(name), np.float32)
  arrays["RGB/inception_i3d/Logits/Conv3d_0c_1x1/conv_3d/w/Adam"] = np.zeros(3)
  np.savez(tmp_path / "found.npz", **arrays)
  status, out, _ = call(f"i3d:{tmp_path / 'found.npz'}", str(tmp_path / "i3d.npz"))
  assert status == 0 and f"--config.task.i3d={tmp_path / 'i3d.npz'}" in out
  read = evaluation.perceptual.read(str(tmp_path / "i3d.npz"), "x")
  assert len(read) == len(arrays) - 1
  found = evaluation.perceptual.i3d_variables(read)
  kernel = found["params"]["Conv3d_1a_7x7"]["conv_3d"]["w"]
  assert kernel.shape == (7, 7, 7, 3, 64) and (kernel == len("Conv3d_1a_7x7/conv_3d/w")).all()
  status, _, error = call(f"i3d:{tmp_path / 'found.npz'}", str(tmp_path / "folder"))
  assert status == 2 and "should be a file for I3D's weights" in error
  arrays.pop("RGB/inception_i3d/Conv3d_1a_7x7/conv_3d/w")
  np.savez(tmp_path / "less.npz", **arrays)
  status, _, error = call(f"i3d:{tmp_path / 'less.npz'}", str(tmp_path / "i3d.npz"))
  assert status == 2 and "Conv3d_1a_7x7/conv_3d/w is missing" in error
