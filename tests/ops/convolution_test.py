"""Convolutions against XLA's own lowering, a NumPy loop, finite differences and other meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import ops

P = jax.sharding.PartitionSpec


def _draw(seed, *shapes, dtype=np.float32):
  numbers = np.random.default_rng(seed)
  return [numbers.standard_normal(shape).astype(dtype) for shape in shapes]


def _close(actual, expected, tolerance=2e-5):
  """Compares up to rounding of sums: relative to the largest value of the array."""
  expected = np.asarray(expected, np.float64)
  error = np.abs(np.asarray(actual, np.float64) - expected).max()
  assert error <= tolerance * max(np.abs(expected).max(), 1e-3), error


def _value_and_gradients(function, x, kernel, cotangent):
  y, pullback = jax.vjp(function, x, kernel)
  return y, *pullback(cotangent(y))


def _compare_with_plain(x, kernel, **settings):
  # One program for both, and a cotangent of uneven values that needs no further argument.
  def both(x, kernel):
    cotangent = lambda y: jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)  # noqa: E731
    return [
      _value_and_gradients(
        functools.partial(ops.conv, plain=plain, **settings), x, kernel, cotangent
      )
      for plain in (False, True)
    ]

  ours, reference = jax.jit(both)(x, kernel)
  for actual, expected in zip(ours, reference, strict=True):
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    _close(actual, expected)


# kernel, stride, dilation, padding, height, width: every kernel, both strides, odd and even sizes.
_DEPTHWISE = [
  (3, 1, 1, "SAME", 7, 7),
  (3, 2, 1, "SAME", 8, 7),
  (3, 2, 1, "SYMMETRIC", 9, 8),
  (3, 1, 2, "SAME", 9, 6),
  (3, 2, 2, "SYMMETRIC", 11, 8),
  (3, 1, 1, "VALID", 6, 5),
  (3, 2, 1, "VALID", 8, 9),
  (3, 3, 1, "SAME", 10, 8),
  (1, 2, 1, "SAME", 7, 6),
  (5, 1, 1, "SYMMETRIC", 7, 6),
  (5, 2, 1, "SAME", 7, 8),
  (5, 2, 2, "SAME", 12, 9),
  (7, 1, 1, "SAME", 5, 6),
  (7, 2, 1, "SYMMETRIC", 9, 10),
  (9, 2, 1, "SAME", 11, 8),
  (11, 1, 1, "SAME", 6, 5),
  (11, 2, 1, "SYMMETRIC", 8, 13),
]


@pytest.mark.parametrize("taps, stride, dilation, padding, height, width", _DEPTHWISE)
def test_depthwise_equals_plain(taps, stride, dilation, padding, height, width):
  x, kernel = _draw(taps, (2, height, width, 5), (taps, taps, 1, 5))
  _compare_with_plain(x, kernel, stride=stride, dilation=dilation, groups=5, padding=padding)


@pytest.mark.parametrize(
  "shape, stride, dilation, padding, groups",
  [
    ((1, 1, 6, 4), 1, 1, "SAME", 1),
    ((1, 1, 6, 4), 2, 1, "SAME", 1),
    ((1, 1, 6, 4), 2, 1, "SYMMETRIC", 1),
    ((3, 3, 6, 4), 2, 1, "SAME", 1),
    ((3, 3, 3, 8), 2, 1, "SAME", 1),
    ((3, 3, 3, 8), 2, 1, "SYMMETRIC", 1),
    ((2, 3, 2, 4), 1, 2, "VALID", 1),
    ((3, 5, 2, 9), 2, 1, "SAME", 3),
    ((3, 3, 3, 4), 1, 2, "SYMMETRIC", 2),
    ((3, 3, 1, 12), 2, 1, "VALID", 6),
  ],
)
def test_dense_and_grouped_equal_plain(shape, stride, dilation, padding, groups):
  x, kernel = _draw(3, (2, 9, 8, shape[2] * groups), shape)
  _compare_with_plain(x, kernel, stride=stride, dilation=dilation, groups=groups, padding=padding)


@pytest.mark.parametrize("groups, stride, dilation", [(4, 2, 1), (4, 1, 2), (2, 2, 1), (1, 2, 1)])
def test_equals_a_numpy_loop(groups, stride, dilation):
  x, kernel = _draw(5, (1, 6, 5, 4), (3, 3, 4 // groups, 4), dtype=np.float64)
  (top, bottom), (left, right) = (
    ops.resolve_padding("SAME", n, 3, stride, dilation) for n in (6, 5)
  )
  padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
  expected = np.zeros((1, -(-6 // stride), -(-5 // stride), 4))
  for _, h, w, o in np.ndindex(expected.shape):
    for i, j, c in np.ndindex(kernel.shape[:3]):
      channel = o // (4 // groups) * (4 // groups) + c
      pixel = padded[0, h * stride + i * dilation, w * stride + j * dilation, channel]
      expected[0, h, w, o] += pixel * kernel[i, j, c, o]
  settings = {"stride": stride, "dilation": dilation, "groups": groups}
  actual = ops.conv(x.astype(np.float32), kernel.astype(np.float32), **settings)
  _close(actual, expected)


@pytest.mark.parametrize("groups", [3, 1])
def test_second_derivatives(groups):
  # Hessian-vector products by reverse over reverse, against forward over reverse of plain.
  x, kernel, dx, dk = _draw(
    7, (2, 5, 6, 3), (3, 3, 3 // groups, 3), (2, 5, 6, 3), (3, 3, 3 // groups, 3)
  )

  def loss(primals, plain):
    return jnp.sum(jnp.sin(ops.conv(*primals, stride=2, groups=groups, plain=plain)))

  @jax.jit
  def products(primals, tangents):
    def slope(primals):
      grads = jax.grad(loss)(primals, False)
      return sum(jnp.vdot(g, t) for g, t in zip(grads, tangents, strict=True))

    reference = jax.jvp(lambda p: jax.grad(loss)(p, True), (primals,), (tangents,))[1]
    return jax.grad(slope)(primals), reference

  actual, expected = products((x, kernel), (dx, dk))
  for a, e in zip(actual, expected, strict=True):
    _close(a, e)


def test_few_channels_have_forward_mode():
  x, kernel, dx, dk = _draw(8, (2, 6, 5, 3), (3, 3, 3, 4), (2, 6, 5, 3), (3, 3, 3, 4))

  @jax.jit
  def both(primals, tangents):
    run = lambda plain: jax.jvp(  # noqa: E731
      functools.partial(ops.conv, stride=2, plain=plain), primals, tangents
    )
    return run(False), run(True)

  ours, reference = both((x, kernel), (dx, dk))
  for actual, expected in zip(ours, reference, strict=True):
    _close(actual, expected)


def test_gradient_equals_finite_differences():
  x, kernel, direction = _draw(8, (1, 7, 6, 4), (5, 5, 1, 4), (5, 5, 1, 4))
  loss = jax.jit(lambda kernel: jnp.sum(jnp.cos(ops.conv(x, kernel, stride=2, groups=4))))
  step = 1e-2
  slope = (loss(kernel + step * direction) - loss(kernel - step * direction)) / (2 * step)
  # Truncation leaves step^2 / 6 of the third derivative, rounding 1e-7 / step.
  _close(jnp.vdot(jax.grad(loss)(kernel), direction), slope, 1e-2)


def test_vmap_over_inputs_and_kernels_and_remat():
  x, kernel = _draw(9, (3, 2, 6, 5, 4), (3, 3, 3, 1, 4))

  def loss(x, kernel, plain):
    function = functools.partial(ops.conv, stride=2, groups=4, plain=plain)
    return jnp.sum(jnp.sin(jax.checkpoint(function)(x, kernel)))

  @jax.jit
  def both(x, kernel):
    return [
      jax.vmap(jax.grad(functools.partial(loss, plain=plain), argnums=(0, 1)))(x, kernel)
      for plain in (False, True)
    ]

  actual, expected = both(x, kernel)
  for a, e in zip(actual, expected, strict=True):
    _close(a, e)


@pytest.mark.parametrize("groups, taps", [(8, 5), (1, 1)])
def test_half_precision_is_summed_in_float32(groups, taps):
  x, kernel = _draw(10, (4, 16, 16, 8), (taps, taps, 8 // groups, 8))
  x, kernel = jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16)
  function = functools.partial(ops.conv, groups=groups)

  @jax.jit
  def run(x, kernel):
    y, pullback = jax.vjp(function, x, kernel)
    return y, *pullback(jnp.ones_like(y))

  half = run(x, kernel)
  whole = run(x.astype(jnp.float32), kernel.astype(jnp.float32))
  for h, w in zip(half, whole, strict=True):
    assert h.dtype == jnp.bfloat16
    # Only the result is rounded, to 8 bits: 1024 products summed in bfloat16 would lose percents.
    _close(h.astype(jnp.float32), w, 2**-8)


@pytest.mark.parametrize("height, spec", [(8, P("data")), (4, P("data", "space"))])
def test_gradients_on_a_mesh_with_an_idle_axis(height, spec):
  # Split over `data` alone, XLA's weight gradients of the first two layers are twice too large and
  # the loss is right. Split over both axes is the other way to use this mesh.
  mesh = jax.make_mesh((4, 2), ("data", "space"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  x, depthwise, grouped, pointwise = _draw(
    11, (8, height, 6, 4), (3, 3, 1, 4), (3, 3, 2, 4), (1, 1, 4, 4)
  )

  def loss(kernels, x):
    y = jnp.sin(ops.conv(x, kernels[0], groups=4))
    y = jnp.sin(ops.conv(y, kernels[1], groups=2, stride=2))
    y = ops.conv(y, kernels[2])
    return jnp.mean(y * y)

  gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
  kernels = (depthwise, grouped, pointwise)
  placed = jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))
  whole = jax.device_put(kernels, jax.sharding.NamedSharding(mesh, P()))
  jax.tree.map(_close, gradient(whole, placed), gradient(kernels, x))


def test_default_lowering_is_safe_and_equal(monkeypatch):
  # The lowering of GPUs and TPUs, run here on the CPU and on a mesh with an idle axis.
  choose = lambda *args, cpu, default: default(*args)  # noqa: E731
  monkeypatch.setattr(jax.lax, "platform_dependent", choose)
  mesh = jax.make_mesh((4, 2), ("data", "space"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  x, kernel = _draw(12, (8, 8, 6, 4), (3, 3, 1, 4))
  _compare_with_plain(x, kernel, stride=2, groups=4)
  loss = lambda k, x: jnp.sum(jnp.sin(ops.conv(x, k, groups=4)))  # noqa: E731
  gradient = jax.jit(jax.grad(loss))
  placed = jax.device_put(x, jax.sharding.NamedSharding(mesh, P("data", "space")))
  compiled = gradient.lower(kernel, placed).compile()
  _close(compiled(kernel, placed), gradient(kernel, x))
  assert "all-gather" not in compiled.as_text()


def test_tpu_program_carries_no_cpu_loops():
  x, kernel = _draw(13, (2, 8, 8, 4), (3, 3, 1, 4))
  traced = jax.jit(functools.partial(ops.conv, groups=4)).trace(x, kernel)
  text = {p: traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "tpu")}
  assert "stablehlo.convolution" in text["tpu"] and "stablehlo.convolution" not in text["cpu"]


def test_plain_has_forward_mode_and_own_rules_say_they_have_not():
  x, kernel = _draw(14, (1, 4, 4, 2), (3, 3, 1, 2))
  run = lambda plain: jax.jvp(  # noqa: E731
    lambda k: ops.conv(x, k, groups=2, plain=plain), (kernel,), (kernel,)
  )
  value, tangent = run(True)
  _close(tangent, value)
  with pytest.raises(TypeError, match="custom_vjp"):
    run(False)


@pytest.mark.parametrize(
  "x_shape, kernel_shape, settings, message",
  [
    ((1, 4, 4, 6), (3, 3, 6, 2), {"groups": 4}, "4 group"),
    ((1, 4, 4, 6), (3, 3, 2, 2), {}, "does not fit"),
    ((1, 4, 4, 6), (3, 3, 6, 2), {"padding": "round"}, "is none of"),
    ((1, 4, 4, 6), (3, 3, 6, 2), {"stride": 0}, "stride=0"),
    ((1, 4, 4, 6), (7, 7, 6, 2), {"padding": "VALID"}, "exceeds images"),
    ((4, 4, 6), (3, 3, 6, 2), {}, "NHWC"),
  ],
)
def test_refuses_what_does_not_fit(x_shape, kernel_shape, settings, message):
  with pytest.raises(ValueError, match=message):
    ops.conv(jnp.zeros(x_shape), jnp.zeros(kernel_shape), **settings)


def test_refuses_mixed_types():
  with pytest.raises(ValueError, match="cast one"):
    ops.conv(jnp.zeros((1, 4, 4, 1)), jnp.zeros((1, 1, 1, 1), jnp.bfloat16))
