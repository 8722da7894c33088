"""What becomes of state dicts that do not quite fit."""

import numpy as np
import pytest

from effnets import errors, models, weights
from effnets.weights import catalog, convert, layout
from tests.oracle import recipe

NAME = "mobilenetv3_small_050"


def _state_dict(base, classes=1000, tensor=recipe.tensor):
  """Returns a state dict of `base` without step counters."""
  module = catalog.architectures()[base].create(classes)
  shapes = convert.leaf_shapes(module)
  return {
    t.name: tensor(t.name, t.theirs(shapes[t.path]))
    for t in layout.tensors(module)
    if t.kind != "counter"
  }


@pytest.fixture(scope="module")
def state_dict():
  return _state_dict(NAME)


def test_missing_and_leftover_tensors_are_named(state_dict):
  changed = dict(state_dict)
  del changed["blocks.1.0.conv_dw.weight"], changed["bn1.running_var"]
  changed["extra.weight"] = np.zeros(3, np.float32)
  loaded = weights.from_timm(NAME, changed)
  report = loaded.report
  assert set(report.missing) == {"blocks.1.0.conv_dw.weight", "bn1.running_var"}
  assert report.leftover == ("extra.weight",) and not report.complete
  assert report.loaded == len(state_dict) - 2
  for name in (*report.missing, *report.leftover):
    assert name in str(report)
  initial = models.init(loaded.module, 0, image_size=64)["params"]["block_1"]["depthwise"]
  found = loaded.variables["params"]["block_1"]["depthwise"]
  np.testing.assert_array_equal(found["conv"]["kernel"], initial["conv"]["kernel"])
  np.testing.assert_array_equal(loaded.variables["batch_stats"]["stem"]["norm"]["var"], 1.0)


def test_wrong_shapes_name_both(state_dict):
  changed = {**state_dict, "blocks.1.0.conv_pw.weight": np.zeros((3, 4, 1, 1), np.float32)}
  right = state_dict["blocks.1.0.conv_pw.weight"].shape
  with pytest.raises(errors.UserError) as caught:
    weights.from_timm(NAME, changed)
  assert f"blocks.1.0.conv_pw.weight has shape (3, 4, 1, 1), needed is {right}" in str(caught.value)


@pytest.mark.parametrize(
  "name,message",
  [
    ("mobilenetv3_small_075", "another network, 'mobilenetv3_small_050'"),
    ("tf_efficientnet_b0", "another network, 'mobilenetv3_small_050'"),
    ("resnet50", "another network, 'mobilenetv3_small_050'"),
  ],
)
def test_another_network_is_recognised(state_dict, name, message):
  with pytest.raises(errors.UserError, match=message):
    weights.from_timm(name, state_dict)


def test_a_deeper_sibling_is_not_cut_to_size():
  # Every tensor of b0 is in b1 too, with the same shape.
  zeros = _state_dict("efficientnet_b1", tensor=lambda name, shape: np.zeros(shape, np.float32))
  with pytest.raises(errors.UserError, match="'tf_efficientnet_b1' or 'efficientnet_b1'"):
    weights.from_timm("tf_efficientnet_b0", zeros)


def test_a_strangers_state_dict():
  strange = {"encoder.layer.0.weight": np.zeros((3, 3))}
  with pytest.raises(errors.UserError, match=r"0 of the \d+ tensors.*encoder.layer.0.weight"):
    weights.from_timm(NAME, strange)


@pytest.mark.parametrize("wrong", [{}, [1, 2], None])
def test_no_state_dict(wrong):
  with pytest.raises(errors.UserError, match="state dict of tensors by name"):
    weights.from_timm(NAME, wrong)


def test_values_that_are_no_numbers(state_dict):
  with pytest.raises(errors.UserError, match="bn1.bias"):
    weights.from_timm(NAME, {**state_dict, "bn1.bias": np.array(["a", "b"])})


def test_other_classes(state_dict):
  with pytest.raises(errors.UserError, match="1000 classes, num_classes=7.*replace_head=True"):
    weights.from_timm(NAME, state_dict, num_classes=7)
  loaded = weights.from_timm(NAME, state_dict, num_classes=7, replace_head=True, seed=3)
  assert loaded.report.replaced == ("classifier.weight", "classifier.bias")
  assert loaded.report.loaded == len(state_dict) - 2
  assert loaded.module.num_classes == 7
  head = loaded.variables["params"]["classifier"]
  new = models.init(loaded.module, 3, image_size=64)["params"]["classifier"]
  np.testing.assert_array_equal(head["kernel"], new["kernel"])
  hidden = loaded.variables["params"]["hidden"]["kernel"][0, 0]
  np.testing.assert_array_equal(hidden.T, state_dict["conv_head.weight"][..., 0, 0])
  # Equal classes keep the head, whatever is allowed.
  kept = weights.from_timm(NAME, state_dict, num_classes=1000, replace_head=True)
  assert kept.report.complete


def test_classes_of_the_state_dict():
  fine_tuned = _state_dict(NAME, classes=12)
  loaded = weights.from_timm(NAME, fine_tuned)
  assert loaded.module.num_classes == 12 and loaded.report.complete
  back = weights.to_timm(NAME, loaded.variables)
  np.testing.assert_array_equal(back["classifier.weight"], fine_tuned["classifier.weight"])


def test_wrapped_and_half_precision_state_dicts(state_dict):
  class Tensor:
    """What is used of torch.Tensor."""

    def __init__(self, value):
      self.value = value

    def detach(self):
      return self

    cpu = float = detach

    def numpy(self):
      return self.value

  wrapped = {f"module.{name}": Tensor(value) for name, value in state_dict.items()}
  assert weights.from_timm(NAME, wrapped).report.complete
  halved = {name: value.astype(np.float16) for name, value in state_dict.items()}
  loaded = weights.from_timm(NAME, halved)
  kernel = loaded.variables["params"]["stem"]["conv"]["kernel"]
  assert kernel.dtype == np.float32
  np.testing.assert_array_equal(kernel[1, 2, 0], halved["conv_stem.weight"][:, 0, 1, 2])


def test_export_of_what_does_not_fit(state_dict):
  loaded = weights.from_timm(NAME, state_dict)
  params = dict(loaded.variables["params"])
  params["hidden"] = {"kernel": np.zeros((1, 1, 2, 2)), "bias": params["hidden"]["bias"]}
  del params["stem"]
  with pytest.raises(errors.UserError) as caught:
    weights.to_timm(loaded.module, {**loaded.variables, "params": params})
  assert "params/stem/conv/kernel is missing" in str(caught.value)
  assert "params/hidden/kernel has shape (1, 1, 2, 2), needed is (1, 1, 288," in str(caught.value)
  with pytest.raises(errors.UserError, match="classifier"):
    weights.to_timm(NAME, {"params": {}})


def test_export_of_a_network_of_our_own():
  module = models.create("efficientnet_tiny", 10)
  variables = models.init(module, 0)
  state_dict = weights.to_timm(module, variables)
  assert "blocks.1.0.conv_pwl.weight" in state_dict and state_dict["classifier.bias"].shape == (10,)
