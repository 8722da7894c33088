"""Learned probabilities: draws against their shares, gradients against sums over operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import augment, streams
from effnets.augment import learning


def _keys(count):
  return streams.example_keys(jax.random.key(0), streams.words(np.arange(count)))


def test_operations_are_drawn_as_often_as_they_are_probable():
  count = 20_000
  probabilities = np.array([[0.7, 0.0, 0.3], [0.1, 0.2, 0.7]], np.float32)
  index = np.asarray(learning.draw(_keys(count), probabilities).index)
  shares = np.stack([(index == k).mean(0) for k in range(3)], -1)
  # Five standard errors of a Bernoulli mean; what has probability 0 is never drawn.
  assert (np.abs(shares - probabilities) <= 5 * np.sqrt(probabilities / count)).all()
  # The layers are independent.
  assert abs((index == [0, 2]).all(1).mean() - 0.49) < 5 * (0.49 / count) ** 0.5


# Without a random sign or place, so that one operation alone is what `augment.apply` does.
_NAMES = ("identity", "invert", "posterize", "solarize")
_ARGUMENTS = {"posterize": 2, "solarize": 153}  # the sheet's, magnitude 6


def test_the_gradient_is_that_of_the_weighed_operations():
  policy = augment.RandAugment(layers=2, magnitude=6, operations=_NAMES)
  learned = augment.Learned(policy)
  assert learned.names == _NAMES
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (6, 5, 4, 3)).astype(np.uint8)
  probabilities = np.array([[0.1, 0.4, 0.3, 0.2], [0.25, 0.25, 0.4, 0.1]], np.float32)
  sampled = np.asarray(learned.sample(images, _keys(6), probabilities))
  value, pull = jax.vjp(lambda p: learned.distort(images, _keys(6), p), probabilities)
  np.testing.assert_array_equal(value, sampled)
  cotangent = rng.normal(size=images.shape).astype(np.float32)
  (gradient,) = pull(cotangent)

  def each(images):
    return [np.asarray(augment.apply(name, images, _ARGUMENTS.get(name))) for name in _NAMES]

  first = np.asarray(learning.draw(_keys(6), probabilities).index)[:, 0]
  between = np.stack(each(images))[first, np.arange(6)]
  expected = [
    [np.sum(cotangent * made, dtype=np.float64) for made in each(of)] for of in (images, between)
  ]
  np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-2)


def test_random_signs_and_places_are_those_of_the_sample():
  policy = augment.RandAugment(layers=1, operations=("rotate", "cutout"), cutout_const=4)
  learned, probabilities = augment.Learned(policy), jnp.full((1, 2), 0.5)
  images = np.random.default_rng(1).integers(0, 256, (8, 12, 12, 3)).astype(np.uint8)
  np.testing.assert_array_equal(
    learned.distort(images, _keys(8), probabilities),
    learned.sample(images, _keys(8), probabilities),
  )


@pytest.mark.parametrize("method", ["sample", "distort"])
def test_one_key_for_each_image(method):
  learned = augment.Learned(augment.RandAugment())
  with pytest.raises(ValueError, match="Learned takes images"):
    getattr(learned, method)(np.zeros((2, 4, 4, 3), np.uint8), _keys(3), np.full((2, 16), 1 / 16))
