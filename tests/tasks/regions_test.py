"""Proposals, sampled regions, their targets and losses against slow loops."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import errors
from effnets.ops import nms
from effnets.tasks import regions

RECIPE = regions.Recipe(
  candidates=12, proposals=15, proposal_samples=10, samples=8, proposal_overlap=0.4
)
OBJECTS = np.array([[[4, 4, 20, 24], [30, 10, 44, 60], [0, 0, 0, 0]], [[0, 0, 0, 0]] * 3])
CLASSES = np.array([[2, 0, -1], [-1, -1, -1]], np.int32)
propose = functools.partial(jax.jit, static_argnums=(4,))(
  lambda s, c, a, size, recipe: regions.propose(s, c, a, size, recipe, candidates=recipe.candidates)
)
proposal_targets, sample = (
  jax.jit(f, static_argnums=(4,)) for f in (regions.proposal_targets, regions.sample)
)
KEYS = jax.random.split(jax.random.key(3), 2)


def overlap(a, b):
  height = min(a[2], b[2]) - max(a[0], b[0])
  width = min(a[3], b[3]) - max(a[1], b[1])
  shared = max(height, 0) * max(width, 0)
  area = lambda box: max(box[2] - box[0], 0) * max(box[3] - box[1], 0)  # noqa: E731
  union = area(a) + area(b) - shared
  return shared / union if union > 0 else 0.0


def decoded(code, anchor, scales=(1, 1, 1, 1), offset=0):
  height, width = anchor[2] - anchor[0] + offset, anchor[3] - anchor[1] + offset
  y = anchor[0] + height / 2 + code[0] / scales[0] * height
  x = anchor[1] + width / 2 + code[1] / scales[1] * width
  h = height * math.exp(min(code[2] / scales[2], math.log(1000 / 16)))
  w = width * math.exp(min(code[3] / scales[3], math.log(1000 / 16)))
  return [y - h / 2, x - w / 2, y + h / 2 - offset, x + w / 2 - offset]


def cut(box, size):
  return [min(max(v, 0), size[i % 2]) for i, v in enumerate(box)]


def slow_proposals(levels, size):
  """Returns (box, score, level) of one picture; levels: of (scores, codes, anchors)."""
  found = []
  for place, (scores, codes, anchors) in enumerate(levels):
    order = np.argsort(-scores)[: RECIPE.candidates]
    kept = []
    for i in order:
      box = cut(decoded(codes[i], anchors[i]), size)
      if min(box[2] - box[0], box[3] - box[1]) <= 0:
        continue
      if all(overlap(box, other) <= RECIPE.proposal_overlap for other, *_ in kept):
        kept.append((box, scores[i], place))
    found += kept[: RECIPE.proposals]
  return sorted(found, key=lambda row: -row[1])[: RECIPE.proposals]


def test_proposals_against_a_loop():
  rng = np.random.default_rng(0)
  shapes = ((4, 5, 2), (2, 3, 2), (1, 1, 2))
  scores = [rng.normal(size=(2, *s)).astype(np.float32) for s in shapes]
  codes = [rng.normal(size=(2, *s[:2], 8)).astype(np.float32) / 2 for s in shapes]
  codes[0][0, 0, 0, 2] = 50.0  # the logarithm is cut off
  first = rng.uniform(-10, 60, (sum(map(math.prod, shapes)), 2))
  anchors = np.concatenate([first, first + rng.uniform(8, 40, first.shape)], 1).astype(np.float32)
  size = np.array([[64, 64], [40, 30]])
  found = propose(scores, codes, anchors, size, RECIPE)
  for picture in range(2):
    start, levels = 0, []
    for score, code in zip(scores, codes, strict=True):
      count = score[picture].size
      levels.append(
        (score[picture].ravel(), code[picture].reshape(-1, 4), anchors[start : start + count])
      )
      start += count
    want = slow_proposals(levels, size[picture])
    count = int(found.count[picture])
    assert count == len(want) > 3
    np.testing.assert_allclose(found.boxes[picture, :count], [w[0] for w in want], atol=2e-4)
    np.testing.assert_allclose(found.scores[picture, :count], [w[1] for w in want], rtol=1e-6)
    assert found.classes[picture, :count].tolist() == [w[2] for w in want]
  # Some are cut at the second picture's own border, which is inside of the padded image.
  assert float(found.boxes[1].max()) == 40


def test_a_sample_of_anchors():
  rng = np.random.default_rng(1)
  first = rng.uniform(0, 50, (60, 2))
  anchors = np.concatenate([first, first + rng.uniform(5, 40, first.shape)], 1).astype(np.float32)
  anchors[7] = OBJECTS[0, 0] + [0.5, 0, 0, 1]  # surely positive
  recipe = dataclasses.replace(RECIPE, proposal_share=0.2)
  wanted = proposal_targets(KEYS, anchors, OBJECTS.astype(np.float32), CLASSES, recipe)
  overlaps = np.array([[overlap(a, o) for o in OBJECTS[0, :2]] for a in anchors])
  positive = overlaps.max(1) >= 0.7
  positive[overlaps.argmax(0)] = True
  negative = (overlaps.max(1) < 0.3) & ~positive
  scored, taken = np.asarray(wanted.scored), np.asarray(wanted.positive)
  assert scored.sum(1).tolist() == [10, 10] and not taken[1].any()
  assert taken[0].sum() == min(2, positive.sum()) and not (taken[0] & ~positive).any()
  assert not (scored[0] & ~taken[0] & ~negative).any()
  # Boxes of all positive anchors have targets, sampled or not.
  np.testing.assert_array_equal(np.asarray(wanted.codes[0]).any(1), positive)
  for i in np.flatnonzero(positive):
    # One that no overlap makes positive is the best of the object that forced it.
    forced = int(np.flatnonzero(overlaps.argmax(0) == i)[0]) if overlaps[i].max() < 0.7 else -1
    own = OBJECTS[0, forced if forced >= 0 else overlaps[i].argmax()]
    np.testing.assert_allclose(decoded(wanted.codes[0, i], anchors[i]), own, atol=1e-4)
  assert not np.asarray(wanted.codes[1]).any()


def proposals():
  boxes = np.zeros((2, 20, 4), np.float32)
  rng = np.random.default_rng(2)
  boxes[:, :16, :2] = rng.uniform(0, 40, (2, 16, 2))
  boxes[:, :16, 2:] = boxes[:, :16, :2] + rng.uniform(5, 20, (2, 16, 2))
  boxes[0, 3], boxes[0, 5] = OBJECTS[0, 0] + 1, OBJECTS[0, 1] + [1, 0, 0, 2]
  index = np.where(np.arange(20) < 16, np.arange(20), -1)[None].repeat(2, 0)
  zeros = jnp.zeros((2, 20))
  return nms.Detections(boxes, zeros, zeros.astype(jnp.int32), index, jnp.array([16, 16]))


def test_a_sample_of_regions():
  recipe = dataclasses.replace(RECIPE, samples=12)
  found = proposals()
  taken = sample(KEYS, found, OBJECTS.astype(np.float32), CLASSES, recipe)
  assert taken.boxes.shape == (2, 12, 4) and np.asarray(taken.valid).all()
  boxes, classes, owner = (np.asarray(x) for x in (taken.boxes, taken.classes, taken.owner))
  # A quarter, first, with both own boxes among four candidates.
  assert (classes[0] > 0).tolist() == [True] * 3 + [False] * 9
  assert (classes[1] == 0).all() and (owner[1] == -1).all()
  candidates = {tuple(box) for box in found.boxes[0, :16].tolist()}
  candidates |= {tuple(map(float, box)) for box in OBJECTS[0, :2]}
  for box, number, own, code in zip(boxes[0], classes[0], owner[0], taken.codes[0], strict=True):
    assert tuple(box.tolist()) in candidates
    overlaps = [overlap(box, o) for o in OBJECTS[0, :2]]
    if number:
      assert own == np.argmax(overlaps) and max(overlaps) >= 0.5
      assert number == CLASSES[0, own] + 1
      back = decoded(code, box, (10, 10, 5, 5), 1)
      np.testing.assert_allclose(back, OBJECTS[0, own], atol=1e-3)
    else:
      assert max(overlaps) < 0.5 and own == -1 and not np.asarray(code).any()


def test_too_few_regions_are_marked():
  none = jax.tree.map(jnp.zeros_like, proposals())._replace(index=jnp.full((2, 20), -1))
  taken = sample(KEYS, none, OBJECTS.astype(np.float32), CLASSES, RECIPE)
  # The objects' own boxes are all there is.
  assert np.asarray(taken.valid).sum(1).tolist() == [2, 0]
  assert sorted(np.asarray(taken.classes[0, :2]).tolist()) == [1, 3]
  alone = dataclasses.replace(RECIPE, with_truth=False)
  taken = sample(KEYS, none, OBJECTS.astype(np.float32), CLASSES, alone)
  assert not np.asarray(taken.valid).any() and not np.asarray(taken.classes).any()


def test_regions_are_cut_from_the_level_of_their_size():
  levels = (2, 3, 4)
  maps = [jnp.full((1, 256 >> n, 256 >> n, 1), float(n)) for n in levels]
  boxes = jnp.array([[[0.0, 0, 50, 60], [0, 0, 112, 112], [3, 3, 227, 227], [9, 9, 9, 9]]])
  cut_out = jax.jit(lambda m, b: regions.crop(m, b, levels, 7))(maps, boxes)
  assert cut_out.shape == (1, 4, 7, 7, 1)
  assert cut_out[0, :, 3, 3, 0].tolist() == [2, 3, 4, 2]
  # The sheet's example: one point in a bin's middle, pixels' middles at whole numbers.
  ramp = jnp.arange(8.0)[:, None] * 10 + jnp.arange(8.0)
  crop = jax.jit(lambda m, b: regions.crop([m], b, (0,), 2))
  found = crop(ramp[None, :, :, None], jnp.array([[[1.0, 2, 5, 6]]]))
  assert found[0, 0, :, :, 0].tolist() == [[23, 25], [43, 45]]


def test_mask_targets_are_the_part_in_sight():
  stored = np.zeros((1, 2, 32, 32), np.uint8)
  stored[0, 1, :, 16:] = 1  # the right half of the second object
  boxes = np.array([[[0, 0, 9, 9], [10, 20, 42, 52]]], np.float32)
  at = np.array([[[10, 20, 42, 52], [10, 28, 26, 44], [10, 36, 42, 68], [0, 0, 5, 5]]], np.float32)
  taken = regions.Regions(
    at, np.array([[3, 3, 3, 0]]), np.zeros((1, 4, 4)), np.array([[1, 1, 1, -1]]), np.ones((1, 4))
  )
  found = np.asarray(regions.mask_targets(taken, boxes, stored, size=8))[0]
  column = np.arange(8)
  for one, wanted in zip(found, (column >= 4, column >= 4, column < 4, column < 0), strict=True):
    np.testing.assert_array_equal(one, np.broadcast_to(wanted, (8, 8)))


def bce(logit, target):
  p = 1 / (1 + math.exp(-logit))
  return -target * math.log(p) - (1 - target) * math.log(1 - p)


def huber(error, delta):
  return error**2 / 2 if abs(error) <= delta else delta * abs(error) - delta**2 / 2


def test_losses_of_proposals_against_loops():
  rng = np.random.default_rng(3)
  scores = rng.normal(size=(2, 14)).astype(np.float32)
  positive = rng.random((2, 14)) < 0.3
  scored = positive | (rng.random((2, 14)) < 0.5)
  codes = rng.normal(size=(2, 14, 4)).astype(np.float32) / 4
  codes[rng.random((2, 14)) < 0.5] = 0
  codes[0, 0] = [0.0, 0.5, 0.0, -0.1]  # a coordinate of exactly 0 does not count
  wanted = regions.ProposalTargets(scored, positive, codes)
  found = regions.score_costs(scores, wanted)
  expected = [
    sum(bce(scores[b, a], float(positive[b, a])) for a in range(14) if scored[b, a])
    for b in range(2)
  ]
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  made = rng.normal(size=(2, 14, 4)).astype(np.float32) / 4
  levels = [made[:, :12].reshape(2, 2, 3, 8), made[:, 12:].reshape(2, 1, 1, 8)]
  of_levels = regions.proposal_costs(levels, wanted, RECIPE)
  for place, part in enumerate((slice(0, 12), slice(12, 14))):
    for b in range(2):
      rows = zip(made[b, part].ravel(), codes[b, part].ravel(), strict=True)
      costs = [huber(m - c, 1 / 9) for m, c in rows if c != 0]
      np.testing.assert_allclose(of_levels.sums[b, place], sum(costs), rtol=1e-5)
      assert of_levels.counts[b, place] == len(costs)


@pytest.fixture(scope="module")
def made():
  rng = np.random.default_rng(4)
  classes = np.array([[2, 1, 3, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
  codes = np.where(classes[..., None] > 0, rng.normal(size=(2, 6, 4)) * 2, 0).astype(np.float32)
  valid = np.array([[True] * 5 + [False], [True] * 6])
  taken = regions.Regions(np.zeros((2, 6, 4)), classes, codes, classes - 1, valid)
  logits = rng.normal(size=(2, 6, 4)).astype(np.float32)
  boxes = rng.normal(size=(2, 6, 16)).astype(np.float32) * 2
  masks = rng.normal(size=(2, 3, 5, 5, 4)).astype(np.float32)
  return taken, logits, boxes, masks, (rng.random((2, 3, 5, 5)) < 0.5).astype(np.float32)


def test_losses_of_regions_against_loops(made):
  taken, logits, boxes, masks, targets = made
  entropy, errors_of_boxes, errors_of_masks = np.zeros(2), np.zeros(2), np.zeros(2)
  for b in range(2):
    for n in range(6):
      k = taken.classes[b, n]
      if taken.valid[b, n]:
        entropy[b] += math.log(sum(map(math.exp, logits[b, n]))) - logits[b, n, k]
      if k:
        own = boxes[b, n, 4 * k : 4 * k + 4]
        rows = zip(own, taken.codes[b, n], strict=True)
        errors_of_boxes[b] += sum(huber(m - c, 1) for m, c in rows)
      if k and n < 3:
        rows = zip(masks[b, n, :, :, k].ravel(), targets[b, n].ravel(), strict=True)
        errors_of_masks[b] += sum(bce(m, t) for m, t in rows)
  np.testing.assert_allclose(regions.class_costs(logits, taken), entropy, rtol=1e-5)
  np.testing.assert_allclose(regions.box_costs(boxes, taken, RECIPE), errors_of_boxes, rtol=1e-5)
  found = regions.mask_costs(masks, targets, taken.classes[:, :3])
  np.testing.assert_allclose(found, errors_of_masks, rtol=1e-5)


def test_gradients_of_regions_are_the_known_ones(made):
  taken, logits, boxes, masks, targets = made
  hot = np.eye(4)[taken.classes]
  slope = jax.grad(lambda x: regions.class_costs(x, taken).sum())(logits)
  even = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  np.testing.assert_allclose(slope, (even - hot) * taken.valid[..., None], atol=1e-6)
  slope = jax.grad(lambda x: regions.box_costs(x, taken, RECIPE).sum())(boxes)
  error = np.clip(boxes.reshape(2, 6, 4, 4) - taken.codes[:, :, None], -1, 1)
  error *= (hot * (taken.classes > 0)[..., None])[..., None]
  np.testing.assert_allclose(slope.reshape(2, 6, 4, 4), error, atol=1e-6)
  slope = jax.grad(lambda x: regions.mask_costs(x, targets, taken.classes[:, :3]).sum())(masks)
  error = 1 / (1 + np.exp(-masks)) - targets[..., None]
  error *= (hot * (taken.classes > 0)[..., None])[:, :3, None, None]
  np.testing.assert_allclose(slope, error, atol=1e-6)


def test_detections_against_a_loop():
  rng = np.random.default_rng(5)
  found, size = proposals(), np.array([[64, 64], [30, 40]])
  logits = rng.normal(size=(2, 20, 4)).astype(np.float32) * 3
  codes = rng.normal(size=(2, 20, 16)).astype(np.float32)
  rule = nms.Rule(overlap=0.3, threshold=0.05, most=25)
  kept = jax.jit(lambda *a: regions.detect(*a, RECIPE, rule=rule))(logits, codes, found, size)
  for b in range(2):
    rows = []
    for k in range(1, 4):
      scores = np.exp(logits[b, :16]) / np.exp(logits[b, :16]).sum(1, keepdims=True)
      mine = []
      for n in np.argsort(-scores[:, k]):
        code = codes[b, n, 4 * k : 4 * k + 4]
        box = cut(decoded(code, found.boxes[b, n], (10, 10, 5, 5), 1), size[b])
        if scores[n, k] >= 0.05 and all(overlap(box, other[0]) <= 0.3 for other in mine):
          mine.append((box, scores[n, k], k - 1))
      rows += mine
    rows = sorted(rows, key=lambda row: -row[1])[:25]
    count = int(kept.count[b])
    assert count == len(rows) > 5
    np.testing.assert_allclose(kept.boxes[b, :count], [r[0] for r in rows], atol=1e-3)
    np.testing.assert_allclose(kept.scores[b, :count], [r[1] for r in rows], rtol=1e-5)
    assert kept.classes[b, :count].tolist() == [r[2] for r in rows]


@pytest.mark.parametrize(
  ("setting", "message"),
  [
    ({"proposal_negative": 0.8}, "the first not above the second"),
    ({"share": 0.0}, "config.task.share=0.0 is outside"),
    ({"samples": 1.5}, "config.task.samples=1.5 should be a whole number"),
    ({"samples": 2, "share": 0.25}, "less than one region"),
    ({"delta": 0.0}, "config.task.delta=0.0 is out of range"),
  ],
)
def test_impossible_recipes_are_refused(setting, message):
  with pytest.raises(errors.UserError, match=message):
    regions.Recipe(**setting)
