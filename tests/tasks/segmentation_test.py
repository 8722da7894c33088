"""Segmentation's loss and confusion against loops over pixels."""

import dataclasses

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


def slow_hard(batch, variables, share):
  """Returns the mean cross-entropy of each picture's hardest pixels, and how many there are."""
  taken = []
  for picture in range(4):
    one = {key: value[picture : picture + 1] for key, value in batch.items()}
    costs = []
    for y, x in np.argwhere(one["semantic"][0] != 255):
      alone = np.full_like(one["semantic"], 255)
      alone[0, y, x] = one["semantic"][0, y, x]
      costs.append(slow({**one, "semantic": alone}, variables)[0])
    last = sorted(costs)[::-1][max(1, round(share * len(costs))) - 1]
    # All padding of a label costs the same.
    taken += [cost for cost in costs if cost > last - 1e-6]
  return np.mean(taken)


@pytest.mark.parametrize(("steps", "step", "share"), [(0, 0, 0.3), (10, 4, 0.65), (10, 50, 0.3)])
def test_hard_pixels_alone(made, steps, step, share):
  batch, variables = made
  made_of = task(hard_share=0.3, hard_steps=steps)
  loss = lambda v: made_of.loss(v, (), batch, jax.random.key(0), jnp.int32(step))[0]  # noqa: E731
  np.testing.assert_allclose(
    jax.jit(loss)(variables), slow_hard(batch, variables, share), rtol=1e-5
  )


class Sideways(nn.Module):
  """A pixel's logits are the colours of its left neighbour, so that mirroring matters."""

  @nn.compact
  def __call__(self, images, train=False, keys=None):
    moved = jnp.pad(images, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]
    return jnp.concatenate([moved, moved[..., :1] * 0], -1)


def stretched(x, size):
  """Returns an array at `size`, linear between pixels, corners on corners."""
  for axis, new in enumerate(size):
    old = x.shape[axis]
    at = np.linspace(0, old - 1, new)
    x = np.apply_along_axis(lambda line, at=at, old=old: np.interp(at, range(old), line), axis, x)
  return x


def test_mean_over_scales_and_mirror_images(made):
  batch, _ = made
  batch = {**batch, "size": np.array([[6, 5]] * 4)}
  scales = (0.6, 1.0, 2.0)
  made_of = dataclasses.replace(task(scales=scales, mirror=True), module=Sideways())
  found = made_of.classes({}, batch)
  normal = (batch["image"] / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
  for image, classes in zip(normal, np.asarray(found), strict=True):
    total = np.zeros((6, 5, 4))
    for scale in scales:
      scaled = stretched(image, (int(5 * scale + 1), int(4 * scale + 1)))
      for turn in (slice(None), slice(None, None, -1)):
        moved = np.pad(scaled[:, turn], ((0, 0), (1, 0), (0, 1)))[:, :-1][:, turn]
        likely = np.exp(stretched(moved, (6, 5)))
        total += likely / likely.sum(-1, keepdims=True)
    np.testing.assert_array_equal(classes, total.argmax(-1))
