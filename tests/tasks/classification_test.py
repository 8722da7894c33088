"""The classification loss against sheet values and a slow NumPy computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import data, parallel
from effnets.tasks import classification
from tests.data import fakes

LOGITS = (2.0, 1.0, 0.0, -1.0)
SOFT = (0.7, 0.2, 0.05, 0.05)


class Constant:
  """A module with the same logits for every image."""

  def apply(self, variables, images, *, train, keys=None, mutable=()):
    logits = jnp.tile(variables["params"]["logits"], (images.shape[0], 1))
    return (logits, {}) if train else logits

  def frozen_names(self):
    return ()


class Table(Constant):
  """A module whose logits are a table, row i for image i."""

  def apply(self, variables, images, *, train, keys=None, mutable=()):
    return variables["params"]["logits"], {}


class Labelled(fakes.Numbered):
  """Examples of class 0, or with the soft label `SOFT`."""

  def __getitem__(self, index):
    example = {**super().__getitem__(index), "label": np.int32(0)}
    if self._soft:
      example["probabilities"] = np.array(SOFT, np.float32)
    return example


def task(module=None, classes=4, **settings):
  placement = parallel.create({"data": 1}, devices=jax.devices()[:1])
  return classification.Classification(
    module or Constant(), placement, 4, classes, (0.5,) * 3, (0.25,) * 3, **settings
  )


def loss(made, batch, logits):
  value, aux = made.loss({"params": {"logits": logits}}, (), batch, jax.random.key(0), 0)
  return float(value), {k: float(s) / float(c) for k, (s, c) in aux.metrics.items() if c}


# Noisy Student sheet, check 3.
@pytest.mark.parametrize(("ratio", "total"), [(1, 1.480379), (3, 3.260759), (14, 13.052845)])
def test_labelled_and_unlabelled_losses_add_up_as_in_the_papers_code(ratio, total):
  streams = [
    data.Stream(Labelled(8, classes=4), seed=0),
    data.Stream(Labelled(8, classes=4, soft=True), seed=0, name="unlabelled"),
  ]
  mixture = data.Mixture(streams, counts=[2, 2 * ratio], weights=[1.0, float(ratio)])
  size = 2 + 2 * ratio
  batch = next(data.train_batches(mixture, size, threads=0))
  value, metrics = loss(task(label_smoothing=0.1), batch, jnp.array(LOGITS))
  np.testing.assert_allclose(value, total, rtol=1e-6)
  np.testing.assert_allclose(
    metrics["cross_entropy"], (2 * 0.590190 + 2 * ratio * 0.890190) / size, rtol=1e-6
  )
  assert metrics["top1"] == 1.0 and metrics["agreement"] == 1.0


@pytest.mark.parametrize("soft", [False, True])
def test_loss_and_metrics_equal_a_slow_computation(soft):
  rng = np.random.default_rng(0)
  count, classes, smoothing, temperature = 12, 5, 0.1, 2.0
  batch = {
    "image": np.zeros((count, 4, 4, 3), np.uint8),
    "label": rng.integers(0, classes, count).astype(np.int32),
    "position": np.stack([np.zeros(count), np.arange(count)], 1).astype(np.uint32),
    "weight": rng.uniform(0.5, 2, count).astype(np.float32),
  }
  if soft:
    batch["soft"] = rng.integers(0, 2, count).astype(bool)
    p = rng.uniform(size=(count, classes)) * batch["soft"][:, None]
    p[batch["soft"], 0] = 0.0  # a class that the teacher rules out
    batch["probabilities"] = (p / np.maximum(p.sum(1, keepdims=True), 1e-9)).astype(np.float32)
  logits = rng.normal(size=(count, classes)).astype(np.float32)
  made = task(Table(), classes, label_smoothing=smoothing, temperature=temperature)
  value, metrics = loss(made, batch, jnp.asarray(logits))

  total, entropies, hits, agreements = 0.0, [], [], []
  for i in range(count):
    row = logits[i].astype(np.float64)
    log_p = row - np.log(np.exp(row).sum())
    if soft and batch["soft"][i]:
      target = batch["probabilities"][i].astype(np.float64) ** (1 / temperature)
      target /= target.sum()
      agreements.append(log_p.argmax() == target.argmax())
    else:
      target = np.full(classes, smoothing / classes)
      target[batch["label"][i]] += 1 - smoothing
      hits.append(log_p.argmax() == batch["label"][i])
    entropies.append(-(target * log_p).sum())
    total += batch["weight"][i] * entropies[-1] / count
  np.testing.assert_allclose(value, total, rtol=1e-6)
  np.testing.assert_allclose(metrics["cross_entropy"], np.mean(entropies), rtol=1e-6)
  np.testing.assert_allclose(metrics["top1"], np.mean(hits), rtol=1e-6)
  if soft:
    np.testing.assert_allclose(metrics["agreement"], np.mean(agreements), rtol=1e-6)


# Noisy Student sheet, check 4.
@pytest.mark.parametrize(
  ("temperature", "expected"),
  [
    (1.0, SOFT),
    (2.0, (0.483315, 0.258343, 0.129171, 0.129171)),
    (0.5, (0.915888, 0.074766, 0.004673, 0.004673)),
  ],
)
def test_temperature_sharpens_soft_labels_and_leaves_hard_ones(temperature, expected):
  batch = {
    "label": np.array([0, 1], np.int32),
    "soft": np.array([True, False]),
    "probabilities": np.array([SOFT, (0, 0, 0, 0)], np.float32),
  }
  targets = task(temperature=temperature, label_smoothing=0.2).targets(batch)
  np.testing.assert_allclose(targets[0], expected, atol=1e-6)
  np.testing.assert_allclose(targets[1], (0.05, 0.85, 0.05, 0.05), atol=1e-6)


def test_hidden_labels_count_for_no_accuracy():
  batch = {
    "image": np.zeros((2, 4, 4, 3), np.uint8),
    "label": np.array([0, -1], np.int32),
    "position": np.zeros((2, 2), np.uint32),
    "weight": np.ones(2, np.float32),
    "soft": np.array([False, True]),
    "probabilities": np.array([(0, 0, 0, 0), SOFT], np.float32),
  }
  _, metrics = loss(task(), batch, jnp.array([0.0, 1.0, 0.0, 0.0]))
  assert metrics["top1"] == 0.0 and metrics["agreement"] == 0.0


class Shares(Constant):
  """A module that gives the shares of black and white pixels as probabilities, and keeps them."""

  def apply(self, variables, images, *, train, keys=None, mutable=()):
    white = jnp.mean(images > 0, axis=(1, 2, 3))
    self.seen = np.clip(np.stack([1 - white, white], axis=1), 1e-6, 1)
    return jnp.log(self.seen), {}


@pytest.mark.parametrize("probability", [1.0, 0.5])
def test_cutmix_mixes_labels_as_it_mixes_pixels(probability):
  count = 32
  white = np.arange(count) % 2
  batch = {
    "image": np.tile(255 * white[:, None, None, None], (1, 12, 12, 3)).astype(np.uint8),
    "label": white.astype(np.int32),
    "weight": np.ones(count, np.float32),
    "position": np.stack([np.zeros(count), np.arange(count)], 1).astype(np.uint32),
  }
  module = Shares()
  made = task(module, classes=2, cutmix=1.0, cutmix_probability=probability, mixup_group=2)
  value, _ = loss(made, batch, jnp.zeros(2))
  mixed = (module.seen > 1e-3).all(1).mean()
  assert mixed > 0.2 and (module.seen.argmax(1) != white).any()
  # Targets that are the shares make the cross-entropy the entropy of the shares.
  entropy = -np.sum(module.seen * np.log(module.seen), axis=1)
  np.testing.assert_allclose(value, entropy.mean(), rtol=1e-4)
