"""Normalisation against the formula in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from effnets import augment

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_every_level():
  images = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(2, 8, 16, 3)
  expected = (images / 255 - np.array(_MEAN)) / np.array(_STD)
  result = augment.normalize(images, _MEAN, _STD)
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result, expected, atol=1e-6)
  half = augment.normalize(images, _MEAN, _STD, dtype=jnp.bfloat16)
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(half.astype(np.float32), expected, rtol=2**-8)


def test_errors():
  image = np.zeros((1, 1, 3), np.uint8)
  with pytest.raises(ValueError, match="std=0.0 is not positive"):
    augment.normalize(image, 0.5, 0)
  with pytest.raises(ValueError, match=r"looks like levels.*0\.485"):
    augment.normalize(image, (123.675, 116.28, 103.53), (58.4, 57.1, 57.4))
