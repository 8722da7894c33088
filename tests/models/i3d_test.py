"""I3D against the counts and shapes of its sheet, a unit against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from effnets import models
from effnets.models import counting, i3d


def test_counts_and_shapes():
  module = i3d.I3D()
  variables = models.abstract(module)
  params = counting.parameters(variables["params"])
  moments = counting.parameters(variables["batch_stats"])
  logits = counting.parameters(variables["params"]["Logits/Conv3d_0c_1x1/conv_3d"])
  assert (params, params + moments, logits) == (12_689_984, 12_704_544, 410_000)
  kernels = [
    leaf.size
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
    if "conv_3d" in jax.tree_util.keystr(path) and "Logits" not in jax.tree_util.keystr(path)
  ]
  assert sum(kernels) == 12_272_704 and moments == 2 * 7_280
  run = lambda frames: jax.eval_shape(  # noqa: E731
    lambda v, x: module.apply(v, x, method="features"),
    variables,
    jax.ShapeDtypeStruct((2, frames, 224, 224, 3), jnp.float32),
  )
  ends = run(i3d.LEAST_FRAMES)
  widths = [ends[f"Mixed_{name}"].shape[-1] for name in i3d.MIXED]
  assert widths == [256, 480, 512, 512, 512, 528, 832, 832, 1024]
  assert ends["Mixed_5c"].shape == (2, 2, 7, 7, 1024) and ends["logits"].shape == (2, 400)
  # One frame fewer leaves less than the two that the last pool takes.
  assert run(i3d.LEAST_FRAMES - 1)["Mixed_5c"].shape[1] == 1


def test_a_unit():
  module, rng = i3d.Unit(4, 3, 2), np.random.default_rng(0)
  x = rng.normal(size=(1, 5, 6, 4, 2)).astype(np.float32)
  variables = models.init(module, 0, inputs=(jax.ShapeDtypeStruct(x.shape, x.dtype),))
  w = rng.normal(size=(3, 3, 3, 2, 4)).astype(np.float32)
  beta, mean, var = rng.normal(size=(3, 4)).astype(np.float32)
  var = np.abs(var)
  variables["params"] = {"conv_3d": {"w": w}, "batch_norm": {"beta": beta}}
  variables["batch_stats"] = {"batch_norm": {"moving_mean": mean, "moving_variance": var}}
  # Output 0 of an even size begins at pixel 0, of an odd one before it: TensorFlow's SAME.
  padded = np.pad(x, ((0, 0), (1, 1), (0, 1), (0, 1), (0, 0)))
  expected = np.zeros((1, 3, 3, 2, 4))
  for t, y, z in np.ndindex(3, 3, 2):
    part = padded[0, 2 * t : 2 * t + 3, 2 * y : 2 * y + 3, 2 * z : 2 * z + 3]
    expected[0, t, y, z] = (part[..., None] * w).sum((0, 1, 2, 3))
  expected = np.maximum((expected - mean) / np.sqrt(var + 1e-3) + beta, 0)
  np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-4, atol=1e-4)
