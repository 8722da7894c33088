"""Transforms of scenes against slow loops; what streams and batches make of them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import effnets.data as data
from effnets.data import decode, digit_scenes, draws, scenes, sources

_SCENES = digit_scenes.open_split("", "train", options={"examples": 30}, key="k", split_key="s")


def _scene(height, width, *, seed=0, count=5):
  rng = np.random.default_rng(seed)
  first = rng.uniform(0, 0.7, (count, 2)) * [height, width]
  last = first + rng.uniform(0.1, 0.3, (count, 2)) * [height, width]
  return {
    "image": rng.integers(0, 256, (height, width, 3), np.uint8),
    "label": np.int32(-1),
    "boxes": np.concatenate([first, last], 1).astype(np.float32),
    "classes": np.arange(count, dtype=np.int32),
    "crowd": np.arange(count) == 1,
  }


def test_evaluation_keeps_the_aspect_and_boxes_go_back():
  example = _scene(30, 50)
  fit = scenes.Fit((64, 64), max_objects=6, crowds=2)
  found = fit(example)
  assert found["size"].tolist() == [38, 64] and found["original"].tolist() == [30, 50]
  np.testing.assert_allclose(found["scale"], [38 / 30, 64 / 50])
  assert (found["image"][38:] == scenes.FILL).all()
  whole = decode.Image.fromarray(example["image"]).resize((64, 38), decode.Image.BILINEAR)
  np.testing.assert_array_equal(found["image"][:38], whole)
  rows = [0, 2, 3, 4]  # the crowd is no object
  assert found["classes"].tolist() == [*rows, -1, -1] and found["objects"] == 4
  expected = example["boxes"] * np.tile(found["scale"], 2)
  np.testing.assert_allclose(found["boxes"][:4], expected[rows], rtol=1e-5)
  np.testing.assert_allclose(found["crowds"], [expected[1], [0] * 4], rtol=1e-5)
  back = scenes.back(found["boxes"], found["scale"], found["original"])
  np.testing.assert_allclose(back[:4], example["boxes"][rows], rtol=1e-5)
  many = jnp.asarray(np.stack([found["boxes"]] * 2))
  again = scenes.back(many, jnp.asarray(np.stack([found["scale"]] * 2)))
  np.testing.assert_allclose(again[1], back, rtol=1e-5)


def test_stretching_fills_the_target():
  found = scenes.Fit((40, 60), keep_aspect=False)(_scene(30, 50))
  assert found["size"].tolist() == [40, 60]
  np.testing.assert_allclose(found["scale"], [40 / 30, 60 / 50])


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("base", scenes.BASES)
def test_boxes_follow_the_pixels(flip, base):
  """A box drawn as a rectangle is found where the transform says that it is."""
  jitter = scenes.Jitter((48, 56), low=0.5, high=2.0, base=base, flip=flip, mask_size=14)
  rng = np.random.default_rng(0)
  whole = 0
  for position in range(40):
    height, width = rng.integers(30, 80, 2)
    y, x = rng.integers(0, height - 16), rng.integers(0, width - 16)
    box = np.array([y, x, y + 12, x + 16])
    mask = np.zeros((height, width), np.uint8)
    mask[y : y + 12, x : x + 8] = 1  # the left half
    image = np.zeros((height, width, 3), np.uint8)
    image[y : y + 12, x : x + 16] = 255
    found = jitter(
      {"image": image, "boxes": box[None], "classes": np.array([3]), "masks": mask[None]},
      decode.drawing(0, position),
    )
    h, w = found["size"]
    seen = np.zeros((48, 56), bool)
    seen[:h, :w] = found["image"][:h, :w, 0] > 127
    if found["classes"][0] < 0:
      assert not seen[1:-1, 1:-1].any() or seen.sum() < 100
      continue
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    hull = [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
    np.testing.assert_allclose(found["boxes"][0], hull, atol=1.01)
    y0, x0, y1, x1 = found["boxes"][0]
    if x0 > 0 and x1 < w and y0 > 0 and y1 < h:
      whole += 1
      expected = np.zeros((14, 14), bool)
      expected[:, 7 if flip else 0 : 14 if flip else 7] = True
      np.testing.assert_array_equal(found["masks"][0], expected)
  assert whole > 5


def test_scales_are_drawn_from_the_range_and_in_steps():
  jitter = scenes.Jitter((64, 64), low=0.5, high=2.0, step=0.25, base="picture", flip=0)
  found = {float(jitter(_scene(80, 80), decode.drawing(0, i))["scale"][0]) for i in range(80)}
  assert found == {0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0}
  jitter = scenes.Jitter((64, 64), low=0.1, high=2.0)
  scale = [jitter(_scene(64, 32), decode.drawing(0, i))["scale"][0] for i in range(200)]
  # Uniform on [0.1, 2] as the longer side is the target's: mean 1.05, sd 0.55 / sqrt(200).
  assert abs(np.mean(scale) - 1.05) < 4 * 0.039 and min(scale) < 0.2 and max(scale) > 1.9


def test_objects_out_of_sight_are_dropped_and_classes_of_pixels_are_padded():
  jitter = scenes.Jitter((32, 32), low=2.0, high=2.0, flip=0, semantic=True)
  example = {
    **_scene(32, 32),
    "semantic": np.arange(32 * 32).reshape(32, 32).astype(np.uint8) // 64,
  }
  example["crowd"][:] = False
  offset = (draws.generator(0, "crop", 3).random(4)[2:] * 33).astype(int)
  found = jitter(example, decode.drawing(0, 3))
  moved = example["boxes"] * 2 - np.tile(offset, 2)
  rows = [i for i, (y0, x0, y1, x1) in enumerate(np.clip(moved, 0, 32)) if y1 > y0 and x1 > x0]
  assert 0 < len(rows) < 5 and found["classes"][: len(rows)].tolist() == rows
  # Nearest neighbours of a picture twice as large: every pixel twice.
  twice = np.repeat(np.repeat(example["semantic"], 2, 0), 2, 1)
  y, x = offset
  np.testing.assert_array_equal(found["semantic"], twice[y : y + 32, x : x + 32])
  small = scenes.Fit((64, 32), semantic=True)(example)["semantic"]
  np.testing.assert_array_equal(small[:32], example["semantic"])
  assert (small[32:] == scenes.IGNORED).all()


def test_too_many_objects_leave_the_largest_and_are_counted():
  example = _scene(60, 60, count=9)
  example["crowd"][:] = False
  found = scenes.Fit((60, 60), max_objects=4)(example)
  sizes = np.prod(example["boxes"][:, 2:] - example["boxes"][:, :2], 1)
  assert found["objects"] == 9
  assert found["classes"].tolist() == sorted(np.argsort(-sizes)[:4].tolist())


def test_crops_hold_the_share_of_an_object_that_was_drawn():
  """Pixels name their place, so the part can be read off the result and judged by a loop."""
  y, x = np.mgrid[:60, :80]
  example = _scene(60, 80, count=4)
  example["crowd"][:] = False
  example["image"] = np.stack([y, x, 0 * x], -1).astype(np.uint8)
  crop = scenes.SsdCrop((60, 80), flip=0.0, interpolation="bilinear")
  whole, parts = 0, set()
  for position in range(150):
    _, alone, which = draws.generator(0, "crop", position).random(3)
    share = (0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)[int(which * 7)]
    found = crop(example, decode.drawing(0, position))
    if found["original"].tolist() == [60, 80]:
      whole += 1
      continue
    assert alone >= 0.15
    parts.add(tuple(found["original"]))
    h, w = found["original"]
    top, left = found["image"][0, 0, :2].astype(int)
    expected = []
    for box, label in zip(example["boxes"], example["classes"], strict=True):
      inside = np.clip(box, [top, left, top, left], [top + h, left + w, top + h, left + w])
      seen = np.prod(inside[2:] - inside[:2]) / np.prod(box[2:] - box[:2])
      if seen >= share and seen > 0:
        moved = (inside - [top, left, top, left]) * np.tile([60 / h, 80 / w], 2)
        expected.append((label, moved))
    assert expected and found["classes"][: len(expected)].tolist() == [k for k, _ in expected]
    assert found["objects"] == len(expected)
    np.testing.assert_allclose(found["boxes"][: len(expected)], [b for _, b in expected], atol=1e-3)
  # 0.15 of 150, and those that found no part: at share 1 not every picture has one.
  assert 10 < whole < 60 and len(parts) > 50


def test_streams_give_the_same_scene_at_a_position_and_batches_hold_the_fields():
  jitter = scenes.Jitter((32, 40), max_objects=3, mask_size=7, semantic=True)
  make = lambda: data.Stream(_SCENES, seed=1, transform=jitter)  # noqa: E731
  batches = data.train_batches(make(), 4, start=20, threads=2)
  batch = next(batches)
  batches.close()
  assert set(batch) == {"image", "label", "position", "weight", *jitter.fields}
  assert batch["image"].shape == (4, 32, 40, 3) and batch["masks"].shape == (4, 3, 7, 7)
  assert batch["boxes"].dtype == np.float32 and batch["classes"].dtype == np.int32
  for i in range(4):
    alone = make()[20 + i]
    for name in batch:
      np.testing.assert_array_equal(batch[name][i], alone[name])


class _Broken:
  """The scenes, of which one cannot be read."""

  name, num_classes, class_names, image_size = "broken", 10, _SCENES.class_names, None

  def __len__(self):
    return 6

  def __getitem__(self, index):
    if index == 4:
      raise sources.Unreadable("four")
    return _SCENES[index]


def test_evaluation_batches_pad_with_pictures_without_objects():
  fit = scenes.Fit((64, 64), max_objects=5)
  batches = list(data.eval_batches(_Broken(), 4, transform=fit, threads=0, max_unreadable=0.5))
  assert len(batches) == 2
  last = batches[1]
  assert last["index"].tolist() == [4, 5, -1, -1]
  assert last["mask"].tolist() == [False, True, False, False]
  for row in (0, 2, 3):
    assert last["classes"][row].tolist() == [-1] * 5 and last["objects"][row] == 0
  expected = fit(_SCENES[5])
  for name in fit.fields:
    np.testing.assert_array_equal(last[name][1], expected[name])


@pytest.mark.parametrize(
  "settings", [{"low": 0.0}, {"base": "image"}, {"flip": 2}, {"max_objects": 0}, {"size": (0, 4)}]
)
def test_wrong_settings_are_refused(settings):
  with pytest.raises(ValueError, match=next(iter(settings)).replace("max_objects", "counts")):
    dataclasses.replace(scenes.Jitter((8, 8)), **settings)
