"""Labels made shard by shard: a plain loop's, whatever the cut, the devices, kills and restarts."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from effnets import data, errors, recipes, tasks, training
from effnets.data import sources
from effnets.pipelines import labelling
from effnets.pipelines.stages import Stage
from tests.pipelines import labelling_process
from tests.training import tiny

COUNT = 37
BROKEN = (4, 36)


class Damaged:
  """The first unlabelled digits, of which two cannot be read."""

  name, num_classes, image_size, class_names = "damaged", 10, 32, tuple("0123456789")

  def __init__(self, broken=BROKEN, count=COUNT):
    self.whole, self.broken, self.count = data.open_source("digits", "unlabelled"), broken, count

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    if index in self.broken:
      raise sources.Unreadable(f"digit {index}")
    return self.whole[index]


def settings(**changes):
  pipeline = recipes.noisy_student(teacher={}, students={}, labels={"source": "damaged"})
  own = {"min_confidence": 0.1, "per_class": 4, "batch_size": 2, "dtype": "float32", "shards": 5}
  pipeline.labels.update({"split": "unlabelled", **own, **changes})
  return pipeline.labels


@pytest.fixture(scope="module")
def config():
  config = tiny.get_config()
  config.data.max_unreadable = 0.2
  # Operations would take longer to compile than the rest of this file.
  config.augment.randaugment.layers = 0
  return config


@pytest.fixture(scope="module")
def stages(config):
  """Returns two stages that were never trained; the second looks at 40 pixels."""
  made = []
  for name, seed, size in (("a", 1, 32), ("b", 2, 40)):
    own = ml_collections.ConfigDict(config.to_dict())
    own.data.image_size = size
    placement = training.inputs.placement(own)
    task = tasks.create(own, placement, num_classes=10, step_batch=16)
    variables = tiny.perturbed(task.init(seed))
    # Far from equal shares, of all classes: some answers are confident.
    head = variables["params"]["classifier"]
    head["kernel"] *= 100
    stage = Stage(name, own, {"test": {"top1": seed / 10}}, variables)
    head["bias"] -= plain_logits(stage, [Damaged().whole[i]["image"] for i in range(5, 30)]).mean(0)
    made.append(stage)
  return made


@pytest.fixture
def pictures(monkeypatch):
  """Returns a function from settings and a source to `Pictures` of it."""

  def make(labels, source=None):
    opened = source or Damaged()
    with monkeypatch.context() as patch:
      patch.setattr(data, "open_source", lambda *_, **__: opened)
      return labelling.Pictures(labels, tuple("abcdefghij"))

  return make


def labeller(stages, labels, seed=3):
  return labelling.Labeller(stages, labels, classes=10, seed=seed)


def make_round(folder, pictures, stages, labels, chooser=None, **more):
  made = labeller(stages, labels)
  chooser = labeller(chooser, labels) if chooser else made
  return labelling.Round(folder, pictures(labels), labels, made, chooser, seed=3, **more)


def entries(folder, pictures):
  """Returns the set's entries and their probabilities, in order."""
  # Its pictures are not a source that a name could open.
  read = data.records.Records(folder, images=pictures(settings()))
  examples = [read[i] for i in range(len(read))]
  index = [int(e["source_index"]) for e in examples]
  label = [int(e["label"]) for e in examples]
  return index, label, np.array([e.get("probabilities") for e in examples])


def plain(stage, images):
  """Returns one stage's softmax by the module itself."""
  logits = plain_logits(stage, images).astype(np.float64)
  return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def plain_logits(stage, images):
  placement = training.inputs.placement(stage.config)
  task = tasks.create(stage.config, placement, num_classes=10, step_batch=16)
  apply = jax.jit(functools.partial(task.module.apply, train=False))
  images = (np.asarray(images, np.float32) / 255 - task.mean) / task.std
  padded = np.concatenate([images, np.zeros_like(images[:1]).repeat(-len(images) % 5, 0)])
  parts = [apply(stage.variables, padded[i : i + 5]) for i in range(0, len(padded), 5)]
  return np.concatenate(parts)[: len(images)]


def test_probabilities_stay_with_their_pictures(stages, pictures):
  labels = settings()
  source = pictures(labels)
  made = labeller(stages[:1], labels)
  indices = np.array([36, 3, 4, 20])
  tally = made.tally(source)
  found = made.probabilities(source, indices, tally)
  whole = Damaged().whole
  expected = plain(stages[0], [whole[i]["image"] for i in (3, 20)])
  np.testing.assert_allclose(found[[1, 3]], expected, rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(found[[0, 2]], 0.0)
  assert (tally.reads, tally.failed, found.dtype) == (4, 2, np.float32)


def test_several_teachers_and_views_are_averaged(stages, pictures):
  labels = settings(flip=True, shift=2)
  source = pictures(labels)
  made = labeller(stages, labels)
  assert made.names == ("a", "b") and made.figures["b"] == {"test": {"top1": 0.2}}
  found = made.probabilities(source, np.array([0, 4, 9]), made.tally(source))
  picture = Damaged().whole
  expected = np.zeros((2, 10))
  for row, index in enumerate((0, 9)):
    for stage in stages:
      image = picture[index]["image"]
      if stage.config.data.image_size == 40:
        image = data.decode.resize(image, 40, "bicubic")
      size = len(image)
      wide = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
      moves = [(2, 2), (0, 2), (4, 2), (2, 0), (2, 4)]
      seen = [wide[y : y + size, x : x + size] for y, x in moves]
      seen += [view[:, ::-1] for view in seen]
      expected[row] += plain(stage, seen).mean(0) / 2
  np.testing.assert_allclose(found[[0, 2]], expected, rtol=1e-4, atol=1e-6)
  assert not found[1].any()


def test_a_round_is_the_plain_way_whatever_the_shards(stages, pictures, tmp_path):
  labels = settings()
  manifest = labelling.run(make_round(tmp_path / "a", pictures, stages[:1], labels))
  index, label, probabilities = entries(tmp_path / "a", pictures)
  readable = [i for i in range(COUNT) if i not in BROKEN]
  whole = Damaged().whole
  rows = np.zeros((COUNT, 10))
  rows[readable] = plain(stages[0], [whole[i]["image"] for i in readable])
  classes, confidence = rows.argmax(1), rows.max(1)
  figures = manifest["provenance"]["figures"]
  for c in range(10):
    confident = np.sort(confidence[(classes == c) & (confidence > 0)])[::-1]
    # At least four if there are so many, and then as sure as the grid's next hundredth.
    limit = np.floor(confident[3] * 100) / 100 if len(confident) >= 4 else 0.1
    assert figures["thresholds"][c] == pytest.approx(limit)
    assert figures["kept"][c] == np.sum(confident >= limit)
  assert set(index) <= set(readable) and index == sorted(index)
  np.testing.assert_array_equal(label, classes[index])
  np.testing.assert_allclose(probabilities, rows[index], rtol=1e-4, atol=1e-6)
  assert figures["entries"] == len(index) and figures["distinct"] == len(set(index))
  assert figures["by_class"] == np.bincount(label, minlength=10).tolist()
  told = manifest["provenance"]
  assert told["teachers"] == {"a": {"test": {"top1": 0.1}}} and told["chosen_by"] == ["a"]
  assert not (tmp_path / "a" / "predictions").exists()
  for shards in (1, 37, 50):
    folder = tmp_path / str(shards)
    labelling.run(make_round(folder, pictures, stages[:1], settings(shards=shards)))
    again = entries(folder, pictures)
    assert again[:2] == (index, label)
    np.testing.assert_array_equal(again[2], probabilities)  # the same program: the same bits


@pytest.mark.parametrize("devices", [1, 2])
def test_fewer_devices_give_the_same_bits(stages, pictures, tmp_path, monkeypatch, devices):
  labels = settings()
  labelling.run(make_round(tmp_path / "eight", pictures, stages[:1], labels))
  local = jax.local_devices()[:devices]
  monkeypatch.setattr(labelling.jax, "local_devices", lambda: local)
  labelling.run(make_round(tmp_path / "fewer", pictures, stages[:1], labels))
  for ours, theirs in zip(
    *(entries(tmp_path / f, pictures) for f in ("fewer", "eight")), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)


class _Killed(BaseException):
  pass


@pytest.mark.parametrize("reads", [9, 40])  # while predicting; while labelling what was chosen
def test_a_killed_labelling_goes_on_with_what_is_missing(
  stages, pictures, tmp_path, monkeypatch, reads
):
  labels = settings()
  made = [
    make_round(tmp_path / name, pictures, stages[1:], labels, stages[:1])
    for name in ("whole", "killed", "killed")
  ]
  labelling.run(made[0])
  seen, real = [], labelling.Labeller.probabilities

  def counted(self, source, indices, tally):
    if len(seen) >= reads:
      raise _Killed
    seen.extend(indices)
    return real(self, source, indices, tally)

  monkeypatch.setattr(labelling.Labeller, "probabilities", counted)
  with pytest.raises(_Killed):
    labelling.run(made[1])
  assert data.records.read_manifest(tmp_path / "killed") is None
  first, reads = len(seen), 10**9
  labelling.run(made[2])
  # Five shards by the one that chooses, then of the chosen pictures by the other: each once.
  chosen = set(entries(tmp_path / "whole", pictures)[0])
  assert sorted(seen) == sorted([*range(COUNT), *chosen]) and first < len(seen)
  files = {}
  for name in ("whole", "killed"):
    files[name] = {
      p.name: p.read_bytes() for p in (tmp_path / name).iterdir() if p.name != "records.json"
    }
  assert files["whole"] == files["killed"]
  manifests = [data.records.read_manifest(tmp_path / name) for name in ("whole", "killed")]
  assert manifests[0] == manifests[1]


def test_predictions_of_another_teacher_are_not_taken(stages, pictures, tmp_path, monkeypatch):
  labels = settings()
  monkeypatch.setattr(labelling, "_write", lambda *_: (_ for _ in ()).throw(_Killed))
  for stage in stages:
    with pytest.raises(_Killed):
      labelling.run(make_round(tmp_path / "it", pictures, [stage], labels))
  monkeypatch.undo()
  labelling.run(make_round(tmp_path / "it", pictures, stages[1:], labels))
  labelling.run(make_round(tmp_path / "other", pictures, stages[1:], labels))
  assert entries(tmp_path / "it", pictures)[1] == entries(tmp_path / "other", pictures)[1]


def test_a_later_round_keeps_the_choice_and_makes_the_labels_anew(stages, pictures, tmp_path):
  labels = settings(dtype="float16")
  labelling.run(make_round(tmp_path / "one", pictures, stages[:1], labels))
  two = make_round(tmp_path / "two", pictures, stages[1:], labels, earlier=tmp_path / "one")
  manifest = labelling.run(dataclasses.replace(two, chooser=None))
  first, second = (entries(tmp_path / name, pictures) for name in ("one", "two"))
  assert first[0] == second[0] and first[1] != second[1]
  whole = Damaged().whole
  images = [data.decode.resize(whole[i]["image"], 40, "bicubic") for i in second[0]]
  assert second[2].dtype == np.float16
  np.testing.assert_allclose(second[2], plain(stages[1], images), atol=2e-3)
  assert manifest["provenance"]["chosen_by"] == "one"
  assert manifest["provenance"]["teachers"].keys() == {"b"}


def test_noisy_teachers_draw_for_each_picture_by_its_number(stages, pictures):
  labels = settings(noise=True)
  source = pictures(labels)
  made = labeller(stages[:1], labels)
  one = made.probabilities(source, np.array([0, 1, 2, 3]), made.tally(source))
  other = made.probabilities(source, np.array([9, 3, 2]), made.tally(source))
  np.testing.assert_array_equal(other[1:], one[[3, 2]])
  quiet = labeller(stages[:1], settings())
  without = quiet.probabilities(source, np.array([0, 1, 2, 3]), quiet.tally(source))
  assert np.abs(one - without).max() > 1e-3
  again = labeller(stages[:1], labels, seed=4)
  redrawn = again.probabilities(source, np.array([0, 1, 2, 3]), again.tally(source))
  assert np.abs(one - redrawn).max() > 1e-3


def test_views():
  images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3)), jnp.uint8)
  assert [len(labelling.views(images, flip=f, shift=s)) for f in (0, 1) for s in (0, 1)] == [
    1, 5, 2, 10,
  ]  # fmt: skip
  left = labelling.views(images, flip=False, shift=1)[3]
  np.testing.assert_array_equal(left[:, :, 1:], images[:, :, :-1])


@pytest.mark.slow
def test_two_processes_are_one_and_one_may_die(tmp_path):
  """Two processes, of which one dies, and then one of three devices: as this one of eight."""
  labelling_process.label(tmp_path / "whole")
  folder = tmp_path / "two"

  def start(count, index, die=0, devices=1):
    address = f"127.0.0.1:{port}"
    return subprocess.Popen(
      [sys.executable, "-m", "tests.pipelines.labelling_process", str(folder), address]
      + [str(count), str(index), str(die)],
      cwd=tiny.ROOT,
      env={**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  port = tiny.free_port()
  children = [start(2, 0), start(2, 1, die=2)]
  assert children[1].wait(240) == 9
  done = folder / "predictions"
  end = time.monotonic() + 60
  while len(list(done.glob("predictions-*.json"))) < 7 and time.monotonic() < end:
    time.sleep(0.1)
  children[0].kill()
  children[0].communicate()
  # Five of its own by the first process, two by the other.
  files = {p.name: p.stat().st_mtime_ns for p in done.glob("predictions-*.npz")}
  assert sorted(int(name[12:17]) for name in files) == [0, 1, 2, 3, 4, 6, 8]
  child = start(1, 0, die=4, devices=3)  # both predictions that are missing, and two parts
  assert child.wait(240) == 9, child.communicate()[0]
  after = {p.name: p.stat().st_mtime_ns for p in done.glob("predictions-*.npz")}
  assert len(after) == 9 and {name: after[name] for name in files} == files
  port = tiny.free_port()
  children = [start(2, index) for index in range(2)]
  for child in children:
    output, _ = child.communicate(timeout=240)
    assert child.returncode == 0, output
  for path in (tmp_path / "whole").iterdir():
    assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


def test_a_full_disk_is_told_before_the_work(stages, pictures, tmp_path, monkeypatch):
  this = make_round(tmp_path / "x", pictures, stages[:1], settings(dtype="float16"))
  needed = COUNT * (4 + 4 + 10 * 2)
  real, asked = labelling.Labeller.probabilities, []
  monkeypatch.setattr(labelling.Labeller, "probabilities", lambda *a: asked.append(a) or real(*a))
  for free in (needed - 1, needed):
    usage = types.SimpleNamespace(free=free)
    monkeypatch.setattr(labelling.shutil, "disk_usage", lambda path, usage=usage: usage)
    if free < needed:
      with pytest.raises(errors.UserError, match="needs 0.0 GB for predictions of damaged, and"):
        labelling.run(this)
      assert not asked
    else:
      assert labelling.run(this)["count"]


@pytest.mark.parametrize("shards", [1, 9])
def test_many_unreadable_pictures_stop_it(stages, pictures, tmp_path, shards):
  labels = settings(shards=shards)
  made = labeller(stages[:1], labels)
  source = pictures(labels, Damaged(broken=range(0, 37, 2)))
  this = labelling.Round(tmp_path / "x", source, labels, made, made)
  with pytest.raises(errors.UserError, match=r"config.data.max_unreadable=0.2 allows"):
    labelling.run(this)
  assert data.records.read_manifest(tmp_path / "x") is None


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"kind": "sft"}, r"labels.kind='sft' is not a kind of label. Nearest: 'soft'"),
    ({"select": "frist"}, r"labels.select='frist' is not a way to select. Nearest: 'first'"),
    ({"by": "al"}, r"labels.by='al' is not a choice of teachers. Nearest: 'all'"),
    ({"dtype": "float8"}, r"labels.dtype='float8' is not a type to store.*'float16'"),
    ({"shards": -1}, r"labels.shards=-1 should be at least 0"),
    ({"batch_size": 0}, r"labels.batch_size=0 should be at least 1"),
    ({"shift": -2}, r"labels.shift=-2 should be at least 0"),
    ({"source": ""}, r"labels.source is empty; give the pictures"),
  ],
)
def test_mistakes(changes, message):
  with pytest.raises(errors.UserError, match=message):
    labelling.check(settings(**changes))


def test_figures_are_json(stages, pictures, tmp_path):
  manifest = labelling.run(make_round(tmp_path / "h", pictures, stages[:1], settings(kind="hard")))
  assert json.loads(json.dumps(manifest)) == manifest
  assert "probabilities" not in manifest["fields"]
  assert entries(tmp_path / "h", pictures)[2][0] is None
