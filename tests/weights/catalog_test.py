"""The catalog against what timm 1.0.31 itself says of its weights (data/timm_1.0.31.json)."""

import json
import pathlib

import pytest

from effnets import errors, models, weights
from effnets.weights import catalog

TIMM = json.loads((pathlib.Path(__file__).parent / "data" / "timm_1.0.31.json").read_text())


def test_architectures_are_those_of_timm():
  ours = {base for base, found in catalog.architectures().items() if not found.scope}
  assert ours == set(TIMM)


@pytest.mark.parametrize("base", TIMM)
def test_preprocessing_of_every_weight_set(base):
  told = TIMM[base]
  assert len(catalog.architectures()[base].tags) == len(told["tags"])
  for tag, (size, crop, interpolation, mean, std, mode) in told["tags"].items():
    found = catalog.find(f"{base}.{tag}" if tag else base).preprocessing
    assert (found.image_size, found.crop_fraction) == (size, crop)
    assert (found.interpolation, list(found.mean), list(found.std)) == (interpolation, mean, std)
    assert found.resize == {"center": "crop", "squash": "squash"}[mode]
  assert catalog.find(base).tag == told["default"].replace("untrained", "")


@pytest.mark.parametrize(
  "base,padding,epsilon",
  [
    ("tf_efficientnet_b3", "SAME", 1e-3),
    ("efficientnet_b3", "SYMMETRIC", 1e-5),
    ("tf_mobilenetv3_small_minimal_100", "SAME", 1e-3),
    ("mobilenetv3_small_050", "SYMMETRIC", 1e-5),
    ("mobilenetv3_rw", "SYMMETRIC", 1e-3),
    ("tf_mixnet_l", "SAME", 1e-3),
    ("semnasnet_100", "SYMMETRIC", 1e-5),
    ("resnet50", "SYMMETRIC", 1e-5),
  ],
)
def test_padding_and_epsilon(base, padding, epsilon):
  module = catalog.architectures()[base].create(7)
  assert (module.padding, module.epsilon, module.num_classes) == (padding, epsilon, 7)


@pytest.mark.parametrize(
  "name,model,image_size,crop,interpolation,centred",
  [
    # Google's networks see size / (size + 32) of the short side; AdvProp and slim centre on 0.
    ("efficientnet-b0", "efficientnet_b0", 224, 224 / 256, "bicubic", False),
    ("efficientnet-b8", "efficientnet_b8", 672, 672 / 704, "bicubic", False),
    ("efficientnet-b5.advprop", "efficientnet_b5", 456, 456 / 488, "bicubic", True),
    ("efficientnet-l2.noisystudent_475", "efficientnet_l2", 475, 475 / 507, "bicubic", False),
    ("mnasnet-a1-075", "mnasnet_a1", 224, 0.875, "bilinear", False),
    ("mnasnet-small", "mnasnet_small", 224, 0.875, "bilinear", False),
    ("mixnet-l", "mixnet_l", 224, 0.875, "bilinear", False),
    ("v3-small-minimalistic_224_1.0_float", "mobilenetv3_small_minimal", 224, 0.875, "bilinear", 1),
    ("mobilenet_v2_0.35_96", "mobilenetv2", 96, 0.875, "bilinear", True),
    ("mobilenet_v1_0.25_128", "mobilenetv1", 128, 0.875, "bilinear", True),
  ],
)
def test_official_checkpoints(name, model, image_size, crop, interpolation, centred):
  entry = catalog.find(name)
  found = entry.preprocessing
  assert entry.architecture.model == model and entry.name in weights.list_weights()
  assert (found.image_size, found.interpolation) == (image_size, interpolation)
  assert found.crop_fraction == pytest.approx(crop)
  assert (found.mean == (0.5, 0.5, 0.5)) == centred
  module = entry.architecture.create(7)
  assert (module.padding, module.epsilon) == ("SAME", 1e-3)


def test_block_rules():
  def make(base):
    return catalog.architectures()[base].create(10)

  assert make("mnasnet_small").rows[0].declared is None
  assert models.create("mnasnet_small").rows[0].declared == 16
  assert make("mnasnet-small").rows[0].declared == 16  # the official code's rule
  assert make("mobilenetv3_small_050").stem == 16
  assert models.create("mobilenetv3_small_050").stem == 8
  assert make("mobilenetv2_110d").head == 1280 and make("mobilenetv2_140").head == 1792


@pytest.mark.parametrize(
  "alias,full",
  [
    ("tf_efficientnet_b0_ns", "tf_efficientnet_b0.ns_jft_in1k"),
    ("tf_efficientnet_b8_ap", "tf_efficientnet_b8.ap_in1k"),
    ("tf_efficientnet_l2_ns_475", "tf_efficientnet_l2.ns_jft_in1k_475"),
    ("mnasnet_a1", "semnasnet_100.rmsp_in1k"),
    ("efficientnet_b2a", "efficientnet_b2.ra_in1k"),
    ("timm/tf_mixnet_s.in1k", "tf_mixnet_s.in1k"),
    ("mnasnet_050.untrained", "mnasnet_050"),
    ("tv_resnet50", "resnet50.tv_in1k"),
    ("efficientnet-b0", "efficientnet-b0.ckptsaug"),
    ("noisy_student_efficientnet-b3", "efficientnet-b3.noisystudent"),
    ("noisy_student_efficientnet-l2_475", "efficientnet-l2.noisystudent_475"),
    ("v3-large_224_0.75_float", "v3-large_224_0.75_float"),
  ],
)
def test_other_spellings(alias, full):
  assert catalog.find(alias).name == full
  assert full in weights.list_weights()


@pytest.mark.parametrize(
  "name,nearest",
  [
    ("tf_efficientnet_bo", "'tf_efficientnet_b0'"),
    ("tf_efficientnet_b0.ns_jft", "'tf_efficientnet_b0.ns_jft_in1k'"),
    ("tf_efficientnet_b6.in1k", "'tf_efficientnet_b6.aa_in1k'"),
    ("efficientnet-b9", "'efficientnet-b8'"),
    ("efficientnet-b6.ckpts", "'efficientnet-b6.ckptsaug'"),
    ("v3-large_224_1.0_uint8", "'v3-large_224_1.0_float'"),
  ],
)
def test_unknown_names(name, nearest):
  with pytest.raises(errors.UserError, match=name) as caught:
    catalog.find(name)
  assert nearest in str(caught.value)
