"""MnasFPN, NAS-FPN, RetinaNet and SSD against independent counts of the official networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import errors, models
from effnets.models import counting, layers, mnasfpn, pyramids


def _parts(name, **overrides):
  count = models.count(models.create(name, **overrides))
  return count, count.shapes["params"], counting.parameters(count.shapes["batch_stats"])


def test_parts_of_mnasfpn():
  count, params, moments = _parts("mnasfpn_mobilenetv2")
  assert (count.params, moments) == (2_455_655, 47_392)
  assert count.madds == pytest.approx(0.9186e9, rel=1e-3)
  pyramid = params["pyramid"]
  sizes = {
    cell: [counting.parameters(pyramid[cell][f"block_{block}"]) for block in range(4, 9)]
    for cell in ("cell_0", "cell_1", "cell_3")
  }
  assert sizes["cell_0"] == [122_208, 18_144, 20_192, 22_240, 15_168]
  assert sizes["cell_1"] == sizes["cell_3"] == [40_288, 20_192, 20_192, 22_240, 15_168]
  assert counting.parameters(pyramid["c6"]) == 15_456
  assert counting.parameters(pyramid) == 567_648
  assert counting.parameters(params["backbone"]) == 1_811_712
  assert counting.parameters(params["head"]) == 76_295


@pytest.mark.parametrize(
  ("name", "overrides", "params", "madds"),
  [
    ("mnasfpn_mobilenetv2_3", {}, 2_337_575, 0.8727e9),
    ("mnasfpn_mobilenetv2", {"repeats": 5}, 2_573_735, 0.9644e9),
    ("mnasfpn_mobilenetv2_070", {}, 1_258_839, 0.5685e9),
    ("mnasfpn_mobilenetv2", {"ordered": False}, 2_455_655, 0.9624e9),
    ("retinanet_r50", {}, 34_091_159, 96.96e9),
    ("retinanet_r50_nasfpn", {}, 60_078_743, 140.40e9),
    ("retinanet_r101", {}, 53_083_287, 325.8e9),
    ("ssdlite_mobilenetv2", {"num_classes": 81}, 4_337_013, None),
    ("ssdlite_mobilenetv2", {"image_size": 300}, 4_500_543, 0.7495e9),
    ("ssdlite_mobilenetv2", {}, 4_500_543, 0.8044e9),
    ("ssdlite_mobilenetv3_large", {}, 3_248_255, 0.5066e9),
    ("ssdlite_mobilenetv3_small", {}, 1_785_743, 0.1623e9),
    ("ssdlite_mobilenetv3_large_full", {}, 5_006_735, None),
    ("ssdlite_mobilenetv3_small_full", {}, 2_518_271, None),
    ("ssdlite_mnasnet_a1", {}, 4_912_181, 0.838e9),
    ("ssdlite_mnasnet_a1_050", {}, 1_690_173, 0.290e9),
    ("ssdlite_mnasnet_a1_035", {}, 1_032_335, 0.177e9),
    ("ssdlite_mobilenetv1", {}, 5_246_911, None),
  ],
)
def test_counts(name, overrides, params, madds):
  count = models.count(models.create(name, **overrides))
  assert count.params == params
  # As printed, so to three digits; RetinaNet's are a profiler's, which counts norms too.
  assert madds is None or count.madds == pytest.approx(madds, rel=3e-3)


def test_multiplier_of_mnasfpn():
  spec = mnasfpn.Spec().scaled(0.7)
  assert (spec.width, [block.expand for block in spec.blocks]) == (32, [176, 88, 88, 88, 64])
  assert _parts("mnasfpn_mobilenetv2_070")[2] == 33_840


def test_unused_blocks_are_not_built():
  # The new block takes number 4, so those that were there move up by one.
  moved = [
    dataclasses.replace(block, inputs=tuple(i + (i > 3) for i in block.inputs))
    for block in mnasfpn.FOUND
  ]
  blocks = (mnasfpn.Block((0, 3), 4, 256), *moved)
  count = models.count(models.create("mnasfpn_mobilenetv2", blocks=blocks))
  assert (count.params, count.madds) == (2_455_655, _parts("mnasfpn_mobilenetv2")[0].madds)


def test_parts_of_retinanet():
  _, params, _ = _parts("retinanet_r50")
  assert counting.parameters(params["pyramid"]) == 3_871_232
  heads = [counting.parameters(params[f"{kind}_head"]) for kind in ("class", "box")]
  assert heads == [4_258_355, 2_453_540]


@pytest.mark.parametrize(
  ("name", "more"),
  [
    ("mobilenetv1_k5", 79_360),
    ("mobilenetv1_mix35", 39_680),
    ("mobilenetv1_k7", 198_400),
    ("mobilenetv1_mix357", 92_176),
    ("mobilenetv2_k5", 114_176),
    ("mobilenetv2_mix35", 57_088),
    ("mobilenetv2_k7", 285_440),
    ("mobilenetv2_mix357", 133_168),
  ],
)
def test_mixed_kernels_in_the_body_alone(name, more):
  plain, mixed = (
    models.count(models.create(f"ssdlite_{n}"), 64).params for n in (name.partition("_")[0], name)
  )
  assert mixed - plain == more


def test_maps_of_ssd():
  module = models.create("ssdlite_mobilenetv3_large")
  images = jax.ShapeDtypeStruct((1, 320, 320, 3), jnp.float32)
  classes, boxes = jax.eval_shape(module.apply, models.abstract(module), images)
  assert [x.shape[1] for x in classes] == [20, 10, 5, 3, 2, 1]
  assert [x.shape[3] for x in boxes] == [12, 24, 24, 24, 24, 24]
  assert len(module.anchors()) == 2034 == sum(x.size // 4 for x in boxes)
  assert classes[0].shape[3] == 3 * 91
  head = models.abstract(module, 64)["params"]["head"]
  assert head["class_0"]["depthwise"]["conv"]["kernel"].shape == (3, 3, 1, 672)
  assert head["class_1"]["depthwise"]["conv"]["kernel"].shape == (3, 3, 1, 480)


def test_maps_and_anchors_of_mnasfpn():
  module = models.create("mnasfpn_mobilenetv2")
  variables = models.abstract(module, 64)
  images = jax.ShapeDtypeStruct((1, 320, 320, 3), jnp.float32)
  found = jax.eval_shape(lambda v, x: module.apply(v, x, method="features"), variables, images)
  assert [x.shape[1:] for x in found] == [(s, s, 48) for s in (40, 20, 10, 5)]
  assert module.anchors().shape == (19_125, 4)
  np.testing.assert_allclose(module.anchors()[1, 2], 19.119053, atol=1e-5)


@pytest.mark.parametrize("name", ["mnasfpn_tiny", "ssdlite_tiny"])
def test_training_at_any_size(name):
  module = models.create(name, remat="block")
  variables = models.init(module, 0, image_size=64)
  images = np.random.default_rng(0).normal(size=(2, 50, 70, 3)).astype(np.float32)

  @jax.jit
  def slopes(variables):
    def loss(params):
      (classes, boxes), state = module.apply(
        {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
      )
      flat = jax.tree.leaves((classes, boxes))
      return sum(jnp.mean(jnp.square(x)) for x in flat), (state, len(flat))

    return jax.grad(loss, has_aux=True)(variables["params"])

  grads, (_, count) = slopes(variables)
  assert int(count) == 2 * len(module.levels)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
  # Nothing that is built is left out of the outputs.
  heads = {part: own for part, own in grads.items() if part.endswith("head")}
  assert heads.keys() == ({"head"} if name == "ssdlite_tiny" else {"class_head", "box_head"})
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(heads))
  assert len(module.anchors((50, 70))) > 0


def test_attention_of_nasfpn():
  rng = np.random.default_rng(0)
  coarse, fine, other = (
    rng.normal(size=(2, size, size, 4)).astype(np.float32) for size in (2, 4, 4)
  )
  style = pyramids.Style(4, lateral=True, overlapping=False, activation="identity", separable=False)
  for inputs in ((0, 1, 2), (1, 0, 2)):
    node = pyramids._Fusion(pyramids.Node(3, inputs, "attention"), style, layers.Settings())
    kernel = np.zeros((3, 3, 4, 4), np.float32)
    kernel[1, 1] = np.eye(4)
    variables = {
      "params": {
        "conv": {"kernel": kernel, "bias": np.zeros(4)},
        "norm": {"scale": np.ones(4), "bias": np.zeros(4)},
      },
      "batch_stats": {"norm": {"mean": np.zeros(4), "var": np.full(4, 1 - 1e-3)}},
    }
    features = [coarse, fine, other]
    got = node.apply(variables, features, (4, 4), False)
    big = coarse.repeat(2, 1).repeat(2, 2)
    gate = 1 / (1 + np.exp(-big.max((1, 2), keepdims=True)))
    np.testing.assert_allclose(got, big + fine * gate + other, atol=1e-5)


@pytest.mark.parametrize(
  ("name", "overrides", "words"),
  [
    ("mnasfpn_tiny", {"blocks": mnasfpn.FOUND[:3]}, r"no output on level\(s\) \[5, 6\]"),
    ("mnasfpn_tiny", {"blocks": (mnasfpn.Block((7,), 3, 8),)}, "block 4 has inputs .7,.; there"),
    ("mnasfpn_tiny", {"blocks": (mnasfpn.Block((0,), 9, 8),)}, "block 4 is on none of"),
    ("ssdlite_tiny", {"extras": (1,)}, "config.model.extras=.1,. should be"),
  ],
)
def test_wrong_heads(name, overrides, words):
  with pytest.raises(errors.UserError, match=words):
    models.create(name, **overrides)
