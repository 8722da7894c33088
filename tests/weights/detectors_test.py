"""Imported detectors against outputs of effdet, and against checkpoints written by other rules.

tests/oracle/effdet_tf_efficientdet_d0.npz holds effdet 0.4.1's outputs in float64 with the weights
and the image of tests/oracle/recipe.py.
"""

import json
import pathlib

import jax
import numpy as np
import pytest

from effnets import errors, models, weights
from effnets.weights import convert, detectors
from tests.oracle import recipe

ORACLE = pathlib.Path(__file__).parent.parent / "oracle"


def _error(ours, reference):
  return np.linalg.norm(np.asarray(ours) - reference) / np.linalg.norm(reference)


def test_outputs_and_anchors():
  with np.load(ORACLE / "effdet_tf_efficientdet_d0.npz") as stored:
    reference = {key: stored[key] for key in stored.files}
  gains = float(reference["gain"]), float(reference["head_gain"])
  names = json.loads(str(reference["names"]))
  state_dict = {name: recipe.tensor(name, tuple(shape), *gains) for name, shape in names}
  size = int(reference["size"])
  loaded = weights.from_effdet("tf_efficientdet_d0", state_dict, size)
  assert loaded.report.complete
  assert loaded.report.loaded == sum("num_batches" not in name for name in state_dict)
  params = jax.tree.leaves(loaded.variables["params"])
  assert sum(leaf.size for leaf in params) == int(reference["params"])
  anchors = loaded.module.anchors(size)
  np.testing.assert_allclose(anchors, reference["anchors_yxyx"], atol=1e-3)
  images = recipe.images(int(reference["batch"]), size)
  run = jax.jit(loaded.module.clone(plain=True).apply)
  classes, boxes = run(loaded.variables, images)
  for level, (logits, regressions) in enumerate(zip(classes, boxes, strict=True), 3):
    stride = max(1, logits.shape[1] // 8)
    # What is left is the rounding of float32; a wrong pixel is 1e-2.
    assert _error(logits[:, ::stride, ::stride], reference[f"cls_p{level}"]) < 2e-5
    assert _error(regressions, reference[f"box_p{level}"]) < 2e-5
  prepared = loaded.preprocessing
  assert (prepared.image_size, prepared.resize, prepared.fill) == (size, "pad", None)
  assert prepared.mean == (0.485, 0.456, 0.406)


def _filled(entry, module):
  """Returns a checkpoint of random values, and the values by path."""
  rng, leaves = np.random.default_rng(0), convert.leaf_shapes(module)
  arrays, values = {}, {}
  for tensor in entry.tensors(module, leaves):
    shape = () if tensor.kind == "scalar" else tensor.theirs(leaves[tensor.path])
    arrays[tensor.name] = value = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    values[tensor.path] = value if tensor.kind == "scalar" else tensor.to_ours(value)
  assert len(arrays) == len(values)
  return arrays, values


# Numbers of tensors and of trainable numbers as the sheet and the sources have them; None: not
# told there.
@pytest.mark.parametrize(
  ("name", "tensors", "trainable"),
  [
    ("efficientdet_d0", None, 3_877_763),
    ("efficientdet_d1", None, 6_622_026),
    ("tf_efficientdet_d1_ap", None, 6_625_898),
    ("efficientdet_d4", None, 20_723_675),
    ("tf_efficientdet_d7x", None, 77_147_166),
    ("tf_efficientdet_lite3x", None, 9_280_862),
    ("efficientdet-d0", 493 + 216, 3_880_067),
    ("efficientdet-d7", None, 51_871_782),
    ("efficientdet-lite0", None, 3_243_470),
    ("spinenet-49", 830, 28_543_383),
    ("spinenet-96.c", None, 42_974_871),
  ],
)
def test_every_leaf_has_a_tensor(name, tensors, trainable):
  entry = detectors.find(name)
  module = entry.create()
  leaves = convert.leaf_shapes(module)
  found = entry.tensors(module, leaves)
  paths = {t.path[:-1] if t.kind == "scalar" else t.path for t in found}
  assert paths == set(leaves)
  assert len({t.name for t in found}) == len(found)
  assert tensors in (None, len(found))
  params = sum(int(np.prod(shape)) for path, shape in leaves.items() if path[0] == "params")
  assert params == trainable


def test_official_names():
  # As listed in the papers' sheet, in a training checkpoint: averages and slots beside variables.
  entry = detectors.find("efficientdet-d0")
  arrays, values = _filled(entry, entry.create())
  for name in (
    "efficientnet-b0/stem/conv2d/kernel",
    "efficientnet-b0/stem/tpu_batch_normalization/moving_variance",
    "efficientnet-b0/blocks_0/depthwise_conv2d/depthwise_kernel",
    "efficientnet-b0/blocks_1/conv2d_1/kernel",
    "efficientnet-b0/blocks_1/tpu_batch_normalization_2/gamma",
    "efficientnet-b0/blocks_3/se/conv2d_1/bias",
    "resample_p6/conv2d/bias",
    "resample_p6/bn/gamma",
    "fpn_cells/cell_0/fnode1/resample_0_2_6/conv2d/kernel",
    "fpn_cells/cell_0/fnode4/resample_0_1_9/bn/moving_mean",
    "fpn_cells/cell_2/fnode4/WSM",
    "fpn_cells/cell_2/fnode4/WSM_2",
    "fpn_cells/cell_1/fnode7/op_after_combine12/conv/pointwise_kernel",
    "fpn_cells/cell_1/fnode7/op_after_combine12/bn/beta",
    "class_net/class-2/depthwise_kernel",
    "class_net/class-2-bn-7/gamma",
    "class_net/class-predict/bias",
    "box_net/box-0-bn-3/moving_mean",
    "box_net/box-predict/pointwise_kernel",
  ):
    assert name in arrays, name
  training = {"global_step": np.zeros(())}
  for name, value in arrays.items():
    training[name] = value if "moving" in name else value + 1
    training[f"{name}/Momentum"] = value + 2
    training[f"{name}/ExponentialMovingAverage"] = value
  loaded = weights.from_official("efficientdet-d0", training)
  assert loaded.report.complete
  for path, value in values.items():
    if path[-1].isdigit():
      found = convert.get(loaded.variables, path[:-1])[int(path[-1])]
    else:
      found = convert.get(loaded.variables, path)
    np.testing.assert_array_equal(found, value)
  assert loaded.module.anchors(512)[1, 3] == pytest.approx(26.627417)


def test_settings_of_a_weight_set():
  symmetric = detectors.find("efficientdet_d1").create()
  assert symmetric.padding == symmetric.body.module.padding == "SYMMETRIC"
  assert (symmetric.epsilon, symmetric.body.module.epsilon) == (1e-3, 1e-5)
  mixed = detectors.find("efficientdet_d4").create()
  assert (mixed.padding, mixed.body.module.padding, mixed.head.bias) == ("SAME", "SYMMETRIC", True)
  lite = detectors.find("tf_efficientdet_lite1")
  prepared = lite.preprocessing(384)
  assert (prepared.mean, prepared.std, prepared.fill) == ((0.5,) * 3, (0.5,) * 3, None)
  assert detectors.find("tf_efficientdet_d2_ap").preprocessing(768).fill == (0.0, 0.0, 0.0)
  assert lite.create().anchors()[1, 3] == pytest.approx(4 + 24 * 1.4 / 2 * 1, abs=1e-4)


def test_new_classes_and_wrong_tensors():
  entry = detectors.find("efficientdet_d0")
  arrays, values = _filled(entry, entry.create(num_classes=20))
  loaded = weights.from_effdet("efficientdet_d0", arrays)
  assert (loaded.module.num_classes, loaded.module.image_size) == (20, 512)
  wide = weights.from_effdet("efficientdet_d0", arrays, (256, 384))
  assert wide.preprocessing.image_size == (256, 384)
  assert len(wide.module.anchors()) == 9 * sum(256 * 384 // 4**level for level in range(3, 8))
  with pytest.raises(errors.UserError, match="config.model.image_size=0 should be"):
    weights.from_effdet("efficientdet_d0", arrays, 0)
  with pytest.raises(errors.UserError, match="has 20 classes, num_classes=3 was asked"):
    weights.from_effdet("efficientdet_d0", arrays, num_classes=3)
  loaded = weights.from_effdet("efficientdet_d0", arrays, num_classes=3, replace_head=True)
  predict = loaded.variables["params"]["class_head"]["predict"]
  assert predict["pointwise"]["kernel"].shape == (1, 1, 64, 27)
  assert len(loaded.report.replaced) == 3 and not loaded.report.missing
  path = ("params", "box_head", "predict", "pointwise", "bias")
  np.testing.assert_array_equal(convert.get(loaded.variables, path), values[path])

  short = {k: v for k, v in arrays.items() if not k.startswith("box_net.predict")}
  report = weights.from_effdet("efficientdet_d0", {**short, "other": np.zeros(2)}).report
  assert len(report.missing) == 3 and report.leftover == ("other",)
  wrong = {**arrays, "fpn.cell.1.fnode.4.combine.edge_weights": np.zeros(2)}
  with pytest.raises(errors.UserError, match=r"edge_weights has shape \(2,\), needed is \(3,\)"):
    weights.from_effdet("efficientdet_d0", wrong)
  with pytest.raises(errors.UserError, match="tensors of another network"):
    weights.from_effdet("efficientdet_d0", {"a": np.zeros(3)})
  with pytest.raises(errors.UserError, match="Nearest: 'tf_efficientdet_d0"):
    weights.from_effdet("tf_efficentdet_d0", arrays)
  with pytest.raises(errors.UserError, match="from_official` takes it"):
    weights.from_effdet("efficientdet-d0", arrays)


def test_level_first_norms():
  entry = detectors.find("efficientdet_q0")
  module = entry.create()
  found = entry.tensors(module, convert.leaf_shapes(module))
  where = {t.name: t.path for t in found}
  assert where["class_net.bn_rep.4.1.weight"] == ("params", "class_head", "norm_1_7", "scale")
  assert len(models.pyramids.qufpn((3, 4, 5, 6, 7))) == 4 * 4 + 5
  assert "fpn.cell.2.fnode.20.combine.edge_weights" in where


def test_names_of_spinenet():
  entry = detectors.find("spinenet-49")
  module = entry.create()
  where = {t.name: t.path for t in entry.tensors(module, {})}
  for name, path in (
    ("spinenet/conv2d/kernel", "stem/conv/kernel"),
    ("spinenet/conv2d_1/kernel", "block_0/unit_0/shortcut/conv/kernel"),
    ("spinenet/batch_normalization_4/gamma", "block_0/unit_0/project/norm/scale"),
    ("spinenet/conv2d_5/kernel", "block_1/unit_0/reduce/conv/kernel"),
    ("spinenet/conv2d_8/kernel", "endpoint_3/conv/kernel"),
    ("spinenet/batch_normalization_12/beta", "endpoint_7/norm/bias"),
    # Block 3 is on level 4, its parents on level 2: with a halving.
    (
      "spinenet/sub_policy1/resample_with_alpha_resample_1_0/conv2d_1/kernel",
      "block_3/from_0_halve/conv/kernel",
    ),
    # Block 4 is on level 3, its second parent on level 4: without.
    (
      "spinenet/sub_policy2/resample_with_alpha_resample_2_1/conv2d_1/kernel",
      "block_4/from_3_expand/conv/kernel",
    ),
    (
      "spinenet/sub_policy14/scale_permuted_block_16/conv2d_2/kernel",
      "block_16/unit_0/project/conv/kernel",
    ),
  ):
    assert "/".join(where[name][2:]) == path
  assert where["retinanet/class_net/class-3-7/gamma"][1:] == ("class_head", "norm_3_7", "scale")
  assert where["retinanet/box_net/box-predict/bias"][1:] == ("box_head", "predict", "bias")
