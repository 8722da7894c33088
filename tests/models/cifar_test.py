"""The CIFAR networks against the sheet's counts, sums by hand and compositions by hand."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from effnets import errors, models, ops, weights
from effnets.models import cifar, counting, families, stage_tables

# RandAugment's sheet, section 2: parameters with 10 and 100 classes.
PARAMETERS = {
  "wide_resnet_28_2": (1_456_858, 1_468_468),
  "wide_resnet_28_10": (36_220_634, 36_278_324),
  "shake_shake_26_2x32d": (2_923_162, 2_934_772),
  "shake_shake_26_2x96d": (26_192_922, 26_227_572),
  "shake_shake_26_2x112d": (35_640_442, 35_680_852),
  "pyramidnet_272": (26_210_842, 26_288_692),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
  ten, hundred = PARAMETERS[name]
  shapes = models.abstract(models.create(name, num_classes=10), 8)["params"]
  assert counting.parameters(shapes) == ten
  # Classes are columns of one kernel, and its biases.
  assert ten + 90 * (shapes["classifier"]["kernel"].shape[0] + 1) == hundred


def _pixels(group):
  return (32 >> group) ** 2


def _wide_resnet(factor):
  madds, inputs = 27 * 16 * 1024, 16
  for group in range(3):
    channels = 16 * factor << group
    for _ in range(4):
      madds += 9 * (inputs + channels) * channels * _pixels(group)
      inputs = channels
  return madds + 1000 * inputs


def _shake_shake(width):
  madds, inputs = 27 * 16 * 1024, 16
  for group in range(3):
    channels = width << group
    for index in range(4):
      madds += 2 * 9 * (inputs + channels) * channels * _pixels(group)
      madds += inputs * channels * _pixels(group) * (index == 0)  # the shortcut's two halves
      inputs = channels
  return madds + 1000 * inputs


def _pyramidnet():
  madds, inputs, counter, inner = 27 * 16 * 1024, 16, 16.0, []
  for group in range(3):
    for index in range(30):
      counter += 200 / 90
      width = math.floor(counter + 0.5)
      inner.append(width)
      reduced = _pixels(group) * (4 if group and index == 0 else 1)  # before the stride
      madds += inputs * width * reduced + (9 * width + 4 * width) * width * _pixels(group)
      inputs = 4 * width
  return madds + 1000 * inputs, inner


@pytest.mark.parametrize(
  ("name", "madds"),
  [
    ("wide_resnet_28_2", _wide_resnet(2)),
    ("wide_resnet_28_10", _wide_resnet(10)),
    ("shake_shake_26_2x32d", _shake_shake(32)),
    ("shake_shake_26_2x96d", _shake_shake(96)),
    ("shake_shake_26_2x112d", _shake_shake(112)),
    ("pyramidnet_272", _pyramidnet()[0]),
  ],
)
def test_multiply_adds(name, madds):
  # That the registry's figure is what the counter gives is tested for every entry.
  assert models.entry(name).madds == pytest.approx(madds, rel=2e-5)


def test_the_widths_of_pyramidnet():
  table = stage_tables.unroll(models.create("pyramidnet_272").rows)
  inner = [row.channels / 4 for row in table]
  assert inner == _pyramidnet()[1]
  # The sheet's, section 7, check 37.
  assert (inner[:4], inner[29], inner[59], inner[89]) == ([18, 20, 23, 25], 83, 149, 216)
  assert [i for i, row in enumerate(table) if row.stride == 2] == [30, 60]


def test_shake_drop_grows_from_the_first_block():
  rates = models.create("pyramidnet_272").drop_rates()
  assert rates == pytest.approx([0.5 * number / 90 for number in range(1, 91)])


def _tiny(kind, **settings):
  """Returns a network of two blocks a stage."""
  tables = {
    "wide": cifar.wide_resnet(1),
    "shake": cifar.shake_shake(16),
    "pyramid": cifar.pyramidnet(38, 30),
  }
  shared = {**cifar.SETTINGS, "num_classes": 5, "width": 0.5, "depth": 0.5, "image_size": 8}
  del shared["crop_padding"]
  return families.build(tables[kind], **{**shared, **settings})


KINDS = ("wide", "shake", "pyramid")


@functools.cache
def _variables(kind, **settings):
  """Returns variables in which no leaf is special."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: (x + 0.2 * rng.random(x.shape)).astype(np.float32),
    models.init(_tiny(kind, **settings), 0),
  )


_IMAGES = np.random.default_rng(1).standard_normal((16, 8, 8, 3)).astype(np.float32)


class _Reference:
  """The sheet's section 2 in evaluation, with XLA's convolution and nothing of the package."""

  def __init__(self, variables):
    self.params, self.stats = variables["params"], variables["batch_stats"]

  def norm(self, x, *path):
    p, s = self.params, self.stats
    for name in path:
      p, s = p[name], s[name]
    return (x - s["mean"]) / jnp.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]

  def conv(self, x, *path, stride=1):
    p = self.params
    for name in path:
      p = p[name]
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
      x, p["kernel"], (stride, stride), "SAME", dimension_numbers=layout
    )

  def conv_norm(self, x, *path, stride=1):
    return self.norm(self.conv(x, *path, "conv", stride=stride), *path, "norm")

  def pool(self, x, stride):
    b, h, w, c = x.shape
    return x.reshape(b, h // stride, stride, w // stride, stride, c).mean((2, 4))

  def dense(self, x):
    return x.mean((1, 2)) @ self.params["classifier"]["kernel"] + self.params["classifier"]["bias"]

  def half_padded(self, x, stride, channels):
    x, half = self.pool(x, stride), (channels - x.shape[3]) // 2
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (half, half)))

  def wide(self, images):
    first = group = x = self.conv(images, "stem", "conv")
    for index in range(6):
      stride, name = (2 if index in (2, 4) else 1), f"block_{index}"
      y = jax.nn.relu(self.norm(x, name, "norm"))
      shortcut = y if index == 0 else x
      y = self.conv(y, name, "spatial", "conv", stride=stride)
      y = jax.nn.relu(self.norm(y, name, "spatial", "norm"))
      y = self.conv(y, name, "project", "conv")
      x = y + self.half_padded(shortcut, stride, y.shape[3])
      if index % 2:
        group = x = x + self.half_padded(group, 1 if index == 1 else 2, x.shape[3])
    x = x + self.half_padded(first, 4, x.shape[3])
    return self.dense(jax.nn.relu(self.norm(x, "tail")))

  def shake(self, images):
    x = self.conv_norm(images, "stem")
    for index in range(6):
      stride, name = (2 if index in (2, 4) else 1), f"block_{index}"
      branches = []
      for branch in range(2):
        y = self.conv_norm(jax.nn.relu(x), name, f"spatial_{branch}", stride=stride)
        branches.append(self.conv_norm(jax.nn.relu(y), name, f"project_{branch}"))
      if branches[0].shape != x.shape:
        path1 = x[:, ::stride, ::stride]
        path2 = jnp.zeros_like(x).at[:, :-1, :-1].set(x[:, 1:, 1:])[:, ::stride, ::stride]
        kernels = self.params[name]["shortcut"]["conv"]
        parts = (path1 @ kernels["0"]["kernel"][0, 0], path2 @ kernels["1"]["kernel"][0, 0])
        x = self.norm(jnp.concatenate(parts, -1), name, "shortcut", "norm")
      x = x + branches[0] / 2 + branches[1] / 2
    return self.dense(jax.nn.relu(x))

  def pyramid(self, images):
    x = self.conv_norm(images, "stem")
    for index in range(6):
      stride, name = (2 if index in (2, 4) else 1), f"block_{index}"
      y = self.conv(self.norm(x, name, "norm"), name, "reduce", "conv")
      y = jax.nn.relu(self.norm(y, name, "reduce", "norm"))
      y = jax.nn.relu(self.conv_norm(y, name, "spatial", stride=stride))
      y = self.conv_norm(y, name, "project")
      kept = 1 - 0.5 * (index + 1) / 6
      x = self.pool(x, stride)
      x = kept * y + jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, y.shape[3] - x.shape[3])))
    return self.dense(jax.nn.relu(self.norm(x, "tail")))


# Programs that run once are compiled without effort.
_QUICK = {"xla_backend_optimization_level": 0}


@pytest.mark.parametrize("kind", KINDS)
def test_composition_by_hand(kind):
  module, variables = _tiny(kind, drop_path_rate=0.5 * (kind == "pyramid")), _variables(kind)

  def both(v, x):
    return module.apply(v, x), getattr(_Reference(v), kind)(x)

  found, expected = jax.jit(both, compiler_options=_QUICK)(variables, _IMAGES[:2])
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
  # Width 0.5 and two blocks a stage: 16 channels become 8, or inner 8 that grow by 5/2 a block.
  assert variables["params"]["stem"]["conv"]["kernel"].shape == (3, 3, 3, 8)
  if kind == "pyramid":
    inner = [math.floor(8 + 2.5 * number + 0.5) for number in range(1, 7)]
    shapes = [variables["params"][f"block_{i}"]["reduce"]["conv"]["kernel"].shape for i in range(6)]
    assert [shape[3] for shape in shapes] == inner


def _keys(count, seed=0):
  keys = jax.random.split(jax.random.key(seed), count)
  return {"dropout": keys, "drop_path": keys}


@pytest.mark.parametrize("kind", KINDS)
def test_devices_equal_one(kind):
  """In training, with noise: what each of two devices computes of its half of the batch."""
  module = _tiny(kind, group=ops.Group(2), drop_path_rate=0.4, dropout_rate=0.3, depth=0.25)
  variables = _variables(kind, depth=0.25)

  def run(images, keys):
    return module.apply(variables, images, train=True, keys=keys, mutable=["batch_stats"])[0]

  mapped = jax.shard_map(
    run,
    mesh=Mesh(np.array(jax.devices()[:2]), ("data",)),
    in_specs=P("data"),
    out_specs=P("data"),
    check_vma=False,
  )
  alone, split = (jax.jit(f, compiler_options=_QUICK) for f in (run, mapped))
  expected = alone(_IMAGES[:4], _keys(4))
  np.testing.assert_allclose(
    split(_IMAGES[:4], _keys(4)), expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max()
  )
  assert not np.allclose(alone(_IMAGES[:4], _keys(4, seed=1)), expected, rtol=1e-2)


@pytest.mark.parametrize("kind", ["wide", "shake"])
def test_parts_of_a_batch_keep_apart(kind):
  """Auxiliary norms: two parts in one batch are as two batches, with noise of their own."""
  module = _tiny(kind, norm_sets=2, drop_path_rate=0.4, depth=0.25, group=ops.Group(2))
  variables, keys = _variables(kind, norm_sets=2, depth=0.25), _keys(4)

  def run(parts, images, keys):
    cloned = module.clone(norm_parts=parts)
    return cloned.apply(variables, images, train=True, keys=keys, mutable=["batch_stats"])[0]

  def both(images, keys):
    first, second = ({n: k[half] for n, k in keys.items()} for half in (np.s_[:2], np.s_[2:]))
    apart = [run((0,), images[:2], first), run((1,), images[2:], second)]
    return run((0, 1), images, keys), jnp.concatenate(apart)

  mixed, apart = jax.jit(both, compiler_options=_QUICK)(_IMAGES[:4], keys)
  np.testing.assert_allclose(mixed, apart, rtol=1e-3, atol=1e-4)


def test_freezing():
  # Its outer skips lead around the blocks, from the frozen ones too.
  module, variables = _tiny("wide", depth=0.25), _variables("wide", depth=0.25)

  def gradients(frozen):
    def loss(params):
      logits, _ = module.clone(frozen_blocks=frozen).apply(
        {**variables, "params": params}, _IMAGES[:4], train=True, mutable=["batch_stats"]
      )
      return jnp.sum(jnp.sin(logits))

    return jax.grad(loss)(variables["params"])

  def all_of_them():
    return {frozen: gradients(frozen) for frozen in (2, -1)}

  for frozen, tree in jax.jit(all_of_them, compiler_options=_QUICK)().items():
    names = module.clone(frozen_blocks=frozen).frozen_names()
    for name, part in tree.items():
      moved = any(np.any(leaf) for leaf in jax.tree.leaves(part))
      assert moved == (name not in names), (frozen, name)
  assert "tail" in module.clone(frozen_blocks=-1).frozen_names()


def test_timm_has_none_of_them():
  module = _tiny("shake")
  with pytest.raises(errors.UserError, match="timm has no network of 'shake' blocks"):
    weights.to_timm(module, _variables("shake"))


def test_half_precision():
  for kind in KINDS:
    module = _tiny(kind, dtype="bfloat16")
    ends = jax.eval_shape(
      lambda v, x, module=module: module.apply(
        v, x, train=True, keys=_keys(2), mutable=["batch_stats"], method="features"
      )[0],
      _variables(kind),
      _IMAGES[:2],
    )
    assert ends["features"].dtype == jnp.bfloat16 and ends["pooled_features"].dtype == jnp.float32
