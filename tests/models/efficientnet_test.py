"""EfficientNet against the figures of the papers' sheets and two independent implementations."""

import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import errors, models
from effnets.models import counting, stage_tables
from tests.oracle import recipe

# name: params, without the dense layer, norm scales and shifts, {size: MAdds}. From the official
# code by way of three independent counters; l0 and l1 from the published widths.
SHEET = {
  "b0": (5_288_548, 4_007_548, 42_016, {224: 385.8e6}),
  "b1": (7_794_184, 6_513_184, 62_048, {240: 686.8e6}),
  "b2": (9_109_994, 7_700_994, 67_568, {260: 993.6e6}),
  "b3": (12_233_232, 10_696_232, 87_296, {300: 1_827.1e6}),
  "b4": (19_341_616, 17_548_616, 125_200, {380: 4_393.8e6}),
  "b5": (30_389_784, 28_340_784, 172_736, {456: 10_266.4e6}),
  "b6": (43_040_704, 40_735_704, 224_432, {528: 19_067.6e6}),
  "b7": (66_347_960, 63_786_960, 310_720, {600: 37_745.9e6}),
  "b8": (87_413_142, 84_596_142, 380_032, {672: 62_597.5e6}),
  "l0": (140_764_664, None, None, {380: 32.85e9, 600: 82.04e9}),
  "l1": (272_630_564, None, None, {380: 64.87e9, 600: 162.0e9}),
  "l2": (480_309_308, 474_804_308, 1_090_688, {475: 170_893e6, 800: 475_704e6}),
}
BLOCKS = {"b0": 16, "b1": 23, "b2": 23, "b3": 26, "b4": 32, "b5": 39, "b6": 45, "b7": 55}
BLOCKS |= {"b8": 61, "l0": 63, "l1": 63, "l2": 88}


@pytest.mark.parametrize("name", SHEET)
def test_parameters_of_sheet(name):
  params, without_dense, norms, _ = SHEET[name]
  shapes = models.abstract(models.create(f"efficientnet_{name}"), 64)
  assert counting.parameters(shapes["params"]) == params
  if norms is not None:
    rest = {key: tree for key, tree in shapes["params"].items() if key != "classifier"}
    assert counting.parameters(rest) == without_dense
    assert counting.parameters(shapes["batch_stats"]) == norms
  dtypes = {leaf.dtype for leaf in jax.tree.leaves(shapes)}
  assert dtypes == {jnp.dtype("float32")}


@pytest.mark.parametrize("name,size", [(n, s) for n in SHEET for s in SHEET[n][3]])
def test_multiply_adds_of_sheet(name, size):
  entry = models.entry(f"efficientnet_{name}")
  if size == entry.image_size:  # that entries are what their modules count is tested of all models
    assert (entry.params, entry.madds) == (SHEET[name][0], SHEET[name][3][size])
  else:
    madds = models.count(models.create(entry.name), size).madds
    assert madds == pytest.approx(SHEET[name][3][size], rel=1e-3)


@pytest.mark.parametrize(
  "settings,size,params,madds",
  [
    ({"num_classes": 10}, 224, 4_020_358, None),
    ({"num_classes": 100}, 224, 4_135_648, None),
    ({"num_classes": 1001}, 224, 5_289_829, None),
    ({"num_classes": 10, "small_images": True}, 32, 4_020_358, 102.3e6),
    ({"depth": 4.0}, 224, 20_091_856, 1.575e9),
    ({"width": 2.0}, 224, 18_122_720, 1.450e9),
    ({}, 448, 5_288_548, 1.538e9),
    ({"width": 1.2, "depth": 1.4}, 300, 12_233_232, 1_827.1e6),
  ],
)
def test_variants_of_b0(settings, size, params, madds):
  count = models.count(models.create("efficientnet_b0", **settings), size)
  assert count.params == params
  if madds is not None:
    assert count.madds == pytest.approx(madds, rel=1e-3)


@pytest.mark.parametrize("method,params", [("backbone", 3_595_388), ("features", 4_007_548)])
def test_parts_own_only_their_parameters(method, params):
  module = models.create("efficientnet_b0")
  assert models.count(module, 64, method=method).params == params


def test_b7_with_ten_classes():
  shapes = models.abstract(models.create("efficientnet_b7", 10), 64)
  assert counting.parameters(shapes["params"]) == 63_812_570


@pytest.mark.parametrize(
  "name,size,sides",
  [
    ("b0", 224, (112, 112, 56, 28, 14, 14, 7, 7)),
    ("b2", 260, (130, 130, 65, 33, 17, 17, 9, 9)),
    ("b4", 380, (190, 190, 95, 48, 24, 24, 12, 12)),
    ("b7", 600, (300, 300, 150, 75, 38, 38, 19, 19)),
    ("l2", 800, (400, 400, 200, 100, 50, 50, 25, 25)),
  ],
)
def test_feature_map_sizes(name, size, sides):
  module = models.create(f"efficientnet_{name}")
  ends = _ends(module, size)
  last = np.cumsum([row.repeats for row in module.rows]) - 1
  assert (ends["stem"][1], *(ends[f"block_{index}"][1] for index in last)) == sides
  assert all(shape[1] == shape[2] for shape in ends.values() if len(shape) == 4)


def test_end_points_of_b0():
  ends = _ends(models.create("efficientnet_b0"), 224)
  reductions = [ends[f"reduction_{k}"] for k in range(1, 6)]
  assert reductions == [
    (1, 112, 112, 16),
    (1, 56, 56, 24),
    (1, 28, 28, 40),
    (1, 14, 14, 112),
    (1, 7, 7, 320),
  ]
  assert ends["features"] == ends["reduction_5"] and "reduction_6" not in ends
  assert ends["head_1x1"] == (1, 7, 7, 1280) and ends["pooled_features"] == (1, 1280)


def test_small_images_keep_the_size_of_two_more_stages():
  # Noisy Student's SVHN model: 32 -> 16 16 16 16 (stem, stages 1-3), 8 8, 4 4, head 4.
  module = models.create("efficientnet_b0", 10, small_images=True)
  ends = _ends(module, 32)
  last = np.cumsum([row.repeats for row in module.rows]) - 1
  sides = (ends["stem"][1], *(ends[f"block_{index}"][1] for index in last), ends["head_1x1"][1])
  assert sides == (16, 16, 16, 16, 8, 8, 4, 4, 4)


def _ends(module, size):
  def run(key, images):
    return module.init_with_output(key, images, method="features")[0]

  images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  return {name: end.shape for name, end in jax.eval_shape(run, jax.random.key(0), images).items()}


@pytest.mark.parametrize("name", BLOCKS)
def test_number_of_blocks(name):
  module = models.create(f"efficientnet_{name}")
  assert len(stage_tables.unroll(module.rows)) == BLOCKS[name]


@pytest.mark.parametrize(
  "name,stem,channels,head,repeats",
  [
    ("b3", 40, (24, 32, 48, 96, 136, 232, 384), 1536, (2, 3, 3, 5, 5, 6, 2)),
    ("b8", 72, (32, 56, 88, 176, 248, 424, 704), 2816, (4, 8, 8, 11, 11, 15, 4)),
    ("l0", 88, (48, 64, 112, 224, 312, 536, 896), 3584, (4, 8, 8, 12, 12, 15, 4)),
    ("l1", 128, (64, 96, 160, 312, 440, 752, 1248), 4992, (4, 8, 8, 12, 12, 15, 4)),
    ("l2", 136, (72, 104, 176, 344, 480, 824, 1376), 5504, (6, 11, 11, 16, 16, 22, 6)),
  ],
)
def test_scaled_tables(name, stem, channels, head, repeats):
  module = models.create(f"efficientnet_{name}")
  assert (module.stem, module.head) == (stem, head)
  assert tuple(row.channels for row in module.rows) == channels
  assert tuple(row.repeats for row in module.rows) == repeats
  assert tuple(row.kernel for row in module.rows) == (3, 3, 5, 3, 5, 5, 3)


def test_stochastic_depth_rates_of_b0():
  rates = models.create("efficientnet_b0").drop_rates()
  assert [1 - rates[index] for index in (0, 8, 15)] == pytest.approx([1.0, 0.9, 0.8125])


def test_small_members_fit_small_machines():
  counts = [models.count(models.create(f"efficientnet_{n}", 10)) for n in ("tiny", "mini", "small")]
  assert counts[0].params < 100_000 and 1.5e6 < counts[0].madds < 3e6
  assert counts[0].madds * 1.8 < counts[1].madds < counts[0].madds * 2.2
  assert counts[1].madds < counts[2].madds and counts[1].params < counts[2].params


@pytest.mark.parametrize("key,value", [("width", 0.0), ("depth", math.inf), ("width", math.nan)])
def test_impossible_factors(key, value):
  with pytest.raises(errors.UserError, match=rf"config\.model\.{key}=.*above 0"):
    models.create("efficientnet_b0", **{key: value})


# The sheet's golden forward pass: every tensor is a hash of its number in execution order.


def _noise(number, shape):
  index = np.arange(math.prod(shape), dtype=np.uint64)
  low = np.uint64(0xFFFFFFFF)
  h = (index * np.uint64(2654435761) + np.uint64(97531 * number + 12345)) & low
  h ^= h >> np.uint64(16)
  h = (h * np.uint64(0x45D9F3B)) & low
  h ^= h >> np.uint64(16)
  return (2 * h.astype(np.float64) / 2**32 - 1).reshape(shape)


def _golden_variables(module):
  shapes = models.abstract(module, 64)
  params, stats = shapes["params"], shapes["batch_stats"]
  numbers = iter(range(10_000))

  def put(tree, path, gain, offset=0.0):
    for name in path[:-1]:
      tree = tree[name]
    values = offset + gain * _noise(next(numbers), tree[path[-1]].shape)
    tree[path[-1]] = values.astype(np.float32)

  def kernel(*path):
    tree = params
    for name in path:
      tree = tree[name]
    put(params, (*path, "kernel"), math.sqrt(6 / math.prod(tree["kernel"].shape[:-1])))

  def conv_norm(*path):
    kernel(*path, "conv")
    put(params, (*path, "norm", "scale"), 0.2, 1.0)
    put(params, (*path, "norm", "bias"), 0.1)
    put(stats, (*path, "norm", "mean"), 0.1)
    put(stats, (*path, "norm", "var"), 0.5, 1.0)

  conv_norm("stem")
  for index in range(len(stage_tables.unroll(module.rows))):
    block = f"block_{index}"
    if "expand" in params[block]:
      conv_norm(block, "expand")
    conv_norm(block, "depthwise")
    for part in ("reduce", "expand"):
      kernel(block, "squeeze", part)
      put(params, (block, "squeeze", part, "bias"), 0.1)
    conv_norm(block, "project")
  conv_norm("head")
  kernel("classifier")
  put(params, ("classifier", "bias"), 0.1)
  return {"params": params, "batch_stats": stats}, next(numbers)


GOLDEN = {
  "b0": (224, 311, (-0.095292, -0.17059, 0.40387, 0.082109, 0.18877), 0.0064822, 0.15749, 406)
  + (0.0081272, 0.12894),
  "b1": (240, 439, (0.092885, -0.11437, -0.14377, 0.19331, 0.46495), 0.0023097, 0.23385, 516)
  + (0.004765, 0.2035),
  "b2": (260, 439, (-0.29983, -0.010271, -0.18147, 0.11071, 0.57052), 0.0039414, 0.2063, 549)
  + (0.015839, 0.1772),
  "b3": (300, 496, (0.20659, -0.046269, 0.39415, 0.22969, 0.42415), -0.00068511, 0.46046, 47)
  + (-0.019725, 0.51258),
}


def test_golden_noise():
  first = [0.052337952, 0.013355655, -0.264870746, -0.101605169, 0.128007823]
  np.testing.assert_allclose(_noise(0, (5,)), first, atol=1e-9)
  np.testing.assert_allclose(_noise(1, (3,)), [0.587619424, 0.820643394, -0.070634131], atol=1e-9)


@pytest.mark.parametrize(
  "name", ["b0", *(pytest.param(name, marks=pytest.mark.slow) for name in ("b1", "b2", "b3"))]
)
def test_golden_forward_pass(name):
  size, tensors, logits, mean, std, best, features_mean, features_std = GOLDEN[name]
  module = models.create(f"efficientnet_{name}")
  variables, used = _golden_variables(module)
  assert used == tensors
  images = _noise(1_000_000, (1, size, size, 3)).astype(np.float32)

  @jax.jit
  def run(variables, images):
    ends = module.apply(variables, images, method="features")
    return module.apply(variables, images), ends["features"]

  got, features = (np.asarray(x, np.float64) for x in run(variables, images))
  # The sheet prints five digits; float32 is to agree to 1e-5.
  np.testing.assert_allclose(got[0, :5], logits, atol=2e-5)
  assert got.argmax() == best
  assert (got.mean(), got.std()) == (pytest.approx(mean, abs=1e-6), pytest.approx(std, rel=1e-4))
  assert features.mean() == pytest.approx(features_mean, rel=1e-4)
  assert features.std() == pytest.approx(features_std, rel=1e-4)


# A second implementation: timm in float64, on tensors that follow from their names.


def _oracle_variables(module, gain):
  shapes = models.abstract(module, 64)
  stages = [(s, r) for s, row in enumerate(module.rows) for r in range(row.repeats)]

  def block_prefix(index):
    return "blocks.{}.{}.".format(*stages[index])

  def conv_norm(collection, names):
    """Returns the prefixes of the convolution and of its norm, for the place `names`."""
    if names[0] in ("stem", "head"):
      return f"conv_{names[0]}", "bn1" if names[0] == "stem" else "bn2"
    index, place = int(names[0].removeprefix("block_")), names[1]
    wide = "expand" in collection[names[0]]
    conv = {
      "expand": "conv_pw",
      "depthwise": "conv_dw",
      "project": "conv_pwl" if wide else "conv_pw",
    }
    norm = {"expand": "bn1", "depthwise": "bn2" if wide else "bn1", "project": "bn3"}
    norm["project"] = "bn3" if wide else "bn2"
    return block_prefix(index) + conv[place], block_prefix(index) + norm[place]

  last = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}

  def value(path, leaf):
    _, *names, leaf_name = (key.key for key in path)
    if names[0] == "classifier":
      prefix = "classifier"
    elif "squeeze" in names:
      prefix = block_prefix(int(names[0].removeprefix("block_"))) + f"se.conv_{names[-1]}"
    else:
      prefix = conv_norm(shapes["params"], names)[names[-1] == "norm"]
    if leaf_name != "kernel":
      return recipe.tensor(f"{prefix}.{last[leaf_name]}", leaf.shape, gain).astype(np.float32)
    order = (3, 2, 0, 1) if len(leaf.shape) == 4 else (1, 0)
    shape = tuple(leaf.shape[axis] for axis in order)
    back = (2, 3, 1, 0) if len(leaf.shape) == 4 else (1, 0)
    return recipe.tensor(f"{prefix}.weight", shape, gain).transpose(back).astype(np.float32)

  return jax.tree_util.tree_map_with_path(value, shapes)


@functools.cache
def _oracle():
  path = pathlib.Path(__file__).parent.parent / "oracle" / "timm_tf_efficientnet_b0.npz"
  with np.load(path) as file:
    return {name: file[name] for name in file.files}


def test_equals_timm():
  oracle = _oracle()
  module = models.create("efficientnet_b0")
  variables = _oracle_variables(module, float(oracle["gain"]))
  named = [name for name, _ in json.loads(str(oracle["names"])) if "num_batches" not in name]
  assert len(jax.tree.leaves(variables)) == len(named)
  size, batch = int(oracle["size"]), int(oracle["batch"])
  images = np.random.default_rng(0).standard_normal((batch, size, size, 3)).astype(np.float32)

  @jax.jit
  def run(variables, images):
    ends = module.apply(variables, images, method="features")
    return module.apply(variables, images), ends["pooled_features"]

  logits, pooled = run(variables, images)
  for got, want in ((logits, oracle["logits"]), (pooled, oracle["features_mean"])):
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 2e-5
