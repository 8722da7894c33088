"""1x1 convolution of a gated image against the product spelled out, in both of its forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import ops


def _draw(*shapes):
  numbers = np.random.default_rng(0)
  return [numbers.standard_normal(shape).astype(np.float32) for shape in shapes]


# Pixels, outputs: many pixels per output put the gate on the kernel, few put it on the image.
@pytest.mark.parametrize("height, width, outputs, on_image", [(9, 8, 4, False), (3, 4, 5, True)])
def test_gated_equals_einsum(height, width, outputs, on_image):
  x, gate, kernel, cotangent = _draw(
    (3, height, width, 6), (3, 1, 1, 6), (1, 1, 6, outputs), (3, height, width, outputs)
  )

  def slopes(function):
    y, pullback = jax.vjp(function, x, gate, kernel)
    return y, *pullback(cotangent)

  def spelled_out(x, gate, kernel):
    return jnp.einsum("bhwc,bc,co->bhwo", x, gate[:, 0, 0], kernel[0, 0])

  ours, reference = jax.jit(lambda: (slopes(ops.gated), slopes(spelled_out)))()
  for actual, expected in zip(ours, reference, strict=True):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
  # The image itself is multiplied in one of them only.
  program = jax.jit(ops.gated).lower(x, gate, kernel).as_text()
  image = f"tensor<3x{height}x{width}x6xf32>"
  multiplied = [line for line in program.splitlines() if "stablehlo.multiply" in line]
  assert any(image in line for line in multiplied) == on_image


def test_gated_keeps_the_batch_on_its_devices():
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("data", "space"))
  x, gate, kernel = _draw((4, 8, 8, 6), (4, 1, 1, 6), (1, 1, 6, 3))

  def loss(x, gate, kernel):
    return jnp.sum(jnp.sin(ops.gated(x, gate, kernel)))

  slopes = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
  expected = slopes(x, gate, kernel)
  specs = (("data", "space"), ("data",), ())
  placed = [
    jax.device_put(a, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec)))
    for a, spec in zip((x, gate, kernel), specs, strict=True)
  ]
  actual = slopes(*placed)
  for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())
