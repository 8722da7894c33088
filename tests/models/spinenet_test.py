"""SpineNet against the counts of the official code's graphs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import errors, models
from effnets.models import counting, scale_permuted, spinenet

# The sheet's multiply-adds are a profiler's, halved. It counts norms and activations too, about 1.2
# for every output of a convolution where these are swish.
_PROFILED = 0.03


@pytest.mark.parametrize(
  ("name", "params", "madds"),
  [
    ("49s", 9_218_344, 1.536e9),
    ("49", 22_088_745, 3.515e9),
    ("96", 36_520_233, 5.784e9),
    pytest.param("143", 60_504_873, 9.180e9, marks=pytest.mark.slow),
    ("190", 127_101_177, 19.292e9),
  ],
)
def test_classifiers(name, params, madds):
  count = models.count(models.create(f"spinenet_{name}"))
  assert count.params == params
  assert count.madds == pytest.approx(madds, rel=_PROFILED)


def test_classes_of_inaturalist():
  assert models.count(models.create("spinenet_49", 5089), 64).params == 23_139_361


@pytest.mark.parametrize(
  ("name", "params", "backbone", "madds", "moments"),
  [
    ("49s", 11_265_942, 9_089_215, 30.890e9, 67_376),
    ("49", 28_543_383, 21_831_488, 85.463e9, 109_184),
    pytest.param("96", 42_974_871, 36_262_976, 265.629e9, 143_232, marks=pytest.mark.slow),
    pytest.param("143", 66_959_511, 60_247_616, 524.590e9, 186_752, marks=pytest.mark.slow),
    ("190", 163_637_351, 126_587_664, 1883.921e9, 333_232),
    ("mobile_49", 2_337_579, None, None, None),
    ("mobile_49s", 1_030_653, None, None, None),
    ("mobile_49xs", 872_711, None, None, None),
  ],
)
def test_detectors(name, params, backbone, madds, moments):
  count = models.count(models.create(f"retinanet_spinenet_{name}"))
  assert count.params == params
  if backbone is not None:
    assert counting.parameters(count.shapes["params"]["backbone"]) == backbone
    assert counting.parameters(count.shapes["batch_stats"]) == moments
    assert count.madds == pytest.approx(madds, rel=_PROFILED)


_PARTS = """
2 16960,16960 70400 | 3 26240,26240 1180672 | 4 34944,99584 280064 | 5 52352,137472 1117184
6 214016,312320 1180672 | 7 166144,264448 1117184 | 8 66304,312320 1180672
9 214016,214016 1180672 | 10 166144,166144 1117184 | 11 166144,264448 1117184
12 264448,264448 1117184 | 13 66688,197888 280064 | 14 412160,412160 1117184
15 412160,412160 1117184 | 16 412160,412160 1117184
"""


def test_parts_of_49():
  module = models.create("spinenet_49")
  params = models.abstract(module, 128)["params"]
  assert counting.parameters(params["stem"]) == 9_536
  assert counting.parameters(params["block_0"]) == 16_896 + 4_224 + 36_992 + 16_896
  assert counting.parameters(params["block_1"]) == 16_512 + 36_992 + 16_896
  for part in _PARTS.replace("\n", "|").split("|"):
    if part.strip():
      index, ways, block = part.split()
      found = params[f"block_{index}"]
      parents = spinenet.SPINENET[int(index) - 2].parents
      sums = [
        sum(counting.parameters(v) for k, v in found.items() if k.startswith(f"from_{parent}_"))
        for parent in parents
      ]
      assert sums == [int(way) for way in ways.split(",")]
      assert counting.parameters(found["unit_0"]) == int(block)
  assert counting.parameters(params["endpoint_3"]) == 131_584
  assert counting.parameters(params["endpoint_7"]) == 262_656


def test_maps_and_drop_rates():
  module = models.create("spinenet_49", image_size=640, drop_path_rate=0.2)
  images = jax.ShapeDtypeStruct((1, 640, 640, 3), jnp.float32)
  variables = models.abstract(module, 128)
  ends = jax.eval_shape(lambda v, x: module.apply(v, x, method="backbone"), variables, images)
  widths = [ends[f"block_{index}"].shape[2] for index in range(17)]
  assert widths == [160, 160, 160, 40, 80, 40, 10, 40, 20, 5, 20, 20, 40, 80, 20, 5, 10]
  assert [ends[f"level_{level}"].shape[1:] for level in range(3, 8)] == [
    (size, size, 256) for size in (80, 40, 20, 10, 5)
  ]
  rates = []

  def note(next_call, args, kwargs, context):
    if isinstance(context.module, spinenet._Block) and context.method_name == "__call__":
      rates.append(context.module.drop_rate)
    return next_call(*args, **kwargs)

  with nn.intercept_methods(note):
    jax.eval_shape(lambda v, x: module.apply(v, x, method="backbone"), variables, images)
  assert rates[0] == pytest.approx(0.01333, abs=1e-5) and rates[-1] == pytest.approx(0.2)
  assert len(rates) == 15


def test_one_orphan_is_taken_in():
  taken = {i: spinenet.orphans(spinenet.SPINENET, i) for i in range(2, 17)}
  assert {i: blocks for i, blocks in taken.items() if blocks} == {14: (11,)}
  # The list of R0-SP53 notes one too.
  assert spinenet.orphans(spinenet.R0_SP53, 13) == (11,)
  outs = [0] * 17
  for index, block in enumerate(spinenet.SPINENET, 2):
    for parent in (*block.parents, *taken[index]):
      outs[parent] += 1
  assert outs == [2, 2, 2, 3, 2, 4, 2, 2, 3, 1, 3, 1, 2, 0, 2, 0, 0]


def test_mean_of_levels_and_orphans_values():
  # Block 3 feeds nothing, so output 4 takes it in; outputs are 3 and 4.
  graph = scale_permuted.parse("r4:0,1 r4:1,2 r4:0,2* r3:1,4*")
  assert spinenet.orphans(graph, 4) == (3,)
  widths = spinenet.Widths(filters=(4,) * 8, stem=4, endpoint=3)
  module = models.create("spinenet_49", 3, graph=graph, widths=widths)
  variables = models.init(module, 0, image_size=64)
  images = np.random.default_rng(0).normal(size=(2, 90, 70, 3)).astype(np.float32)
  run = lambda variables, **own: jax.jit(  # noqa: E731
    lambda v, x: module.clone(**own).apply(v, x, method="features")
  )(variables, images)
  ends = run(variables)
  fine, coarse = np.asarray(ends["level_3"]), np.asarray(ends["level_4"])
  assert (fine.shape, coarse.shape) == ((2, 12, 9, 3), (2, 6, 5, 3))
  rows, columns = np.arange(12) * 6 // 12, np.arange(9) * 5 // 9
  total = (fine + coarse[:, rows][:, :, columns]) / 2
  np.testing.assert_allclose(ends["pooled_features"], total.mean((1, 2)), rtol=1e-4)
  # Without both ways from its parents the output still has what the orphan has.
  for parent in (0, 2):
    scale = variables["params"]["block_4"][f"from_{parent}_expand"]["norm"]["scale"]
    scale[:] = 0
  unit = variables["params"]["block_4"]["unit_0"]["project"]["norm"]
  unit["scale"][:] = 0
  ends = run(variables)
  assert np.asarray(ends["block_3"]).max() > 0
  np.testing.assert_array_equal(ends["block_4"], ends["block_3"])
  # Nothing is padded on the upper left where strides are TensorFlow's.
  other = run(variables, strides="SAME")
  np.testing.assert_array_equal(other["block_1"], ends["block_1"])
  assert not np.allclose(other["block_2"], ends["block_2"])


@pytest.mark.parametrize(
  ("graph", "words"),
  [
    ((spinenet.Block(3, "bottleneck", (0, 2), True),), "block 2 has parents .0, 2.; there are 0"),
    ((spinenet.Block(3, "botleneck", (0, 1), True),), "Nearest: 'bottleneck'"),
    ((spinenet.Block(0, "residual", (0, 1), True),), "block 2 is on level 0"),
    ((spinenet.Block(3, "residual", (0, 1), True),) * 2, r"outputs are on levels \[3, 3\]"),
  ],
)
def test_impossible_graphs(graph, words):
  with pytest.raises(errors.UserError, match=words):
    models.create("spinenet_49", graph=graph)


def test_pyramid_on_top_and_frozen():
  module = models.create("efficientdet_tiny", backbone="spinenet_mobile_49xs", frozen_blocks=2)
  assert module.frozen_names() == ("backbone/stem", "backbone/block_0", "backbone/block_1")
  images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  variables = models.abstract(module, 64)
  classes, _ = jax.eval_shape(
    lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"])[0], variables, images
  )
  assert [x.shape[1] for x in classes] == [8, 4, 2, 1]
