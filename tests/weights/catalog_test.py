"""The catalog against what timm 1.0.31 itself says of its weights (data/timm_1.0.31.json)."""

import json
import pathlib

import pytest

from effnets import errors, models, weights
from effnets.weights import catalog

TIMM = json.loads((pathlib.Path(__file__).parent / "data" / "timm_1.0.31.json").read_text())


def test_architectures_are_those_of_timm():
  assert set(catalog.architectures()) == set(TIMM)


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


def test_block_rules():
  def make(base):
    return catalog.architectures()[base].create(10)

  assert make("mnasnet_small").rows[0].declared is None
  assert models.create("mnasnet_small").rows[0].declared == 16
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
  ],
)
def test_unknown_names(name, nearest):
  with pytest.raises(errors.UserError, match=name) as caught:
    catalog.find(name)
  assert nearest in str(caught.value)
