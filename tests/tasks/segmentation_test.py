"""Segmentation's loss and confusion against loops over pixels."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import parallel
from effnets.tasks import segmentation

CLASSES = 4


class PerPixel(nn.Module):
  """Logits are linear in a pixel's colours."""

  @nn.compact
  def __call__(self, images, train=False, keys=None):
    return nn.Dense(CLASSES)(images)


@pytest.fixture(scope="module")
def made():
  rng = np.random.default_rng(0)
  batch = {
    "image": rng.integers(0, 255, (4, 6, 5, 3), np.uint8),
    "semantic": rng.choice([0, 1, 2, 3, 255], (4, 6, 5)).astype(np.uint8),
    "size": np.array([[6, 5], [4, 5], [6, 3], [2, 2]], np.int32),
    "weight": np.ones(4, np.float32),
    "position": np.zeros((4, 2), np.uint32),
  }
  variables = PerPixel().init(jax.random.key(0), jnp.zeros((1, 1, 1, 3)))
  return batch, variables


def task(execution="jit", devices=1, **settings):
  placement = parallel.create(
    {"data": devices}, devices=jax.devices()[:devices], execution=execution
  )
  return segmentation.Segmentation(
    module=PerPixel(),
    placement=placement,
    image_size=(6, 5),
    num_classes=CLASSES,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.3, 0.4),
    **settings,
  )


def slow(batch, variables, smoothing=0.0):
  """Returns mean cross-entropy and confusions, pixel by pixel."""
  kernel, bias = (
    np.asarray(variables["params"]["Dense_0"][k], np.float64) for k in ("kernel", "bias")
  )
  total, count, confusion = 0.0, 0, np.zeros((4, CLASSES, CLASSES), int)
  for i, image in enumerate(batch["image"]):
    for y, x in np.ndindex(6, 5):
      label = batch["semantic"][i, y, x]
      inside = y < batch["size"][i, 0] and x < batch["size"][i, 1]
      pixel = (image[y, x] / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4] if inside else np.zeros(3)
      logits = pixel @ kernel + bias
      if label == 255:
        continue
      logs = logits - np.log(np.exp(logits).sum())
      total -= (1 - smoothing) * logs[label] + smoothing * logs.mean()
      count += 1
      confusion[i, label, logits.argmax()] += 1
  return total / count, confusion


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_the_mean_over_pixels_that_count(made, smoothing):
  batch, variables = made
  loss, aux = task(label_smoothing=smoothing).loss(
    variables, (), batch, jax.random.key(0), jnp.int32(0)
  )
  expected, confusion = slow(batch, variables, smoothing)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  right, counted = aux.metrics["pixel_accuracy"]
  assert (int(right), int(counted)) == (np.trace(confusion.sum(0)), confusion.sum())


def test_predictions_are_counted_per_picture(made):
  batch, variables = made
  found = task().predict(variables, batch)["confusion"]
  np.testing.assert_array_equal(found, slow(batch, variables)[1])


def test_devices_with_fewer_pixels_that_count_weigh_less(made):
  batch, variables = made
  batch = {**batch, "semantic": batch["semantic"].copy()}
  batch["semantic"][0, :5] = 255
  shared = task("shard_map", 4)
  one = lambda *part: shared.loss(part[0], (), part[1], jax.random.key(0), jnp.int32(0))[0]  # noqa: E731
  spec = jax.sharding.PartitionSpec(parallel.BATCH_AXES)
  mean = shared.placement.per_device(
    lambda v, b: jax.lax.pmean(one(v, b), parallel.BATCH_AXES),
    (jax.sharding.PartitionSpec(), spec),
    jax.sharding.PartitionSpec(),
  )
  found = jax.jit(mean)(variables, batch)
  np.testing.assert_allclose(found, slow(batch, variables)[0], rtol=1e-5)
