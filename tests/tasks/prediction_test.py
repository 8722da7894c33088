"""Losses and predictions of films against NumPy, meshes against each other, and what is refused."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from effnets import configuration, data, errors, parallel, tasks, training
from effnets.commands import predicted
from effnets.ops import similarity


def config(arg="", **overrides):
  made = configuration.load(f"configs/video_prediction.py{':' if arg else ''}{arg}")
  small = {"k": 0.07, "m": 0.03, "code": 5, "latent": 2}
  small |= {"context": 2, "frames": 5, "image_size": 16}
  configuration.merge(
    made,
    {
      "batch_size": 4,
      "data": {"image_size": 16},
      "task": {"context": 2, "horizon": 3, "test_horizon": 4, "samples": 3},
      "model": small,
    },
    key="test",
  )
  for key, value in overrides.items():
    configuration.override(made, key, str(value))
  return made


def create(made, mesh=None, execution="jit"):
  mesh = mesh or {"data": 1}
  count = int(np.prod(list(mesh.values())))
  placement = parallel.create(mesh, execution=execution, devices=jax.devices()[:count])
  return tasks.create(made, placement, num_classes=1, step_batch=made.batch_size)


def batch(frames=5, size=16, seed=0, actions=0):
  rng = np.random.default_rng(seed)
  made = {
    "clip": rng.integers(0, 256, (4, frames, size, size, 3)).astype(np.uint8),
    "position": np.stack([np.zeros(4), np.arange(4)], 1).astype(np.uint32),
    "index": np.arange(4, dtype=np.int32),
    "weight": np.array([1, 2, 0.5, 1], np.float32),
  }
  if actions:
    made["actions"] = rng.normal(size=(4, frames, actions)).astype(np.float32)
  return {name: jnp.asarray(value) for name, value in made.items()}


@pytest.mark.parametrize("loss", ["l1", pytest.param("l2", marks=pytest.mark.slow)])
def test_loss(loss):
  task = create(config(**{"task.loss": loss, "task.beta": 0.01}))
  variables, given = task.init(0), batch()
  for name in ("posterior", "prior"):
    for part in ("mean", "log_variance"):
      # Else both are the standard normal, nearly.
      variables["params"][name][part]["kernel"] *= 20 if name == "posterior" else -30
  value, aux = jax.jit(task.loss)(variables, (), given, jax.random.key(0), jnp.int32(0))
  keys = jax.vmap(lambda p: jax.random.fold_in(jax.random.fold_in(_stream("latent"), p[0]), p[1]))(
    given["position"]
  )
  found, _ = jax.jit(
    lambda v, x: task.module.apply(v, x, train=True, keys={"latent": keys}, mutable=["batch_stats"])
  )(variables, given["clip"] / 255.0)
  error = np.asarray(found.frames, np.float64) - np.asarray(given["clip"])[:, 1:] / 255
  error = np.abs(error) if loss == "l1" else error**2
  reconstruction = error.mean((2, 3, 4))
  (m, v), (n, w) = (
    [np.asarray(x, np.float64) for x in pair] for pair in (found.posterior, found.prior)
  )
  kl = 0.5 * (w - v) + (np.exp(v) + (m - n) ** 2) / (2 * np.exp(w)) - 0.5
  assert kl.shape == (4, 4, 2, 2, 2)
  kl = kl.sum((2, 3, 4))
  each = reconstruction.sum(1) + 0.01 * kl.sum(1)
  assert float(value) == pytest.approx(np.mean(each * np.asarray(given["weight"])), rel=1e-4)
  for name, values in (("reconstruction", reconstruction), ("kl", kl)):
    total, count = aux.metrics[name]
    assert (float(total), float(count)) == (pytest.approx(values.sum(), rel=1e-3), 16)
  assert aux.model_state["batch_stats"].keys() == variables["batch_stats"].keys()


def _stream(name):
  import zlib

  return jax.random.fold_in(jax.random.key(0), np.uint32(zlib.crc32(name.encode())))


def test_without_divergence_the_prior_learns_nothing():
  task = create(config(**{"task.beta": 0.0}))
  variables, given = task.init(0), batch()

  def value(params):
    whole = {**variables, "params": params}
    return task.loss(whole, (), given, jax.random.key(0), jnp.int32(0))[0]

  grads = jax.jit(jax.grad(value))(variables["params"])
  assert all(float(jnp.abs(g).max()) == 0 for g in jax.tree.leaves(grads["prior"]))
  assert any(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads["posterior"]))


def test_predictions():
  task = create(config())
  variables, given = task.init(0), batch(frames=6)
  outputs = jax.jit(task.predict)(variables, given)
  made, whole = jax.jit(task.futures)(variables, given)
  np.testing.assert_allclose(whole, given["clip"] / 255.0, atol=1e-6)
  assert made.shape == (4, 3, 4, 16, 16, 3)
  for sample in range(3):
    np.testing.assert_allclose(
      outputs["psnr"][:, sample],
      similarity.psnr(made[:, sample], whole[:, 2:]),
      rtol=1e-5,
    )
  held = np.repeat(np.asarray(whole)[:, 1:2], 4, 1)
  np.testing.assert_allclose(outputs["ssim_copy"], similarity.ssim(held, whole[:, 2:]), rtol=1e-5)
  assert outputs["frechet_digits_made"].shape == (4, 3, outputs["frechet_digits_real"].shape[1])
  # The same films elsewhere in a batch: the same futures.
  order = np.array([2, 0, 3, 1])
  moved = jax.jit(task.futures)(variables, {name: x[order] for name, x in given.items()})[0]
  np.testing.assert_allclose(moved, made[order], atol=1e-5)
  host = jax.tree.map(np.asarray, outputs)
  figures = task.evaluate(host, {})
  assert tuple(figures) == task.figures and figures["psnr_best"] >= figures["psnr"]
  shown = jax.jit(task.drawn)(variables, given)
  best = np.asarray(outputs["ssim"]).mean(2).argmax(1)
  expected = np.rint(np.asarray(made)[range(4), best] * 255)
  assert np.abs(shown["shown"][:, 0].astype(np.float64) - expected).max() <= 1
  assert shown["shown"].shape == (4, 4, 4, 16, 16, 3)


@pytest.mark.parametrize(
  ("mesh", "execution"),
  [
    ({"data": 2, "fsdp": 2}, "jit"),
    pytest.param({"data": 4}, "shard_map", marks=pytest.mark.slow),
    pytest.param({"data": 2, "space": 2}, "jit", marks=pytest.mark.slow),
  ],
  ids=str,
)
def test_meshes(mesh, execution):
  made = config("moving_digits_actions", **{"batch_norm.group": "global"})
  given = batch(actions=2)
  values = []
  for where, how in (({"data": 1}, "jit"), (mesh, execution)):
    task = create(made, where, how)
    gradient = training.step.gradients(task, task.placement)
    variables = task.init(0)
    params = variables.pop("params")
    placed = {n: jax.device_put(x, task.placement.batch) for n, x in given.items()}
    loss, grads, *_ = jax.jit(gradient)(params, variables, (), placed, np.uint32(0), np.int32(0))
    values.append((float(loss), jax.device_get(grads)))
  (loss, grads), (other, others) = values
  assert other == pytest.approx(loss, rel=1e-5)
  largest = max(np.abs(g).max() for g in jax.tree.leaves(grads))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3 * largest, rtol=1e-2), grads, others
  )


def test_films_reach_the_task():
  made = config("moving_digits_actions")
  source = data.open_source("moving_digits", "train", options={"actions": 1, "examples": 8})
  example = data.Stream(source, seed=0, transform=tasks.transform(made, training=True))[0]
  assert example["clip"].shape == (5, 16, 16, 3) and example["actions"].shape == (5, 2)
  shapes = data.eval_shapes(source, 4, tasks.transform(made, training=False))
  assert shapes["clip"].shape == (4, 6, 16, 16, 3) and shapes["actions"].shape == (4, 6, 2)


def test_pictures(tmp_path):
  rng = np.random.default_rng(0)
  outputs = {
    "whole": rng.integers(0, 256, (5, 6, 16, 16, 3)).astype(np.uint8),
    "shown": rng.integers(0, 256, (5, 3, 4, 16, 16, 3)).astype(np.uint8),
  }
  predicted.pictures(tmp_path, "plots/x", outputs, 2)
  strip = np.asarray(Image.open(tmp_path / "plots" / "x.png"))
  # Four clips of truth and three futures; six frames of 64 pixels, two between them.
  assert strip.shape == (16 * 66 - 2, 6 * 66 - 2, 3)
  inner = strip[2:62, 2:62].reshape(15, 4, 15, 4, 3)[:, 1, :, 1]
  np.testing.assert_array_equal(strip[6:60:4, 6:60:4], outputs["whole"][0, 0, 1:15, 1:15][:14, :14])
  assert inner.shape == (15, 15, 3)
  # The third frame of the first clip's second future is told, its first is given.
  np.testing.assert_array_equal(
    strip[2 * 66 + 6 : 2 * 66 + 60 : 4, 2 * 66 + 6 : 2 * 66 + 60 : 4],
    outputs["shown"][0, 1, 0, 1:15, 1:15][:14, :14],
  )
  assert tuple(strip[0, 0]) == (0, 158, 115) and tuple(strip[0, 2 * 66]) == (213, 94, 0)
  with Image.open(io.BytesIO((tmp_path / "plots" / "x.gif").read_bytes())) as film:
    assert film.n_frames == 6 and film.size == (4 * 66 - 2, 4 * 66 - 2)


@pytest.mark.parametrize(
  ("overrides", "words"),
  [
    ({"task.loss": "l3"}, "config.task.loss='l3'.*'l2', 'l1'"),
    ({"task.beta": -1.0}, "config.task.beta=-1.0 should be a number of at least 0"),
    ({"task.samples": 0}, "config.task.samples=0 should be a whole number"),
    ({"task.span": "future"}, "config.task.span='future'"),
    ({"data.clips.short": "loop"}, "config.data.clips.short='loop'.*'hold', 'refuse'"),
    ({"task.i3d": "x.npz"}, "FVD looks at 9 frames or more.*test_horizon=4.*gives 4"),
    ({"task.vgg16": "x.npz"}, "config.task.vgg16='x.npz': there is no such file"),
    ({"model.context": 3}, "config.model.context=3 differs from config.task.context=2"),
    ({"model.name": "resnet50"}, "config.model.name='resnet50' is not a model that predicts"),
    ({"augment.flip": 2.0}, "config.augment.flip=2.0 should be a probability"),
    ({"augment.flip": 0.5, "model.actions": 2}, "what an action means in a mirror"),
    ({"augment.shift": 2}, "config.augment='shift' is not a change of clips"),
  ],
)
def test_what_is_refused(overrides, words):
  with pytest.raises(errors.UserError, match=words):
    create(config(**overrides))


def test_the_configs_argument():
  large = configuration.load("configs/video_prediction.py:towel_pick")
  assert (large.model.k, large.model.m, large.model.actions) == (5.0, 3.0, 4)
  assert configuration.load("configs/video_prediction.py:kitti,k=2,m=1.5").model.m == 1.5
  lstm = configuration.load("configs/video_prediction.py:lstm,seed=3")
  assert (lstm.model.name, lstm.seed) == ("svg_prime_lstm_tiny", 3)
  for arg, words in (("kitti,bair", "several data sets"), ("lstm,cnn", "several kinds")):
    with pytest.raises(errors.UserError, match=words):
      configuration.load(f"configs/video_prediction.py:{arg}")
