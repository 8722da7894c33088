"""What every network can do, on the smallest one: noise, end points, freezing, precision."""

import collections
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import errors, models, ops
from effnets.models import efficientnet, layers, stage_tables

_SE = layers.Squeeze(0.25)
TABLE = stage_tables.Table(
  8,
  (
    stage_tables.Row("mbconv", 3, 1, 1, 8, 1, _SE),
    stage_tables.Row("mbconv", 3, 2, 2, 16, 2, _SE),
  ),
  24,
)
BATCH = 4


@pytest.fixture(scope="module")
def module():
  return efficientnet.efficientnet(
    TABLE, num_classes=5, image_size=16, dropout_rate=0.5, drop_path_rate=0.8
  )


@pytest.fixture(scope="module")
def variables(module):
  """Initial variables, moved so that no leaf is special."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: (x + 0.1 * rng.random(x.shape)).astype(np.float32), models.init(module, 0)
  )


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(1).standard_normal((BATCH, 16, 16, 3)).astype(np.float32)


def _keys(count=BATCH, seed=0):
  keys = jax.random.split(jax.random.key(seed), count)
  return {"dropout": keys, "drop_path": keys}


def _apply(module, variables, images, keys=None, **kwargs):
  return jax.jit(lambda v, x, k: module.apply(v, x, keys=k, **kwargs))(variables, images, keys)


def test_end_points(module, variables, images):
  ends = _apply(module, variables, images, method="features")
  shapes = {name: end.shape for name, end in ends.items()}
  assert shapes == {
    "stem": (4, 8, 8, 8),
    "block_0": (4, 8, 8, 8),
    "reduction_1": (4, 8, 8, 8),
    "block_1": (4, 4, 4, 16),
    "block_2": (4, 4, 4, 16),
    "reduction_2": (4, 4, 4, 16),
    "features": (4, 4, 4, 16),
    "head_1x1": (4, 4, 4, 24),
    "pooled_features": (4, 24),
  }
  for end, block in (("reduction_1", 0), ("reduction_2", 2), ("features", 2)):
    np.testing.assert_array_equal(ends[end], ends[f"block_{block}"])
  np.testing.assert_allclose(ends["pooled_features"], np.mean(ends["head_1x1"], (1, 2)), rtol=1e-5)
  dense = variables["params"]["classifier"]
  logits = _apply(module, variables, images)
  want = np.asarray(ends["pooled_features"]) @ dense["kernel"] + dense["bias"]
  np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-5)


def test_noise_follows_its_keys(module, variables, images):
  # Norm by each image alone leaves the keys as the only way from one example to another.
  module = dataclasses.replace(module, group=ops.Group(images=1))

  @jax.jit
  def run(images, keys):
    return module.apply(variables, images, train=True, keys=keys, mutable=["batch_stats"])[0]

  first = run(images, _keys())
  np.testing.assert_array_equal(run(images, _keys()), first)
  order = np.array([2, 0, 3, 1])
  moved = run(images[order], {name: keys[order] for name, keys in _keys().items()})
  np.testing.assert_allclose(moved, first[order], rtol=1e-5, atol=1e-5)
  assert not np.allclose(run(images, _keys(seed=1)), first, atol=1e-2)
  # A duplicated example under another key gets other noise.
  same = run(np.repeat(images[:1], BATCH, 0), _keys())
  assert len(np.unique(np.asarray(same)[:, 0])) == BATCH


def test_noise_is_off_without_keys(module, variables, images):
  quiet = dataclasses.replace(module, dropout_rate=0.0, drop_path_rate=0.0)

  def run(module, keys, train=True):
    return _apply(module, variables, images, keys, train=train)

  want = run(quiet, _keys())
  np.testing.assert_array_equal(run(module, None), want)
  assert not np.allclose(run(module, {"dropout": _keys()["dropout"]}), want, atol=1e-2)
  assert not np.allclose(run(module, {"drop_path": _keys()["drop_path"]}), want, atol=1e-2)
  # Where nothing is drawn the traced programs are the same, so none has to run.

  def program(keys, train):
    return str(jax.make_jaxpr(lambda x: module.apply(variables, x, train=train, keys=keys))(images))

  # Keys alone bring noise: a teacher may be under it with running moments.
  assert program({}, False) == program(None, False) != program(_keys(), False)
  assert program({}, True) == program(None, True) != program(_keys(), True)


def _gradients(module, variables, images):
  def loss(params):
    logits, new = module.apply(
      {**variables, "params": params}, images, train=True, keys=_keys(), mutable=["batch_stats"]
    )
    return jnp.sum(jax.nn.log_softmax(logits)[:, 0]), new["batch_stats"]

  (value, stats), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
  return value, stats, gradients


def _assert_close(got, want, tolerance):
  floor = max(np.abs(x).max() for x in jax.tree.leaves(want))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance * floor), got, want)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["norm", "block"])
def test_rematerialised_gradients_are_the_same(module, variables, images, policy):
  remat = dataclasses.replace(module, remat=policy)
  both = [_gradients(m, variables, images) for m in (remat, module)]
  for got, want in zip(*both, strict=True):
    _assert_close(got, want, 1e-5)
  assert str(jax.make_jaxpr(lambda v: remat.apply(v, images))(variables)).count("remat") >= 3


def test_what_is_kept_for_the_backward_pass(module, variables, images):
  def kept(policy):
    network = dataclasses.replace(module, remat=policy)

    def pulled(variables):
      def run(params):
        own = {**variables, "params": params}
        return network.apply(own, images, train=True, mutable=["batch_stats"])

      return jax.vjp(run, variables["params"])[1]

    shapes = [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(pulled, variables))]
    # Whole images; gates and their bottlenecks are few numbers.
    return collections.Counter(s for s in shapes if len(s) == 4 and s[0] == BATCH and s[1] > 1)

  none, norm, block = (kept(policy) for policy in ("none", "norm", "block"))
  # What the blocks' convolutions give: the first has no expansion, the second strides.
  assert norm - block == {
    (4, 8, 8, 8): 2,
    (4, 8, 8, 16): 1,
    (4, 4, 4, 16): 3,
    (4, 4, 4, 32): 2,
  }
  assert block <= norm
  numbers = [sum(math.prod(s) * n for s, n in shapes.items()) for shapes in (none, norm)]
  assert numbers[1] < 0.6 * numbers[0]


def test_frozen_blocks(module, variables, images):
  frozen = dataclasses.replace(module, frozen_blocks=2)
  assert frozen.frozen_names() == ("stem", "block_0", "block_1")
  assert module.frozen_names() == ()
  _, stats, gradients = _gradients(frozen, variables, images)
  for name, tree in gradients.items():
    size = max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree))
    assert (size == 0) == (name in frozen.frozen_names()), name
  for name, tree in stats.items():
    old = variables["batch_stats"][name]
    same = all(
      (a == b).all() for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(old), strict=True)
    )
    assert same == (name in frozen.frozen_names()), name
  # The frozen part runs in inference mode, without noise.
  train = _apply(frozen, variables, images, _keys(), train=True, method="features")
  still = _apply(frozen, variables, images, method="features")
  np.testing.assert_allclose(train["block_1"], still["block_1"], rtol=1e-5, atol=1e-5)
  assert not np.allclose(train["block_2"], still["block_2"], atol=1e-2)


def test_all_but_the_classifier_frozen(module, images):
  frozen = dataclasses.replace(module, frozen_blocks=-1, hidden=8, head_depth=2)
  variables = jax.tree.map(lambda x: x + np.float32(0.1), models.init(frozen, 0))
  assert {*frozen.frozen_names(), "classifier"} == variables["params"].keys()
  (_, stats, gradients) = _gradients(frozen, variables, images)
  moved = {name for name, tree in gradients.items() if any(map(np.any, jax.tree.leaves(tree)))}
  assert moved == {"classifier"}
  jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])
  # Stored statistics, no noise: what the classifier sees is what it sees in evaluation.
  train = _apply(frozen, variables, images, _keys(), train=True, method="features")
  still = _apply(frozen, variables, images, method="features")
  np.testing.assert_allclose(train["hidden"], still["hidden"], rtol=1e-5, atol=1e-5)


def test_bfloat16_is_close(module, variables, images):
  half = dataclasses.replace(module, dtype="bfloat16")
  want = _apply(module, variables, images, method="features")
  got = _apply(half, variables, images, method="features")
  assert got["features"].dtype == jnp.bfloat16 and got["pooled_features"].dtype == jnp.float32
  # bfloat16 keeps 8 bits: 2**-8 per operation, a dozen of them.
  error = np.linalg.norm(got["pooled_features"] - want["pooled_features"]) / np.linalg.norm(
    want["pooled_features"]
  )
  assert error < 0.02
  trained = jax.eval_shape(lambda v, x: _gradients(half, v, x), variables, images)
  dtypes = {leaf.dtype for leaf in jax.tree.leaves(trained)}
  assert dtypes == {jnp.dtype("float32")}


def test_running_moments_move_towards_the_batch(module, variables, images):
  def run(momentum):
    chosen = dataclasses.replace(module, momentum=momentum)
    _, new = chosen.apply(variables, images, train=True, mutable=["batch_stats"])
    return new["batch_stats"]

  old, whole, part = variables["batch_stats"], run(0.0), run(0.75)
  want = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, old, whole)
  _assert_close(part, want, 1e-5)


@pytest.mark.parametrize(
  "key,value,words",
  [
    ("padding", "smae", "'SAME'"),
    ("remat", "blocks", "'block'"),
    ("activation", "swosh", "'swish'"),
    ("dtype", "float16", "'bfloat16'"),
    ("num_classes", 0, "nearest: 1"),
    ("image_size", 0, "nearest: 1"),
    ("frozen_blocks", 4, "at most 3; nearest: 3"),
    ("frozen_blocks", -2, "at least -1 and at most 3; nearest: -1"),
    ("dropout_rate", 1.0, "below 1"),
    ("drop_path_rate", -0.1, r"nearest: 0\.0"),
  ],
)
def test_impossible_settings(key, value, words):
  with pytest.raises(errors.UserError, match=rf"config\.model\.{key}=.*{words}"):
    efficientnet.efficientnet(TABLE, **{key: value})
