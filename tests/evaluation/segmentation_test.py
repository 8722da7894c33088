"""Mean IoU against the sheet's figures and a loop over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import effnets.ops as ops
from effnets import evaluation

_SHEET = np.array([[50, 2, 3], [4, 30, 1], [0, 5, 5]])


def test_the_sheets_case():
  figures, per_class = evaluation.segmentation(_SHEET[None], class_names=("a", "b", "c"))
  assert figures["miou"] == pytest.approx(0.639629, abs=1e-6)
  assert figures["pixel_accuracy"] == pytest.approx(85 / 100)
  np.testing.assert_allclose(list(per_class.values()), [0.847458, 0.714286, 0.357143], atol=1e-6)
  assert list(per_class) == ["a", "b", "c"] and set(figures) == set(evaluation.SEGMENTATION_FIGURES)


def test_it_is_of_the_set_and_not_a_mean_over_pictures():
  parts = np.stack([np.diag([50, 30, 5]), _SHEET - np.diag([50, 30, 5])])
  figures, _ = evaluation.segmentation(parts)
  assert figures["miou"] == pytest.approx(0.639629, abs=1e-6)


def test_classes_that_never_occur_do_not_count():
  counts = np.zeros((1, 4, 4), np.int32)
  counts[0, :2, :2] = [[6, 2], [0, 4]]
  counts[0, 2, 1] = 1  # occurs, and is never right
  figures, per_class = evaluation.segmentation(counts)
  assert figures["miou"] == pytest.approx((6 / 8 + 4 / 7 + 0) / 3)
  assert np.isnan(per_class["3"])
  assert np.isnan(evaluation.segmentation(np.zeros((2, 3, 3)))[0]["miou"])


def test_sums_are_exact_beyond_32_bits():
  big = np.full((3, 2, 2), 2**30, np.int32)
  big[:, 0, 0] += 1
  figures, _ = evaluation.segmentation(big)
  hits = 3 * 2**30 + 3, 3 * 2**30
  expected = np.mean([hits[0] / (hits[0] + 6 * 2**30), hits[1] / (9 * 2**30)])
  assert figures["miou"] == pytest.approx(expected, rel=1e-15)


def test_pixels_are_counted_as_in_a_loop():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 5, (3, 9, 11)).astype(np.uint8)
  labels[labels == 4] = 255
  predictions = rng.integers(0, 4, (3, 9, 11))
  expected = np.zeros((3, 4, 4), int)
  for b, i, j in np.ndindex(labels.shape):
    if labels[b, i, j] != 255:
      expected[b, labels[b, i, j], predictions[b, i, j]] += 1
  found = ops.masks.confusion(jnp.asarray(labels), jnp.asarray(predictions), classes=4)
  np.testing.assert_array_equal(found, expected)
  # The form for matrix units, whatever this machine is; a program for either can be made.
  other = ops.masks._multiplied(jnp.asarray(labels, jnp.int32), jnp.asarray(predictions), 4)
  np.testing.assert_array_equal(other, expected)
  count = jax.jit(lambda a, b: ops.masks.confusion(a, b, classes=4))
  traced = count.trace(labels, predictions)
  for platform in ("cpu", "cuda", "tpu"):
    traced.lower(lowering_platforms=(platform,))
