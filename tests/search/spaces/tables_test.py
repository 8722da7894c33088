"""Spaces over stage tables: the sheets' counts and tokens, brute force on small ones."""

import itertools
import math

import numpy as np
import pytest

from effnets import errors, models
from effnets.models import blocks, layers, stage_tables
from effnets.search import spaces
from effnets.search.spaces import mobile, tables

# Published counts, or products of the papers' lists: raw, then distinct networks.
COUNTS = {
  "mnas": (1_479_074_071_160_291_328, None),
  "mnas_vertex": (9_749_755_840_167_936, 224_084_231_917_056),
  "mnas_paper": (432**7, None),
  "mnas_flat": (432**15, None),
  "mnas_cell": (432, None),
  "proxylessnas": (3 * (6 * 12**3) ** 5 * 6, 664_506_689_423_701_824),
  "proxylessnas_enlarged": (
    3 * (6 * 12**3) ** 5 * 6 * 4**3 * 6 * 7**5,
    3 * (6 * 7**3) ** 5 * 6 * 4**3 * 6 * 7**5,
  ),
  "mobilenet_v3_like": (
    2 * 6 * (36 * 72**3) ** 5 * 4**2 * 6 * 7**5,
    2 * 4 * (36 * 37**3) ** 5 * 4**2 * 6 * 7**5,
  ),
  "ofa": (None, 21_758_655_492_572_485_851),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
  made, (raw, unique) = spaces.create(name), COUNTS[name]
  if raw is not None:
    assert made.count_raw() == raw
  if unique is not None:
    assert made.count_unique() == unique


def test_counts_as_they_are_printed():
  assert 432**5 == 15_045_919_506_432 == spaces.create("mnas_paper", blocks=5).count_raw()
  assert f"{432**15:.1e}" == "3.4e+39" and f"{432**7:.3e}" == "2.808e+18"
  three = spaces.create("mnas_paper", ops=("conv", "dconv", "mbconv6"))
  assert three.count_raw() == 324**7 and f"{324**7:.3e}" == "3.748e+17"
  for name, raw, unique in (
    ("proxylessnas", "2.156e+21", "6.645e+17"),
    ("proxylessnas_enlarged", "1.392e+28", "4.289e+24"),
    ("mobilenet_v3_like", "8.481e+42", "2.602e+38"),
  ):
    made = spaces.create(name)
    assert (f"{made.count_raw():.3e}", f"{made.count_unique():.3e}") == (raw, unique)
  assert spaces.create("proxylessnas").count_raw() == 2_156_489_995_751_704_756_224


# Operation, kernel, squeeze, filters, layers of every block, from the sheet; the skip is free.
_SHEET = {
  "mnasnet_a1": "1,0,0,0,0 3,0,0,1,1 2,1,1,2,1 3,0,0,2,1 3,0,1,2,0 3,1,1,1,1 3,0,0,1,0",
  "mnasnet_b1": "1,0,0,0,0 2,0,0,1,2 2,1,0,2,1 3,1,0,2,0 3,0,0,1,0 3,1,0,2,2 3,0,0,1,0",
  "efficientnet_b0": "1,0,1,0,0 3,0,1,1,1 3,1,1,2,0 3,0,1,2,0 3,1,1,2,1 3,1,1,2,2 3,0,1,1,0",
}


@pytest.mark.parametrize("name", _SHEET)
def test_tokens_of_the_sheet(name):
  made, tokens = spaces.create("mnas"), []
  for block in _SHEET[name].split():
    op, kernel, squeeze, filters, count = map(int, block.split(","))
    tokens += [op, kernel, squeeze, 1, filters, count]
  assert made.key(tokens) == made.key(made.published[name])
  assert made.arities.tolist() == [
    n
    for f, c in ((2, 2), (3, 3), (3, 3), (3, 3), (4, 3), (4, 3), (3, 2))
    for n in (4, 2, 2, 3, f, c)
  ]


def test_a1_decoded():
  made = spaces.create("mnas")
  count = models.count(spaces.network(made, made.published["mnasnet_a1"]), 224)
  assert count.params == 3_887_038
  assert count.madds == pytest.approx(311.58e6, abs=5e3)


def test_published_networks_are_outside_the_literal_space():
  # 112 and 192 are no multiples that the paper names.
  assert list(spaces.create("mnas_paper").published) == ["mobilenetv2"]
  with pytest.raises(errors.UserError, match="is not in the space 'mnas_paper': 32 mbconv:3:16x1"):
    spaces.create("mnas_paper").encode(models.mnasnet.A1)


def test_rounding_collides():
  made = spaces.create("mnas_paper")
  # 12 of 16 rounds to 16, and 18 of 24 to 24 by the rule that never loses a tenth.
  for index, (kept, also) in enumerate(((16, 16), (24, 24))):
    choices = made.decisions[made.index[f"block{index}.filters"]].choices
    assert choices[:2] == (kept, also)
  tokens = made.published["mobilenetv2"]
  changed = made.change(tokens, made.index["block1.filters"], 1)
  assert changed != tokens and made.key(changed) == made.key(tokens)
  exact = spaces.create("mnas_paper", rounded=False)
  assert exact.decisions[exact.index["block1.filters"]].choices == (18, 24, 30)
  changed = exact.change(exact.published["mobilenetv2"], exact.index["block1.filters"], 0)
  assert changed != exact.published["mobilenetv2"]
  assert exact.key(changed) != exact.key(exact.published["mobilenetv2"])
  assert exact.decode(changed).rows[1].channels == 18  # and nothing rounds it later


def test_what_has_no_effect_is_not_in_the_key():
  made = spaces.create("mnas")
  base = {"block0.op": "conv", "block1.op": "mbconv3", "block1.layers": 1}
  key = lambda **more: made.key(made.tokens({**base, **more}))  # noqa: E731
  # A convolution has no squeeze-excitation; identity needs equal shapes, pooling does not.
  assert key(**{"block0.squeeze": 0.25}) == key()
  assert key(**{"block1.skip": "identity"}) == key(**{"block1.skip": "none"})
  assert key(**{"block1.skip": "pool"}) != key()
  assert key(**{"block1.layers": 2, "block1.skip": "identity"}) != key(**{"block1.layers": 2})


SMALL = ("mnas_cell", "mnas_cell_tiny")


@pytest.mark.parametrize("name", SMALL)
def test_unique_counts_by_brute_force(name):
  made = spaces.create(name)
  assert made.count_unique() == len({made.key(tokens) for tokens in made.points()})


def test_unique_count_of_a_chain_by_brute_force():
  # Two blocks whose skips depend on the channels before them.
  skeleton = (spaces.mnas.Block(1, (8, 16), (1, 2)), spaces.mnas.Block(1, (16, 24), (1,)))
  made = spaces.mnas._hierarchical(skeleton, stem=8, head=16, ops=("conv", "mbconv3"))
  assert made.count_raw() == 2**3 * 3 * 2 * 2 * 2**3 * 3 * 2
  keys = {made.key(tokens) for tokens in made.points()}
  assert made.count_unique() == len(keys)
  # As networks: what flax builds differs where the keys do, or in the kind of skip alone.
  for tokens in itertools.islice(made.points(), 0, None, 97):
    assert made.key(made.encode(made.decode(tokens))) == made.key(tokens)


def test_ofa_counts_a_stage_as_brute_force_does():
  made = spaces.create("ofa")
  assert len(made.forms(1, 24)) == 9**2 + 9**3 + 9**4 == 7371
  assert made.count_raw() == (3 * 9**4) ** 5


def test_widths_of_tunas():
  for base, count in ((16, 4), (32, 6), (64, 7), (128, 7), (1024, 7)):
    assert len(mobile.widths(base)) == count
    assert set(mobile.widths(base)) == {layers.divisible(base * m) for m in mobile.MULTIPLES}


def test_kinds_of_mixnet():
  made = spaces.create("mixnet")
  first = [d for d in made.decisions if d.name.startswith("first0") and d.kind != "filters"]
  assert math.prod(len(d.choices) for d in first) == 240
  assert made.count_raw() == (240 * 3 * 240 * 3) ** 5


def _numpy_pool(x, stride, channels):
  """3x3 means with `SAME` borders, slowly."""
  size = x.shape[0]
  out = -(-size // stride)
  before = max((out - 1) * stride + 3 - size, 0) // 2
  found = np.zeros((out, out, channels))
  for i, j in itertools.product(range(out), repeat=2):
    rows = [r for r in range(i * stride - before, i * stride - before + 3) if 0 <= r < size]
    cols = [c for c in range(j * stride - before, j * stride - before + 3) if 0 <= c < size]
    mean = x[np.ix_(rows, cols)].mean((0, 1))[:channels]
    found[i, j, : len(mean)] = mean
  return found


@pytest.mark.parametrize("op", ["conv", "mbconv"])
@pytest.mark.parametrize("stride,channels", [(1, 6), (2, 4), (2, 9)])
def test_pooled_skips(op, stride, channels):
  row = stage_tables.Row(op, 3, stride, 1, channels, activation="relu", pooled=True)
  x = np.random.default_rng(0).standard_normal((1, 7, 7, 6)).astype(np.float32)
  block = blocks.BLOCKS[op](row)
  variables = models.init(block, 0, inputs=(x,))
  last = "spatial" if op == "conv" else "project"
  variables["params"][last]["norm"]["scale"] *= 0
  got = block.apply(variables, x)
  np.testing.assert_allclose(got[0], _numpy_pool(x[0], stride, channels), atol=1e-6)


def test_a_convolution_is_one():
  row = stage_tables.Row("conv", 3, 1, 1, 3, activation="relu")
  x = np.random.default_rng(0).standard_normal((1, 5, 5, 3)).astype(np.float32)
  block = blocks.BLOCKS["conv"](row)
  variables = models.init(block, 0, inputs=(x,))
  kernel = variables["params"]["spatial"]["conv"]["kernel"]
  assert models.counting.parameters(variables["params"]) == 3 * 3 * 3 * 3 + 2 * 3
  padded = np.pad(x[0], ((1, 1), (1, 1), (0, 0)))
  want = np.zeros((5, 5, 3))
  for i, j in itertools.product(range(5), repeat=2):
    want[i, j] = np.einsum("hwc,hwco->o", padded[i : i + 3, j : j + 3], kernel)
  want = np.maximum(want / np.sqrt(1 + 1e-3), 0) + x[0]
  np.testing.assert_allclose(block.apply(variables, x)[0], want, atol=1e-5)


def test_tiny_spaces_build_small_networks():
  rng = np.random.default_rng(0)
  for name in (
    "mnas_micro",
    "mnas_tiny",
    "mnas_flat_tiny",
    "mnas_cell_tiny",
    "mixnet_tiny",
    "proxylessnas_tiny",
  ):
    made = spaces.create(name)
    count = models.count(spaces.network(made, made.sample(rng), 10))
    assert count.params < 500_000 and count.madds < 20e6


def test_every_point_of_the_space_for_tables_is_another_network():
  made = spaces.create("mnas_micro")
  # Three blocks of two operations, two kernels, with and without squeeze-excitation.
  assert made.count_raw() == 8**3 and len({made.key(point) for point in made.points()}) == 8**3


def test_narrower_filters():
  made = spaces.create("mnas", width=0.35)
  filters = [d.choices for d in made.decisions if d.kind == "filters"]
  # 0.35 of 16, 24, 32, ...; some round alike and are one choice.
  assert filters[0] == (8,) and filters[1] == (8, 16) and filters[6] == (88, 112, 144)
  assert made.decode((0,) * len(made)).stem == 16 and not made.published
  full = spaces.create("mnas")
  sizes = [models.count(spaces.network(s, (0,) * len(s)), 224).madds for s in (made, full)]
  assert sizes[0] < 0.3 * sizes[1]


def test_bad_settings():
  with pytest.raises(errors.UserError, match="width=0"):
    spaces.create("mnas", width=0)
  with pytest.raises(errors.UserError, match="blocks=9"):
    spaces.create("mnas_paper", blocks=9)
  with pytest.raises(errors.UserError, match="ops="):
    spaces.create("mnas_tiny", ops=("conf",))


def test_forms_see_stem_and_head():
  made = spaces.create("proxylessnas_enlarged")
  rng = np.random.default_rng(3)
  for _ in range(5):
    table = made.decode(made.sample(rng))
    assert made.decode(made.encode(table)) == table
    assert tables.STEM not in {row.op for row in table.rows}
