"""Suppression against the sheets' figures and slow loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import errors
from effnets.ops import nms
from tests.ops import detections

# As programs use them; one compilation costs less than forty of single operations.
_nms = jax.jit(nms.nms, static_argnames=("rule", "candidates"))
_per_class = jax.jit(nms.per_class, static_argnames=("rule", "candidates"))

_SHEET_BOXES = jnp.array([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30], [0, 0, 9, 9]])
_SHEET_SCORES = jnp.array([0.9, 0.8, 0.7, 0.6])


# EfficientDet's sheet, check 13; its NumPy reference has `offset` 1.
@pytest.mark.parametrize(
  ("rule", "scores", "index"),
  [
    ({"kind": "gaussian"}, (0.9, 0.7, 0.316709, 0.088792), (0, 2, 1, 3)),
    ({"kind": "gaussian", "offset": 1.0}, (0.9, 0.7, 0.296707, 0.078368), (0, 2, 1, 3)),
    (
      {"kind": "linear", "overlap": 0.3, "offset": 1.0},
      (0.9, 0.7, 0.236620, 0.043884),
      (0, 2, 1, 3),
    ),
    ({"kind": "hard"}, (0.9, 0.7), (0, 2)),
  ],
)
def test_the_sheets_case(rule, scores, index):
  rule = nms.Rule(**rule, threshold=0.001, most=5)
  found = [_nms(_SHEET_BOXES, _SHEET_SCORES, rule=rule)]
  found.append(_per_class(_SHEET_BOXES, _SHEET_SCORES[:, None], rule=rule))
  for kept in found:
    assert int(kept.count) == len(scores)
    np.testing.assert_allclose(kept.scores[: len(scores)], scores, atol=1e-6)
    assert kept.index.tolist() == [*index, *(-1,) * (5 - len(index))]
    assert kept.classes.tolist() == [*(0,) * len(index), *(-1,) * (5 - len(index))]
    np.testing.assert_array_equal(kept.boxes[len(index) :], 0)


@functools.cache
def _scene(seed, n=60, c=4):
  rng = np.random.default_rng(seed)
  boxes = np.stack([detections.random_boxes(rng, n, degenerate=0.1) for _ in range(3)])
  scores = rng.uniform(0, 1, (3, n, c)).astype(np.float32)
  scores[2] *= 0.04  # a picture with nothing, or nearly
  return boxes, scores


def _merged(boxes, scores, most, **how):
  """Returns [(score, class, index)] of suppression class by class, the best `most` of all."""
  found = [
    (score, k, i)
    for k in range(scores.shape[1])
    for i, score in detections.suppress(boxes, scores[:, k], **how)
  ]
  return sorted(found, reverse=True)[:most]


@pytest.mark.parametrize("kind", nms.KINDS)
@pytest.mark.parametrize("form", ["per_class", "pairs", "flat", "own boxes"])
def test_classes_do_not_meet_and_the_best_of_all_are_kept(kind, form):
  boxes, scores = _scene(0)
  b, n, c = scores.shape
  rule = nms.Rule(kind, overlap=0.4, sigma=0.5, threshold=0.05, most=30)
  if form == "per_class":
    found = _per_class(boxes, scores, rule=rule)
  elif form == "pairs":
    # All pairs but one picture's worst: what is cut away is below the threshold.
    count = int((scores >= 0.05).sum((1, 2)).max())
    found = _per_class(boxes, scores, rule=rule, candidates=count)
  elif form == "own boxes":
    own = jnp.broadcast_to(boxes[:, :, None], (b, n, c, 4))
    found = _per_class(own, scores, rule=rule)
  else:
    flat = _nms(
      np.repeat(boxes, c, 1), scores.reshape(b, -1), np.tile(np.arange(c), (b, n)), rule=rule
    )
    found = flat._replace(index=jnp.where(flat.valid, flat.index // c, -1))
  for i in range(b):
    expected = _merged(boxes[i], scores[i], 30, kind=kind, limit=0.4, threshold=0.05)
    count = int(found.count[i])
    assert count == len(expected)
    assert found.classes[i, :count].tolist() == [k for _, k, _ in expected]
    assert found.index[i, :count].tolist() == [j for _, _, j in expected]
    np.testing.assert_allclose(found.scores[i, :count], [s for s, _, _ in expected], rtol=1e-5)
    np.testing.assert_array_equal(found.boxes[i, :count], boxes[i][found.index[i, :count]])


def test_boxes_of_each_class_are_told_apart():
  rng = np.random.default_rng(5)
  boxes = np.stack([detections.random_boxes(rng, 30) for _ in range(3)], 1)
  scores = rng.uniform(0, 1, (30, 3)).astype(np.float32)
  for candidates in (0, 89):
    found = _per_class(boxes, scores, rule=nms.Rule(most=20), candidates=candidates)
    expected = sorted(
      (s, k, i) for k in range(3) for i, s in detections.suppress(boxes[:, k], scores[:, k])
    )[::-1][:20]
    assert found.index.tolist() == [i for _, _, i in expected]
    np.testing.assert_array_equal(found.boxes, [boxes[i, k] for _, k, i in expected])


@pytest.mark.parametrize("with_classes", [False, True])
@pytest.mark.parametrize("overlap", [0.3, 0.7])
def test_many_boxes_by_tiles(with_classes, overlap):
  rng = np.random.default_rng(2)
  n, most = 600, 300
  boxes = np.stack([detections.random_boxes(rng, n, 200.0, degenerate=0.05) for _ in range(2)])
  scores = rng.uniform(-1, 1, (2, n)).astype(np.float32)
  classes = rng.integers(0, 2, (2, n)) if with_classes else None
  found = _nms(boxes, scores, classes, rule=nms.Rule(overlap=overlap, threshold=-0.9, most=most))
  for i in range(2):
    own = classes[i] if with_classes else np.zeros(n, int)
    expected = []
    for k in np.unique(own):
      rows = np.flatnonzero(own == k)
      kept = detections.suppress(boxes[i][rows], scores[i][rows], limit=overlap, threshold=-0.9)
      expected += [(s, rows[j]) for j, s in kept]
    expected = sorted(expected, reverse=True)[:most]
    assert found.index[i, : len(expected)].tolist() == [j for _, j in expected]
    assert int(found.count[i]) == len(expected)


def test_properties_of_the_sheet():
  boxes, scores = _scene(3)
  boxes, scores = boxes[0], scores[0, :, 0]
  everything = _nms(boxes, scores, rule=nms.Rule("hard", overlap=1.0, most=60))
  assert int(everything.count) == 60
  np.testing.assert_array_equal(everything.scores, np.sort(scores)[::-1])
  wide = _nms(boxes, scores, rule=nms.Rule("gaussian", sigma=1e12, most=60))
  np.testing.assert_allclose(wide.scores, np.sort(scores)[::-1], rtol=1e-6)
  order = np.random.default_rng(0).permutation(60)
  rule = nms.Rule("gaussian", threshold=0.001, most=60)
  one, two = _nms(boxes, scores, rule=rule), _nms(boxes[order], scores[order], rule=rule)
  np.testing.assert_array_equal(one.boxes, two.boxes)
  np.testing.assert_array_equal(one.scores, two.scores)


def test_nothing_there_and_no_numbers():
  rule = nms.Rule(most=3)
  none = _nms(jnp.zeros((2, 0, 4)), jnp.zeros((2, 0)), rule=rule)
  assert none.boxes.shape == (2, 3, 4) and none.count.tolist() == [0, 0]
  none = _per_class(jnp.zeros((0, 4)), jnp.zeros((0, 5)), rule=rule)
  assert none.index.tolist() == [-1] * 3 and none.count.shape == ()
  bad = jnp.array([jnp.nan, 0.5, -jnp.inf])
  for kept in (
    _nms(_SHEET_BOXES[:3], bad, rule=rule),
    _per_class(_SHEET_BOXES[:3], bad[:, None], rule=rule),
    _nms(_SHEET_BOXES[:3], bad, rule=nms.Rule(most=300)),
  ):
    assert kept.index[:3].tolist() == [1, -1, -1] and int(kept.count) == 1


def test_equal_scores_keep_their_order():
  boxes = jnp.stack([jnp.array([0.0, 20 * i, 10, 20 * i + 10]) for i in range(6)])
  for most in (6, 300):
    kept = _nms(boxes, jnp.full(6, 0.5), rule=nms.Rule(most=most))
    assert kept.index[:6].tolist() == list(range(6))


def test_under_vmap_it_is_the_same():
  boxes, scores = _scene(0)
  rule = nms.Rule("gaussian", threshold=0.01, most=10)
  one = _per_class(boxes, scores, rule=rule)
  other = jax.vmap(lambda x, s: _per_class(x, s, rule=rule))(jnp.asarray(boxes), scores)
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("count", [1, 7, 50, 1000])
def test_the_best_pairs_are_those_of_a_sort(count):
  scores = np.random.default_rng(4).permutation(60 * 5).reshape(60, 5).astype(np.float32)
  best, boxes, classes = nms.top_pairs(jnp.asarray(scores), count)
  order = np.argsort(-scores.ravel())[:count]
  np.testing.assert_array_equal(best, scores.ravel()[order])
  np.testing.assert_array_equal(boxes, order // 5)
  np.testing.assert_array_equal(classes, order % 5)


@pytest.mark.parametrize(
  ("settings", "message"),
  [({"kind": "gauss"}, "Nearest: 'gaussian'"), ({"overlap": 50}, r"overlap should be in \[0, 1\]")],
)
def test_a_wrong_rule_is_refused(settings, message):
  with pytest.raises(errors.UserError, match=message):
    nms.Rule(**settings)
