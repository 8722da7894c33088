"""What a config's weights bring with them, and what they leave."""

import pathlib

import pytest

from effnets import configuration, errors, weights, workdirs


@pytest.mark.parametrize(
  ("text", "name", "source"),
  [
    ("tf_efficientnet_b0.ap_in1k", "tf_efficientnet_b0.ap_in1k", "timm/tf_efficientnet_b0.ap_in1k"),
    ("mixnet_s", "mixnet_s", "timm/mixnet_s.ft_in1k"),
    ("timm/mixnet_s", "timm/mixnet_s", "timm/mixnet_s.ft_in1k"),
    ("hf-hub:timm/mixnet_s", "timm/mixnet_s", "timm/mixnet_s.ft_in1k"),
    ("mixnet_s:own.npz", "mixnet_s", "own.npz"),
    ("mnasnet_050:a:b.npz", "mnasnet_050", "a:b.npz"),
    ("mixnet_s:somebody/mixnet", "mixnet_s", "somebody/mixnet"),
    ("run:runs/b0", "", "runs/b0"),
  ],
)
def test_parse(text, name, source):
  assert weights.parse(text) == weights.choice.Choice(name, source)


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("mixnet_x", ["config.weights", "'mixnet_x'", "Nearest: 'mixnet_xl'"]),
    ("run:", ["config.weights='run:'", "'run:DIR'"]),
    ("mnasnet_050", ["no weights of this network were published", "'mnasnet_050:SOURCE'"]),
    ("efficientnet-b0", ["checkpoint of the paper's own", "'efficientnet-b0:PATH'"]),
    ("own.npz", ["which network's weights", "'NAME:own.npz'"]),
    ("folder", ["'NAME:folder'", "'run:folder'"]),
  ],
)
def test_mistakes(text, words, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  pathlib.Path("own.npz").write_bytes(b"")
  pathlib.Path("folder").mkdir()
  with pytest.raises(errors.UserError) as caught:
    weights.parse(text)
  for word in words:
    assert word in str(caught.value)


def test_weights_bring_their_network_and_preprocessing():
  config = configuration.base()
  config.train.steps = 1
  config.model.update({"dropout_rate": 0.5, "dtype": "bfloat16", "remat": "block"})
  config.data.crop_padding = 3
  weights.configure(config, "efficientnet_b5.sw_in12k_ft_in1k:b5.safetensors")
  configuration.check(config)
  assert config.weights == "efficientnet_b5.sw_in12k_ft_in1k:b5.safetensors"
  # As timm prints it: 448 pixels, whole picture squashed, PyTorch's padding and epsilon.
  assert config.model.to_dict() == {
    **configuration.base().model.to_dict(),
    "name": "efficientnet_b5",
    "padding": "SYMMETRIC",
    "epsilon": 1e-5,
    "momentum": 0.9,
    "dropout_rate": 0.5,
    "dtype": "bfloat16",
    "remat": "block",
  }
  data = config.data
  assert (data.image_size, data.crop_fraction, data.resize) == (448, 1.0, "squash")
  assert data.interpolation == "bicubic" and tuple(data.mean) == (0.485, 0.456, 0.406)
  # Other weights leave nothing of the first ones behind.
  weights.configure(config, "tf_mobilenetv3_small_075:v3.npz")
  assert "momentum" not in config.model and config.model.epsilon == 1e-3
  assert (config.model.name, config.model.width) == ("mobilenetv3_small", 0.75)
  data = config.data
  assert (data.image_size, data.crop_fraction, data.resize) == (224, 0.875, "crop")
  assert data.interpolation == "bilinear" and tuple(data.mean) == (0.5, 0.5, 0.5)


def test_a_run_brings_its_own(tmp_path):
  other = configuration.base()
  other.model.update({"name": "efficientnet_b1", "dropout_rate": 0.4})
  other.model.width = 0.5
  other.data.update({"image_size": 48, "crop_padding": 5, "source": "folder:there"})
  workdirs.claim(tmp_path / "other", other)
  config = configuration.base()
  weights.configure(config, f"run:{tmp_path / 'other'}")
  assert (config.model.name, config.model.width) == ("efficientnet_b1", 0.5)
  assert (config.data.image_size, config.data.crop_padding) == (48, 5)
  assert config.model.dropout_rate == 0.2 and config.data.source == "digits"
  with pytest.raises(errors.UserError, match="config.weights: .*holds no run"):
    weights.configure(config, f"run:{tmp_path}")
