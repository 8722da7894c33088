"""Features of regions against the sheet's figures, slow loops and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import effnets.ops as ops
from effnets.ops import roi_align
from tests.ops import detections


def _slow(features, box, size, samples, scale, aligned):
  """Returns the features of one box, one point after the other."""
  height, width, channels = features.shape
  y0, x0, y1, x1 = np.asarray(box, np.float64) * scale - (0.5 if aligned else 0)
  out = np.zeros((size, size, channels))
  for i, j, a, b in np.ndindex(size, size, samples, samples):
    y = y0 + (i + (a + 0.5) / samples) * (y1 - y0) / size
    x = x0 + (j + (b + 0.5) / samples) * (x1 - x0) / size
    if aligned and not (-1 <= y <= height and -1 <= x <= width):
      continue
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, u = y - top, x - left
    out[i, j] += (
      features[top, left] * (1 - v) * (1 - u)
      + features[top, right] * (1 - v) * u
      + features[bottom, left] * v * (1 - u)
      + features[bottom, right] * v * u
    ) / samples**2
  return out


# Detection sheet, check 5.
@pytest.mark.parametrize(
  ("aligned", "expected"), [(False, [[23, 25], [43, 45]]), (True, [[17.5, 19.5], [37.5, 39.5]])]
)
def test_the_sheets_case(aligned, expected):
  y, x = np.mgrid[:8, :8].astype(np.float32)
  found = roi_align.roi_align(
    jnp.asarray(10 * y + x)[..., None], jnp.array([[1.0, 2, 5, 6]]), size=2, aligned=aligned
  )
  np.testing.assert_allclose(found[0, ..., 0], expected, rtol=1e-6)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("samples", [1, 2])
def test_regions_on_all_levels_are_those_of_a_loop(aligned, samples):
  rng = np.random.default_rng(0)
  pyramid = {
    n: rng.standard_normal((-(-48 // 2**n), -(-64 // 2**n), 3)).astype(np.float32)
    for n in (2, 3, 5)
  }
  boxes = detections.random_boxes(rng, 30, 64.0, degenerate=0.3)
  level = rng.choice([2, 3, 5], 30)
  boxes[0] = [-90, -90, 200, 200]
  found = jax.jit(
    lambda p, b, l: roi_align.multilevel_roi_align(
      p, b, l, size=3, samples=samples, aligned=aligned
    )
  )(pyramid, boxes, level)
  for i in range(30):
    n = int(level[i])
    expected = _slow(pyramid[n], boxes[i], 3, samples, 2.0**-n, aligned)
    np.testing.assert_allclose(found[i], expected, atol=2e-5)


def test_no_boxes():
  found = roi_align.roi_align(jnp.ones((4, 4, 2)), jnp.zeros((0, 4)), size=7)
  assert found.shape == (0, 7, 7, 2)


# Detection sheet, check 4.
def test_levels_of_the_sheet():
  sides = jnp.array([224.0, 112, 111, 448, 640, 32, 0, 3000])
  boxes = jnp.stack([0 * sides, 0 * sides, sides, sides], -1)
  assert roi_align.levels(boxes, low=2, high=6).tolist() == [4, 3, 2, 5, 5, 2, 2, 6]
  assert roi_align.levels(boxes, low=3, high=5).tolist() == [4, 3, 3, 5, 5, 3, 3, 5]


def test_gradients_are_finite_differences():
  rng = np.random.default_rng(1)
  features = rng.standard_normal((6, 7, 2))
  boxes = np.array([[0.3, 0.6, 4.1, 5.2], [1.7, 2.2, 3.4, 6.3]])
  weights = rng.standard_normal((2, 2, 2, 2))
  with jax.enable_x64(True):

    @jax.jit
    def value(features, boxes):
      table = roi_align.roi_align(features, boxes, size=2, samples=2)
      return jnp.sum(table * weights)

    gradients = jax.grad(value, (0, 1))(jnp.asarray(features), jnp.asarray(boxes))
    for which, array in ((0, features), (1, boxes)):
      for i in np.ndindex(array.shape):
        pair = []
        for sign in (1, -1):
          moved = [features.copy(), boxes.copy()]
          moved[which][i] += sign * 1e-6
          pair.append(float(value(*map(jnp.asarray, moved))))
        difference = (pair[0] - pair[1]) / 2e-6
        assert abs(gradients[which][i] - difference) < 1e-7


def _value(mask, y, x):
  """Returns a mask's bilinear value at a place in units of cells, 0 outside."""
  size = mask.shape[0]
  total = 0.0
  for i, j in np.ndindex(size, size):
    total += max(0, 1 - abs(y - 0.5 - i)) * max(0, 1 - abs(x - 0.5 - j)) * mask[i, j]
  return total


def test_pasting_is_that_of_a_loop():
  rng = np.random.default_rng(2)
  masks = rng.uniform(size=(6, 4, 4)).astype(np.float32)
  boxes = detections.random_boxes(rng, 6, 16.0, degenerate=0.4)
  found = ops.masks.paste(masks, boxes, height=14, width=18)
  for k in range(6):
    (y0, x0, y1, x1), mask = boxes[k].astype(np.float64), masks[k]
    for i, j in np.ndindex(14, 18):
      expected = 0.0
      if y1 > y0 and x1 > x0:
        expected = _value(mask, (i + 0.5 - y0) / (y1 - y0) * 4, (j + 0.5 - x0) / (x1 - x0) * 4)
      assert abs(found[k, i, j] - expected) < 1e-4


def test_targets_are_cut_out_of_the_masks_of_objects():
  rng = np.random.default_rng(3)
  masks = rng.uniform(size=(5, 6, 6)).astype(np.float32)
  own = detections.random_boxes(rng, 5, 30.0)
  boxes = own + rng.normal(0, 2, (5, 4)).astype(np.float32)
  boxes[0] = own[0]
  found = ops.masks.crop(masks, own, boxes, size=6)
  np.testing.assert_allclose(found[0], masks[0], atol=1e-5)  # the same grid
  for n in range(5):
    (y0, x0, y1, x1), (a0, b0, a1, b1) = own[n].astype(float), boxes[n].astype(float)
    for i, j in np.ndindex(6, 6):
      y, x = a0 + (i + 0.5) * (a1 - a0) / 6, b0 + (j + 0.5) * (b1 - b0) / 6
      expected = _value(masks[n], (y - y0) / (y1 - y0) * 6, (x - x0) / (x1 - x0) * 6)
      assert abs(found[n, i, j] - expected) < 1e-4
