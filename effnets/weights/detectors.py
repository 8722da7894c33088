"""Weight sets of detectors and segmenters: the peer `effdet`'s, and the official TensorFlow ones.

`tf_` marks Google's own weights: TensorFlow's padding everywhere, biases before norms. Those
without were trained in PyTorch: symmetric padding and no such biases, except from d4 on, whose
pyramid and heads are as Google's; their bodies have PyTorch's epsilon, the rest TensorFlow's.
SpineNet's are RetinaNets of the TPU code; `.c` marks its protocol C. Those of its Mask R-CNN and of
ResNet are of the same code; SSDLite's and DeepLab's are called as their archives.
Source: rwightman/efficientdet-pytorch, model configurations of version 0.4; google/automl;
tensorflow/tpu, models/official/detection; tensorflow/models, research/object_detection and deeplab.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np
from absl import logging

from effnets import errors, models
from effnets.models import detector
from effnets.weights import (
  catalog,
  convert,
  detector_layout,
  slim_layout,
  tensorflow,
  tpu_layout,
)
from effnets.weights.tensor import Tensor

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclasses.dataclass(frozen=True)
class Preprocessing(catalog.Preprocessing):
  """How a picture is prepared for a detector: as large as fits, above and left, the rest filled.

  resize: `pad`, or `squash` to the whole size. fill: colour of the rest, in [0, 1], red green blue;
  None for `mean`, which is 0 when normalised.
  """

  crop_fraction: float = 1.0
  interpolation: str = "bilinear"
  resize: str = "pad"
  fill: tuple[float, float, float] | None = None


@dataclasses.dataclass(frozen=True)
class WeightSet:
  """A detector as its source builds it.

  model: our name of it. settings: of `models.create`. moments: mean and deviation of pixels in
  [0, 1]. dark: whether pictures are padded with black instead of their mean. level_first: whether
  norms of heads are numbered by level, then repeat. layout: whose names: `effdet`, or officially
  `automl` (EfficientDet), `tpu`, `ssd`, `deeplab`. scope: of automl's body. squash: whether
  pictures lose their proportions.
  """

  name: str
  model: str
  settings: Mapping[str, Any]
  moments: tuple = _IMAGENET
  dark: bool = False
  level_first: bool = False
  layout: str = "effdet"
  scope: str = ""
  squash: bool = False

  @property
  def official(self) -> bool:
    """Whether it is a TensorFlow checkpoint of the paper's own."""
    return self.layout != "effdet"

  @property
  def task(self) -> str:
    """Name of the task that the network is for."""
    return models.entry(self.model).task

  def create(self, num_classes: int | None = None, **overrides: Any) -> nn.Module:
    """Returns the module; overrides: further settings."""
    return models.create(self.model, num_classes, **{**self.settings, **overrides})

  def preprocessing(self, image_size: int | tuple[int, int]) -> Preprocessing:
    """Returns how pictures are prepared for evaluation."""
    mean, std = self.moments
    fill = (0.0, 0.0, 0.0) if self.dark else None
    resize = "squash" if self.squash else "pad"
    return Preprocessing(image_size, mean=mean, std=std, resize=resize, fill=fill)

  def tensors(self, module: nn.Module, have: Mapping[tuple[str, ...], Any]) -> tuple[Tensor, ...]:
    """Returns every tensor that the source has. Args: have: the module's leaves by path."""
    if self.layout == "effdet":
      return detector_layout.effdet(module, have, level_first=self.level_first)
    if self.layout == "automl":
      return detector_layout.official(module, have, self.scope)
    if self.layout == "tpu":
      return tpu_layout.tpu(module)
    return (slim_layout.ssd if self.layout == "ssd" else slim_layout.deeplab)(module, have)


def _scope(size: str) -> str:
  """Returns the variable scope of an official detector's body.

  >>> _scope("d0"), _scope("d7"), _scope("d7x"), _scope("lite3x")
  ('efficientnet-b0', 'efficientnet-b6', 'efficientnet-b7', 'efficientnet-lite3')
  """
  if size.startswith("lite"):
    return f"efficientnet-{size.removesuffix('x')}"
  return "efficientnet-" + {"d7": "b6", "d7x": "b7"}.get(size, size.replace("d", "b"))


_SETS: dict[str, WeightSet] = {}


def _add(name: str, model: str, *, settings: Mapping[str, Any], **fields: Any) -> None:
  layout = "automl" if "scope" in fields else "effdet"
  _SETS[name] = WeightSet(name, model, {"aspects": "rounded", **settings}, layout=layout, **fields)


def _official(name: str, model: str, layout: str, **fields: Any) -> None:
  _SETS[name] = WeightSet(name, model, fields.pop("settings", {}), layout=layout, **fields)


_BODY = {"backbone_padding": "SYMMETRIC", "backbone_epsilon": 1e-5, "backbone_momentum": 0.9}
_PEER = {**_BODY, "padding": "SYMMETRIC", "bias": False}

for _size in ("d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d7x"):
  _add(f"tf_efficientdet_{_size}", f"efficientdet_{_size}", settings={})
  if _size <= "d5":
    _add(
      f"tf_efficientdet_{_size}_ap", f"efficientdet_{_size}", settings={}, moments=_HALF, dark=True
    )
    _own = _PEER if _size < "d4" else _BODY
    _add(f"efficientdet_{_size}", f"efficientdet_{_size}", settings=_own)
  # Of the official ones the releases with exact ratios are meant; `aspects` changes it.
  _name = f"efficientdet-{_size}"
  _add(_name, f"efficientdet_{_size}", settings={"aspects": "exact"}, scope=_scope(_size))
for _size in ("lite0", "lite1", "lite2", "lite3", "lite3x", "lite4"):
  _add(f"tf_efficientdet_{_size}", f"efficientdet_{_size}", settings={}, moments=_HALF)
  _add(
    f"efficientdet-{_size}",
    f"efficientdet_{_size}",
    settings={"aspects": "exact"},
    moments=((127 / 255,) * 3, (128 / 255,) * 3),
    scope=_scope(_size),
  )
_add(
  "efficientdet_lite0",
  "efficientdet_lite0",
  # The peer's own is larger than Google's, weighs its fusions and keeps TensorFlow's padding.
  settings={**_BODY, "bias": False, "image_size": 384, "fusion": "fast", "anchor_scale": 4.0},
  level_first=True,
)
for _name, _size, _cells, _first in (("q0", "d0", 3, True), ("q2", "d2", 4, True)):
  _add(
    f"efficientdet_{_name}",
    f"efficientdet_{_size}",
    settings={**_PEER, "pyramid": "qufpn", "repeats": _cells},
    level_first=_first,
  )
for _name, _like in (("m", "d0"), ("l", "d1")):
  _add(
    f"mixdet_{_name}",
    f"efficientdet_{_like}",
    settings={**_PEER, "aspects": "exact", "backbone": f"mixnet_{_name}"},
    level_first=True,
  )
_add(
  "resdet50",
  "efficientdet_d1",
  settings={**_PEER, "backbone": "resnet50", "activation": "relu", "separable": False},
)


for _size in ("49s", "49", "96", "143", "190"):
  for _protocol, _own in (
    ("", {}),
    (".c", {"activation": "swish", "backbone_activation": "swish"}),
  ):
    _official(f"spinenet-{_size}{_protocol}", f"retinanet_spinenet_{_size}", "tpu", settings=_own)
for _depth in (50, 101, 152):
  _official(f"retinanet-r{_depth}", f"retinanet_r{_depth}", "tpu")
for _name in ("r50", "r101", "spinenet_49s", "spinenet_49", "spinenet_96", "spinenet_143"):
  _official(f"mask-rcnn-{_name.replace('_', '-')}", f"mask_rcnn_{_name}", "tpu")
for _name, _body in (
  ("ssd_mobilenet_v3_large_coco", "mobilenetv3_large"),
  ("ssd_mobilenet_v3_small_coco", "mobilenetv3_small"),
  ("ssdlite_mobilenet_v2_coco", "mobilenetv2"),
):
  _official(_name, f"ssdlite_{_body}", "ssd", moments=_HALF, squash=True)
for _name, _model in (
  ("deeplab_mnv3_large_cityscapes_trainfine", "lraspp_mobilenetv3_large_os32"),
  ("deeplab_mnv3_small_cityscapes_trainfine", "lraspp_mobilenetv3_small_os32"),
  ("deeplabv3_mnv2_cityscapes_train", "raspp_mobilenetv2_full"),
  ("deeplabv3_mnv2_pascal_train_aug", "raspp_mobilenetv2_full"),
):
  _official(_name, _model, "deeplab", moments=_HALF)


def list_detectors() -> list[str]:
  """Returns every name, effdet's and the official ones, segmenters too."""
  return sorted(_SETS)


def find(name: str) -> WeightSet:
  """Returns what `name` stands for. Raises: UserError for an unknown one, with the nearest."""
  spelled = name.removeprefix("effdet/")
  if spelled not in _SETS:
    raise errors.unknown("weights name", name, "a detector's weight set", _SETS)
  return _SETS[spelled]


# What is predicted of classes: a box head's regressions too, where each class has its own.
_PREDICTIONS = {
  ("class_head", "predict"),
  ("box_head", "predict_class"),
  ("box_head", "predict_box"),
  ("mask_head", "predict"),
  ("head", "classify"),
  ("head", "classify_low"),
}


def _predicts(path: tuple[str, ...]) -> bool:
  """Returns whether a leaf's size depends on the classes."""
  ssd = path[1] == "head" and path[2].startswith("class_") and path[3] == "predict"
  return ssd or path[1:3] in _PREDICTIONS


def _classes(
  entry: WeightSet, arrays: Mapping[str, np.ndarray], needed: tuple[Tensor, ...]
) -> int | None:
  """Returns the classes of a checkpoint's class prediction, None if it has none."""
  module = entry.create()
  bias = next(t for t in needed if t.path[-1] == "bias" and _predicts(t.path))
  if bias.name not in arrays:
    return None
  anchors = module.anchor_grid.counts()[0] if isinstance(module, detector.Detector) else 1
  count, rest = divmod(arrays[bias.name].size, anchors)
  if rest:
    raise errors.UserError(
      f"weights {entry.name!r}: {bias.name} has {arrays[bias.name].size} values, which are not "
      f"those of {anchors} anchors."
    )
  return count


def _taken(
  tensors: tuple[Tensor, ...],
  arrays: Mapping[str, np.ndarray],
  leaves: Mapping[tuple[str, ...], tuple[int, ...]],
) -> tuple[dict[tuple[str, ...], np.ndarray], list[str]]:
  """Returns values by path, and what is wrong with the shapes of others."""
  values, wrong = {}, []
  for tensor in tensors:
    if tensor.name not in arrays:
      continue
    value = arrays[tensor.name]
    if tensor.kind == "scalar":
      if value.size == 1:
        values[tensor.path] = value.reshape(())
      else:
        wrong.append(f"{tensor.name} has shape {value.shape}, needed is one number")
      continue
    shape = tensor.theirs(leaves[tensor.path])
    if value.shape != shape:
      wrong.append(f"{tensor.name} has shape {value.shape}, needed is {shape}")
    else:
      values[tensor.path] = tensor.to_ours(value)
  return values, wrong


# Tracing a detector takes longer than everything else here; a few are asked for repeatedly.
_leaves = functools.lru_cache(maxsize=4)(convert.leaf_shapes)


def _import(
  name: str,
  arrays: Mapping[str, np.ndarray],
  *,
  image_size: int | tuple[int, int] | None,
  num_classes: int | None,
  replace_head: bool,
  seed: int,
) -> convert.Imported:
  entry = find(name)
  module = entry.create()
  leaves = _leaves(module)
  tensors = entry.tensors(module, leaves)
  if entry.layout == "automl":
    renamed = tensorflow.rename(arrays, [t for t in tensors if t.name.startswith(entry.scope)])
    arrays = {renamed.get(key, key): value for key, value in arrays.items()}
  given = _classes(entry, arrays, tensors)
  classes = num_classes or given or module.num_classes
  if given not in (None, classes) and not replace_head:
    raise errors.UserError(
      f"weights {entry.name!r}: their class prediction has {given} classes, "
      f"num_classes={classes} was asked for; replace_head=True drops it for a new one, "
      "num_classes=None keeps it."
    )
  size = image_size if image_size is None or isinstance(image_size, int) else tuple(image_size)
  module = entry.create(given or classes)
  leaves = _leaves(module)
  values, wrong = _taken(tensors, arrays, leaves)
  known = [tensor.name for tensor in tensors]
  common = sum(key in arrays for key in known)
  if common - len(wrong) < len(known) / 2:
    raise errors.UserError(
      f"weights {entry.name!r}: these are the tensors of another network: {common - len(wrong)} of "
      f"the {len(known)} tensors needed are in it, and it has {len(arrays)}, such as "
      f"{', '.join(list(arrays)[:4])}."
    )
  if wrong:
    raise errors.UserError(f"weights {entry.name!r}: {'; '.join(wrong[:4])}.")
  replaced: set[str] = set()
  if given not in (None, classes):
    module = entry.create(classes)
    leaves = _leaves(module)
    replaced = {t.name for t in tensors if _predicts(t.path)}
    values = {path: v for path, v in values.items() if not _predicts(path)}
  missing = tuple(key for key in known if key not in arrays)
  initial = models.init(module, seed, image_size=_SMALL) if missing or replaced else {}
  variables: dict[str, Any] = {}
  for path, shape in leaves.items():
    if path in values:
      value = values[path]
    elif (*path, "0") in values:  # numbers that stand alone there
      value = np.stack([values[*path, str(i)] for i in range(shape[0])])
    else:
      value = convert.get(initial, path)
    convert.put(variables, path, np.asarray(value, np.float32))
  report = convert.Report(
    name=entry.name,
    loaded=len(known) - len(missing) - len(replaced.difference(missing)),
    missing=missing,
    leftover=tuple(key for key in arrays if key not in set(known)),
    replaced=tuple(key for key in known if key in replaced and key in arrays),
  )
  if not report.complete:
    logging.warning("%s", report)
  if size is not None:
    module = module.clone(image_size=size)
    if isinstance(module, detector.Detector):
      module = detector.check(module)
  return convert.Imported(module, variables, entry.preprocessing(module.image_size), report)


# Shapes of parameters do not depend on it.
_SMALL = 128


def from_effdet(
  name: str,
  state_dict: Mapping[str, Any],
  image_size: int | tuple[int, int] | None = None,
  *,
  num_classes: int | None = None,
  replace_head: bool = False,
  seed: int = 0,
) -> convert.Imported:
  """Returns a weight set of effdet as a detector of ours and its variables.

  Args:
    name: as effdet spells it: `tf_efficientdet_d0`, `efficientdet_d1`, `tf_efficientdet_lite0`.
    state_dict: tensors by name, of NumPy, JAX or PyTorch.
    image_size: pixels, or (height, width), that the module shall be for; None for the set's own.
    num_classes: that the module should have; None for those of the state dict.
    replace_head: whether a class prediction with other classes may be dropped for a new one.
    seed: of the values of a new class prediction, and of missing tensors.
  Raises:
    UserError for an unknown name, the state dict of another network, a tensor of the wrong shape,
    or other classes without `replace_head`.
  """
  if find(name).official:
    raise errors.UserError(
      f"weights name={name!r} is an official one; `weights.from_official` takes it."
    )
  arrays = convert.read_arrays(name, state_dict)
  arrays = {key.removeprefix("model."): value for key, value in arrays.items()}
  # Anchors are a buffer of its training and prediction wrappers.
  arrays = {key: value for key, value in arrays.items() if not key.startswith("anchor")}
  return _import(
    name,
    arrays,
    image_size=image_size,
    num_classes=num_classes,
    replace_head=replace_head,
    seed=seed,
  )


def from_official(
  name: str,
  arrays: Mapping[str, Any],
  image_size: int | tuple[int, int] | None = None,
  *,
  num_classes: int | None = None,
  replace_head: bool = False,
  seed: int = 0,
) -> convert.Imported:
  """Returns an official detector or segmenter as a network of ours, and its variables.

  The moving average of a variable is taken where there is one; optimizer slots and step counters
  are left out.

  Args:
    name: as its archive: `efficientdet-d0`, `efficientdet-lite3x`; `spinenet-49` trained by the
      paper's protocol A or B, `spinenet-49.c` by C, which has other activations;
      `mask-rcnn-spinenet-49`, `retinanet-r50`; `ssd_mobilenet_v3_large_coco`,
      `deeplab_mnv3_large_cityscapes_trainfine`.
    arrays: the checkpoint's variables by name (see `files.Checkpoint`). Others: see `from_effdet`.
  Raises: UserError as `from_effdet`.
  """
  if not find(name).official:
    raise errors.UserError(f"weights name={name!r} is effdet's; `weights.from_effdet` takes it.")
  if isinstance(arrays, Mapping):
    arrays = {plain: arrays[given] for plain, given in tensorflow.select(arrays).items()}
  return _import(
    name,
    convert.read_arrays(name, arrays),
    image_size=image_size,
    num_classes=num_classes,
    replace_head=replace_head,
    seed=seed,
  )
