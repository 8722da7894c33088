"""Segmentation against independent counts, figures of the papers and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import errors, models
from effnets.models import counting, layers, segmentation, stage_tables

_FULL = (1024, 2048)


@pytest.mark.parametrize(
  ("name", "params", "madds"),
  [
    ("raspp_mobilenetv3_large_full", 3_600_963, 17.79e9),
    ("raspp_mobilenetv3_large", 1_762_435, 10.83e9),
    ("lraspp_mobilenetv3_large_256", 1_632_894, 9.95e9),
    ("lraspp_mobilenetv3_large", 1_507_198, 9.371e9),
    ("lraspp_mobilenetv3_large_os32", 1_507_198, 7.447e9),
    ("lraspp_mobilenetv3_small", 468_830, 2.731e9),
    ("lraspp_mobilenetv3_small_os32", 468_830, 1.925e9),
  ],
)
def test_counts(name, params, madds):
  count = models.count(models.create(name), _FULL)
  assert count.params == params
  assert count.madds == pytest.approx(madds, rel=2e-3)


@pytest.mark.parametrize(
  ("name", "overrides", "params"),
  [
    ("lraspp_mobilenetv3_large", {"halved": False}, 3_222_846),
    ("lraspp_mobilenetv3_small", {"halved": False}, 1_078_990),
    ("lraspp_mobilenetv3_small", {"filters": 256}, 545_374),
  ],
)
def test_variants(name, overrides, params):
  assert models.count(models.create(name, **overrides), 128).params == params


def test_bodies_alone():
  for size, body in (("large", 1_379_184), ("small", 390_576)):
    shapes = models.abstract(models.create(f"lraspp_mobilenetv3_{size}"), 128)
    assert counting.parameters(shapes["params"]["backbone"]) == body


def test_rows_at_an_output_stride():
  rows = models.create("mobilenetv3_large").rows
  plain = stage_tables.unroll(rows)
  atrous = stage_tables.atrous(rows, 16)
  assert [(r.stride, r.rate) for r in atrous[-3:]] == [(1, 1), (1, 2), (1, 2)]
  assert [(r.stride, r.rate) for r in atrous[:-3]] == [(r.stride, 1) for r in plain[:-3]]
  assert stage_tables.atrous(rows, 32) == plain
  # Two strides lost: rates multiply.
  assert [(r.stride, r.rate) for r in stage_tables.atrous(rows, 8)[-4:]] == [
    (1, 2),
    (1, 2),
    (1, 4),
    (1, 4),
  ]


def test_halved_rows():
  large = stage_tables.unroll(
    stage_tables.halve(models.create("mobilenetv3_large").rows, inner=True)
  )
  assert [(r.widened, r.channels) for r in large[-3:]] == [(336, 80), (None, 80), (None, 80)]
  small = stage_tables.unroll(
    stage_tables.halve(models.create("mobilenetv3_small").rows, inner=True)
  )
  assert [(r.widened, r.channels) for r in small[-3:]] == [(144, 48), (None, 48), (None, 48)]


def test_atrous_equals_the_network_at_even_pixels():
  """Without the stride, every fourth output is what the strided network computes there."""
  module = models.create("mobilenetv1_025").clone(padding="SYMMETRIC")
  dense = module.clone(rows=stage_tables.atrous(module.rows, 16))
  variables = models.init(module, 0, image_size=64)
  images = np.random.default_rng(0).normal(size=(1, 96, 64, 3)).astype(np.float32)
  run = lambda m: jax.jit(lambda v, x: m.apply(v, x, method="backbone"))(variables, images)  # noqa: E731
  strided, whole = run(module)["features"], run(dense)["features"]
  assert (strided.shape, whole.shape) == ((1, 3, 2, 256), (1, 6, 4, 256))
  np.testing.assert_allclose(whole[:, ::2, ::2], strided, atol=1e-5)


@pytest.mark.parametrize(
  ("name", "size", "coarse"),
  [
    ("lraspp_mobilenetv3_large", _FULL, (128, 256)),
    ("lraspp_mobilenetv3_large", (1025, 2049), (129, 257)),
    ("raspp_mobilenetv3_large", _FULL, (64, 128)),
    ("lraspp_mobilenetv2_035", (97, 130), (13, 17)),
    ("deeplabv3plus_r101", (65, 97), (17, 25)),
    ("bifpn_efficientnet_b4", (70, 64), (18, 16)),
    ("efficientdet_d0_segmentation", (70, 64), (18, 16)),
  ],
)
def test_maps(name, size, coarse):
  module = models.create(name, 5)
  variables = models.abstract(module, 128)
  images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
  run = lambda method: jax.eval_shape(  # noqa: E731
    lambda v, x: module.apply(v, x, method=method), variables, images
  )
  assert run("coarse").shape == (1, *coarse, 5)
  found = run("__call__")
  assert (found.shape, found.dtype) == ((1, *size, 5), jnp.float32)


def test_head_of_transposed_convolutions():
  shapes = models.abstract(models.create("efficientdet_d0_segmentation"), 128)
  assert counting.parameters(shapes["params"]["head"]) == 262_019


def test_lraspp_against_a_loop():
  rng = np.random.default_rng(0)
  spec = segmentation.Spec(filters=4, low="x", window=3, stride=(2, 3))
  module = segmentation.LrAspp(spec, 2, layers.Settings(epsilon=1e-5))
  high = rng.normal(size=(1, 5, 7, 6)).astype(np.float32)
  low = rng.normal(size=(1, 9, 13, 3)).astype(np.float32)
  variables = module.init(jax.random.key(0), high, low, False, None)
  variables = jax.tree.map(
    lambda x: rng.uniform(0.2, 1, x.shape).astype(np.float32) - 0.5 * (x.ndim > 1), variables
  )
  params = jax.tree.map(np.asarray, variables["params"])
  norm, stats = params["project"]["norm"], variables["batch_stats"]["project"]["norm"]
  x = high @ params["project"]["conv"]["kernel"][0, 0]
  x = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * norm["scale"] + norm["bias"]
  pooled = np.stack([[high[0, i : i + 3, j : j + 3].mean((0, 1)) for j in (0, 3)] for i in (0, 2)])
  gate = pooled @ params["gate"]["kernel"][0, 0] + params["gate"]["bias"]
  gate = np.clip(gate + 3, 0, 6) / 6

  def resize(x, size):
    for axis, new in enumerate(size):
      places = np.linspace(0, x.shape[axis] - 1, new)
      x = np.apply_along_axis(lambda v, p=places: np.interp(p, np.arange(len(v)), v), axis, x)
    return x

  x = resize(np.maximum(x[0], 0) * resize(gate, (5, 7)), (9, 13))
  want = x @ params["classify"]["kernel"][0, 0] + params["classify"]["bias"]
  want += low[0] @ params["classify_low"]["kernel"][0, 0] + params["classify_low"]["bias"]
  got = module.apply(variables, high, low, False, None)
  np.testing.assert_allclose(got[0], want, atol=1e-4)


@pytest.mark.parametrize("name", ["lraspp_tiny", "raspp_tiny"])
def test_training(name):
  module = models.create(name)
  variables = models.init(module, 0, image_size=64)
  images = np.random.default_rng(0).normal(size=(2, 48, 40, 3)).astype(np.float32)
  keys = {"dropout": jax.random.split(jax.random.key(0), 2)}

  @jax.jit
  def slopes(variables):
    def loss(params):
      logits, state = module.apply(
        {**variables, "params": params}, images, train=True, keys=keys, mutable=["batch_stats"]
      )
      return jnp.square(logits - 1).mean(), state

    return jax.grad(loss, has_aux=True)(variables["params"])

  grads, _ = slopes(variables)
  leaves = jax.tree.leaves(grads["head"])
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
  assert all(np.abs(leaf).max() > 0 for leaf in leaves)


@pytest.mark.parametrize(
  ("overrides", "words"),
  [
    ({"head": "lrasp"}, "config.model.head='lrasp'.*Nearest: 'lraspp'"),
    ({"output_stride": 12}, "config.model.output_stride=12 should be 4, 8, 16 or 32"),
    ({"decoder_level": 9}, "config.model.decoder_level=9: the backbone has levels"),
    ({"backbone": "spinenet_49"}, "has no output stride; give head='tower'"),
    ({"head": "tower", "min_level": 8}, "config.model.min_level=8: the backbone has levels"),
    ({"filters": 0}, "config.model.filters=0"),
  ],
)
def test_wrong_settings(overrides, words):
  with pytest.raises(errors.UserError, match=words):
    models.create("lraspp_tiny", **overrides)
