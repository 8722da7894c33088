"""Names of the TPU code's detectors: RetinaNet and Mask R-CNN, on SpineNet or ResNet.

Convolutions of a body, and the norms behind them, are counted within a scope, in the order they
were built; a projection comes first in its block. Norms of box and mask heads are counted too.
Source: tensorflow/tpu (models/official/detection/modeling/architecture).
"""

from collections.abc import Iterator

import flax.linen as nn

from effnets.models import detector, mask_rcnn, stage_tables
from effnets.models import spinenet as spinenet_models
from effnets.weights.detector_layout import tf_convolution, tf_vector
from effnets.weights.tensor import Tensor


def _units(block: str, kind: str, repeats: int, *, projected: bool) -> Iterator[tuple[str, ...]]:
  """Yields the paths of a block's convolutions in the order they were built."""
  parts = ("reduce", "spatial", "project") if kind == "bottleneck" else ("spatial", "project")
  for unit in range(repeats):
    if projected and unit == 0:
      yield block, f"unit_{unit}", "shortcut"
    for part in parts:
      yield block, f"unit_{unit}", part


def _counted(scope: str, paths: Iterator[tuple[str, ...]], first: int = 0) -> Iterator[Tensor]:
  for index, path in enumerate(paths, first):
    suffix, where = f"_{index}" if index else "", ("backbone", *path)
    kernel = ("params", *where, "conv", "kernel")
    yield Tensor(f"{scope}/conv2d{suffix}/kernel", kernel, "tf_conv")
    yield from tf_vector(f"{scope}/batch_normalization{suffix}", *where, "norm")


def _spinenet(body: nn.Module) -> Iterator[Tensor]:
  outer = [("stem",)]
  for index in range(spinenet_models.STEM):
    outer += _units(f"block_{index}", "bottleneck", body.repeats, projected=index == 0)
  outer += [(f"endpoint_{level}",) for level in body.levels]
  yield from _counted("spinenet", iter(outer))
  levels = [2] * spinenet_models.STEM + [block.level for block in body.graph]
  for place, block in enumerate(body.graph):
    name, path = f"spinenet/sub_policy{place}", f"block_{place + spinenet_models.STEM}"
    for which, parent in enumerate(block.parents):
      parts = ["reduce", "expand"]
      if levels[parent] < block.level:
        parts.insert(1, "halve")
      scope = f"{name}/resample_with_alpha_resample_{place}_{which}"
      yield from _counted(scope, ((path, f"from_{parent}_{part}") for part in parts))
    scope = f"{name}/scale_permuted_block_{place + spinenet_models.STEM}"
    yield from _counted(scope, _units(path, block.kind, body.repeats, projected=False))


def _resnet(body: nn.Module) -> Iterator[Tensor]:
  rows = stage_tables.unroll(body.rows)
  paths = [("stem",)]
  inputs = body.stem
  for index, row in enumerate(rows):
    parts = ("reduce", "spatial", "project")
    if row.stride > 1 or row.channels != inputs:
      parts = ("shortcut", *parts)
    paths += [(f"block_{index}", part) for part in parts]
    inputs = row.channels
  # Three convolutions in each block, the stem's and the classifier's layer are what it is named by.
  yield from _counted(f"resnet{3 * len(rows) + 2}", iter(paths))


def _pyramid(module: detector.Pyramidal) -> Iterator[Tensor]:
  """Yields the variables of `pyramids.TopDown`."""
  ends = module.body.ends()
  for level in module.levels:
    if level in ends:
      yield from tf_convolution(f"fpn/l{level}", "pyramid", f"lateral_{level}")
    name = f"post_hoc_d{level}" if level in ends else f"p{level}"
    yield from tf_convolution(f"fpn/{name}", "pyramid", f"level_{level}")
    yield from tf_vector(f"fpn/p{level}-bn", "pyramid", f"norm_{level}")


def _towers(module: detector.Detector) -> Iterator[Tensor]:
  for kind in ("class", "box"):
    name, path = f"retinanet/{kind}_net/{kind}", f"{kind}_head"
    for index in range(module.head.repeats):
      yield from tf_convolution(f"{name}-{index}", path, f"conv_{index}")
      for level in module.levels:
        yield from tf_vector(f"{name}-{index}-{level}", path, f"norm_{index}_{level}")
    yield from tf_convolution(f"{name}-predict", path, "predict")


def _norm(scope: str, index: int, *path: str) -> Iterator[Tensor]:
  return tf_vector(f"{scope}/batch_normalization{f'_{index}' if index else ''}", *path)


def _dense(name: str, *path: str) -> Iterator[Tensor]:
  yield Tensor(f"{name}/kernel", ("params", *path, "kernel"), "tf_point")
  yield Tensor(f"{name}/bias", ("params", *path, "bias"), "vector")


def _regions(module: mask_rcnn.MaskRcnn) -> Iterator[Tensor]:
  spec = module.regions
  yield from tf_convolution("rpn_head/rpn", "proposal_head", "conv_0")
  for level in module.levels:
    yield from tf_vector(f"rpn_head/rpn-l{level}-bn", "proposal_head", f"norm_0_{level}")
  for theirs, ours in (("class", "score"), ("box", "box")):
    yield from tf_convolution(f"rpn_head/rpn-{theirs}", "proposal_head", f"predict_{ours}")
  scope = "fast_rcnn_head"
  for index in range(spec.box_repeats):
    yield from tf_convolution(f"{scope}/conv_{index}", "box_head", f"conv_{index}")
    yield from _norm(scope, index, "box_head", f"norm_{index}")
  for index in range(len(spec.dense)):
    yield from _dense(f"{scope}/fc{6 + index}", "box_head", f"dense_{index}")
    yield from _norm(scope, spec.box_repeats + index, "box_head", f"dense_norm_{index}")
  for kind in ("class", "box"):
    yield from _dense(f"{scope}/{kind}-predict", "box_head", f"predict_{kind}")
  scope = "mask_head"
  for index in range(spec.mask_repeats):
    yield from tf_convolution(f"{scope}/mask-conv-l{index}", "mask_head", f"conv_{index}")
    yield from _norm(scope, index, "mask_head", f"norm_{index}")
  where = ("params", "mask_head", "upsample")
  yield Tensor(f"{scope}/conv5-mask/kernel", (*where, "kernel"), "tf_transposed")
  yield Tensor(f"{scope}/conv5-mask/bias", (*where, "bias"), "vector")
  yield from _norm(scope, spec.mask_repeats, "mask_head", "upsample_norm")
  yield from tf_convolution(f"{scope}/mask_fcn_logits", "mask_head", "predict")


def tpu(module: detector.Pyramidal) -> tuple[Tensor, ...]:
  """Returns every tensor of an official RetinaNet or Mask R-CNN, on SpineNet or ResNet.

  Of Mask R-CNN with one convolution before the proposals: how more are named is not known.
  """
  body = module.body.module
  found = list((_spinenet if module.pyramid.kind == "none" else _resnet)(body))
  if module.pyramid.kind != "none":
    found += _pyramid(module)
  heads = _regions if isinstance(module, mask_rcnn.MaskRcnn) else _towers
  return (*found, *heads(module))
