"""Official checkpoints: TensorFlow saves and runs networks (see official.py), and so do we."""

import sys

import jax
import numpy as np
import pytest

from effnets import errors, models, weights
from effnets.weights import catalog, convert, files, tensorflow
from tests.oracle import recipe


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A trained MnasNet-small: (folder, outputs, values)."""
  from tests.weights import official

  folder = tmp_path_factory.mktemp("mnasnet-small")
  return folder, *official.save(folder, "mnasnet-small", trained=True)


def _outputs(loaded):
  apply = jax.jit(loaded.module.clone(plain=True).apply)
  return np.asarray(apply(loaded.variables, recipe.images(2, 49)))


def _assert_close(found, expected):
  assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)


def test_averages_are_taken_and_slots_ignored(saved):
  folder, outputs, values = saved
  names = set(files.read(folder))
  assert "global_step" in names
  for name in values:
    assert {name, f"{name}/ExponentialMovingAverage"} <= names
  assert any(name.endswith("/RMSProp_1") for name in names)
  loaded = weights.load("mnasnet-small", folder)
  assert loaded.report.complete and loaded.report.loaded == len(values)
  assert loaded.preprocessing.interpolation == "bilinear"
  _assert_close(_outputs(loaded), outputs)
  # Value by value, at the two ends and where depthwise kernels turn.
  params = loaded.variables["params"]
  scope = "mnasnet-small/mnas_net_model/mnas_"
  np.testing.assert_array_equal(
    params["block_1"]["depthwise"]["conv"]["kernel"][..., 0, :],
    values[f"{scope}blocks_1/depthwise_conv2d_1/depthwise_kernel"][..., 0],
  )
  np.testing.assert_array_equal(params["classifier"]["kernel"], values[f"{scope}head/dense/kernel"])


@pytest.mark.parametrize(
  "name",
  [
    "v3-small_224_1.0_float",
    pytest.param("efficientnet-b0", marks=pytest.mark.slow),
    pytest.param("mixnet-s", marks=pytest.mark.slow),
  ],
)
def test_outputs_of_every_layout(tmp_path, name):
  from tests.weights import official

  outputs, values = official.save(tmp_path, name)
  loaded = weights.load(name, tmp_path / "model.ckpt-7")
  assert loaded.report.complete and loaded.report.loaded == len(values)
  assert loaded.module.num_classes == 1000
  # Class 0 of slim's 1,001 is the background.
  _assert_close(_outputs(loaded), outputs[:, -1000:])


# As many as timm's state dicts have without step counters; 0 where timm has no such network.
_TENSORS = {
  "efficientnet-b0": 311,
  "efficientnet-b7": 1037,
  "mnasnet-a1": 279,
  "mnasnet-b1": 262,
  "mnasnet-small": 272,
  "mixnet-s": 347,
  "mixnet-l": 421,
  "v3-large_224_0.75_float": 266,
  "v3-small_224_1.0_float": 210,
  "v3-large-minimalistic_224_1.0_float": 234,
  "v3-small-minimalistic_224_1.0_float": 174,
  "mnasnet-a1-035": 0,
  "mobilenet_v1_0.25_128": 0,
  "mobilenet_v2_1.4_224": 0,
}


@pytest.mark.parametrize("base", _TENSORS)
def test_every_leaf_has_one_variable(base):
  architecture = catalog.architectures()[base]
  module = architecture.create(10)
  found = tensorflow.tensors(module, architecture.scope)
  assert len({tensor.name for tensor in found}) == len(found) == (_TENSORS[base] or len(found))
  assert {tensor.path for tensor in found} == set(convert.leaf_shapes(module))
  # A checkpoint that has the official names is taken as it is.
  names = [tensor.name for tensor in found]
  assert tensorflow.rename(names, found) == dict(zip(names, names, strict=True))


def test_running_numbers_of_mnasnet():
  # Known from a published list (block 5) and from the order of construction.
  found = {t.path: t.name for t in tensorflow.tensors(models.create("mnasnet_a1"), "mnasnet-a1")}
  keras = "mnasnet-a1/mnas_net_model/mnas_"
  kernels = {
    ("block_0", "project", "conv"): "blocks_0/conv2d",
    ("block_3", "squeeze", "reduce"): "blocks_3/se/conv2d_6",
    ("block_5", "project", "conv"): "blocks_5/conv2d_16",
    ("stem", "conv"): "stem/conv2d_47",
    ("head", "conv"): "head/conv2d_48",
  }
  for path, name in kernels.items():
    assert found["params", *path, "kernel"] == f"{keras}{name}/kernel"
  norm = ("batch_stats", "block_3", "project", "norm", "mean")
  assert found[norm] == "mnasnet-a1/mnas_blocks_3/batch_normalization_2/moving_mean"


def test_select():
  names = [
    "a/kernel",
    "a/kernel/ExponentialMovingAverage",
    "a/kernel/RMSProp",
    "a/kernel/SomeOptimizer_2",
    "b/mean/ExponentialMovingAverage",
    "b/mean/RMSProp_1",
    "c/bias",
    "beta1_power",
    "global_step",
    "train/global_step",
  ]
  assert tensorflow.select(names) == {
    "a/kernel": "a/kernel/ExponentialMovingAverage",
    "b/mean": "b/mean/ExponentialMovingAverage",
    "c/bias": "c/bias",
  }


@pytest.fixture(scope="module")
def arrays():
  """MnasNet-small's variables, without moving averages."""
  architecture = catalog.architectures()["mnasnet-small"]
  module = architecture.create(1000)
  shapes = convert.leaf_shapes(module)
  return {
    t.name: recipe.tensor(t.name, t.theirs(shapes[t.path]))
    for t in tensorflow.tensors(module, architecture.scope)
  }


def _same_variables(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found.variables, expected.variables)


def test_other_scopes_and_running_numbers(arrays):
  # As a graph names them in which an evaluation model was built first, within a scope.
  renamed = {}
  for name, value in arrays.items():
    path = name.split("/")
    if path[-2].startswith(("conv2d", "depthwise")):
      kind, _, number = path[-2].rpartition("_") if path[-2][-1].isdigit() else (path[-2], "", "0")
      if path[-2] in ("conv2d", "depthwise_conv2d"):
        kind, number = path[-2], "0"
      path[-2] = f"{kind}_{int(number) + 100}"
    renamed["/".join(["replica", *path])] = value
  assert len(renamed) == len(arrays) and not renamed.keys() & arrays.keys()
  loaded = weights.from_tensorflow("mnasnet-small", renamed)
  assert loaded.report.complete
  _same_variables(loaded, weights.from_tensorflow("mnasnet-small", arrays))


def test_missing_and_leftover_variables_are_named(arrays):
  changed = {**arrays, "extra/kernel": np.zeros(3, np.float32)}
  gone = "mnasnet-small/mnas_net_model/mnas_blocks_2/conv2d_4/kernel"
  del changed[gone]
  loaded = weights.from_tensorflow("mnasnet-small", changed)
  assert loaded.report.missing == (gone,) and loaded.report.leftover == ("extra/kernel",)
  initial = models.init(loaded.module, 0, image_size=64)["params"]
  tensors = tensorflow.tensors(loaded.module, "mnasnet-small")
  (path,) = (t.path[1:] for t in tensors if t.name == gone)
  found = loaded.variables["params"]
  for part in path:
    found, initial = found[part], initial[part]
  np.testing.assert_array_equal(found, initial)


def test_wrong_shapes_name_both(arrays):
  name = "mnasnet-small/mnas_net_model/mnas_stem/conv2d_49/kernel"
  assert name in arrays
  with pytest.raises(errors.UserError) as caught:
    weights.from_tensorflow("mnasnet-small", {**arrays, name: np.zeros((3, 3, 8, 3))})
  assert f"{name} has shape (3, 3, 8, 3), needed is (3, 3, 3, 8)" in str(caught.value)


def test_other_classes(arrays):
  with pytest.raises(errors.UserError, match="1000 classes, num_classes=7.*replace_head=True"):
    weights.from_tensorflow("mnasnet-small", arrays, num_classes=7)
  loaded = weights.from_tensorflow("mnasnet-small", arrays, num_classes=7, replace_head=True)
  dense = "mnasnet-small/mnas_net_model/mnas_head/dense"
  assert set(loaded.report.replaced) == {f"{dense}/kernel", f"{dense}/bias"}
  assert loaded.variables["params"]["classifier"]["kernel"].shape == (1280, 7)


def test_the_background_class(arrays):
  dense = "mnasnet-small/mnas_net_model/mnas_head/dense"
  kernel = np.arange(1280 * 1001, dtype=np.float32).reshape(1280, 1001)
  older = {**arrays, f"{dense}/kernel": kernel, f"{dense}/bias": kernel[0]}
  loaded = weights.from_tensorflow("mnasnet-small", older)
  assert loaded.module.num_classes == 1000 and loaded.report.complete
  np.testing.assert_array_equal(loaded.variables["params"]["classifier"]["kernel"], kernel[:, 1:])
  np.testing.assert_array_equal(loaded.variables["params"]["classifier"]["bias"], kernel[0, 1:])
  whole = weights.from_tensorflow("mnasnet-small", older, num_classes=1001)
  np.testing.assert_array_equal(whole.variables["params"]["classifier"]["kernel"], kernel)


def test_the_same_weights_in_timms_layout(arrays):
  # timm's network differs in one residual, which has no weights.
  loaded = weights.from_tensorflow("mnasnet-small", arrays)
  again = weights.from_timm("mnasnet_small", weights.to_timm("mnasnet_small", loaded.variables))
  _same_variables(again, loaded)


@pytest.mark.parametrize(
  "call,name,message",
  [
    (weights.from_tensorflow, "mnasnet-a1", "another network, 'mnasnet-small'. Give that name"),
    (weights.from_tensorflow, "v3-small_224_1.0_float", "another network, 'mnasnet-small'"),
    (weights.from_timm, "mnasnet_small", "another network, 'mnasnet-small'. Give that name"),
    (weights.from_timm, "mnasnet-small", "'mnasnet-small' is an official one; .*from_tensorflow"),
    (weights.from_tensorflow, "mnasnet_small", "'mnasnet_small' is timm's; .*from_timm"),
  ],
)
def test_another_network_is_recognised(arrays, call, name, message):
  with pytest.raises(errors.UserError, match=message):
    call(name, arrays)


@pytest.mark.parametrize("wrong", [{}, None, {"global_step": np.zeros(())}])
def test_no_variables(wrong):
  with pytest.raises(errors.UserError, match="tensors by name was expected"):
    weights.from_tensorflow("mnasnet-small", wrong)


def _copy(saved, folder):
  for path in saved[0].iterdir():
    (folder / path.name).write_bytes(path.read_bytes())
  return {path.name.partition(".ckpt-7")[2]: path for path in folder.glob("model*")}


@pytest.mark.parametrize(
  "source",
  ["", "model.ckpt-7", "model.ckpt-7.index", "model.ckpt-7.data-00000-of-00001"],
)
def test_ways_to_name_a_checkpoint(saved, source):
  assert len(files.read(saved[0] / source)) == len(files.read(saved[0]))


def test_folders_without_or_with_a_stale_record(saved, tmp_path):
  _copy(saved, tmp_path)
  (tmp_path / "checkpoint").write_text('model_checkpoint_path: "gs://bucket/run/model.ckpt-7"\n')
  expected = set(files.read(saved[0]))
  assert set(files.read(tmp_path)) == expected
  (tmp_path / "checkpoint").unlink()
  assert set(files.read(tmp_path)) == expected
  (tmp_path / "model.ckpt-9.index").write_bytes(b"")
  with pytest.raises(errors.UserError, match="has 2 TensorFlow checkpoints; .*model.ckpt-9'"):
    files.read(tmp_path)


def _damage(parts, case):
  data, index = parts[".data-00000-of-00001"], parts[".index"]
  if case == "no data":
    data.unlink()
  elif case == "no index":
    index.unlink()
  else:
    path = data if "data" in case else index
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
  "case,source,message",
  [
    ("no data", "", r"without its values: model.ckpt-7.data-00000-of-00001 is missing beside"),
    ("no index", "", "tells of a TensorFlow checkpoint, of which no .index"),
    ("no index", "model.ckpt-7.data-00000-of-00001", "model.ckpt-7.index is not beside it"),
    ("short data", "", "model.ckpt-7 is no whole TensorFlow checkpoint: .* cut short"),
    ("short index", "", "model.ckpt-7 is no whole TensorFlow checkpoint: .* cut short"),
  ],
)
def test_damaged_checkpoints(saved, tmp_path, case, source, message):
  _damage(_copy(saved, tmp_path), case)
  with pytest.raises(errors.UserError, match=message):
    weights.load("mnasnet-small", tmp_path / source)


def test_a_checkpoint_one_folder_below_is_pointed_out(saved, tmp_path):
  (tmp_path / "ema").mkdir()
  _copy(saved, tmp_path / "ema")
  with pytest.raises(errors.UserError, match="a TensorFlow checkpoint in .*/ema"):
    weights.load("mnasnet-small", tmp_path)


def test_checkpoints_need_tensorflow(saved, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  with pytest.raises(errors.UserError, match=r"not installed: `pip install 'effnets\[tf\]'"):
    weights.load("mnasnet-small", saved[0])


def test_a_checkpoint_under_timms_name(saved):
  with pytest.raises(errors.UserError, match="another network, 'mnasnet-small'"):
    weights.load("mnasnet_small", saved[0])
