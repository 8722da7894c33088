"""Mask R-CNN as a task: losses fall, pictures without objects and crowds, figures of masks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from effnets import configuration, data, errors, parallel, recipes, tasks
from effnets.training import step
from effnets.weights import programs

# One convolution a head over two levels: as little to compile as shows everything.
_LEAST = {
  "width": 8,
  "max_level": 3,
  "region_width": 8,
  "dense": (16,),
  "region_repeats": 1,
}


def make(mesh, execution="jit", **settings):
  config = configuration.base()
  recipes.digit_scenes_masks(config, "mask_rcnn_fpn_tiny", steps=1)
  config.model.update(_LEAST)
  config.batch_norm.group = "global"
  config.data.image_size, config.data.options.canvas = 64, 64
  config.task.update({"proposals": 24, "samples": 16, "candidates": 60, "tested_candidates": 40})
  config.data.scenes.update({"mask_size": 28, **settings})
  placement = parallel.create(mesh, devices=jax.devices()[: math.prod(mesh.values())])
  if execution != "jit":
    placement = parallel.create(
      mesh, devices=jax.devices()[: math.prod(mesh.values())], execution=execution
    )
  return config, placement, tasks.create(config, placement, num_classes=10, step_batch=4)


def batch_of(config, placement):
  source = data.open_source("digit_scenes", "train", options={"canvas": 64})
  stream = data.Stream(source, seed=0, transform=tasks.transform(config, training=True))
  examples = [stream[i] for i in range(4)]
  batch = {k: np.stack([e[k] for e in examples]) for k in examples[0]}
  return placement.put(batch, jax.tree.map(lambda x: placement.batch, batch))


@pytest.fixture(scope="module")
def ready():
  config, placement, task = make({"data": 1})
  return task, batch_of(config, placement), task.init(0), jax.jit(step.gradients(task, placement))


def gradient(ready, batch, variables=None):
  *_, own, function = ready
  variables = variables or own
  state = {k: v for k, v in variables.items() if k != "params"}
  return function(variables["params"], state, (), batch, jnp.uint32(0), jnp.int32(0))


def test_a_few_steps_lower_every_loss(ready):
  _, batch, variables, _ = ready
  optimizer = optax.adam(5e-3)
  opt = jax.jit(optimizer.init)(variables["params"])

  @jax.jit
  def update(params, grads, opt):
    updates, opt = optimizer.update(grads, opt)
    return optax.apply_updates(params, updates), opt

  rows = []
  for _ in range(20):
    loss, grads, state, metrics = gradient(ready, batch, variables)
    params, opt = update(variables["params"], grads, opt)
    variables = {"params": params, **state}
    means = {k: float(a / b) for k, (a, b) in metrics.items()}
    rows.append({"loss": float(loss), **means})
  first, last = rows[0], rows[-1]
  assert last["loss"] < 0.75 * first["loss"]
  for name in ("score_loss", "proposal_loss", "class_loss", "mask_loss"):
    assert last[name] < first[name], name
  # What is reported is what is learnt: the sum of the five, with each level's mean for proposals.
  rest = sum(first[k] for k in ("score_loss", "class_loss", "box_loss", "mask_loss"))
  assert rest < first["loss"] < rest + 4 * first["proposal_loss"] + 1e-6


def test_pictures_without_objects(ready):
  _, batch, *_ = ready
  empty = {**batch, "classes": jnp.full_like(batch["classes"], -1)}
  empty |= {name: jnp.zeros_like(batch[name]) for name in ("boxes", "masks")}
  loss, grads, _, metrics = gradient(ready, empty)
  assert np.isfinite(loss) and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  assert {name: float(metrics[name][1]) for name in ("proposal_loss", "box_loss", "mask_loss")} == {
    "proposal_loss": 0,
    "box_loss": 0,
    "mask_loss": 0,
  }
  assert float(metrics["class_loss"][1]) == 4 * 16
  assert not any(np.asarray(g).any() for g in jax.tree.leaves(grads["mask_head"]))
  assert any(np.asarray(g).any() for g in jax.tree.leaves(grads["proposal_head"]))


def test_a_weight_of_zero_leaves_a_picture_out_of_the_sums(ready):
  _, batch, *_ = ready
  sums = []
  for weight in ([1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 0, 1]):
    metrics = gradient(ready, {**batch, "weight": batch["weight"] * jnp.array(weight)})[3]
    sums.append({name: float(value[0]) for name, value in metrics.items() if "loss" in name})
  for name, whole in sums[0].items():
    np.testing.assert_allclose(sums[1][name] + sums[2][name], whole, rtol=1e-5)


def test_crowds_are_no_objects():
  config, *_ = make({"data": 1})
  transform = tasks.transform(config, training=True)
  scene = {**data.open_source("digit_scenes", "train", options={"canvas": 64})[5]}
  count = len(scene["boxes"])
  assert count > 1
  scene["crowd"] = np.arange(count) == 0
  found = transform(scene, data.decode.drawing(0, 0))
  whole = transform({**scene, "crowd": np.zeros(count, bool)}, data.decode.drawing(0, 0))
  assert found["objects"] == whole["objects"] - 1
  np.testing.assert_array_equal(found["boxes"][: count - 1], whole["boxes"][1:count])
  np.testing.assert_array_equal(found["masks"][: count - 1], whole["masks"][1:count])


class Known:
  """Two pictures of digits; the second object of the first is a crowd."""

  name, category_ids = "known", tuple(range(1, 11))

  def __init__(self, crowd):
    self.source = data.open_source("digit_scenes", "test", options={"canvas": 64})
    self.image_ids, self.crowd = self.source.image_ids, crowd

  def truth(self, indices):
    truth = self.source.truth(indices)
    if self.crowd:
      truth["annotations"][1]["iscrowd"] = 1
    return truth


def perfect(source, indices):
  """Returns the outputs that a perfect network would give, masks on 28 x 28 cells."""
  outputs = {
    "boxes": np.zeros((len(indices), 6, 4), np.float32),
    "scores": np.zeros((len(indices), 6), np.float32),
    "classes": np.full((len(indices), 6), -1),
    "masks": np.zeros((len(indices), 6, 28, 28), np.uint8),
  }
  fit = data.scenes.Fit(size=(64, 64), max_objects=6, mask_size=28)
  for row, index in enumerate(indices):
    scene = fit(source.source[index])
    count = int(scene["objects"])
    outputs["boxes"][row] = scene["boxes"]
    outputs["classes"][row] = scene["classes"]
    outputs["scores"][row, :count] = 0.9
    outputs["masks"][row] = scene["masks"] * 255
  examples = {"index": np.array(indices), "original": np.full((len(indices), 2), 64)}
  return outputs, examples


@pytest.mark.parametrize("crowd", [False, True])
def test_figures_of_perfect_outputs(ready, crowd):
  task, source = ready[0], Known(crowd)
  outputs, examples = perfect(source, list(range(6)))
  figures = task.evaluate(outputs, examples, source)
  assert tuple(figures) == task.figures and len(figures) == 24
  assert figures["ap"] == pytest.approx(1)
  assert figures["mask_ap50"] == pytest.approx(1) and figures["mask_ap"] > 0.85
  # Masks of other places are wrong, and boxes still right.
  outputs["masks"] = 255 - outputs["masks"]
  figures = task.evaluate(outputs, examples, source)
  assert figures["ap"] == pytest.approx(1) and figures["mask_ap50"] < 0.1


def test_objects_without_masks_are_told_of(ready):
  class Maskless(Known):
    def truth(self, indices):
      truth = super().truth(indices)
      return {**truth, "annotations": [{"bbox": a["bbox"]} for a in truth["annotations"]]}

  source = Maskless(False)
  with pytest.raises(errors.UserError, match="known has objects without masks"):
    ready[0].evaluate(*perfect(source, [0]), source)
  config, *_ = make({"data": 1})
  scene = {k: v for k, v in source.source[0].items() if k != "masks"}
  with pytest.raises(errors.UserError, match="mask_size=28: .* has no masks"):
    tasks.transform(config, training=True)(scene, data.decode.drawing(0, 0))
  # A picture without objects lacks nothing; padding of a batch is one.
  blank = {"image": scene["image"], "label": np.int32(-1)}
  found = tasks.transform(config, training=True)(blank, data.decode.drawing(0, 0))
  assert found["masks"].shape == (8, 28, 28) and not found["masks"].any()


def test_predictions(ready):
  task, batch, variables, _ = ready
  scaled = {**batch, "scale": jnp.full((4, 2), 0.5), "size": jnp.full((4, 2), 40)}
  found = jax.jit(task.predict)(variables, scaled)
  assert found["masks"].shape == (4, 20, 28, 28) and found["masks"].dtype == jnp.uint8
  there = np.asarray(found["classes"]) >= 0
  assert there.any() and (np.asarray(found["scores"])[there] >= 0.05).all()
  # In the picture's pixels, of which each is half one of the image's, and inside of it.
  boxes = np.asarray(found["boxes"])[there]
  assert boxes.max() == 80 and (boxes >= 0).all()


def test_an_exported_program_finds_what_predictions_are(ready, tmp_path):
  """The program knows no sizes: a picture that fills the input, in the pixels of the input."""
  task, batch, variables, _ = ready
  whole = {**batch, "size": jnp.full((4, 2), 64), "scale": jnp.ones((4, 2))}
  expected = jax.jit(task.predict)(variables, whole)
  names, forward = task.exported(suppression=True)
  program = programs.Program(
    task.module, jax.device_get(variables), 64, task.mean, task.std, forward, names, batch=4
  )
  chosen = programs.FORMATS["stablehlo"]
  chosen.write(program, tmp_path / chosen.file)
  found = chosen.read(tmp_path / chosen.file)(np.asarray(batch["image"]))
  assert np.asarray(found["classes"] >= 0).any()
  np.testing.assert_array_equal(found["classes"], expected["classes"])
  np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-3)
  # Predictions have masks in 255 levels.
  np.testing.assert_allclose(found["masks"], expected["masks"] / 255, atol=0.51 / 255)
  names, forward = task.exported(suppression=False)
  shapes = jax.eval_shape(
    lambda v, x: forward(task.module, v, x), variables, jnp.zeros((1, 64, 64, 3))
  )
  assert sorted(shapes) == sorted(names) and shapes["codes"].shape == (1, len(task.anchors), 4)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"data.scenes.mask_size": 0}, "config.data.scenes.mask_size=0"),
    ({"detections.candidates": 100}, "config.detections.candidates=100"),
    ({"model.name": "efficientdet_tiny"}, "a model for instances"),
    ({"task.sample": 3}, "config.task='sample'.*Nearest: 'samples'"),
  ],
)
def test_settings_that_do_not_go_together(change, message):
  config, placement, _ = make({"data": 1})
  config.update_from_flattened_dict(change)
  with pytest.raises(errors.UserError, match=message):
    tasks.create(config, placement, num_classes=10, step_batch=4)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("mesh", "execution"), [({"data": 2, "space": 2}, "jit"), ({"data": 4}, "shard_map")]
)
def test_every_mesh_gives_the_numbers_of_one_device(ready, mesh, execution):
  loss, grads, *_ = gradient(ready, ready[1])
  config, placement, task = make(mesh, execution)
  batch = batch_of(config, placement)
  variables = placement.put(task.init(0), placement.state(task.init(0)))
  state = {k: v for k, v in variables.items() if k != "params"}
  function = jax.jit(step.gradients(task, placement))
  other, found, *_ = function(variables["params"], state, (), batch, jnp.uint32(0), jnp.int32(0))
  np.testing.assert_allclose(other, loss, rtol=1e-5)
  largest = max(np.abs(g).max() for g in jax.tree.leaves(grads))
  for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(grads), strict=True):
    np.testing.assert_allclose(one, two, atol=2e-5 * largest)
