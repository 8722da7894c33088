"""EfficientDet against the counts of the official code's networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import models
from effnets.models import counting, pyramids

# Trainable numbers, running moments, multiply-adds of convolutions, and the parts.
_OFFICIAL = """
d0 3880067 47136 2.4923 3595388 20672 175609 69354 19044
d1 6625898 71456 6.0034 6101024 28424 362548 101394 32508
d2 8097039 81776 10.8325 7202562 39760 668399 136890 49428
d3 12032296 114304 24.5688 10103336 61920 1497554 247050 122436
d4 20723675 167312 54.5837 16742216 101024 3248805 402890 228740
d5 33653315 227392 134.1339 27288112 148320 5257573 591498 367812
d6 51871782 311984 224.1215 39403992 222336 10361472 1090986 792996
d7 51871782 311984 322.7316 39403992 222336 10361472 1090986 792996
d7x 77147166 417728 407.6283 62143440 246912 12865152 1094826 796836
lite0 3243470 47136 0.9736 2958848 20672 175552 69354 19044
lite1 4248318 63072 1.9666 3723520 28424 362472 101394 32508
lite2 5252334 72560 3.3713 4357952 39760 668304 136890 49428
lite3 8350862 104192 7.4802 6422016 61920 1497440 247050 122436
lite3x 9280862 111712 13.9781 6422016 77400 2255800 340610 185036
lite4 15130894 155504 20.1681 11149568 101024 3248672 402890 228740
"""
_ROWS = [line.split() for line in _OFFICIAL.strip().splitlines()]


# The others' totals are among the registry's tests.
_QUICK = ("d0", "d4", "d7x", "lite0", "lite3x")


@pytest.mark.parametrize(
  "row",
  [pytest.param(r, id=r[0], marks=() if r[0] in _QUICK else pytest.mark.slow) for r in _ROWS],
)
def test_counts(row):
  name, trainable, moments, madds, backbone, p6, bifpn, classes, boxes = row
  count = models.count(models.create(f"efficientdet_{name}"))
  params, stats = count.shapes["params"], count.shapes["batch_stats"]
  assert (count.params, counting.parameters(stats)) == (int(trainable), int(moments))
  assert count.madds == pytest.approx(float(madds) * 1e9, rel=1e-4)
  cells = {key: value for key, value in params["pyramid"].items() if key.startswith("cell")}
  parts = (params["backbone"], params["pyramid"]["level_6"], cells)
  found = [counting.parameters(part) for part in (*parts, params["class_head"], params["box_head"])]
  assert found == [int(backbone), int(p6), int(bifpn), int(classes), int(boxes)]


def test_cells_of_d0():
  pyramid = models.abstract(models.create("efficientdet_d0"), 128)["params"]["pyramid"]
  assert [counting.parameters(pyramid[f"cell_{i}"]) for i in range(3)] == [97_747, 38_931, 38_931]
  edges = {
    (node, edge): counting.parameters(leaves)
    for node, made in pyramid["cell_0"].items()
    for edge, leaves in made.items()
    if edge.startswith("from")
  }
  assert edges == {
    ("node_1", "from_2"): 20_672,
    ("node_2", "from_1"): 7_360,
    ("node_3", "from_0"): 2_752,
    ("node_4", "from_1"): 7_360,
    ("node_5", "from_2"): 20_672,
  }


def test_shapes_and_order_of_predictions():
  module = models.create("efficientdet_d0")
  variables = models.abstract(module)
  images = jax.ShapeDtypeStruct((2, 512, 320, 3), jnp.float32)
  classes, boxes = jax.eval_shape(module.apply, variables, images)
  assert isinstance(classes, list) and isinstance(boxes, list)
  sizes = [(64, 40), (32, 20), (16, 10), (8, 5), (4, 3)]
  assert [x.shape for x in classes] == [(2, *size, 810) for size in sizes]
  assert [x.shape for x in boxes] == [(2, *size, 36) for size in sizes]
  assert len(module.anchors((512, 320))) == sum(h * w * 9 for h, w in sizes)
  assert len(module.anchors()) == 49_104
  np.testing.assert_array_equal(module.anchors()[0], (-12, -12, 20, 20))
  assert models.create("efficientdet_d0", aspects="rounded").anchors()[1, 3] == pytest.approx(26.4)


def test_initial_values():
  module = models.create("efficientdet_tiny")
  variables = models.init(module, 0)
  predict = variables["params"]["class_head"]["predict"]
  np.testing.assert_allclose(predict["pointwise"]["bias"], -np.log(99), rtol=1e-6)
  # Variance scaling of fan-in 32, cut at two deviations.
  assert predict["pointwise"]["kernel"].std() == pytest.approx(32**-0.5, rel=0.05)
  node = variables["params"]["pyramid"]["cell_0"]["node_0"]
  np.testing.assert_array_equal(node["edges"], (1, 1))
  limit = np.sqrt(6 / 64)
  kernel = node["pointwise"]["kernel"]
  assert 0.95 * limit < np.abs(kernel).max() <= limit
  classes, _ = jax.jit(module.apply)(variables, np.zeros((1, 40, 56, 3), np.float32))
  for level in classes:
    np.testing.assert_allclose(level, -np.log(99), rtol=0.02)


@pytest.mark.parametrize(
  ("fusion", "want"),
  [
    ("fast", (0.333322, 0, 0.666644)),
    ("softmax", (0.253716, 0.056612, 0.689672)),
    ("channel_fast", (0.333322, 0, 0.666644)),
    ("channel_softmax", (0.253716, 0.056612, 0.689672)),
  ],
)
def test_fusion_weights(fusion, want):
  parts = [np.full((1, 1, 1, 2), value, np.float32) for value in (1.0, 10.0, 100.0)]
  edges = np.asarray((1, -0.5, 2), np.float32)
  if fusion.startswith("channel"):
    edges = np.stack([edges, 0 * edges + 1], 1)
  total = np.asarray(pyramids.fuse(parts, edges, fusion)).ravel()
  assert total[0] == pytest.approx(np.dot(want, (1, 10, 100)), rel=1e-5)
  # Of equal weights it is the mean; the fast rule's little number makes it smaller.
  assert total[1] == pytest.approx(37 if fusion.startswith("channel") else total[0], rel=1e-4)


@pytest.mark.parametrize(
  ("levels", "nodes"),
  [
    (
      (3, 7),
      "6:3,4 5:2,5 4:1,6 3:0,7 4:1,7,8 5:2,6,9 6:3,5,10 7:4,11",
    ),
    (
      (3, 8),
      "7:4,5 6:3,6 5:2,7 4:1,8 3:0,9 4:1,9,10 5:2,8,11 6:3,7,12 7:4,6,13 8:5,14",
    ),
    (
      (2, 7),
      "6:4,5 5:3,6 4:2,7 3:1,8 2:0,9 3:1,9,10 4:2,8,11 5:3,7,12 6:4,6,13 7:5,14",
    ),
  ],
)
def test_bifpn_nodes(levels, nodes):
  levels = tuple(range(levels[0], levels[1] + 1))
  found = [f"{n.level}:{','.join(map(str, n.inputs))}" for n in pyramids.bifpn(levels)]
  assert " ".join(found) == nodes


@pytest.mark.parametrize(
  "overrides", [{}, {"separable": False, "head_epsilon": 0.1, "backbone_epsilon": 0.01}]
)
def test_training_moves_moments_and_folding_keeps_outputs(overrides):
  module = models.create("efficientdet_tiny", momentum=0.5, repeats=1, **overrides)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: (np.abs(x) + rng.uniform(0.1, 0.6, x.shape)).astype(np.float32) if x.ndim == 1 else x,
    models.init(module, 0),
  )
  images = rng.normal(size=(2, 40, 56, 3)).astype(np.float32)
  _, state = jax.jit(lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"]))(
    variables, images
  )
  moved = jax.tree.map(
    lambda a, b: bool((a != b).all()), state["batch_stats"], dict(variables["batch_stats"])
  )
  assert all(jax.tree.leaves(moved))
  run = lambda m, v: jax.jit(m.apply)(v, images)  # noqa: E731
  want, got = run(module, variables), run(*models.fold(module, variables))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
