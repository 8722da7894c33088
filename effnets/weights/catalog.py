"""Weight sets, timm's and the papers' own: the network of each, and how its pictures are prepared.

An architecture is a model of ours with the settings under which its weights were made; a tag names
one set of weights for it. In timm's spelling `tf_` marks Google's own weights: TensorFlow's padding
and epsilon. All others there were trained in PyTorch, with its symmetric padding, epsilon and
momentum. The official checkpoints have the names of their archives, `efficientnet-b0`, `mixnet-s`
or `v3-large_224_1.0_float`, and EfficientNet's those of their folders as tags.
Source: huggingface/pytorch-image-models, default configurations of version 1.0; tensorflow/tpu,
models/official/{efficientnet,mnasnet}; tensorflow/models, research/slim/nets.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn

from effnets import errors, models

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_NONE = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """How a picture is prepared for evaluation.

  image_size: pixels, height and width. crop_fraction: side of the crop over the image's short side.
  interpolation: `bilinear` or `bicubic`. mean, std: of pixels scaled to [0, 1], red green blue.
  resize: `crop` keeps the proportions and cuts the centre out; `squash` makes the whole image
    square, then cuts `crop_fraction` of it.
  """

  image_size: int = 224
  crop_fraction: float = 0.875
  interpolation: str = "bicubic"
  mean: tuple[float, float, float] = _IMAGENET[0]
  std: tuple[float, float, float] = _IMAGENET[1]
  resize: str = "crop"


@dataclasses.dataclass(frozen=True)
class Architecture:
  """A network as timm, or the code of its paper, builds it.

  model: our name of it. settings: of `models.create`, under which the weights were made.
  tags: the preprocessing of each weight set, the default one first; `""` if none was published.
  absent: tensors of ours that it has not, because its layer has none; they are zero here.
  scope: the variable scope of a TensorFlow network (see `tensorflow.tensors`); "" for timm's.
  """

  model: str
  settings: Mapping[str, Any]
  tags: Mapping[str, Preprocessing]
  absent: frozenset[str] = frozenset()
  scope: str = ""

  def create(self, num_classes: int, **overrides: Any) -> nn.Module:
    """Returns the module; overrides: further settings of `models.create`."""
    return models.create(self.model, num_classes, **{**self.settings, **overrides})


@dataclasses.dataclass(frozen=True)
class WeightSet:
  """What a name stands for. tag: `""` if the architecture has no published weights."""

  base: str
  tag: str
  architecture: Architecture
  preprocessing: Preprocessing

  @property
  def name(self) -> str:
    """Its full name."""
    return f"{self.base}.{self.tag}" if self.tag else self.base


def _settings(base: str) -> dict[str, Any]:
  if base.startswith("tf_"):
    return {"padding": "SAME", "epsilon": 1e-3}
  return {"padding": "SYMMETRIC", "epsilon": 1e-5, "momentum": 0.9}


_ARCHITECTURES: dict[str, Architecture] = {}


def _add(
  base: str,
  model: str,
  tags: Mapping[str, Preprocessing] | None = None,
  *,
  default: Preprocessing = Preprocessing(),
  absent: Iterable[str] = (),
  **settings: Any,
) -> None:
  settings = {**_settings(base), **settings}
  _ARCHITECTURES[base] = Architecture(model, settings, tags or {"": default}, frozenset(absent))


def _prepare(
  image_size: int = 224,
  crop_fraction: float = 0.875,
  interpolation: str = "bicubic",
  moments: tuple = _IMAGENET,
  **fields: Any,
) -> Preprocessing:
  return Preprocessing(image_size, crop_fraction, interpolation, *moments, **fields)


# timm rounds size / (size + 32) in its own way, so the fractions are kept, not computed.
_GOOGLE = {
  "b0": (224, 0.875),
  "b1": (240, 0.882),
  "b2": (260, 0.890),
  "b3": (300, 0.904),
  "b4": (380, 0.922),
  "b5": (456, 0.934),
  "b6": (528, 0.942),
  "b7": (600, 0.949),
  "b8": (672, 0.954),
  "l2": (800, 0.96),
}
_TAGS = {  # which sizes have which weights, in timm's order
  "ns_jft_in1k_475": ("l2",),
  "ns_jft_in1k": ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "l2"),
  "ap_in1k": ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8"),
  "ra_in1k": ("b5", "b7", "b8"),
  "aa_in1k": ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"),
  "in1k": ("b0", "b1", "b2", "b3", "b4", "b5"),
}
_ra4 = functools.partial(_prepare, moments=_HALF)
_TIMM_TRAINED = {
  "b0": {"ra_in1k": _prepare(), "ra4_e3600_r224_in1k": _ra4(224, 0.9)},
  "b1": {"ra4_e3600_r240_in1k": _ra4(240, 0.9), "ft_in1k": _prepare()},
  "b2": {"ra_in1k": _prepare(256)},
  "b3": {"ra2_in1k": _prepare(288)},
  "b4": {"ra2_in1k": _prepare(320)},
  "b5": {
    "sw_in12k_ft_in1k": _prepare(448, 1.0, resize="squash"),
    "sw_in12k": _prepare(416, 0.95),
  },
  "l2": {"": _prepare(800, 0.961)},
}

for _size, _shape in _GOOGLE.items():
  _tags = {
    tag: _prepare(*_shape, moments=_HALF if tag == "ap_in1k" else _IMAGENET)
    for tag, sizes in _TAGS.items()
    if _size in sizes
  }
  if _size == "l2":
    _tags["ns_jft_in1k_475"] = _prepare(475, 0.936)
  _add(f"tf_efficientnet_{_size}", f"efficientnet_{_size}", _tags)
  _add(
    f"efficientnet_{_size}",
    f"efficientnet_{_size}",
    _TIMM_TRAINED.get(_size),
    default=_prepare(*_shape),
  )

for _size in ("s", "m", "l"):
  _add(f"tf_mixnet_{_size}", f"mixnet_{_size}", {"in1k": _prepare()})
  _add(f"mixnet_{_size}", f"mixnet_{_size}", {"ft_in1k": _prepare()})
_add("mixnet_xl", "mixnet_xl", {"ra_in1k": _prepare()})
_add("mixnet_xxl", "mixnet_xxl")

# `width` at the full-size model, not the model of that width: timm has widths of its own.
_WIDTHS = {"035": 0.35, "050": 0.5, "075": 0.75, "100": 1.0, "125": 1.25, "140": 1.4}

for _width in ("050", "075", "100", "140"):
  _tags = {"rmsp_in1k": _prepare()}
  _published = {"mnasnet": ("100",), "semnasnet": ("075", "100")}
  for _family, _model in (("mnasnet", "mnasnet_b1"), ("semnasnet", "mnasnet_a1")):
    _add(
      f"{_family}_{_width}",
      _model,
      _tags if _width in _published[_family] else None,
      width=_WIDTHS[_width],
    )
# Its first block adds its input, which the official one does not.
_add("mnasnet_small", "mnasnet_small", {"lamb_in1k": _prepare()}, skip_rule="actual")

for _width, _tag in (("035", ""), ("050", "lamb_in1k"), ("075", ""), ("100", "ra_in1k")):
  _add(f"mobilenetv2_{_width}", "mobilenetv2", {_tag: _prepare()}, width=_WIDTHS[_width])
_add("mobilenetv2_140", "mobilenetv2", {"ra_in1k": _prepare()}, width=1.4)
for _name, _width, _depth in (("110d", 1.1, 1.2), ("120d", 1.2, 1.4)):
  _add(
    f"mobilenetv2_{_name}",
    "mobilenetv2",
    {"ra_in1k": _prepare()},
    width=_width,
    depth=_depth,
    keep_ends=True,
    stem=32,
    head=1280,
  )
for _name, _crop, _own in (
  ("100", 0.875, {}),
  ("100h", 0.875, {"head": 1024}),
  ("125", 0.9, {"width": 1.25}),
):
  _tags = {"ra4_e3600_r224_in1k": _ra4(224, _crop)}
  _add(f"mobilenetv1_{_name}", "mobilenetv1", _tags, **_own)


def _add_v3(base: str, model: str, width: str, tags: Mapping[str, Preprocessing] | None) -> None:
  # timm leaves the stem alone below 0.75, slim scales it at every width.
  stem = {"stem": 16} if _WIDTHS[width] < 0.75 else {}
  default = _prepare(interpolation="bilinear")
  _add(f"{base}_{width}", model, tags, default=default, width=_WIDTHS[width], **stem)


_slim = {"in1k": _prepare(224, 0.875, "bilinear", _HALF)}
_lamb = {"lamb_in1k": _prepare()}
for _size in ("large", "small"):
  for _width in ("075", "100"):
    _add_v3(f"tf_mobilenetv3_{_size}", f"mobilenetv3_{_size}", _width, _slim)
  _add_v3(f"tf_mobilenetv3_{_size}_minimal", f"mobilenetv3_{_size}_minimal", "100", _slim)
for _width in ("050", "075", "100"):
  _add_v3("mobilenetv3_small", "mobilenetv3_small", _width, _lamb)
_add_v3("mobilenetv3_large", "mobilenetv3_large", "075", None)
_add_v3(
  "mobilenetv3_large",
  "mobilenetv3_large",
  "100",
  {
    "ra_in1k": _prepare(),
    "ra4_e3600_r224_in1k": _ra4(224, 0.95),
    "miil_in21k_ft_in1k": _prepare(224, 0.875, "bilinear", _NONE),
    "miil_in21k": _prepare(224, 0.875, "bilinear", _NONE),
  },
)
_add(
  "mobilenetv3_large_150d",
  "mobilenetv3_large_150d",
  {"ra4_e3600_r256_in1k": _prepare(256, 0.95, "bilinear", _HALF)},
)


# Its hidden layer has no bias; its epsilon is TensorFlow's.
_add(
  "mobilenetv3_rw",
  "mobilenetv3_rw",
  {"rmsp_in1k": _prepare()},
  absent={"conv_head.bias"},
  epsilon=1e-3,
)

_a = _prepare(224, 0.95)
_plain, _linear = _prepare(), _prepare(interpolation="bilinear")
_RESNET = {  # common to all three depths
  "a1_in1k": _a,
  "a1h_in1k": _a,
  "a2_in1k": _a,
  "a3_in1k": _prepare(160, 0.95),
  "tv_in1k": _linear,
  "tv2_in1k": _prepare(176, 0.875, "bilinear"),
  "gluon_in1k": _plain,
}
_RESNET50 = _RESNET | {
  "a1h_in1k": _prepare(176, 0.9),
  **dict.fromkeys(("b1k_in1k", "b2k_in1k", "c1_in1k", "c2_in1k", "d_in1k"), _a),
  **dict.fromkeys(("ram_in1k", "am_in1k", "ra_in1k", "bt_in1k"), _plain),
  **dict.fromkeys(("fb_ssl_yfcc100m_ft_in1k", "fb_swsl_ig1b_ft_in1k"), _linear),
  "bamboo": _prepare(224, 1.0),
}
_add("resnet50", "resnet50", _RESNET50)
for _name in ("resnet101", "resnet152"):
  # The first tag is the default, and is a1h for these two.
  _add(_name, _name, {"a1h_in1k": _RESNET["a1h_in1k"], **_RESNET})

# Names of timm's earlier versions.
_ALIASES = {
  "mnasnet_a1": "semnasnet_100",
  "mnasnet_b1": "mnasnet_100",
  "efficientnet_b2a": "efficientnet_b2",
  "efficientnet_b3a": "efficientnet_b3",
  "mobilenetv3_large_100_miil": "mobilenetv3_large_100.miil_in21k_ft_in1k",
  "mobilenetv3_large_100_miil_in21k": "mobilenetv3_large_100.miil_in21k",
  "tf_efficientnet_l2_ns": "tf_efficientnet_l2.ns_jft_in1k",
  "tf_efficientnet_l2_ns_475": "tf_efficientnet_l2.ns_jft_in1k_475",
  "ssl_resnet50": "resnet50.fb_ssl_yfcc100m_ft_in1k",
  "swsl_resnet50": "resnet50.fb_swsl_ig1b_ft_in1k",
}
for _size in _TAGS["ns_jft_in1k"][:-1]:
  _ALIASES[f"tf_efficientnet_{_size}_ns"] = f"tf_efficientnet_{_size}.ns_jft_in1k"
for _size in _TAGS["ap_in1k"]:
  _ALIASES[f"tf_efficientnet_{_size}_ap"] = f"tf_efficientnet_{_size}.ap_in1k"
for _name in ("resnet50", "resnet101", "resnet152"):
  _ALIASES[f"tv_{_name}"] = f"{_name}.tv_in1k"
  _ALIASES[f"gluon_{_name}_v1b"] = f"{_name}.gluon_in1k"


# The papers' own checkpoints.
_FOLDERS = {  # of EfficientNet's, and timm's tag of the same weights
  "ckptsaug": "aa_in1k",
  "randaug": "ra_in1k",
  "ckpts": "in1k",
  "advprop": "ap_in1k",
  "noisystudent": "ns_jft_in1k",
}


def _add_official(
  base: str,
  model: str,
  scope: str,
  tags: Mapping[str, Preprocessing] | Preprocessing = Preprocessing(),
  **settings: Any,
) -> None:
  tags = {"": tags} if isinstance(tags, Preprocessing) else tags
  settings = {"padding": "SAME", "epsilon": 1e-3, **settings}
  _ARCHITECTURES[base] = Architecture(model, settings, tags, scope=scope)


def _padded(image_size: int, **fields: Any) -> Preprocessing:
  """Returns Google's preprocessing: the crop leaves out 32 of `image_size + 32` pixels."""
  return _prepare(image_size, image_size / (image_size + 32), **fields)


for _size, (_side, _) in _GOOGLE.items():
  _tags = {
    folder: _padded(_side, moments=_HALF if folder == "advprop" else _IMAGENET)
    for folder, tag in _FOLDERS.items()
    if _size in _TAGS[tag]
  }
  if _size == "l2":
    _tags["noisystudent_475"] = _padded(475)
  _base = f"efficientnet-{_size}"
  _add_official(_base, f"efficientnet_{_size}", _base, _tags)
  if _size in _TAGS["ns_jft_in1k"]:
    for _suffix in ("", "_475") if _size == "l2" else ("",):
      _ALIASES[f"noisy_student_{_base}{_suffix}"] = f"{_base}.noisystudent{_suffix}"

_bilinear = _padded(224, interpolation="bilinear")
for _name in ("a1", "b1", "small"):
  _add_official(f"mnasnet-{_name}", f"mnasnet_{_name}", f"mnasnet-{_name}", _bilinear)
for _width in ("035", "050", "075", "140"):
  _add_official(
    f"mnasnet-a1-{_width}", "mnasnet_a1", "mnasnet-a1", _bilinear, width=_WIDTHS[_width]
  )
for _name in ("s", "m", "l"):
  _add_official(f"mixnet-{_name}", f"mixnet_{_name}", f"mixnet-{_name}", _bilinear)

_SIDES = (224, 192, 160, 128, 96)
for _version, _widths in (
  ("1", (0.25, 0.5, 0.75, 1.0)),
  ("2", (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)),
):
  for _wide in _widths:
    for _side in _SIDES[:1] if _wide > 1 else _SIDES[:-1] if _version == "1" else _SIDES:
      _add_official(
        f"mobilenet_v{_version}_{_wide}_{_side}",
        f"mobilenetv{_version}",
        f"MobilenetV{_version}",
        _prepare(_side, 0.875, "bilinear", _HALF),
        width=_wide,
      )
for _name, _wide in (
  *((name, wide) for name in ("large", "small") for wide in (1.0, 0.75)),
  ("large-minimalistic", 1.0),
  ("small-minimalistic", 1.0),
):
  _add_official(
    f"v3-{_name}_224_{_wide}_float",
    f"mobilenetv3_{_name.replace('-minimalistic', '_minimal')}",
    "MobilenetV3",
    _prepare(224, 0.875, "bilinear", _HALF),
    width=_wide,
  )


def architectures() -> Mapping[str, Architecture]:
  """Returns every architecture by its name."""
  return _ARCHITECTURES


def list_weights() -> list[str]:
  """Returns the name of every architecture's weight sets, tag included where there is one.

  timm's and those of the papers' own checkpoints, which are told apart by `Architecture.scope`.

  >>> [name for name in list_weights() if name.startswith("tf_efficientnet_b8")]
  ['tf_efficientnet_b8.ap_in1k', 'tf_efficientnet_b8.ra_in1k']
  >>> [name for name in list_weights() if name.startswith("efficientnet-b8")]
  ['efficientnet-b8.advprop', 'efficientnet-b8.randaug']
  """
  return sorted(
    f"{base}.{tag}".rstrip(".")
    for base, architecture in _ARCHITECTURES.items()
    for tag in architecture.tags
  )


def find(name: str) -> WeightSet:
  """Returns what `name` stands for: in the source's spelling, tag optional, older ones too.

  Without a tag it is the architecture's default weight set: timm's choice; of an official
  EfficientNet the one trained with AutoAugment, where there is one. The tag `untrained` is that
  too. A hub prefix (`timm/`, `hf-hub:timm/`) is left out.
  Raises: UserError for an unknown architecture or tag, with the nearest known ones.
  """
  spelled = name.removeprefix("hf-hub:").removeprefix("hf_hub:").removeprefix("timm/")
  spelled = _ALIASES.get(spelled, spelled)
  # Multipliers in slim's names have a decimal point, which ends no architecture's name.
  base, _, tag = (spelled, "", "") if spelled in _ARCHITECTURES else spelled.partition(".")
  base = _ALIASES.get(base, base)
  if base not in _ARCHITECTURES:
    known = [*_ARCHITECTURES, *_ALIASES]
    where = "`weights.list_weights()`"
    raise errors.unknown("weights name", name, "a weight set", known, where)
  architecture = _ARCHITECTURES[base]
  if tag in ("", "untrained"):
    tag = next(iter(architecture.tags))
  if tag not in architecture.tags:
    known = [full for full in list_weights() if full.partition(".")[0] == base]
    raise errors.unknown("weights name", name, f"a weight set of {base}", known)
  return WeightSet(base, tag, architecture, architecture.tags[tag])
