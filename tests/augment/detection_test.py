"""Policies for pictures with boxes: the same pixels as without, moved boxes, equal everywhere."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from effnets import augment, errors, streams
from effnets.augment import autoaugment, boxes, detection
from effnets.augment import operations as ops

_BATCH, _HEIGHT, _WIDTH, _BOXES = 32, 24, 30, 3


def _keys(count=_BATCH):
  key = streams.stream(jax.random.key(0), "augment")
  return streams.example_keys(key, streams.words(np.arange(count)))


def _batch(count=_BATCH):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (count, _HEIGHT, _WIDTH, 3)).astype(np.uint8)
  size = np.array([_HEIGHT, _WIDTH])
  corners = np.sort(rng.random((count, _BOXES, 2, 2)), axis=2) * (size - 4)
  corners[:, :, 1] += 4
  valid = rng.random((count, _BOXES)) < 0.8
  found = corners.reshape(count, _BOXES, 4).astype(np.float32) * valid[..., None]
  return images, found, valid


_SMALL = {"cutout_const": 6, "translate_const": 10, "cutout_box_const": 4, "translate_box_const": 6}
_LEARNED = detection.AutoAugment("v1", **_SMALL)


@pytest.fixture(scope="module")
def learned_batch():
  return [np.asarray(part) for part in jax.jit(_LEARNED)(*_batch(), _keys())]


def test_pixels_equal_those_without_boxes():
  names = detection.OPERATION_LISTS["detection10"]
  settings = {"layers": 2, "magnitude": 7, "cutout_const": 6, "translate_const": 10}
  policy = detection.RandAugment(**settings, rule="exact")
  images, found, valid = _batch()
  changed, moved, left = (
    np.asarray(part) for part in jax.jit(policy)(images, found, valid, _keys())
  )
  plain = augment.RandAugment(**settings, operations=names)
  np.testing.assert_array_equal(jax.jit(plain)(images, _keys()), changed)
  assert (moved != found).any((1, 2)).sum() > 15
  assert left.sum() < valid.sum() and not (left & ~valid).any()


def test_boxes_move_as_their_pictures_do():
  # One white rectangle for each picture is its own mask.
  _, found, _ = _batch(64)
  found, valid = np.round(found[:, :1]), np.ones((64, 1), bool)
  found[:, 0, 2:] = np.maximum(found[:, 0, 2:], found[:, 0, :2] + 3)
  images = np.zeros((64, _HEIGHT, _WIDTH, 3), np.uint8)
  for image, (y0, x0, y1, x1) in zip(images, found[:, 0].astype(int), strict=True):
    image[y0:y1, x0:x1] = 255
  policy = detection.RandAugment(
    layers=2,
    magnitude=9,
    operations=("translate_x", "translate_y"),
    translate_const=7,
    rule="exact",
    fill=0,
  )
  changed, moved, left = (
    np.asarray(part) for part in jax.jit(policy)(images, found, valid, _keys(64))
  )
  for image, box, there in zip(changed[..., 0] > 0, moved[:, 0], left[:, 0], strict=True):
    assert there == image.any()
    if there:
      rows, columns = np.nonzero(image.any(1))[0], np.nonzero(image.any(0))[0]
      assert box.tolist() == [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
  assert 20 < left.sum() < 64


def test_learned_policy_equals_the_drawn_operations_one_by_one(learned_batch):
  rows, probabilities = autoaugment.flatten(_LEARNED.table())
  inside = np.array([name.endswith("_in_boxes") for name, _ in rows])
  always = np.where(inside[:-1].reshape(probabilities.shape), 1, probabilities)
  draws = jax.tree.map(np.asarray, autoaugment.draw(_keys(), always.astype(np.float32)))
  keys = jax.vmap(lambda key: streams.stream(key, "boxes"))(_keys())
  words = jax.vmap(lambda key: jax.random.bits(key, (2, _BOXES, 4), np.uint32))(keys)
  images, found, valid = _batch()
  moved = inside_seen = 0
  for i in range(12):
    scene = boxes.Scene(ops.pack(images[i]), found[i], valid[i])
    for n in range(2):
      name, value = rows[draws.index[i, n]]
      operation = boxes.OPERATIONS[name]
      value = value if value is None or not operation.signed else value * draws.sign[i, n]
      picture = ops.Inputs(
        ops.values(name, value),
        draws.centre[i, n].astype(np.int64) % [_HEIGHT, _WIDTH],
        ops.pack_fill(128),
      )
      # A third of the learned probability, for each box.
      share = np.append(probabilities.reshape(-1), 0)[draws.index[i, n]] / 3
      inputs = boxes.Inputs(picture, words[i, n], np.float32(share))
      scene = operation.function(scene, inputs, "published")
      inside_seen += name.endswith("_in_boxes")
      moved += name in boxes.MOVING
    np.testing.assert_array_equal(ops.unpack(scene.pixels), learned_batch[0][i])
    np.testing.assert_allclose(scene.boxes, learned_batch[1][i], rtol=1e-6)
    np.testing.assert_array_equal(scene.valid, learned_batch[2][i])
  assert moved > 2 and inside_seen > 1


def test_loop_over_chunks_gives_the_same(learned_batch):
  chunks = detection.AutoAugment("v1", **_SMALL, execution="chunks")
  for got, want in zip(jax.jit(chunks)(*_batch(), _keys()), learned_batch, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_shard_map_equals_one_device(learned_batch):
  mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
  spec = P("data")
  mapped = jax.shard_map(_LEARNED, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
  for got, want in zip(jax.jit(mapped)(*_batch(), _keys()), learned_batch, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_published_rule_keeps_every_box(learned_batch):
  images, found, valid = _batch()
  np.testing.assert_array_equal(learned_batch[2], valid)
  sides = learned_batch[1][..., 2:] - learned_batch[1][..., :2]
  assert (sides[valid] > 0).all() and not learned_batch[1][~valid].any()
  assert learned_batch[1].min() >= 0
  assert (learned_batch[1].max((0, 1)) <= [_HEIGHT, _WIDTH] * 2).all()
  assert (learned_batch[0] != images).any((1, 2, 3)).sum() > 20


def test_arguments():
  table = detection.AutoAugment("v1").table()
  assert table[0] == [("translate_x", pytest.approx(100), 0.6), ("equalize", None, 0.8)]
  assert table[1] == [("translate_y_in_boxes", pytest.approx(24), 0.2), ("cutout", 80, 0.8)]
  assert table[6] == [("shear_y_in_boxes", pytest.approx(0.06), 0.8), ("flip_in_boxes", None, 0)]
  assert table[12][0] == ("cutout_in_boxes", 30, 0.4)
  assert detection.AutoAugment("v3").table()[1][0] == ("cutout_at_box", 0.75, 0.2)
  rows = dict(detection.RandAugment(magnitude=6).table())
  assert rows["translate_x"] == pytest.approx(150) and rows["cutout"] == 60 and len(rows) == 10


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: detection.AutoAugment("v4"), r"autoaugment\.policy='v4'.*Nearest: 'v"),
    (lambda: detection.AutoAugment(rule="exac"), r"autoaugment\.rule='exac'.*Nearest: 'exact'"),
    (
      lambda: detection.AutoAugment(translate_box_const=-1),
      r"autoaugment\.translate_box_const=-1 is not a number in \[0, 4096\]",
    ),
    (lambda: detection.RandAugment(layers=11), r"randaugment\.layers=11 .*\[1, 10\]\. Nearest: 10"),
    (lambda: detection.RandAugment(magnitude=32), r"randaugment\.magnitude=32 .*\[0, 31\]"),
    (
      lambda: detection.RandAugment(operations="code16"),
      r"randaugment\.operations='code16' is not a list of operations.*'detection10'",
    ),
    (
      lambda: detection.RandAugment(operations=("rotate_in_box",)),
      r"operations='rotate_in_box'.*Nearest: 'rotate_in_boxes'",
    ),
    (lambda: detection.RandAugment(operations=()), r"randaugment\.operations=\(\) is empty"),
    (lambda: detection.RandAugment(fill=-1), r"randaugment\.fill=-1"),
    (lambda: detection.RandAugment(execution="all"), r"randaugment\.execution='all'"),
  ],
)
def test_errors(make, message):
  with pytest.raises(errors.UserError, match=message):
    make()


def test_call_errors():
  images, found, valid = _batch(4)
  with pytest.raises(ValueError, match=r"boxes \(b, n, 4\).* 4 images; got \(4, 3, 4\) and \(4, 2"):
    detection.RandAugment()(images, found, valid[:, :2], _keys(4))
