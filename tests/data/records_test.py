"""Written data sets come back bit for bit, with their provenance; damage is noticed."""

import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from effnets import errors
from effnets.data import records, sources
from effnets.data import stream as stream_lib

_PROVENANCE = {"teacher": "b0", "threshold": 0.3, "seeds": [1, 2]}


def _examples(count, *, image=True, seed=0):
  rng = np.random.default_rng(seed)
  for i in range(count):
    probabilities = rng.random(4).astype(np.float32)
    example = {
      "image": rng.integers(0, 256, (5, 5, 3), np.uint8),
      "label": np.int32(i % 4),
      "probabilities": probabilities / probabilities.sum(),
      "source_index": np.int64(count - 1 - i),
    }
    yield example if image else {k: v for k, v in example.items() if k != "image"}


def test_round_trip(tmp_path):
  manifest = records.write(tmp_path / "d", _examples(12), _PROVENANCE, class_names=list("abcd"))
  source = sources.open_source(f"records:{tmp_path}/d", "all")
  assert isinstance(source, sources.Source)
  assert len(source) == 12 and source.num_classes == 4 and source.image_size == 5
  assert source.class_names == tuple("abcd") and source.provenance == _PROVENANCE
  assert manifest == records.read_manifest(tmp_path / "d") == source.manifest
  assert manifest["fields"]["probabilities"] == {"dtype": "float32", "shape": [4]}
  for reader in (source, pickle.loads(pickle.dumps(source))):
    for i, expected in enumerate(_examples(12)):
      found = reader[i]
      assert found.keys() == expected.keys()
      for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
        assert np.asarray(found[name]).dtype == value.dtype
  example = stream_lib.Stream(source, seed=0)[3]
  assert example["soft"] and example["probabilities"].shape == (4,)
  hard = sources.open_source(f"records:{tmp_path}/d", "train", options={"soft": False})
  assert "soft" not in stream_lib.Stream(hard, seed=0)[3]


def test_images_from_another_source_or_encoded(tmp_path):
  records.write(tmp_path / "labels", _examples(6, image=False), {})
  options = {"images": "digits", "images_split": "unlabelled", "images_options": {"labels": 50}}
  source = sources.open_source(f"records:{tmp_path}/labels", "all", options=options)
  digits = sources.open_source("digits", "unlabelled", options={"labels": 50})
  assert source.image_size == 32 and source[1]["label"] == 1
  np.testing.assert_array_equal(source[1]["image"], digits[4]["image"])
  with pytest.raises(errors.UserError, match="holds no images; name the source .*options.images"):
    records.Records(tmp_path / "labels")

  pixels = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "PNG")
  bad = file.getvalue()[:50]
  records.write(tmp_path / "png", [{"image": b, "label": 0} for b in (file.getvalue(), bad)], {})
  source = records.Records(tmp_path / "png")
  assert source.image_size is None
  np.testing.assert_array_equal(source[0]["image"], pixels)
  with pytest.raises(sources.Unreadable, match="png #1"):
    source[1]


def test_a_failed_write_leaves_what_was_there(tmp_path):
  def fails():
    yield from _examples(3)
    raise RuntimeError("stopped")

  with pytest.raises(RuntimeError, match="stopped"):
    records.write(tmp_path, fails(), {})
  assert records.read_manifest(tmp_path) is None and not list(tmp_path.iterdir())
  records.write(tmp_path, _examples(5), {"round": 1})
  for wrong in (fails(), [], [{"label": 1}, {"label": 1, "x": 2}], [{"image": np.zeros((2, 2))}]):
    with pytest.raises((RuntimeError, ValueError)):
      records.write(tmp_path, wrong, {"round": 2})
    with pytest.raises(TypeError):
      records.write(tmp_path, _examples(5), {"round": object()})
    assert records.Records(tmp_path).provenance == {"round": 1}
  (tmp_path / "partial-1.tmp").write_text("left by a killed process")
  records.write(tmp_path, _examples(7, seed=1), {"round": 2})
  assert len(records.Records(tmp_path)) == 7
  assert len(list(tmp_path.iterdir())) == 2  # the old data and the torn file are gone


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_noticed(tmp_path, where):
  data = tmp_path / records.write(tmp_path, _examples(40), {})["shards"][0]["data"]
  content = bytearray(data.read_bytes())
  content[int(len(content) * where)] ^= 4
  data.write_bytes(content)
  with pytest.raises(errors.UserError, match=r"is damaged: the sha256 .* write it again"):
    sources.open_source(f"records:{tmp_path}", "all")


def test_other_damage(tmp_path):
  data = tmp_path / records.write(tmp_path, _examples(40), {})["shards"][0]["data"]
  content = data.read_bytes()
  data.write_bytes(content[:-9])
  with pytest.raises(errors.UserError, match=r"has \d+ bytes, expected \d+"):
    records.Records(tmp_path, verify=False)
  data.unlink()
  with pytest.raises(errors.UserError, match="is missing"):
    records.Records(tmp_path)
  data.write_bytes(content)
  manifest = json.loads((tmp_path / "records.json").read_text())
  (tmp_path / "records.json").write_text(json.dumps({**manifest, "count": 39}))
  with pytest.raises(errors.UserError, match="40 records, expected 39"):
    records.Records(tmp_path)
  (tmp_path / "records.json").write_text("{")
  with pytest.raises(errors.UserError, match="records.json is missing or damaged"):
    records.Records(tmp_path)


@pytest.mark.parametrize(
  "split, options, message",
  [
    ("test", {}, r"split='test' is not a split of records. Valid: 'all', 'train'"),
    ("all", {"sfot": 1}, r"options='sfot' .*Nearest: 'soft'"),
    ("all", {}, r"config.data.source='records:.*': no complete data set in"),
  ],
)
def test_messages(tmp_path, split, options, message):
  with pytest.raises(errors.UserError, match=message):
    sources.open_source(f"records:{tmp_path}", split, options=options)


def test_images_come_from_where_the_writer_said_they_are(tmp_path):
  examples = [{"label": 3, "source_index": i} for i in (5, 5, 0)]
  where = {"images": "digits", "images_split": "unlabelled"}
  records.write(tmp_path, examples, {}, num_classes=10, images=where)
  opened = sources.open_source(f"records:{tmp_path}", "all")
  digits = sources.open_source("digits", "unlabelled")
  for i, source_index in enumerate((5, 5, 0)):
    np.testing.assert_array_equal(opened[i]["image"], digits[source_index]["image"])
    assert opened[i]["label"] == 3
