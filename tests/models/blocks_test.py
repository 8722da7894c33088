"""Stage tables: rounding, unrolling, and the block they name against a composition by hand."""

import dataclasses

import jax
import numpy as np
import pytest

from effnets.models import blocks, initialize, layers, stage_tables


@pytest.mark.parametrize(
  "filters,width,rounded",
  [
    (32, 1.2, 40),
    (16, 1.2, 24),
    (24, 1.4, 32),
    (112, 1.1, 120),
    (1280, 1.1, 1408),
    (32, 4.3, 136),
    (320, 4.3, 1376),
    (8, 0.5, 8),
  ],
)
def test_round_filters(filters, width, rounded):
  assert stage_tables.round_filters(filters, width) == rounded


@pytest.mark.parametrize("repeats,depth,rounded", [(1, 1.1, 2), (4, 3.1, 13), (3, 2.6, 8)])
def test_round_repeats(repeats, depth, rounded):
  assert stage_tables.round_repeats(repeats, depth) == rounded


def test_scale_and_unroll():
  table = stage_tables.Table(
    32, (stage_tables.Row("mbconv", 3, 2, 6, 24, 2), stage_tables.Row("mbconv", 5, 1, 4, 40)), 128
  )
  scaled = stage_tables.scale(table, width=1.4, depth=1.2)
  assert (scaled.stem, scaled.head) == (48, 176)
  assert [(row.channels, row.repeats) for row in scaled.rows] == [(32, 3), (56, 2)]
  unrolled = stage_tables.unroll(scaled.rows)
  assert [(row.kernel, row.stride) for row in unrolled] == [(3, 2), (3, 1), (3, 1), (5, 1), (5, 1)]
  assert all(row.repeats == 1 for row in unrolled)


def test_stages_of_joined_rows():
  row = stage_tables.Row("mbconv", 3, 2, 6, 24, 2)
  rows = (
    row,
    dataclasses.replace(row, joined=True, channels=32),
    dataclasses.replace(row, repeats=3),
  )
  assert [len(stage) for stage in stage_tables.stages(rows)] == [2, 1]
  assert [len(stage) for stage in stage_tables.stages(stage_tables.unroll(rows))] == [4, 3]


@pytest.mark.parametrize(
  "repeats,depth,rounding,scaled",
  [
    ((1, 3), 1.2, "nearest", (1, 4)),  # MixNet-XL
    ((1, 1), 1.2, "nearest", (1, 1)),
    ((1, 1, 2), 1.2, "up", (1, 2, 2)),  # timm's mobilenetv3_large_150d: 5 in all
    ((4,), 1.1, "up", (5,)),
    ((4,), 0.1, "nearest", (1,)),
  ],
)
def test_depth_of_a_stage(repeats, depth, rounding, scaled):
  stage = [stage_tables.Row("mbconv", 3, 1, 6, 24, count) for count in repeats]
  found = stage_tables.deepen(stage, depth, rounding=rounding)
  assert tuple(row.repeats for row in found) == scaled


def test_what_width_leaves_alone():
  table = stage_tables.Table(36, (stage_tables.Row("mbconv", 3, 1, 9, 36),), 128)
  assert stage_tables.scale(table) == table
  for rule, small, large in (("scaled", 64, 256), ("fixed", 128, 128), ("grown", 128, 256)):
    chosen = dataclasses.replace(table, head_scaling=rule)
    assert stage_tables.scale(chosen, width=0.5).head == small
    assert stage_tables.scale(chosen, width=2.0).head == large
  headless = dataclasses.replace(table, head=0)
  assert stage_tables.scale(headless, width=2.0).head == 0


def test_ends_of_small_first_and_last_stages_stay():
  rows = tuple(stage_tables.Row("mbconv", 3, 1, 6, 24, count) for count in (1, 2, 1))
  table = stage_tables.Table(32, rows, 128)
  for keep, repeats in ((True, (1, 3, 1)), (False, (2, 3, 2))):
    scaled = stage_tables.scale(table, depth=1.5, keep_ends=keep)
    assert tuple(row.repeats for row in scaled.rows) == repeats


SQUEEZE = layers.Squeeze(0.25)


@pytest.mark.parametrize(
  "row,parts,skip",
  [
    (stage_tables.Row("mbconv", 3, 1, 1, 8, 1, SQUEEZE), {"depthwise", "squeeze", "project"}, True),
    (stage_tables.Row("mbconv", 3, 1, 3, 8), {"expand", "depthwise", "project"}, True),
    (stage_tables.Row("mbconv", 3, 1, 3, 8, skip=False), {"expand", "depthwise", "project"}, False),
    (stage_tables.Row("mbconv", 3, 1, 2, 16), {"expand", "depthwise", "project"}, False),
    (stage_tables.Row("mbconv", 5, 2, 2, 8), {"expand", "depthwise", "project"}, False),
  ],
)
def test_skip_where_shapes_agree(getkey, row, parts, skip):
  x = np.asarray(jax.random.normal(getkey("x"), (1, 6, 6, 8)))
  block = blocks.MBConv(row)
  variables = initialize.init(block, 0, inputs=(x,))
  assert variables["params"].keys() == parts
  # A projection norm of scale 0 and shift 1 leaves the skip alone.
  norm = variables["params"]["project"]["norm"]
  norm["scale"], norm["bias"] = norm["scale"] * 0, norm["bias"] + 1
  side = 6 // row.stride
  want = x + 1 if skip else np.ones((1, side, side, row.channels))
  np.testing.assert_allclose(block.apply(variables, x), want, atol=1e-6)


def test_fractional_expansion_is_rounded():
  # MobileNetV3: 80 channels times 2.3 are 184.
  row = stage_tables.Row("mbconv", 3, 1, 184 / 80, 80)
  shapes = initialize.abstract(
    blocks.MBConv(row), inputs=(jax.ShapeDtypeStruct((1, 4, 4, 80), np.float32),)
  )
  assert shapes["params"]["expand"]["conv"]["kernel"].shape == (1, 1, 80, 184)


def test_whole_expansion_of_odd_channels_stays():
  # MnasNet-d1: 9 times 36 channels are 324, no multiple of 8.
  shapes = initialize.abstract(
    blocks.MBConv(stage_tables.Row("mbconv", 3, 1, 9, 36)),
    inputs=(jax.ShapeDtypeStruct((1, 4, 4, 36), np.float32),),
  )
  assert shapes["params"]["expand"]["conv"]["kernel"].shape == (1, 1, 36, 324)


def test_inner_ends_are_before_the_squeeze():
  x = np.random.default_rng(0).standard_normal((1, 4, 4, 8)).astype(np.float32)
  block = blocks.MBConv(stage_tables.Row("mbconv", 3, 1, 2, 8, 1, SQUEEZE, "relu"))
  variables = initialize.init(block, 0, inputs=(x,))
  _, inner = jax.jit(lambda v, x: block.apply(v, x, method="ends"))(variables, x)
  # Running moments are 0 and 1 at the start, epsilon 1e-3.
  kernel = variables["params"]["expand"]["conv"]["kernel"][0, 0]
  expand = np.maximum(x @ kernel / np.sqrt(1 + 1e-3), 0)
  np.testing.assert_allclose(inner["expand"], expand, rtol=1e-4, atol=1e-5)
  kernel = variables["params"]["depthwise"]["conv"]["kernel"][:, :, 0]
  wide = np.pad(expand, ((0, 0), (1, 1), (1, 1), (0, 0)))
  taps = sum(wide[:, i : i + 4, j : j + 4] * kernel[i, j] for i in range(3) for j in range(3))
  want = np.maximum(taps / np.sqrt(1 + 1e-3), 0)
  np.testing.assert_allclose(inner["depthwise"], want, rtol=1e-4, atol=1e-5)


def test_dropped_examples_keep_their_input(getkey):
  x = np.asarray(jax.random.normal(getkey("x"), (3, 4, 4, 8)))
  block = blocks.MBConv(stage_tables.Row("mbconv", 3, 1, 2, 8, 1, SQUEEZE), drop_rate=0.5)
  variables = initialize.init(block, 0, inputs=(x,))
  noise = np.array([0.2, 0.7, 0.49], np.float32)
  plain, got = block.apply(variables, x, True), block.apply(variables, x, True, noise)
  np.testing.assert_array_equal(got[np.array([0, 2])], x[[0, 2]])
  np.testing.assert_allclose(got[1] - x[1], 2 * (plain[1] - x[1]), rtol=1e-4, atol=1e-5)
  # So outside training, where there is noise, as for a teacher with noise; but not at rate 0.
  got = block.apply(variables, x, False, noise)
  np.testing.assert_array_equal(got[np.array([0, 2])], x[[0, 2]])
  still = dataclasses.replace(block, drop_rate=0.0)
  np.testing.assert_array_equal(still.apply(variables, x, True, noise), plain)
