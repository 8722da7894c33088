"""Names and layouts of EfficientDet's tensors: the peer effdet's and the official ones.

effdet numbers norms of heads by repeat, then level, or the other way round; an edge's projection by
the feature's number. TensorFlow has the place among a node's inputs in front of that number, and
the number of the new feature behind; a level's norm has the level's own number there.
Source: rwightman/efficientdet-pytorch 0.4; google/automl.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from effnets.models import detector, pyramids
from effnets.weights import layout, tensorflow
from effnets.weights.tensor import Tensor

# ---- effdet: PyTorch's names and layouts ---------------------------------------------------------


def _vector(name: str, *path: str) -> Iterator[Tensor]:
  for theirs, collection, ours in (
    ("weight", "params", "scale"),
    ("bias", "params", "bias"),
    ("running_mean", "batch_stats", "mean"),
    ("running_var", "batch_stats", "var"),
  ):
    yield Tensor(f"{name}.{theirs}", (collection, *path, ours), "vector")


def _convolution(name: str, *path: str, bias: bool) -> Iterator[Tensor]:
  yield Tensor(f"{name}.weight", ("params", *path, "kernel"), "conv")
  if bias:
    yield Tensor(f"{name}.bias", ("params", *path, "bias"), "vector")


def _body(module: detector.Detector) -> Iterator[Tensor]:
  """Yields the body's tensors up to the coarsest level that is used."""
  ends = module.body.ends()
  used = ends[max(level for level in module.levels if level in ends)]
  last = int(used.removeprefix("block_"))
  for tensor in layout.tensors(module.body.module):
    if tensor.kind == "counter":
      continue
    collection, top, *rest = tensor.path
    block = int(top.removeprefix("block_")) if top.startswith("block_") else -1
    if (block >= 0 or top == "stem") and block <= last:
      where = (collection, "backbone", top, *rest)
      yield dataclasses.replace(tensor, name=f"backbone.{tensor.name}", path=where)


def _resample(name: str, *path: str, bias: bool) -> Iterator[Tensor]:
  yield from _convolution(f"{name}.conv.conv", *path, "conv", bias=bias)
  yield from _vector(f"{name}.conv.bn", *path, "norm")


def _pyramid(module: detector.Detector, have: Mapping[tuple[str, ...], Any]) -> Iterator[Tensor]:
  style, nodes = module.pyramid.style, _nodes(module)
  for place, level in enumerate(module.levels):
    if ("params", "pyramid", f"level_{level}", "conv", "kernel") in have:
      name = f"fpn.resample.{place}"
      yield from _resample(name, "pyramid", f"level_{level}", bias=style.bias)
  for cell in range(module.pyramid.repeats):
    for index, node in enumerate(nodes):
      name, path = f"fpn.cell.{cell}.fnode.{index}", ("pyramid", f"cell_{cell}", f"node_{index}")
      if ("params", *path, "edges") in have:
        yield Tensor(f"{name}.combine.edge_weights", ("params", *path, "edges"), "vector")
      for edge in node.inputs:
        if ("params", *path, f"from_{edge}", "conv", "kernel") in have:
          inner = f"{name}.combine.resample.{edge}"
          yield from _resample(inner, *path, f"from_{edge}", bias=style.bias)
      name = f"{name}.after_combine.conv"
      if style.separable:
        yield from _convolution(f"{name}.conv_dw", *path, "depthwise", bias=False)
        yield from _convolution(f"{name}.conv_pw", *path, "pointwise", bias=style.bias)
      else:
        yield from _convolution(f"{name}.conv", *path, "conv", bias=style.bias)
      yield from _vector(f"{name}.bn", *path, "norm")


def _nodes(module: detector.Detector):
  spec = module.pyramid
  return spec.nodes or pyramids.GRAPHS[spec.kind](module.levels)


def _head_convolution(name: str, *path: str, separable: bool, bias: bool) -> Iterator[Tensor]:
  if separable:
    yield from _convolution(f"{name}.conv_dw", *path, "depthwise", bias=False)
    yield from _convolution(f"{name}.conv_pw", *path, "pointwise", bias=bias)
  else:
    yield from _convolution(f"{name}.conv", *path, bias=bias)


def _head(module: detector.Detector, kind: str, level_first: bool) -> Iterator[Tensor]:
  head, name, path = module.head, f"{kind}_net", f"{kind}_head"
  for index in range(head.repeats):
    yield from _head_convolution(
      f"{name}.conv_rep.{index}",
      path,
      f"conv_{index}",
      separable=head.separable,
      bias=head.bias,
    )
  for index in range(head.repeats):
    for place, level in enumerate(module.levels):
      inner = f"bn_rep.{place}.{index}" if level_first else f"bn_rep.{index}.{place}.bn"
      yield from _vector(f"{name}.{inner}", path, f"norm_{index}_{level}")
  yield from _head_convolution(
    f"{name}.predict", path, "predict", separable=head.separable, bias=True
  )


def effdet(
  module: detector.Detector, have: Mapping[tuple[str, ...], Any], *, level_first: bool
) -> tuple[Tensor, ...]:
  """Returns every tensor of effdet's state dict.

  Args: have: the module's leaves by path. level_first: see `detectors.WeightSet`.
  """
  found = [*_body(module), *_pyramid(module, have)]
  for kind in ("class", "box"):
    found += _head(module, kind, level_first)
  return tuple(found)


# ---- The official checkpoints: TensorFlow's names and layouts ------------------------------------


def tf_vector(name: str, *path: str) -> Iterator[Tensor]:
  """Yields the variables of a norm."""
  for theirs, collection, ours in (
    ("gamma", "params", "scale"),
    ("beta", "params", "bias"),
    ("moving_mean", "batch_stats", "mean"),
    ("moving_variance", "batch_stats", "var"),
  ):
    yield Tensor(f"{name}/{theirs}", (collection, *path, ours), "vector")


def tf_convolution(name: str, *path: str) -> Iterator[Tensor]:
  """Yields the variables of a convolution with a bias."""
  yield Tensor(f"{name}/kernel", ("params", *path, "kernel"), "tf_conv")
  yield Tensor(f"{name}/bias", ("params", *path, "bias"), "vector")


def _tf_separable(name: str, *path: str) -> Iterator[Tensor]:
  where = ("params", *path, "depthwise", "kernel")
  yield Tensor(f"{name}/depthwise_kernel", where, "tf_depthwise")
  yield Tensor(f"{name}/pointwise_kernel", ("params", *path, "pointwise", "kernel"), "tf_conv")
  yield Tensor(f"{name}/bias", ("params", *path, "pointwise", "bias"), "vector")


def _tf_body(module: detector.Detector, scope: str) -> Iterator[Tensor]:
  for tensor in tensorflow.tensors(module.body.module, scope):
    collection, top, *rest = tensor.path
    if top == "stem" or top.startswith("block_"):
      yield dataclasses.replace(tensor, path=(collection, "backbone", top, *rest))


def _tf_resample(name: str, *path: str) -> Iterator[Tensor]:
  yield from tf_convolution(f"{name}/conv2d", *path, "conv")
  yield from tf_vector(f"{name}/bn", *path, "norm")


def _tf_pyramid(module: detector.Detector, have: Mapping[tuple[str, ...], Any]) -> Iterator[Tensor]:
  count = len(module.levels)
  for level in module.levels:
    if ("params", "pyramid", f"level_{level}", "conv", "kernel") in have:
      yield from _tf_resample(f"resample_p{level}", "pyramid", f"level_{level}")
  for cell in range(module.pyramid.repeats):
    for index, node in enumerate(_nodes(module)):
      name = f"fpn_cells/cell_{cell}/fnode{index}"
      path = ("pyramid", f"cell_{cell}", f"node_{index}")
      if ("params", *path, "edges") in have:
        for place in range(len(node.inputs)):
          own = f"{name}/WSM{f'_{place}' if place else ''}"
          yield Tensor(own, ("params", *path, "edges", str(place)), "scalar")
      for place, edge in enumerate(node.inputs):
        if ("params", *path, f"from_{edge}", "conv", "kernel") in have:
          inner = f"{name}/resample_{place}_{edge}_{count + index}"
          yield from _tf_resample(inner, *path, f"from_{edge}")
      name = f"{name}/op_after_combine{count + index}"
      yield from _tf_separable(f"{name}/conv", *path)
      yield from tf_vector(f"{name}/bn", *path, "norm")


def _tf_head(module: detector.Detector, kind: str) -> Iterator[Tensor]:
  name, path = f"{kind}_net/{kind}", f"{kind}_head"
  for index in range(module.head.repeats):
    yield from _tf_separable(f"{name}-{index}", path, f"conv_{index}")
    for level in module.levels:
      yield from tf_vector(f"{name}-{index}-bn-{level}", path, f"norm_{index}_{level}")
  yield from _tf_separable(f"{name}-predict", path, "predict")


def official(
  module: detector.Detector, have: Mapping[tuple[str, ...], Any], scope: str
) -> tuple[Tensor, ...]:
  """Returns every tensor of an official checkpoint.

  Args: as of `effdet`; scope: of the body. A `scalar` tensor is one number of a leaf: its path has
    the place as a last name.
  """
  found = [*_tf_body(module, scope), *_tf_pyramid(module, have)]
  for kind in ("class", "box"):
    found += _tf_head(module, kind)
  return tuple(found)
