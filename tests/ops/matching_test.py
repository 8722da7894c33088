"""Matching and sampling against slow loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import errors
from effnets.ops import boxes, matching
from tests.ops import detections


def _loop(similarity, valid, positive, negative, force):
  """Returns index and overlap of each anchor of one picture."""
  anchors, objects = similarity.shape
  index, overlap = np.full(anchors, -1), np.zeros(anchors)
  there = [j for j in range(objects) if valid[j]]
  for a in range(anchors):
    if there:
      best = max(there, key=lambda j: (similarity[a, j], -j))
      overlap[a] = similarity[a, best]
      if overlap[a] >= positive:
        index[a] = best
      elif overlap[a] >= negative:
        index[a] = -2
  if force == "best":
    for j in reversed(there):  # the first object has the last word
      a = int(np.argmax(similarity[:, j]))
      if similarity[a, j] > 0:
        index[a], overlap[a] = j, similarity[a, j]
  if force == "bipartite":
    pairs = sorted((-similarity[a, j], j, a) for a in range(anchors) for j in there)
    free_anchors, free_objects = set(range(anchors)), set(there)
    for s, j, a in pairs:
      if s < 0 and j in free_objects and a in free_anchors:
        free_objects.remove(j)
        free_anchors.remove(a)
        index[a], overlap[a] = j, -s
  return index, overlap


@pytest.mark.parametrize("force", matching.FORCES)
@pytest.mark.parametrize("thresholds", [(0.5, None), (0.7, 0.3)])
def test_matches_are_those_of_a_loop(force, thresholds):
  rng = np.random.default_rng(0)
  anchors = detections.random_boxes(rng, 50)
  objects = np.stack([detections.random_boxes(rng, 12, degenerate=0.3) for _ in range(6)])
  objects[1] = objects[0][0]  # all want one anchor
  valid = rng.uniform(size=(6, 12)) < 0.7
  valid[2] = False
  valid[1] = True
  similarity = np.array(boxes.iou(jnp.asarray(anchors), jnp.asarray(objects)))
  positive, negative = thresholds
  found = matching.match(similarity, valid, positive=positive, negative=negative, force=force)
  for i in range(6):
    expected = _loop(similarity[i], valid[i], positive, negative or positive, force)
    np.testing.assert_array_equal(found.index[i], expected[0])
    np.testing.assert_allclose(found.overlap[i], expected[1], atol=1e-6)
  assert bool(jnp.all(found.positive == (found.index >= 0)))
  assert not bool(jnp.any(found.positive[2]))


def test_what_force_changes():
  # Two objects prefer anchor 0; both are below the threshold.
  similarity = jnp.array([[0.3, 0.4], [0.2, 0.1], [0.0, 0.0]])
  valid = jnp.array([True, True])
  index = {f: matching.match(similarity, valid, force=f).index.tolist() for f in matching.FORCES}
  assert index == {"none": [-1, -1, -1], "best": [0, -1, -1], "bipartite": [1, 0, -1]}


def test_no_objects_and_objects_without_area():
  none = matching.match(jnp.zeros((3, 0)), jnp.zeros(0, bool))
  assert none.index.tolist() == [-1] * 3 and none.overlap.tolist() == [0] * 3
  lost = matching.match(jnp.zeros((3, 1)), jnp.ones(1, bool), force="best")
  assert lost.index.tolist() == [-1] * 3
  classes = matching.gather(jnp.zeros((2, 0), jnp.int32), jnp.full((2, 3), -1), fill=-1)
  assert classes.tolist() == [[-1] * 3] * 2


def test_values_of_matched_objects():
  index = jnp.array([[1, -1, 0], [-2, 1, 1]])
  classes, places = jnp.array([[5, 6], [7, 8]]), jnp.arange(16.0).reshape(2, 2, 4)
  assert matching.gather(classes, index, fill=-1).tolist() == [[6, -1, 5], [-1, 8, 8]]
  found = matching.gather(places, index)
  np.testing.assert_array_equal(found[0], [[4, 5, 6, 7], [0] * 4, [0, 1, 2, 3]])


def test_background_in_crowds_is_ignored():
  anchors = jnp.array([[0.0, 0, 4, 4], [6, 6, 10, 10], [9, 9, 13, 13], [20, 20, 24, 24]])
  crowds = jnp.array([[[0.0, 0, 10, 10], [18, 18, 30, 30]]])
  matches = matching.Matches(jnp.array([[0, -1, -1, -1]]), jnp.zeros((1, 4)))
  kept = matching.ignore_crowds(matches, anchors, crowds, jnp.array([[True, False]]))
  assert kept.index.tolist() == [[0, -2, -1, -1]]


@pytest.mark.parametrize(
  ("positives", "negatives", "expected"),
  [(50, 40, (8, 8)), (3, 90, (3, 13)), (5, 4, (5, 4)), (0, 0, (0, 0)), (100, 0, (8, 0))],
)
def test_samples_hold_the_share_and_no_more(positives, negatives, expected, getkey):
  positive = jnp.arange(100) < positives
  negative = jnp.arange(100) >= 100 - negatives
  drawn = jax.vmap(lambda k: matching.sample(k, positive, negative, count=16, share=0.5))(
    jax.random.split(getkey(), 40)
  )
  for index, chosen, valid in zip(*map(np.asarray, drawn), strict=True):
    assert (chosen.sum(), (valid & ~chosen).sum()) == expected
    assert len(set(index)) == 16
    assert positive[index[chosen]].all() and negative[index[valid & ~chosen]].all()
  if positives == 50:
    # Each positive is drawn 8 of 50 times; 320 draws in all, 6.4 each, sd below 2.5.
    often = np.bincount(np.asarray(drawn.index)[np.asarray(drawn.positive)], minlength=50)
    assert often[:50].max() < 17 and (often[:50] > 0).sum() > 45


def test_hard_negatives_are_those_of_a_loop():
  rng = np.random.default_rng(1)
  losses = rng.uniform(size=(4, 30)).astype(np.float32)
  positive = rng.uniform(size=(4, 30)) < np.array([[0.1], [0.3], [0.0], [0.9]])
  negative = ~positive & (rng.uniform(size=(4, 30)) < 0.9)
  for least, most in ((0, 3000), (2, 20)):
    found = matching.hard_negatives(losses, positive, negative, least=least, most=most)
    for i in range(4):
      count = positive[i].sum()
      wanted = min(max(3 * count, least), max(most - count, 0))
      rows = sorted(np.flatnonzero(negative[i]), key=lambda j: -losses[i, j])[:wanted]
      assert set(np.flatnonzero(found[i])) == set(rows)


def test_wrong_settings_are_refused():
  with pytest.raises(errors.UserError, match="Nearest: 'bipartite'"):
    matching.match(jnp.zeros((1, 1)), jnp.ones(1, bool), force="bipartit")
  with pytest.raises(ValueError, match="must not be above"):
    matching.match(jnp.zeros((1, 1)), jnp.ones(1, bool), positive=0.3, negative=0.5)
