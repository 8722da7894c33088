"""Names of TensorFlow's slim models that look at scenes: SSDLite and DeepLab's on MobileNets.

SSDLite's further maps are named by the body's last layer, their place and their channels. The body
of the detection API stands in a scope of its own.
Source: tensorflow/models (research/object_detection, research/deeplab).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from effnets.models import bodies, detector, segmentation, stage_tables
from effnets.weights import tensorflow
from effnets.weights.tensor import Tensor

_Leaves = Mapping[tuple[str, ...], Any]


def _convolution(name: str, *path: str, depthwise: bool = False) -> Iterator[Tensor]:
  leaf, kind = ("depthwise_weights", "tf_depthwise") if depthwise else ("weights", "tf_conv")
  yield Tensor(f"{name}/{leaf}", ("params", *path, "conv", "kernel"), kind)
  for theirs, collection, ours in (
    ("gamma", "params", "scale"),
    ("beta", "params", "bias"),
    ("moving_mean", "batch_stats", "mean"),
    ("moving_variance", "batch_stats", "var"),
  ):
    yield Tensor(f"{name}/BatchNorm/{theirs}", (collection, *path, "norm", ours), "vector")


def _biased(name: str, *path: str) -> Iterator[Tensor]:
  yield Tensor(f"{name}/weights", ("params", *path, "kernel"), "tf_conv")
  yield Tensor(f"{name}/biases", ("params", *path, "bias"), "vector")


def _body(whole: bodies.Whole, have: _Leaves, outer: str) -> tuple[str, list[Tensor]]:
  """Returns the body's scope, and its tensors as far as `whole` has them."""
  body = whole.body.module
  squeezed = any(row.squeeze is not None for row in body.rows)
  scope, found = f"MobilenetV{3 if squeezed else 2}", []
  for tensor in tensorflow.tensors(body, scope):
    collection, *path = tensor.path
    if (collection, "backbone", *path) in have:
      found.append(Tensor(outer + tensor.name, (collection, "backbone", *path), tensor.kind))
  return outer + scope, found


def ssd(module: detector.Detector, have: _Leaves) -> tuple[Tensor, ...]:
  """Returns every tensor of an SSDLite of the detection API. have: the module's leaves by path."""
  scope, found = _body(module, have, "FeatureExtractor/")
  # The stem is layer 1, and the last convolution follows the blocks.
  last = f"{scope}/layer_{len(stage_tables.unroll(module.body.module.rows)) + 2}"
  for index, channels in enumerate(module.head.extras):
    path, place = ("head", f"extra_{index}"), f"Conv2d_{index + 2}"
    found += _convolution(f"{last}_1_{place}_1x1_{channels // 2}", *path, "reduce")
    halved = f"{last}_2_{place}_3x3_s2_{channels}"
    found += _convolution(f"{halved}_depthwise", *path, "depthwise", depthwise=True)
    found += _convolution(halved, *path, "expand")
  for index in range(len(module.levels)):
    for theirs, ours in (("BoxEncoding", "box"), ("Class", "class")):
      name, path = f"BoxPredictor_{index}/{theirs}Predictor", ("head", f"{ours}_{index}")
      found += _convolution(f"{name}_depthwise", *path, "depthwise", depthwise=True)
      found += _biased(name, *path, "predict")
  return tuple(found)


def deeplab(module: segmentation.Segmenter, have: _Leaves) -> tuple[Tensor, ...]:
  """Returns every tensor of a DeepLab with LR-ASPP or R-ASPP. have: as of `ssd`."""
  _, found = _body(module, have, "")
  found += _convolution("aspp0", "head", "project")
  if module.head.kind == "lraspp":
    found += _biased("image_pooling", "head", "gate")
    found += _biased("decoder/decoder_conv0", "head", "classify")
    found += _biased("decoder/feature_projection0", "head", "classify_low")
    return tuple(found)
  found += _convolution("image_pooling", "head", "pooled")
  found += _convolution("concat_projection", "head", "join")
  return (*found, *_biased("logits/semantic", "head", "classify"))
