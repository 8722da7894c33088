"""Films of digits against what their names say."""

import numpy as np
import pytest

from effnets import data, errors
from effnets.data import digit_actions


def opened(split="train", **options):
  return data.open_source("digit_actions", split, options=options)


def test_the_same_films_every_time_and_more_of_them():
  one, other = opened(examples=3), opened(examples=9)
  for i in range(3):
    a, b = one[i], other[i]
    assert a["label"] == b["label"]
    np.testing.assert_array_equal(a["film"].read([0, 5]), b["film"].read([0, 5]))
  film = one[0]["film"]
  np.testing.assert_array_equal(film.read(range(6))[5], film.read([5])[0])
  assert film.read([0]).shape == (1, 32, 32, 3) and film.frames == 24
  assert (len(opened()), len(opened("test"))) == (2048, 512)


def test_splits_share_no_digit():
  rows = [set(opened(s)._source.indices.tolist()) for s in ("train", "validation", "test")]
  assert sum(map(len, rows)) == len(set.union(*rows)) == 1797


def test_classes_are_balanced():
  counts = np.bincount([opened()[i]["label"] for i in range(400)], minlength=8)
  assert counts.min() > 25


def test_a_single_frame_does_not_tell():
  # Size and place of the digit in the middle frame: means over films differ by less than chance
  # would let them if they told (three standard errors of 60 films).
  values = {label: [] for label in range(8)}
  for i in range(480):
    example = opened()[i]
    mover = example["film"]._movers[1]
    centre, matrix = mover.at(np.array([11.5]))
    values[int(example["label"])].append((*centre[0], np.linalg.det(matrix[0]) ** 0.5))
  means = np.array([np.mean(v, 0) for v in values.values()])
  spread = np.std(np.concatenate([np.array(v) for v in values.values()]), 0)
  assert np.all(np.abs(means - means.mean(0)) < 3.5 * spread / np.sqrt(50))


def test_flow_and_class_agree_with_the_pictures():
  seen = set()
  for i in range(60):
    example = opened()[i]
    film, name = example["film"], digit_actions.ACTIONS[example["label"]]
    frames, flow = film.read(range(24)), film.flow(range(24))
    # The digit that moves alone: where flow is not zero. Weighted centre and spread of it.
    y, x = np.mgrid[:32, :32] + 0.5
    moving = np.abs(flow).sum(-1) > 1e-6
    if moving[8:16].reshape(8, -1).sum(1).min() < 12:
      continue
    at = 12
    place = np.stack([x[moving[at]], y[moving[at]]], -1)
    own = flow[at][moving[at]]
    centre = film._movers[1].at(np.array([float(at)]))[0][0]
    away = place - centre
    outward = (own * away).sum() / (away**2).sum()
    around = (away[:, 0] * own[:, 1] - away[:, 1] * own[:, 0]).sum() / (away**2).sum()
    mean = own.mean(0)
    signs = {"left": -mean[0], "right": mean[0], "up": -mean[1], "down": mean[1]}
    signs |= {"grow": outward, "shrink": -outward, "clockwise": around, "anticlockwise": -around}
    assert signs[name] > 0.02, name
    if name in ("left", "right", "up", "down"):
      assert 0.6 <= signs[name] <= 1.4
    # What flow says of the next frame: its grey there is this one's here.
    inside = [
      (int(p[1]), int(p[0]), f)
      for p, f in zip(place, own, strict=True)
      if np.all(abs(p + f - 16) < 14)
    ]
    here = np.array([frames[at, r, c].sum() for r, c, _ in inside], float)
    there = np.array([_between(frames[at + 1].sum(-1), c + f[0], r + f[1]) for r, c, f in inside])
    stood = np.array([float(frames[at + 1, r, c].sum()) for r, c, _ in inside])
    if len(inside) > 20 and name not in ("grow", "shrink"):
      assert np.abs(here - there).mean() < np.abs(here - stood).mean(), name
    seen.add(name)
  assert len(seen) == 8


def _between(grey, x, y):
  """Returns grey between pixels, x and y of whose centres are whole here."""
  c, r = int(x), int(y)
  a, b = x - c, y - r
  top = grey[r, c] * (1 - a) + grey[r, c + 1] * a
  return top * (1 - b) + (grey[r + 1, c] * (1 - a) + grey[r + 1, c + 1] * a) * b


def test_several_actions():
  source = opened(actions=3)
  assert source.targets and source.blank()["targets"].shape == (8,)
  example = source[0]
  assert example["label"] == -1 and 1 <= example["targets"].sum() <= 3
  assert "targets" not in opened()[0] and not opened().targets


@pytest.mark.parametrize(
  ("split", "options", "words"),
  [
    ("labelled", {}, "config.data.split='labelled' is not a split of digit_actions"),
    ("train", {"frames": 1}, "config.data.options.frames=1 must be a whole number from 2"),
    ("train", {"actions": 9}, "config.data.options.actions=9 .*from 1 to 4"),
    ("train", {"length": 9}, "config.data.options='length' is not an option"),
  ],
)
def test_bad_options(split, options, words):
  with pytest.raises(errors.UserError, match=words):
    opened(split, **options)
