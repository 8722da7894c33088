"""Names, what is known of them, and what is said of names and settings that do not exist."""

import re

import pytest

from effnets import errors, models
from effnets.models import counting, registry


def test_names_of_a_task():
  assert "efficientdet_d0" in models.list_models(task="detection")
  assert not set(models.list_models(task="detection")) & set(
    models.list_models(task="classification")
  )
  assert models.create("efficientdet_tiny").num_classes == 10
  assert models.create("efficientnet_tiny").num_classes == 1000


def test_names_sort_naturally():
  names = models.list_models("efficientnet_[bl][0-9]*")
  assert names == [f"efficientnet_{n}" for n in "b0 b1 b2 b3 b4 b5 b6 b7 b8 l0 l1 l2".split()]
  build = models.entry("efficientnet_b0").build
  fields = {"build": build, "paper": None, "image_size": 8, "params": 0, "madds": 0}
  fields |= {"dropout_rate": 0.0, "drop_path_rate": 0.0}
  try:
    for suffix in (10, 2):
      registry.register(registry.Entry(name=f"sorted_b{suffix}", **fields))
    assert models.list_models("sorted*") == ["sorted_b2", "sorted_b10"]
  finally:
    for suffix in (10, 2):
      del registry._ENTRIES[f"sorted_b{suffix}"]


# One of every family; larger ones take seconds each to trace.
_QUICK = (
  "bifpn_efficientnet_b4 deeplabv3plus_r101 efficientdet_tiny efficientdet_d0 lraspp_tiny "
  "mask_rcnn_spinenet_49s mnasfpn_tiny nasfpnlite_mobilenetv2 raspp_tiny retinanet_r50 "
  "retinanet_spinenet_mobile_49xs retinanet_tiny ssdlite_mixnet_tiny ssdlite_mnasnet_tiny "
  "ssdlite_tiny"
).split()


def _marked(name):
  slow = models.entry(name).task != "classification" and name not in _QUICK
  return pytest.param(name, marks=pytest.mark.slow if slow else ())


_OTHERS = ("text", "video", "prediction")
_IMAGES = [name for name in models.list_models() if models.entry(name).task not in _OTHERS]


@pytest.mark.parametrize("name", [_marked(name) for name in _IMAGES])
def test_entry_agrees_with_its_module(name):
  # With auxiliary norms, which the published network is without.
  entry, module = models.entry(name), models.create(name, norm_sets=2)
  assert (entry.name, module.num_classes) == (name, entry.num_classes)
  for key in ("image_size", "dropout_rate", "drop_path_rate"):
    assert getattr(entry, key) == getattr(module, key)
  count = models.count(module, entry.counted)
  assert counting.parameters(models.main_set(count.shapes["params"])) == entry.params
  # A set has as many scales and biases as a norm has moments, and comes with moments of its own.
  extra = count.params - entry.params
  assert counting.parameters(count.shapes["batch_stats"]) == 2 * extra > 0
  assert count.madds == pytest.approx(entry.madds, rel=1e-3)
  assert entry.settings()["image_size"] == entry.image_size
  # Other papers count otherwise; their figures are shown, not tested.
  if entry.paper_params is not None and name.startswith(("efficientnet", "efficientdet")):
    assert entry.params == pytest.approx(entry.paper_params, rel=0.03)
  assert entry.mean in ((0.5, 0.5, 0.5), (127 / 255,) * 3, registry.IMAGENET_MEAN)


@pytest.mark.parametrize(
  "name,fraction", [("b0", 0.875), ("b2", 0.890), ("b7", 0.949), ("l2", 0.9615), ("tiny", 1.0)]
)
def test_crop_fraction(name, fraction):
  entry = models.entry(f"efficientnet_{name}")
  assert entry.crop_fraction == pytest.approx(fraction, abs=1e-3)
  assert entry.mean == (0.485, 0.456, 0.406) and entry.interpolation == "bicubic"


def test_overrides_reach_the_module():
  module = models.create("efficientnet_b0", 10, dropout_rate=0.0, width=2.0, frozen_blocks=3)
  assert (module.num_classes, module.dropout_rate, module.stem) == (10, 0.0, 64)
  assert module.frozen_blocks == 3


@pytest.mark.parametrize(
  "overrides,words",
  [
    ({"droput_rate": 0.1}, "config.model.droput_rate=0.1: .*Nearest: 'dropout_rate'"),
    ({"num_clases": 10}, "config.model.num_clases=10: .*Nearest: 'num_classes'"),
    ({"width": "big"}, "config.model.width='big' should be of type float, such as 1.0"),
    ({"num_classes": 2.5}, "config.model.num_classes=2.5 should be of type int"),
    ({"plain": 1}, "config.model.plain=1 should be of type bool"),
  ],
)
def test_wrong_overrides(overrides, words):
  with pytest.raises(errors.UserError, match=words):
    models.create("efficientnet_b0", **overrides)


@pytest.mark.parametrize("function", [models.create, models.entry])
def test_unknown_name(function):
  words = "config.model.name='efficientnet_bo' is not a model. Nearest: 'efficientnet_b"
  with pytest.raises(errors.UserError, match=re.escape(words)):
    function("efficientnet_bo")


def test_a_name_is_given_once():
  with pytest.raises(ValueError, match="taken"):
    models.register(models.entry("efficientnet_b0"))
