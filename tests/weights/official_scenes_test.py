"""Official names of RetinaNet, Mask R-CNN, SSDLite and DeepLab, with values made up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import configuration, errors, recipes, tasks, weights
from effnets.models import layers, mask_rcnn
from effnets.weights import convert, detectors, tensor

# Names that the sources' code, and lists of checkpoints' variables, have.
_RETINANET = """
  resnet50/conv2d/kernel resnet50/conv2d_1/kernel resnet50/batch_normalization_52/gamma fpn/l3/bias
  fpn/post_hoc_d5/kernel fpn/p6/kernel fpn/p7-bn/moving_mean retinanet/class_net/class-3-7/beta
  retinanet/box_net/box-predict/bias
"""
_MASK_RCNN = """
  spinenet/conv2d/kernel spinenet/conv2d_12/kernel rpn_head/rpn/kernel rpn_head/rpn-l7-bn/gamma
  rpn_head/rpn-class/bias rpn_head/rpn-box/kernel fast_rcnn_head/conv_3/kernel
  fast_rcnn_head/batch_normalization/gamma fast_rcnn_head/batch_normalization_4/moving_variance
  fast_rcnn_head/fc6/kernel fast_rcnn_head/class-predict/bias fast_rcnn_head/box-predict/kernel
  mask_head/mask-conv-l0/kernel mask_head/batch_normalization_4/beta mask_head/conv5-mask/kernel
  mask_head/mask_fcn_logits/bias
"""
_V3 = "FeatureExtractor/MobilenetV3"
_SSD = f"""
  {_V3}/Conv/weights {_V3}/expanded_conv_12/expand/BatchNorm/moving_mean
  {_V3}/expanded_conv_12/squeeze_excite/Conv_1/biases {_V3}/Conv_1/BatchNorm/gamma
  {_V3}/layer_17_1_Conv2d_2_1x1_256/weights
  {_V3}/layer_17_2_Conv2d_2_3x3_s2_512_depthwise/depthwise_weights
  {_V3}/layer_17_2_Conv2d_4_3x3_s2_256/BatchNorm/beta {_V3}/layer_17_1_Conv2d_5_1x1_64/weights
  BoxPredictor_0/BoxEncodingPredictor_depthwise/depthwise_weights
  BoxPredictor_5/ClassPredictor_depthwise/BatchNorm/gamma BoxPredictor_0/ClassPredictor/biases
  BoxPredictor_3/BoxEncodingPredictor/weights
"""
_V2 = "FeatureExtractor/MobilenetV2"
_SSD_V2 = f"""
  {_V2}/expanded_conv/depthwise/depthwise_weights {_V2}/expanded_conv_13/expand/weights
  {_V2}/Conv_1/weights {_V2}/layer_19_1_Conv2d_2_1x1_256/BatchNorm/moving_mean
  {_V2}/layer_19_2_Conv2d_3_3x3_s2_256_depthwise/depthwise_weights
"""
_LRASPP = """
  MobilenetV3/Conv/weights MobilenetV3/expanded_conv_10/squeeze_excite/Conv/weights
  MobilenetV3/Conv_1/weights aspp0/weights aspp0/BatchNorm/moving_variance image_pooling/biases
  decoder/feature_projection0/weights decoder/decoder_conv0/biases
"""
_RASPP = """
  MobilenetV2/expanded_conv_16/project/weights image_pooling/BatchNorm/gamma
  concat_projection/weights logits/semantic/weights
"""


def filled(name, classes=None):
  """Returns a checkpoint of random values, and the values by path."""
  entry = detectors.find(name)
  module = entry.create(classes)
  rng, leaves = np.random.default_rng(0), convert.leaf_shapes(module)
  arrays, values = {}, {}
  for one in entry.tensors(module, leaves):
    value = rng.standard_normal(one.theirs(leaves[one.path]), np.float32)
    arrays[one.name], values[one.path] = value, one.to_ours(value)
  assert len(arrays) == len(values) and set(values) == set(leaves)
  return arrays, values


@pytest.mark.parametrize(
  ("name", "names", "classes"),
  [
    ("retinanet-r50", _RETINANET, 91),
    ("mask-rcnn-spinenet-49s", _MASK_RCNN, 91),
    ("ssd_mobilenet_v3_large_coco", _SSD, 91),
    ("ssdlite_mobilenet_v2_coco", _SSD_V2, 7),
    ("deeplab_mnv3_small_cityscapes_trainfine", _LRASPP, 19),
    ("deeplabv3_mnv2_pascal_train_aug", _RASPP, 21),
  ],
)
def test_values_come_to_their_places(name, names, classes):
  arrays, values = filled(name, classes)
  absent = [wanted for wanted in names.split() if wanted not in arrays]
  assert not absent, absent
  training = {"global_step": np.zeros(()), "unknown/kernel": np.zeros(3)}
  for key, value in arrays.items():
    training[key] = value
    training[f"{key}/Momentum"] = value + 1
  loaded = weights.from_official(name, training)
  assert loaded.module.num_classes == classes
  # What has no place is told of.
  assert loaded.report.leftover == ("unknown/kernel",) and not loaded.report.missing
  for path, value in values.items():
    np.testing.assert_array_equal(convert.get(loaded.variables, path), value)


def test_other_classes_and_missing_tensors():
  name = "deeplab_mnv3_small_cityscapes_trainfine"
  arrays, values = filled(name)
  short = {key: value for key, value in arrays.items() if not key.startswith("aspp0")}
  report = weights.from_official(name, short).report
  assert len(report.missing) == 5 and all("aspp0" in key for key in report.missing)
  with pytest.raises(errors.UserError, match="has 19 classes, num_classes=5 was asked"):
    weights.from_official(name, arrays, num_classes=5)
  loaded = weights.from_official(name, arrays, (512, 1024), num_classes=5, replace_head=True)
  assert len(loaded.report.replaced) == 4 and loaded.module.image_size == (512, 1024)
  head = loaded.variables["params"]["head"]
  assert head["classify"]["kernel"].shape == (1, 1, 128, 5)
  np.testing.assert_array_equal(head["gate"]["bias"], values["params", "head", "gate", "bias"])
  with pytest.raises(errors.UserError, match="tensors of another network"):
    weights.from_official(name, filled("deeplabv3_mnv2_cityscapes_train")[0])


def test_classes_of_ssd_have_a_slot_for_background():
  arrays, values = filled("ssd_mobilenet_v3_small_coco", 5)
  assert arrays["BoxPredictor_0/ClassPredictor/biases"].shape == (3 * 5,)
  loaded = weights.from_official(
    "ssd_mobilenet_v3_small_coco", arrays, num_classes=3, replace_head=True
  )
  assert len(loaded.report.replaced) == 6 * 2
  path = ("params", "head", "class_0", "depthwise", "conv", "kernel")
  np.testing.assert_array_equal(convert.get(loaded.variables, path), values[path])


def test_a_transposed_kernel_grows_as_the_gradient_of_its_convolution():
  # TensorFlow: height, width, outputs, inputs, as of the convolution whose gradient it is.
  rng = np.random.default_rng(0)
  theirs, x = rng.normal(size=(2, 2, 3, 4)).astype(np.float32), rng.normal(size=(1, 5, 6, 4))
  ours = tensor.Tensor("", (), "tf_transposed").to_ours(theirs)
  module = mask_rcnn.Doubled(3, layers.Settings())
  found = module.apply({"params": {"kernel": ours, "bias": np.zeros(3, np.float32)}}, x)

  def narrow(y):
    return jax.lax.conv_general_dilated(
      y, theirs, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  _, pull = jax.vjp(narrow, jnp.zeros((1, 10, 12, 3)))
  np.testing.assert_allclose(found, pull(jnp.asarray(x, jnp.float32))[0], atol=1e-5)


def test_a_dense_kernel_goes_both_ways():
  one = tensor.Tensor("", (), "tf_point")
  value = np.arange(6, dtype=np.float32).reshape(2, 3)
  assert one.to_ours(value).shape == (1, 1, 2, 3) and one.theirs((1, 1, 2, 3)) == (2, 3)
  np.testing.assert_array_equal(one.to_theirs(one.to_ours(value)), value)


def test_a_config_takes_published_networks_of_its_task():
  config = configuration.base()
  recipes.segmenter(config, "lraspp_tiny")
  weights.configure(config, "deeplab_mnv3_large_cityscapes_trainfine:model.ckpt")
  assert config.model.name == "lraspp_mobilenetv3_large_os32"
  assert tuple(config.data.mean) == (0.5, 0.5, 0.5)
  with pytest.raises(errors.UserError, match="are a detector's, config.task.name='segmentation'"):
    weights.configure(config, "ssd_mobilenet_v3_large_coco:model.ckpt")
  recipes.instances(config, "mask_rcnn_spinenet_tiny")
  weights.configure(config, "mask-rcnn-spinenet-49:model.ckpt")
  assert config.data.image_size == 640 and config.data.scenes.keep_aspect
  assert tasks.transform(config, training=False).size == (640, 640)
  recipes.detector(config, "ssdlite_tiny")
  weights.configure(config, "ssd_mobilenet_v3_small_coco:model.ckpt")
  assert config.data.image_size == 320 and not config.data.scenes.keep_aspect
