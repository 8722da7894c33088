"""Targets and losses of detection against the official code's own figures."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import configuration, data, errors, parallel, recipes, tasks
from effnets.tasks import detection
from effnets.training import step

OBJECTS = np.array([[100, 100, 200, 220], [300, 50, 310, 58], [0, 0, 511, 511]], np.float32)
# Labels 5, 17 and 90 of COCO, whose numbers begin at 1.
CLASSES = np.array([4, 16, 89], np.int32)


def d0_anchors():
  """Returns EfficientDet-D0's anchors at 512 pixels, and each one's level, by a plain loop."""
  boxes, levels = [], []
  for level in range(3, 8):
    stride = 2**level
    for y in range(512 // stride):
      for x in range(512 // stride):
        for octave in range(3):
          for aspect in (1.0, 2.0, 0.5):
            side = 4 * stride * 2 ** (octave / 3)
            h, w = side / math.sqrt(aspect) / 2, side * math.sqrt(aspect) / 2
            cy, cx = (y + 0.5) * stride, (x + 0.5) * stride
            boxes.append((cy - h, cx - w, cy + h, cx + w))
            levels.append(level)
  return np.array(boxes, np.float32), np.array(levels)


@pytest.fixture(scope="module")
def d0():
  anchors, levels = d0_anchors()
  boxes = np.zeros((1, 6, 4), np.float32)
  classes = np.full((1, 6), -1, np.int32)
  boxes[0, :3], classes[0, :3] = OBJECTS, CLASSES
  return anchors, levels, detection.targets(anchors, boxes, classes, detection.Recipe())


def test_anchors_are_given_out_as_by_the_official_labeler(d0):
  anchors, levels, wanted = d0
  positive = np.asarray(wanted.positive[0])
  assert positive.sum() == 79
  assert [int(positive[levels == level].sum()) for level in range(3, 8)] == [1, 28, 6, 28, 16]
  classes = np.asarray(wanted.classes[0])
  assert {c: int((classes == c).sum()) for c in CLASSES} == {4: 34, 16: 1, 89: 44}
  # The small one, which no anchor resembles enough, is forced on the best: row 36, column 7.
  (forced,) = np.flatnonzero(classes == 16)
  assert forced == (36 * 64 + 7) * 9 + 2
  expected = [0.287262, -0.265165, -1.509724, -1.039721]
  np.testing.assert_allclose(wanted.codes[0, forced], expected, atol=2e-6)
  assert not np.asarray(wanted.codes[0])[~positive].any()


def test_losses_are_the_official_ones(d0):
  anchors, _, wanted = d0
  recipe = detection.Recipe()
  logits = jnp.full((1, len(anchors), 90), -math.log(99))
  classes = detection.class_costs(logits, wanted, recipe)[0] / 80
  boxes = detection.box_costs(jnp.zeros((1, len(anchors), 4)), wanted, recipe)[0] / (4 * 80)
  np.testing.assert_allclose(classes, 1.536284, rtol=2e-6)
  np.testing.assert_allclose(boxes, 0.0145030, rtol=5e-6)
  np.testing.assert_allclose(classes + recipe.box_weight * boxes, 2.261435, rtol=2e-6)


def test_box_loss_masks_targets_of_zero():
  codes = jnp.array([[[0.2, 0.0, -0.05, 1.0]]])
  wanted = detection.Targets(jnp.zeros((1, 1), int), codes, jnp.ones((1, 1), bool))
  found = detection.box_costs(jnp.array([[[0.25, 0.5, 0.1, 0.0]]]), wanted, detection.Recipe())
  # The official class divides by 4 * 2 positives and weighs nothing.
  np.testing.assert_allclose(found[0] / (4 * 2), 0.01328125, rtol=1e-6)
  every = detection.Recipe(skip_zeros=False)
  more = detection.box_costs(jnp.array([[[0.25, 0.5, 0.1, 0.0]]]), wanted, every)
  np.testing.assert_allclose(more - found, 0.1 * 0.5 - 0.005, rtol=1e-5)


def slow_class_costs(logits, classes, positive, recipe):
  total = 0.0
  negatives = []
  for anchor, row in enumerate(logits):
    cost = 0.0
    for k, logit in enumerate(row):
      t = float(classes[anchor] >= 0 and k == classes[anchor] + 1)
      p = 1 / (1 + math.exp(-logit))
      cost -= t * math.log(p) + (1 - t) * math.log(1 - p)
    if positive[anchor]:
      total += cost
    elif classes[anchor] == -1:
      negatives.append(cost)
  return total + sum(sorted(negatives)[::-1][: 3 * int(sum(positive))])


def test_hard_negatives_with_a_slot_for_background():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(2, 40, 5)).astype(np.float32)
  positive = rng.random((2, 40)) < 0.1
  classes = np.where(positive, rng.integers(0, 4, (2, 40)), rng.choice([-1, -2], (2, 40)))
  recipe = detection.Recipe(background=True, class_loss="hard_negatives")
  wanted = detection.Targets(jnp.asarray(classes), jnp.zeros((2, 40, 4)), jnp.asarray(positive))
  found = detection.class_costs(jnp.asarray(logits), wanted, recipe)
  expected = [slow_class_costs(*row, recipe) for row in zip(logits, classes, positive, strict=True)]
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_pictures_without_objects_have_background_alone():
  anchors = d0_anchors()[0][:90]
  wanted = detection.targets(
    anchors, jnp.zeros((1, 3, 4)), jnp.full((1, 3), -1), detection.Recipe()
  )
  assert (np.asarray(wanted.classes) == -1).all() and not np.asarray(wanted.codes).any()
  slope = jax.grad(lambda x: detection.class_costs(x, wanted, detection.Recipe()).sum())(
    jnp.zeros((1, 90, 3))
  )
  assert np.isfinite(slope).all() and (np.asarray(slope) > 0).all()


@pytest.mark.parametrize(
  "setting, message",
  [
    ({"class_loss": "focus"}, "config.task.class_loss='focus'"),
    ({"normalizer": "sum"}, "config.task.normalizer='sum'"),
    ({"negative": 0.6}, "the first not above the second"),
    ({"delta": 0.0}, "config.task.delta=0.0 is out of range"),
    ({"label_smoothing": 1.0}, "outside [0, 1)"),
  ],
)
def test_impossible_recipes_are_refused(setting, message):
  with pytest.raises(errors.UserError, match=message.replace("[", r"\[").replace(")", r"\)")):
    detection.Recipe(**setting)


# One cell and one convolution a head over two levels: as little to compile as shows everything.
_LEAST = {
  "repeats": 1,
  "head_repeats": 1,
  "width": 8,
  "max_level": 4,
  "drop_path_rate": 0.2,
  "backbone_width": 0.5,
}


def _gradient(mesh, execution="jit"):
  config = configuration.base()
  recipes.digit_scenes(config, "efficientdet_tiny", steps=1)
  config.model.update(_LEAST)
  config.batch_norm.group = "global"
  config.data.image_size, config.data.options.canvas = 64, 64
  count = math.prod(mesh.values())
  placement = parallel.create(mesh, devices=jax.devices()[:count], execution=execution)
  task = tasks.create(config, placement, num_classes=10, step_batch=8)
  source = data.open_source("digit_scenes", "train", options={"canvas": 64})
  transform = tasks.transform(config, training=True)
  stream = data.Stream(source, seed=0, transform=transform)
  examples = [stream[i] for i in range(8)]
  batch = {k: np.stack([e[k] for e in examples]) for k in examples[0]}
  batch = placement.put(batch, jax.tree.map(lambda x: placement.batch, batch))
  variables = task.init(0)
  variables = placement.put(variables, placement.state(variables))
  gradient = step.gradients(task, placement)
  state = {k: v for k, v in variables.items() if k != "params"}
  loss, grads, *_ = jax.jit(gradient)(
    variables["params"], state, (), batch, jnp.uint32(0), jnp.int32(0)
  )
  return float(loss), jax.device_get(grads)


@pytest.fixture(scope="module")
def one_device():
  return _gradient({"data": 1})


@pytest.mark.slow
@pytest.mark.parametrize(
  ("mesh", "execution"),
  [({"data": 2, "space": 2}, "jit"), ({"data": 2, "fsdp": 2}, "jit"), ({"data": 4}, "shard_map")],
)
def test_every_mesh_gives_the_numbers_of_one_device(one_device, mesh, execution):
  loss, grads = _gradient(mesh, execution)
  np.testing.assert_allclose(loss, one_device[0], rtol=2e-6)
  largest = max(np.abs(g).max() for g in jax.tree.leaves(one_device[1]))
  for (path, found), expected in zip(
    jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(one_device[1]), strict=True
  ):
    # Biases before norms have a true gradient of zero: what is there is rounding.
    np.testing.assert_allclose(found, expected, atol=1e-5 * largest, err_msg=str(path))
