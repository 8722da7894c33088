"""Networks of patches against the sheet's counts, a counter of their own, and disturbed pixels."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import errors, models
from effnets.models import bagnet, counting

# Leading 3x3 blocks of each group: receptive field (the sheet's check 7.6).
FIELDS = {
  (0, 0, 0, 0): 3,
  (1, 0, 0, 0): 5,
  (1, 1, 0, 0): 9,
  (1, 1, 1, 0): 17,
  (1, 1, 1, 1): 33,
  (2, 2, 2, 2): 77,
}


def _counted(kernel3, low, classes, blocks=(3, 4, 6, 3), planes=(64, 128, 256, 512)):
  """Returns trainable numbers and moving moments, counted from the paper's table alone."""
  norm = lambda channels: 2 * channels  # noqa: E731
  total, norms, inputs = 3 * 9 * 64, 64, 64
  for index, (count, width, spatial) in enumerate(zip(blocks, planes, kernel3, strict=True)):
    for block in range(count):
      taps = 9 if block < spatial else 1
      outputs = 4 * width
      total += inputs * width + taps * width * width + width * outputs
      norms += 2 * width + outputs
      if (block == 0 and index < 3) or inputs != outputs:
        total += inputs * outputs
        norms += outputs
      inputs = outputs
  if low:
    total += inputs * (inputs // 4)
    inputs //= 4
    norms += inputs
  return total + inputs * classes + classes + norm(norms), norm(norms)


@pytest.mark.parametrize("name", ["bagnet_9", "bagnet_17", "bagnet_33", "bagnet_77"])
def test_counts(name):
  module = models.create(name)
  shapes = models.abstract(module)
  found = [counting.parameters(shapes[kind]) for kind in ("params", "batch_stats")]
  assert found == list(_counted(module.kernel3, False, 1001))
  assert name == f"bagnet_{module.receptive_field}"


@pytest.mark.parametrize("official", [True, False])
def test_counts_of_the_papers_network(official):
  module = models.create("bagnet_77_lowd", official_shortcut_bn=official)
  shapes = models.abstract(module)
  assert counting.parameters(shapes["params"]) == 20_574_249
  assert counting.parameters(shapes["batch_stats"]) == 54_144
  assert counting.parameters(shapes) == 20_628_393  # the paper's own figure
  other = models.create("bagnet_77_lowd", 1000)
  assert counting.parameters(models.abstract(other)["params"]) == 20_573_736
  # A quirk of the published code: the norm is there, but in the branch.
  block = shapes["params"]["block_0"]
  assert ("shortcut_norm" in block) == official and ("norm" in block["shortcut"]) != official


def test_maps_and_multiply_adds():
  module = models.create("bagnet_77_lowd")
  count = models.count(module, method="patches")
  assert count.madds == pytest.approx(14.109e9, abs=0.5e6)
  for size, grid in ((224, 19), (331, 32)):
    assert module.grid(size) == grid
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    ends = jax.eval_shape(lambda v, x: module.apply(v, x, method="patches"), count.shapes, images)
    assert {name: end.shape for name, end in ends.items()} == {
      "features2d": (1, grid, grid, 2048),
      "what_features2d": (1, grid, grid, 512),
      "logits2d": (1, grid, grid, 1001),
    }


@pytest.mark.parametrize("kernel3", FIELDS)
def test_receptive_fields(kernel3):
  module = bagnet.BagNet(kernel3=kernel3)
  assert (module.receptive_field, module.field.stride) == (FIELDS[kernel3], 8)


def _mini(**settings):
  module = models.create("bagnet_mini", **settings)
  rng = np.random.default_rng(0)
  # Moved, so that no branch is switched off by a scale of 0.
  variables = jax.tree.map(
    lambda x: (x + 0.1 * rng.random(x.shape)).astype(np.float32), models.init(module, 0)
  )
  return module, variables


@pytest.mark.parametrize(
  "settings", [{}, {"kernel3": (2, 0, 1), "repeats": (2, 1, 1), "official_shortcut_bn": False}]
)
def test_a_patch_sees_its_window_and_nothing_else(settings):
  module, variables = _mini(**settings)
  run = jax.jit(lambda x: module.apply(variables, x, method="patches")["logits2d"])
  rng = np.random.default_rng(1)
  size = 45
  image = rng.normal(size=(1, size, size, 3)).astype(np.float32)
  grid, field = module.grid(size), module.field
  plain = np.asarray(run(image))
  assert plain.shape == (1, grid, grid, 10)
  for row, column in ((0, 0), (grid // 2, 1), (grid - 1, grid - 1)):
    top, left, bottom, right = field.patch(row * grid + column, grid)
    other = rng.normal(size=image.shape).astype(np.float32)
    other[:, top:bottom, left:right] = image[:, top:bottom, left:right]
    # Not by a bit.
    assert (np.asarray(run(other))[0, row, column] == plain[0, row, column]).all()
    # Every edge of the window matters, so that it is no smaller.
    for edge in ((top, left), (bottom - 1, right - 1)):
      for axis in (0, 1):
        changed = image.copy()
        lines = [slice(top, bottom), slice(left, right)]
        lines[axis] = edge[axis]
        changed[0][tuple(lines)] += 1
        assert (np.asarray(run(changed))[0, row, column] != plain[0, row, column]).any()


def test_the_same_network_in_other_forms():
  module, variables = _mini()
  images = np.random.default_rng(2).normal(size=(2, 29, 29, 3)).astype(np.float32)
  plain = np.asarray(jax.jit(module.apply)(variables, images))
  every = jax.jit(lambda v, x: module.apply(v, x, method="patches")["logits2d"])(variables, images)
  np.testing.assert_allclose(plain, np.asarray(every).mean((1, 2)), rtol=1e-5)
  folded, weights = models.fold(module, variables)
  np.testing.assert_allclose(jax.jit(folded.apply)(weights, images), plain, rtol=1e-4)
  remat, _ = _mini(remat="block")
  np.testing.assert_allclose(jax.jit(remat.apply)(variables, images), plain, rtol=1e-6)


def test_every_shape_of_a_small_network():
  for kernel3, low in itertools.product([(1, 0), (2, 2)], [True, False]):
    settings = {"repeats": (2, 2), "planes": (4, 8), "strides": (2, 1), "kernel3": kernel3}
    module = models.create("bagnet_mini", **settings, low_dimension=low)
    ends = jax.eval_shape(
      lambda x, module=module: module.init_with_output(jax.random.key(0), x, method="patches")[0],
      jax.ShapeDtypeStruct((1, 30, 30, 3), jnp.float32),
    )
    grid = module.grid(30)
    assert ends["logits2d"].shape == (1, grid, grid, 10)


@pytest.mark.parametrize(
  ("settings", "words"),
  [
    ({"kernel3": (1, 1)}, r"config.model.kernel3=\(1, 1\) should be .* each of the 3 groups"),
    ({"padding": "SAME"}, "config.model.padding='SAME': a network of patches has 'VALID'"),
    ({"drop_path_rate": 0.1}, "config.model.drop_path_rate=0.1: .* 0.0"),
    ({"kernels3": (1, 1, 1)}, "config.model.kernels3=.*Nearest: 'kernel3'"),
    ({"planes": (8, 16, 0)}, "config.model.planes=.* at least 1"),
  ],
)
def test_wrong_settings(settings, words):
  with pytest.raises(errors.UserError, match=words):
    models.create("bagnet_mini", **settings)


def test_an_image_smaller_than_a_patch():
  with pytest.raises(errors.UserError, match="image_size=76: .* receptive field of 77 pixels"):
    models.create("bagnet_77").grid(76)
  module, variables = _mini()
  with pytest.raises(errors.UserError, match="smaller than the receptive field of 17"):
    module.apply(variables, np.zeros((1, 16, 16, 3), np.float32))
  with pytest.raises(errors.UserError, match="backbone='bagnet_33' .*no levels"):
    models.create("efficientdet_tiny", backbone="bagnet_33")
