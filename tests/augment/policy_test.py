"""Policies from configs: composition, errors, one device against eight, contact sheets."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from ml_collections import config_dict
from PIL import Image

from effnets import augment, errors, streams

_BATCH = 24


def _keys(count=_BATCH):
  key = streams.stream(jax.random.key(0), "augment")
  return streams.example_keys(key, streams.words(np.arange(count)))


def _images(count=_BATCH):
  return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3)).astype(np.uint8)


def test_order_and_streams():
  # What moves in is black before RandAugment inverts it.
  config = {"flip": True, "shift": 4, "randaugment": {"layers": 1, "operations": ("invert",)}}
  result = np.asarray(jax.jit(augment.create(config))(_images(), _keys()))

  @jax.jit
  def steps(images, keys):
    flip, shift = (
      jax.vmap(lambda key, name=name: streams.stream(key, name))(keys) for name in ("flip", "shift")
    )
    return augment.shift(augment.flip(images, flip), shift, pixels=4)

  np.testing.assert_array_equal(255 - np.asarray(steps(_images(), _keys())), result)


def test_operations_first_and_erasing_last():
  # What is inverted first is not inverted again where black moves in and the square is painted.
  config = {
    "shift": 4,
    "shift_fill": (1, 2, 3),
    "cutout": 6,
    "cutout_fill": (4, 5, 6),
    "erasing": {"probability": 1.0, "fill": 9},
    "randaugment": {"layers": 1, "operations": ("invert",)},
    "operations_first": True,
  }
  result = np.asarray(jax.jit(augment.create(config))(_images(), _keys()))

  @jax.jit
  def steps(images, keys):
    shift, cutout, erasing = (
      jax.vmap(lambda key, name=name: streams.stream(key, name))(keys)
      for name in ("shift", "cutout", "erasing")
    )
    images = augment.shift(255 - images, shift, pixels=4, fill=(1, 2, 3))
    images = augment.cutout(images, cutout, size=6, fill=(4, 5, 6))
    return augment.random_erasing(images, erasing, probability=1.0, fill=9)

  np.testing.assert_array_equal(steps(_images(), _keys()), result)
  for colour in ((1, 2, 3), (4, 5, 6), (9, 9, 9)):
    assert (result == colour).all(-1).any()


def test_autoaugment_by_config():
  config = {"autoaugment": {"policy": "svhn", "execution": "map"}}
  result = jax.jit(augment.create(config))(_images(), _keys())
  own = jax.vmap(lambda key: streams.stream(key, "autoaugment"))(_keys())
  np.testing.assert_array_equal(jax.jit(augment.AutoAugment("svhn"))(_images(), own), result)


def test_eight_devices_equal_one():
  config = {
    "crop": {"area": (0.5, 1.0)},
    "flip": True,
    "shift": 4,
    "shift_mode": "reflect",
    "cutout": 5,
    "erasing": {"probability": 0.5},
  }
  policy = augment.create(config_dict.ConfigDict(config))
  result = np.asarray(jax.jit(policy)(_images(), _keys()))
  mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
  mapped = jax.shard_map(
    policy, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False
  )
  np.testing.assert_array_equal(jax.jit(mapped)(_images(), _keys()), result)


@pytest.mark.parametrize("config", [None, {}, {"flip": False, "shift": 0, "randaugment": None}])
def test_nothing_changes_nothing(config):
  np.testing.assert_array_equal(augment.create(config)(_images(), _keys()), _images())


@pytest.mark.parametrize(
  ("config", "message"),
  [
    (
      {"flipp": True},
      r"augment\.flipp=True is not a setting.*Nearest: config\.augment\.flip\.",
    ),
    ({"flip": 1}, r"config\.augment\.flip=1 is not True or False"),
    ({"shift": -4}, r"config\.augment\.shift=-4 is not a whole number in \[0, 1024\]"),
    ({"shift": 4.0}, r"config\.augment\.shift=4\.0"),
    ({"shift_fill": 256}, r"config\.augment\.shift_fill=256"),
    ({"shift_mode": "refelct"}, r"config\.augment\.shift_mode='refelct'.*Nearest: 'reflect'"),
    ({"crop": 0.5}, r"config\.augment\.crop=0\.5 is not a mapping"),
    (
      {"crop": {"areas": 1}},
      r"augment\.crop\.areas=1.*Nearest: config\.augment\.crop\.area\.",
    ),
    ({"crop": {"area": (0, 1)}}, r"config\.augment\.crop\.area=\(0, 1\) is not an ascending pair"),
    ({"crop": {"aspect": (2, 1)}}, r"config\.augment\.crop\.aspect=\(2, 1\)"),
    ({"colour": {"brightness": -1}}, r"augment\.colour\.brightness=-1 is not a number in \[0, 255"),
    ({"colour": {"saturation": (1, 0.5)}}, r"augment\.colour\.saturation=\(1, 0\.5\)"),
    ({"colour": {"hue": 1}}, r"config\.augment\.colour\.hue=1 is not a setting"),
    ({"randaugment": 9}, r"config\.augment\.randaugment=9 is not a mapping"),
    (
      {"randaugment": {"layer": 2}},
      r"randaugment\.layer=2 is not .*Nearest: .*randaugment\.layers\.",
    ),
    ({"randaugment": {"layers": 0}}, r"randaugment\.layers=0 is not a whole number in \[1, 10\]"),
    ({"cutout": -1}, r"config\.augment\.cutout=-1 is not a whole number in \[0, 1024\]"),
    ({"cutout_fill": (1, 2, 256)}, r"config\.augment\.cutout_fill=\(1, 2, 256\) is neither"),
    ({"operations_first": "yes"}, r"augment\.operations_first='yes' is not True or False"),
    ({"erasing": {"probability": 2}}, r"augment\.erasing\.probability=2 .*\[0, 1\]\. Nearest: 1"),
    ({"erasing": {"area": (0.4, 0.02)}}, r"augment\.erasing\.area=\(0\.4, 0\.02\) is not an asc"),
    ({"erasing": {"aspect": 1}}, r"augment\.erasing\.aspect=1 is not an ascending pair"),
    ({"erasing": {"fill": "pixels"}}, r"augment\.erasing\.fill='pixels'.*'pixel'"),
    ({"erasing": {"fill": -1}}, r"augment\.erasing\.fill=-1 is neither a level"),
    ({"erasing": {"prob": 1}}, r"augment\.erasing\.prob=1.*Nearest: .*erasing\.probability\."),
    ({"autoaugment": {"policy": "v1"}}, r"augment\.autoaugment\.policy='v1'.*Nearest: 'v0'"),
    (
      {"autoaugment": {"polcy": "v0"}},
      r"autoaugment\.polcy='v0'.*Nearest: .*autoaugment\.policy\.",
    ),
    (
      {"autoaugment": {"policy": "v0"}, "randaugment": {"layers": 2}},
      r"config\.augment\.autoaugment and config\.augment\.randaugment are both given",
    ),
    ({"randaugment": {"magnitude": 99}}, r"config\.augment\.randaugment\.magnitude=99"),
    ([], r"config\.augment=\[\] is not a mapping"),
  ],
)
def test_errors(config, message):
  with pytest.raises(errors.UserError, match=message):
    augment.create(config)


def test_colour_comes_after_the_flip_and_has_draws_of_its_own():
  policy = augment.create({"flip": True, "colour": {"brightness": 20.0}})

  @jax.jit
  def steps(images, keys):
    flip, tint = (
      jax.vmap(lambda key, name=name: streams.stream(key, name))(keys)
      for name in ("flip", "colour")
    )
    return augment.recolour(augment.flip(images, flip), tint, brightness=20.0)

  expected = steps(_images(), _keys())
  np.testing.assert_array_equal(jax.jit(policy)(_images(), _keys()), expected)
  assert (np.asarray(expected) != _images()).any()


def test_shift_larger_than_the_image():
  with pytest.raises(errors.UserError, match=r"config\.augment\.shift=16 .*nearest: 15"):
    augment.create({"shift": 16})(_images(), _keys())


def test_contact_sheet(tmp_path):
  policy = augment.create({"flip": True})
  images = _images(3)
  sheet = augment.contact_sheet(images, policy, seed=4, count=5)
  assert sheet.shape == (3 * 18 - 2, 6 * 18 - 2, 3) and sheet.dtype == np.uint8
  np.testing.assert_array_equal(sheet[18:34, :16], images[1])
  tile = sheet[36:52, 18:34]
  assert (tile == images[2]).all() or (tile == images[2][:, ::-1]).all()
  assert (sheet[16:18] == 255).all()
  np.testing.assert_array_equal(augment.contact_sheet(images, policy, seed=4, count=5), sheet)
  augment.write_png(tmp_path / "sheet.png", sheet)
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "sheet.png")), sheet)
  with pytest.raises(ValueError, match="count=0"):
    augment.contact_sheet(images, policy, count=0)
