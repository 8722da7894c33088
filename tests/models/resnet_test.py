"""ResNet against published counts and a composition by hand."""

import jax
import numpy as np
import pytest

from effnets import models
from effnets.models import blocks, stage_tables

# As counted by everybody (torchvision, Keras without its convolutions' biases, timm).
PARAMETERS = {
  "resnet50": 25_557_032,
  "resnet101": 44_549_160,
  "resnet152": 60_192_808,
  "resnet200": 64_673_832,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
  assert models.entry(name).params == PARAMETERS[name]


def test_end_points_of_resnet50():
  module = models.create("resnet50")

  def run(key, images):
    return module.init_with_output(key, images, method="features")[0]

  images = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
  ends = {k: v.shape for k, v in jax.eval_shape(run, jax.random.key(0), images).items()}
  assert [ends[f"reduction_{k}"] for k in range(1, 6)] == [
    (1, 112, 112, 64),
    (1, 56, 56, 256),
    (1, 28, 28, 512),
    (1, 14, 14, 1024),
    (1, 7, 7, 2048),
  ]
  assert ends["pooled_features"] == (1, 2048) and "head_1x1" not in ends


@pytest.mark.parametrize("channels,stride", [(16, 1), (16, 2), (24, 1)])
def test_bottleneck_starts_as_its_shortcut(channels, stride):
  x = np.random.default_rng(0).standard_normal((2, 6, 6, 16)).astype(np.float32)
  block = blocks.Bottleneck(
    stage_tables.Row("bottleneck", 3, stride, 0.5, channels, activation="relu")
  )
  variables = models.init(block, 0, inputs=(x,))
  params = variables["params"]
  want = x[:, ::stride, ::stride]
  if channels != 16 or stride > 1:
    # Running moments are 0 and 1 at the start.
    want = want @ params["shortcut"]["conv"]["kernel"][0, 0] / np.sqrt(1 + 1e-3)
  else:
    assert "shortcut" not in params
  got, inner = jax.jit(lambda v, x: block.apply(v, x, method="ends"))(variables, x)
  np.testing.assert_allclose(got, np.maximum(want, 0), rtol=1e-4, atol=1e-5)
  # The stride is the spatial convolution's: the reduction sees all pixels.
  assert params["reduce"]["conv"]["kernel"].shape == (1, 1, 16, {16: 8, 24: 16}[channels])
  assert inner["spatial"].shape[1] == 6 // stride


def test_stem_pools_the_largest_of_nine():
  # PyTorch pads one pixel on both sides, of which the maximum knows nothing.
  module = models.create("resnet50", 3, image_size=32)
  module = module.clone(rows=module.rows[:1])
  x = np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype(np.float32)
  variables = models.init(module, 0)
  ends = jax.jit(lambda v, x: module.apply(v, x, method="features"))(variables, x)
  stem = np.pad(ends["stem"], ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
  pooled = np.stack([stem[:, i : i + 16 : 2, j : j + 16 : 2] for i in range(3) for j in range(3)])
  kernel = variables["params"]["block_0"]["shortcut"]["conv"]["kernel"][0, 0]
  want = np.maximum(pooled.max(0) @ kernel / np.sqrt(1 + 1e-5), 0)
  np.testing.assert_allclose(ends["block_0"], want, rtol=1e-3, atol=1e-4)
