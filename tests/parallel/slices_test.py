"""Slices by their usual names."""

import math

import pytest

from effnets import errors, parallel
from effnets.parallel import slices


# Google's names: the number counts TensorCores up to v4 and of v5p, chips of v5e and v6e.
@pytest.mark.parametrize(
  ("name", "chips"),
  [
    ("v2-8", 4),
    ("v3-32", 16),
    ("v3-2048", 1024),
    ("v4-8", 4),
    ("v5p-128", 64),
    ("v5e-1", 1),
    ("v5e-256", 256),
    ("v6e-64", 64),
  ],
)
def test_how_many_chips_a_name_means(name, chips):
  assert slices.resolve(name).chips == chips


def test_every_shape_has_the_chips_of_its_name():
  for name in slices.names():
    found = slices.resolve(name)
    assert math.prod(map(int, found.shape.split("x"))) == found.chips, name
    assert found.absent and found.chip is slices.CHIPS[found.kind]


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("v5e-255", ["'v5e-128', 'v5e-256'"]),
    ("v5litepod-16x", ["is not a slice"]),
    ("V4-7", ["Nearest: 'v4-8'."]),
    ("cpu:0", ["1 to 1024"]),
    ("tpu", ["is not a slice", "cpu:8"]),
  ],
)
def test_a_wrong_name_gives_the_nearest(name, words):
  with pytest.raises(errors.UserError) as raised:
    slices.resolve(name)
  assert all(word in str(raised.value) for word in ["config.plan.topology=", *words])


def test_devices_that_are_here():
  assert [d.platform for d in slices.resolve("cpu:4").devices()] == ["cpu"] * 4
  with pytest.raises(errors.UserError, match="8 cpu device.*device_count=64"):
    slices.resolve("cpu:64").devices()
  with pytest.raises(errors.UserError, match="there is no gpu here"):
    slices.resolve("gpu").devices()


def test_a_missing_compiler_is_named(monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "libtpu", None)
  with pytest.raises(errors.UserError, match=r"effnets\[plan\].*a plan for v5e-4"):
    slices.resolve("v5e-4").devices()


def test_the_tpus_library_is_told_where_there_is_none(tmp_path, monkeypatch):
  monkeypatch.setattr(slices.os, "environ", {"TPU_WORKER_ID": "3"})
  (tmp_path / "accel0").touch()
  assert not slices.without_tpu(devices=tmp_path) and slices.os.environ == {"TPU_WORKER_ID": "3"}
  (tmp_path / "accel0").unlink()
  assert slices.without_tpu(devices=tmp_path)
  assert slices.os.environ["TPU_WORKER_HOSTNAMES"] == "localhost"
  assert slices.os.environ["TPU_WORKER_ID"] == "3"  # somebody has chosen


def test_an_axis_may_be_part_of_one_of_the_slices():
  pytest.importorskip("libtpu")
  # 4x4x8 chips: 2 is none of its sides, and no product of some.
  made = parallel.create({"data": -1, "space": 2}, devices=slices.resolve("v5p-256").devices())
  assert dict(made.mesh.shape) == {"data": 64, "fsdp": 1, "space": 2}
  pairs = [[device.coords for device in pair] for pair in made.mesh.devices[:, 0]]
  assert len({tuple(place) for pair in pairs for place in pair}) == 128
  # Halves of a picture lie on neighbours, the torus's last and first ones too.
  for first, second in pairs:
    apart = [abs(a - b) for a, b in zip(first, second, strict=True)]
    assert sum(min(d, side - d) for d, side in zip(apart, (4, 4, 8), strict=True)) == 1
