"""Boxes against the sheets' figures, slow loops and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import errors
from effnets.ops import boxes
from tests.ops import detections

_ANCHOR, _BOX = jnp.array([10.0, 20, 50, 100]), jnp.array([12.0, 18, 52, 110])


# The sheets' coder checks, computed there by official code.
@pytest.mark.parametrize(
  ("scales", "offset", "expected"),
  [
    (boxes.FASTER_RCNN_SCALES, 0.0, (0.5, 0.5, 0, 0.698810)),
    (boxes.UNIT_SCALES, 0.0, (0.05, 0.05, 0, 0.139762)),
    (boxes.FASTER_RCNN_SCALES, 1.0, (0.487805, 0.493827, 0, 0.690752)),
  ],
)
def test_codes_of_the_sheet(scales, offset, expected):
  codes = boxes.encode(_BOX, _ANCHOR, scales=scales, offset=offset)
  np.testing.assert_allclose(codes, expected, atol=1e-6)
  back = boxes.decode(codes, _ANCHOR, scales=scales, offset=offset)
  np.testing.assert_allclose(back, _BOX, rtol=1e-6)


def test_decoding_of_the_sheet():
  box = boxes.decode(jnp.array([0.1, -0.2, 0.3, -0.4]), _ANCHOR)
  np.testing.assert_allclose(box, (7.002823, 17.187199, 60.997177, 70.812805), rtol=1e-6)


def test_codes_of_degenerate_boxes_are_finite_and_large_logs_are_cut():
  codes = boxes.encode(jnp.array([[5.0, 5, 5, 5], [9, 9, 2, 2]]), _ANCHOR)
  assert bool(jnp.all(jnp.isfinite(codes)))
  box = boxes.decode(jnp.array([0, 0, 50.0, 50]), _ANCHOR, largest_log=boxes.LARGEST_LOG)
  np.testing.assert_allclose(box[2:] - box[:2], np.array([40, 80]) * 1000 / 16, rtol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_overlaps_are_those_of_a_loop(offset):
  rng = np.random.default_rng(0)
  a, b = (detections.random_boxes(rng, n, degenerate=0.3) for n in (40, 23))
  expected = [[detections.overlap(p, q, offset) for q in b] for p in a]
  found = boxes.iou(jnp.asarray(a)[None], jnp.asarray(b)[None], offset=offset)
  np.testing.assert_allclose(found[0], expected, atol=1e-6)


def test_no_boxes_and_no_area():
  none, point = jnp.zeros((0, 4)), jnp.array([[3.0, 3, 3, 3]])
  assert boxes.iou(none, point).shape == (0, 1) and boxes.iou(point, none).shape == (1, 0)
  assert float(boxes.iou(point, point)[0, 0]) == 0
  assert float(boxes.area(point)[0]) == 0


def test_the_share_that_a_crowd_covers():
  crowd = jnp.array([[0.0, 0, 10, 10]])
  inside = jnp.array([[2.0, 2, 4, 4], [8, 8, 12, 12], [20, 20, 30, 30], [1, 1, 1, 1]])
  np.testing.assert_allclose(boxes.covered(inside, crowd)[:, 0], [1, 0.25, 0, 0])


# EfficientDet's sheet, check 14: 1 - similarity.
@pytest.mark.parametrize(
  ("kind", "losses"),
  [
    ("iou", (0.411215, 1.0)),
    ("giou", (0.438488, 1.68)),
    ("diou", (0.416871, 1.36)),
    ("ciou", (0.417232, 1.36)),
  ],
)
def test_losses_of_the_sheet(kind, losses):
  predicted = jnp.array([[0.0, 0, 10, 10], [0, 0, 4, 4]])
  target = jnp.array([[1.0, 2, 11, 9], [6, 6, 10, 10]])
  np.testing.assert_allclose(1 - boxes.similarity(predicted, target, kind=kind), losses, atol=1e-6)


@pytest.mark.parametrize("kind", ["giou", "diou"])
def test_gradients_are_finite_differences(kind):
  rng = np.random.default_rng(1)
  a, b = (detections.random_boxes(rng, 12, size=4.0).astype(np.float64) for _ in range(2))
  with jax.enable_x64(True):
    value = jax.jit(lambda x: jnp.sum(boxes.similarity(x, jnp.asarray(b), kind=kind)))
    gradient = jax.grad(value)(jnp.asarray(a))
    step = 1e-6
    for i in np.ndindex(a.shape):
      high, low = a.copy(), a.copy()
      high[i] += step
      low[i] -= step
      np.testing.assert_allclose(gradient[i], (value(high) - value(low)) / (2 * step), atol=1e-7)


@pytest.mark.parametrize("kind", boxes.KINDS)
def test_degenerate_boxes_have_finite_similarities_and_gradients(kind):
  point = jnp.array([[3.0, 3, 3, 3], [0, 0, 5, 0], [4, 4, 2, 2], [0, 0, 2, 2]])
  for other in (point, point[::-1], jnp.zeros_like(point)):
    value, gradient = jax.value_and_grad(
      lambda x, other=other: boxes.similarity(x, other, kind=kind).sum()
    )(point)
    assert bool(jnp.isfinite(value)) and bool(jnp.all(jnp.isfinite(gradient)))


def test_clipping_to_sizes_of_pictures():
  many = jnp.array([[[-5.0, 2, 50, 70], [70, 70, 90, 90]], [[1, 1, 2, 2], [0, 0, 99, 99]]])
  found = boxes.clip(many, jnp.array([[40.0], [60]]), jnp.array([[60.0], [30]]))
  expected = [[[0, 2, 40, 60], [40, 60, 40, 60]], [[1, 1, 2, 2], [0, 0, 60, 30]]]
  np.testing.assert_array_equal(found, expected)


def test_an_unknown_kind_names_the_nearest():
  with pytest.raises(errors.UserError, match=r"kind='gious'.*Nearest: 'giou'"):
    boxes.similarity(jnp.zeros((1, 4)), jnp.zeros((1, 4)), kind="gious")
