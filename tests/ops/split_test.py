"""Images split by height over a mesh: values and gradients of one device, with few messages."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from effnets import ops
from effnets.ops import _bilinear
from effnets.ops import split as split_lib
from effnets.parallel import programs

CHANNELS = 4


def _split(data, space, idle=1):
  """Returns images on 8 devices; `idle`: size of an axis that splits neither batch nor height."""
  axes = ("data", "fsdp", "space")
  mesh = jax.make_mesh((data, idle, space), axes, axis_types=(jax.sharding.AxisType.Auto,) * 3)
  return ops.Split(mesh, ("data", "fsdp") if idle == 1 else ("data",), "space")


def _drawn(height, taps, groups, *, dtype=np.float32):
  rng = np.random.default_rng(height * taps)
  depth = CHANNELS // groups
  shapes = (8, height, 5, CHANNELS), (taps, taps, depth, CHANNELS)
  return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def _both(inputs, settings, split=None, plain=False):
  """Returns value, input gradient and weight gradient of each convolution."""
  found = []
  for (x, kernel), how in zip(inputs, settings, strict=True):
    if split is not None:
      spec = NamedSharding(split.mesh, P(split.batch, split.height))
      x = jax.lax.with_sharding_constraint(x, spec)
    convolve = functools.partial(ops.conv, split=split, plain=plain, **how)
    y, pullback = jax.vjp(convolve, x, kernel)
    uneven = jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype)
    found.append((y, *pullback(uneven)))
  return found


def _close(actual, expected, tolerance=2e-6):
  """Compares up to another order of sums: relative to the largest value of the array."""
  actual, expected = (np.asarray(x, np.float64) for x in (actual, expected))
  assert actual.shape == expected.shape
  assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


# height, taps, stride, groups, padding: heights that divide over the parts and others, down to one
# whose last parts are empty; windows that need more rows than the neighbour has.
_CASES = [
  (16, 3, 2, CHANNELS, "SAME"),
  (16, 5, 1, CHANNELS, "SAME"),
  (16, 5, 2, CHANNELS, "SYMMETRIC"),
  (9, 3, 1, CHANNELS, "SYMMETRIC"),
  (13, 5, 2, CHANNELS, "SAME"),
  (5, 3, 1, CHANNELS, "SAME"),
  (5, 7, 1, CHANNELS, "SAME"),
  (16, 3, 2, 1, "SAME"),
  (11, 3, 1, 2, "VALID"),
  (14, 1, 2, 1, "SAME"),
  (9, 1, 1, 1, "SAME"),
]


@functools.cache
def _expected():
  inputs, settings = _cases()
  # XLA's own convolution and derivatives, on one device.
  return jax.jit(functools.partial(_both, settings=settings, plain=True))(inputs)


def _cases():
  settings = [{"stride": s, "groups": g, "padding": p} for _, _, s, g, p in _CASES]
  return [_drawn(height, taps, groups) for height, taps, _, groups, _ in _CASES], settings


@pytest.mark.parametrize(
  "sizes",
  [
    (2, 4),
    pytest.param((4, 2), marks=pytest.mark.slow),
    pytest.param((1, 4, 2), marks=pytest.mark.slow),
  ],
  ids=str,
)
def test_values_and_gradients_are_those_of_one_device(sizes):
  split = _split(*sizes)
  inputs, settings = _cases()
  got = jax.jit(functools.partial(_both, settings=settings, split=split))(inputs)
  for case, actual, expected in zip(_CASES, got, _expected(), strict=True):
    for name, ours, theirs in zip(("value", "input", "kernel"), actual, expected, strict=True):
      try:
        _close(ours, theirs)
      except AssertionError as error:
        raise AssertionError(f"{case}: {name} on {sizes}") from error


def _messages(split, height, taps, stride):
  rows = NamedSharding(split.mesh, P(split.batch, split.height))
  whole = NamedSharding(split.mesh, P())
  x, kernel = _drawn(height, taps, CHANNELS)

  def run(x, kernel):
    (found,) = _both([(x, kernel)], [{"stride": stride, "groups": CHANNELS}], split)
    return found

  x, kernel = jax.device_put(x, rows), jax.device_put(kernel, whole)
  compiled = jax.jit(run, out_shardings=(rows, rows, whole)).lower(x, kernel).compile()
  found = programs.collectives(compiled.as_text())
  return {kind: count for kind, (count, _) in found.items()}


@pytest.mark.parametrize("taps, stride, permutes", [(5, 1, 4), (5, 2, 4), (3, 2, 2)])
def test_messages_are_edge_rows_and_one_sum(taps, stride, permutes):
  # Up and down, in the forward pass and in the backward pass; a 3x3 window that strides needs rows
  # from one side alone. The weight gradient is summed once.
  found = _messages(_split(2, 4), 16, taps, stride)
  assert found == {"collective-permute": permutes, "all-reduce": 1}


def test_only_a_window_beyond_the_next_part_is_left_to_the_compiler():
  split = _split(2, 4)

  def exchanged(height, taps, batch=8):
    geometry = _bilinear.Geometry((height, 5), (taps, taps), 1, 1, ((taps // 2,) * 2,) * 2)
    x, kernel = jnp.zeros((batch, height, 5, 1)), jnp.zeros((taps, taps, 1, 1))
    run = functools.partial(split_lib.exchanged, lambda x, k, g: x[:, : g.output[0]])
    return run(x, kernel, geometry, split) is not None

  # Three rows a part: a 7x7 window reaches three rows up and down, a 9x9 window four.
  assert exchanged(12, 7) and not exchanged(12, 9)
  assert not exchanged(12, 3, batch=7)


def test_half_precision_is_summed_over_devices_in_float32():
  split = _split(4, 2)
  x, kernel = (jnp.asarray(v, jnp.bfloat16) for v in _drawn(16, 3, CHANNELS))
  run = jax.jit(functools.partial(_both, settings=[{"groups": CHANNELS}], split=split))
  (half,) = run([(x, kernel)])
  whole = [(x.astype(jnp.float32), kernel.astype(jnp.float32))]
  (exact,) = jax.jit(functools.partial(_both, settings=[{"groups": CHANNELS}]))(whole)
  for ours, theirs in zip(half, exact, strict=True):
    assert ours.dtype == jnp.bfloat16
    # Each part's sum and the whole are rounded to 8 bits, the upstream gradient was before.
    _close(ours.astype(jnp.float32), theirs, 2**-7)


@pytest.mark.slow
def test_second_derivatives():
  split = _split(2, 4)
  x, kernel = _drawn(8, 3, CHANNELS)

  def slope(x, kernel, split):
    def loss(x, kernel):
      return jnp.sum(jnp.sin(ops.conv(x, kernel, groups=CHANNELS, split=split)))

    return sum(jnp.sum(g * g) for g in jax.grad(loss, (0, 1))(x, kernel))

  got, expected = (
    jax.jit(jax.grad(functools.partial(slope, split=s), (0, 1)))(x, kernel) for s in (split, None)
  )
  for ours, theirs in zip(got, expected, strict=True):
    _close(ours, theirs, 1e-5)
