"""Files and hub ids: what is read, and what is said when they cannot be."""

import sys
import types

import huggingface_hub
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub import errors as hub_errors

from effnets import errors, weights
from effnets.weights import files

TENSORS = {
  "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
  "a.half": np.ones(3, ml_dtypes.bfloat16),
  "a.num_batches_tracked": np.zeros((), np.int64),
}


def _write(path):
  if path.suffix == ".npz":
    np.savez(path, **{k: v for k, v in TENSORS.items() if k != "a.half"})
  else:
    safetensors.numpy.save_file(TENSORS, path)
  return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.npz", "model.safetensors"])
def test_reads_back(tmp_path, name):
  path = _write(tmp_path / name)
  found = files.read(path.parent if name.startswith("model") else str(path))
  np.testing.assert_array_equal(found["a.weight"], TENSORS["a.weight"])
  assert found["a.num_batches_tracked"].shape == ()


@pytest.mark.parametrize("name", ["w.safetensors", "w.npz"])
@pytest.mark.parametrize("kept", [0, 5, 0.5, 0.99])
def test_truncated_files(tmp_path, name, kept):
  path = _write(tmp_path / name)
  data = path.read_bytes()
  path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
  with pytest.raises(errors.UserError, match=rf"{name} \(\d+ bytes\) is no whole .* cut short"):
    weights.load("tf_efficientnet_b0", path)


def test_npz_is_read_without_pickle(tmp_path):
  path = tmp_path / "w.npz"
  np.savez(path, a=np.array([{"code": 1}], dtype=object))
  with pytest.raises(errors.UserError, match="plain arrays"):
    files.read(path)


@pytest.mark.parametrize(
  "source,message",
  [
    ("nothing.safetensors", "does not exist"),
    ("weights/nothing.npz", "does not exist"),
    ("/nowhere/at/all", "does not exist"),
  ],
)
def test_nothing_there(source, message):
  with pytest.raises(errors.UserError, match=message):
    files.read(source)


def test_formats_that_are_not_read(tmp_path):
  (tmp_path / "w.h5").write_bytes(b"1")
  with pytest.raises(errors.UserError, match=r"'.h5' is not a format of weights.*'.safetensors'"):
    files.read(tmp_path / "w.h5")
  with pytest.raises(errors.UserError, match="none of model.safetensors"):
    files.read(tmp_path)


def test_pytorch_files_need_pytorch(tmp_path, monkeypatch):
  path = tmp_path / "w.pth"
  path.write_bytes(b"1")
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(errors.UserError, match="not installed.*pip install torch.*safetensors"):
    files.read(path)


def test_pytorch_files_are_opened_safely(tmp_path, monkeypatch):
  calls = []

  def load(path, **kwargs):
    calls.append(kwargs)
    if path.stat().st_size == 0:
      raise RuntimeError("no archive\nlong explanation")
    return {"epoch": 3, "state_dict": {"a": 1}, "state_dict_ema": dict(TENSORS)}

  monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load))
  path = tmp_path / "w.pth"
  path.write_bytes(b"1")
  assert set(files.read(path)) == set(TENSORS)
  assert calls == [{"map_location": "cpu", "weights_only": True}]
  path.write_bytes(b"")
  with pytest.raises(errors.UserError, match="weights alone: no archive$"):
    files.read(path)


def test_hub_ids(tmp_path, monkeypatch):
  path, asked = _write(tmp_path / "model.safetensors"), []

  def download(repository, name):
    asked.append((repository, name))
    return str(path)

  monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
  assert set(files.read("timm/tf_efficientnet_b0.ns_jft_in1k")) == set(TENSORS)
  files.read("hf-hub:timm/mnasnet_100.rmsp_in1k")
  assert asked == [
    ("timm/tf_efficientnet_b0.ns_jft_in1k", "model.safetensors"),
    ("timm/mnasnet_100.rmsp_in1k", "model.safetensors"),
  ]


def test_offline_hub(tmp_path, monkeypatch):
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
  with pytest.raises(errors.UserError, match="cannot be reached.*timm/tf_mixnet_s.in1k elsewhere"):
    weights.load("tf_mixnet_s.in1k", "timm/tf_mixnet_s.in1k")


@pytest.mark.parametrize(
  "error,message",
  [
    (hub_errors.HFValidationError("bad"), "neither a file here nor a public"),
    (hub_errors.EntryNotFoundError("no"), "has none of model.safetensors, pytorch_model.bin"),
    (hub_errors.OfflineModeIsEnabled("offline"), r"cannot be reached \(offline\)"),
    (ConnectionError("refused"), r"cannot be reached \(refused\)"),
  ],
)
def test_errors_of_the_hub(monkeypatch, error, message):
  def download(repository, name):
    raise error

  monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
  with pytest.raises(errors.UserError, match=message):
    files.read("somebody/something")


def test_names_are_checked_before_anything_is_read():
  with pytest.raises(errors.UserError, match="Nearest: 'tf_efficientnet_b0'"):
    weights.load("tf_efficientnet_bo", "timm/tf_efficientnet_b0.ns_jft_in1k")
