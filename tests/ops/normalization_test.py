"""Batch moments and normalisation against NumPy, under jit and shard_map, in groups of any size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import ops

P = jax.sharding.PartitionSpec

_FUNCTIONS = {
  "identity": lambda z: z,
  "swish": lambda z: z / (1 + np.exp(-z)),
  "relu": lambda z: np.maximum(z, 0),
  "relu6": lambda z: np.clip(z, 0, 6),
  "leaky_relu": lambda z: np.where(z < 0, 0.2 * z, z),
  "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
  "hard_swish": lambda z: z * np.clip(z + 3, 0, 6) / 6,
  "hard_sigmoid": lambda z: np.clip(z + 3, 0, 6) / 6,
}


def _draw(seed, *shapes):
  numbers = np.random.default_rng(seed)
  return [numbers.standard_normal(shape).astype(np.float32) for shape in shapes]


def _expected_moments(x, images):
  groups = x.astype(np.float64).reshape(x.shape[0] // images, -1, x.shape[-1])
  return groups.mean(1), groups.var(1)


# 16 images on 8 devices: local, half a device, two devices, half of them, all, the whole batch.
@pytest.mark.parametrize("images", [2, 1, 4, 8, 16, None])
def test_moments_equal_numpy_under_jit_and_shard_map(images):
  (x,) = _draw(1, (16, 3, 4, 5))
  x = x * 2 + 3
  mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  axes = ("data", "fsdp")
  expected = _expected_moments(x, images or 16)
  placed = jax.device_put(x, jax.sharding.NamedSharding(mesh, P(axes)))
  per_device = jax.shard_map(
    functools.partial(ops.moments, group=ops.Group(images, axes, 8)),
    mesh=mesh,
    in_specs=P(axes),
    out_specs=P(axes),
    check_vma=False,
  )
  whole = jax.jit(functools.partial(ops.moments, group=ops.Group(images)))
  span = max(1, (images or 16) // 2)
  for mean_or_var, jitted, mapped in zip(
    expected, whole(placed), jax.jit(per_device)(placed), strict=True
  ):
    np.testing.assert_allclose(jitted, mean_or_var, rtol=2e-5, atol=2e-5)
    # A group over several devices is on each of them.
    np.testing.assert_allclose(np.asarray(mapped)[::span], mean_or_var, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("images, devices, axes", [(3, 1, ()), (32, 1, ()), (6, 8, ("data",))])
def test_moments_refuse_groups_that_do_not_fit(images, devices, axes):
  with pytest.raises(ValueError, match="batch-norm group of"):
    ops.moments(jnp.zeros((4, 2, 2, 1)), ops.Group(images, axes, devices))


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("activation", _FUNCTIONS)
def test_normalize_equals_numpy_and_plain_gradients(activation, groups):
  x, scale, bias = _draw(2, (8, 5, 6, 3), (3,), (3,))
  x = 3 * x + 1

  def loss(x, scale, bias, plain):
    mean, var = ops.moments(x, ops.Group(8 // groups))
    y = ops.normalize(x, mean, var, scale, bias, activation=activation, plain=plain)
    return jnp.sum(jnp.sin(y)), y

  @jax.jit
  def both(*arguments):
    return [
      jax.value_and_grad(functools.partial(loss, plain=plain), (0, 1, 2), has_aux=True)(*arguments)
      for plain in (False, True)
    ]

  ((_, y), actual), (_, expected) = both(x, scale, bias)
  mean, var = (
    np.repeat(m, 8 // groups, 0)[:, None, None] for m in _expected_moments(x, 8 // groups)
  )
  z = (x - mean) / np.sqrt(var + 1e-3) * scale + bias
  np.testing.assert_allclose(y, _FUNCTIONS[activation](z), rtol=1e-5, atol=1e-5)
  for a, e in zip(actual, expected, strict=True):
    np.testing.assert_allclose(a, e, atol=2e-5 * max(1.0, np.abs(e).max()))


@pytest.mark.parametrize("activation", _FUNCTIONS)
def test_slopes_equal_finite_differences(activation):
  function, slope = ops.ACTIVATIONS[activation]
  z = np.linspace(-8, 8, 161) + 0.013  # no kink lies within a step of these
  step = 1e-2
  differences = (_FUNCTIONS[activation](z + step) - _FUNCTIONS[activation](z - step)) / (2 * step)
  np.testing.assert_allclose(slope(jnp.asarray(z, jnp.float32)), differences, atol=5e-5)
  np.testing.assert_allclose(
    function(jnp.asarray(z, jnp.float32)), _FUNCTIONS[activation](z), atol=2e-6
  )


def test_normalize_same_gradients_under_jit_and_shard_map():
  x, scale, bias = _draw(3, (16, 4, 4, 3), (3,), (3,))
  mesh = jax.make_mesh((4, 2), ("data", "space"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

  def loss(x, scale, bias, group):
    mean, var = ops.moments(x, group)
    y = ops.normalize(x, mean, var, scale, bias, activation="swish")
    return jnp.mean(y * jnp.cos(y))

  single = jax.jit(jax.grad(functools.partial(loss, group=ops.Group(8)), (0, 1, 2)))
  expected = single(x, scale, bias)
  for spec in (P("data"), P("data", "space")):
    placed = jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))
    for a, e in zip(single(placed, scale, bias), expected, strict=True):
      np.testing.assert_allclose(a, e, atol=1e-6)

  def per_device(x, scale, bias):
    group = ops.Group(8, ("data",), 4)
    d_x, *rest = jax.grad(functools.partial(loss, group=group), (0, 1, 2))(x, scale, bias)
    return d_x / 4, *jax.lax.pmean(rest, ("data", "space"))

  mapped = jax.shard_map(
    per_device,
    mesh=mesh,
    in_specs=(P("data"), P(), P()),
    out_specs=(P("data"), P(), P()),
    check_vma=False,
  )
  for a, e in zip(jax.jit(mapped)(x, scale, bias), expected, strict=True):
    np.testing.assert_allclose(a, e, atol=1e-6)


def test_normalize_second_derivative_dtype_and_vectors():
  x, scale, bias = _draw(4, (4, 3, 3, 2), (2,), (2,))

  def loss(x, plain):
    mean, var = ops.moments(x, ops.Group())
    y = ops.normalize(x, mean, var, scale, bias, activation="swish", plain=plain)
    return jnp.sum(jnp.sin(y))

  @jax.jit
  def products(x, v):
    ours = jax.grad(lambda x: jnp.vdot(jax.grad(loss)(x, False), v))(x)
    return ours, jax.jvp(lambda x: jax.grad(loss)(x, True), (x,), (v,))[1]

  actual, expected = products(x, np.cos(x))
  np.testing.assert_allclose(actual, expected, atol=1e-4)
  half = ops.normalize(jnp.asarray(x, jnp.bfloat16), bias, scale**2, scale, bias)
  assert half.dtype == jnp.bfloat16
  whole = (x - bias) / np.sqrt(scale**2 + 1e-3) * scale + bias
  np.testing.assert_allclose(np.asarray(half, np.float32), whole, rtol=2**-7, atol=2**-6)


def test_normalize_refuses():
  x, vector = jnp.zeros((4, 2, 2, 3)), jnp.ones(3)
  with pytest.raises(ValueError, match="'gelu' is none of identity, swish"):
    ops.normalize(x, vector, vector, vector, vector, activation="gelu")
  with pytest.raises(ValueError, match="3 groups of moments"):
    ops.normalize(x, jnp.ones((3, 3)), jnp.ones((3, 3)), vector, vector)
