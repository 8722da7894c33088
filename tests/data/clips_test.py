"""Clips against frames that say their own numbers."""

import numpy as np
import pytest

from effnets import data, errors
from effnets.data import clips, decode, sources


class Counted:
  """A film whose frame i is grey i, of which flow is (i, -i) / 8 pixels; columns darken by 1."""

  rate = 10.0

  def __init__(self, frames=50, height=12, width=20, name="counted"):
    self.frames, self.name, self._size = frames, name, (height, width)

  def read(self, numbers):
    assert list(numbers) == sorted(numbers) or max(numbers) < self.frames
    frames = np.zeros((len(numbers), *self._size, 3), np.uint8)
    return frames + np.asarray(numbers, np.uint8)[:, None, None, None]

  def flow(self, numbers):
    one = np.ones((len(numbers), *self._size)) * np.asarray(numbers)[:, None, None] / 8
    return np.stack([one, -one], -1).astype(np.float32)


def make(film, *, position=0, **settings):
  settings = {"size": 8, "frames": 5, **settings}
  example = {"film": film, "label": np.int32(2), **settings.pop("more", {})}
  return clips.Clips(**settings)(example, decode.drawing(0, position))


def numbers(clip):
  return clip[..., 0, 0, 0].tolist()


def test_evaluation_takes_the_same_views_every_time():
  found = make(Counted(), frames=5, stride=4, views=3)
  assert found["clip"].shape == (3, 5, 8, 8, 3) and found["label"] == 2
  # Of 50 frames 17 are spanned: first frames from 0 to 33.
  assert numbers(found["clip"]) == [[s + 4 * i for i in range(5)] for s in (0, 17, 33)]
  assert numbers(make(Counted(), frames=5, stride=4)["clip"]) == [[17, 21, 25, 29, 33]]
  crops = make(Counted(), crops=3)["clip"]
  assert crops.shape == (3, 5, 8, 8, 3)


def test_three_crops_span_the_longer_side():
  transform = clips.Clips(8, 1, crops=3, fraction=1.0)
  assert transform._boxes(10, 30, None) == [(0, 0, 10, 10), (0, 10, 10, 10), (0, 20, 10, 10)]
  assert transform._boxes(30, 10, None) == [(0, 0, 10, 10), (10, 0, 10, 10), (20, 0, 10, 10)]


def test_training_clips_lie_anywhere_inside():
  starts = set()
  for position in range(200):
    found = make(Counted(20), frames=5, stride=2, training=True, position=position)
    shown = numbers(found["clip"])
    assert np.all(np.diff(shown) == 2) and 0 <= shown[0] and shown[-1] < 20
    starts.add(shown[0])
  assert starts == set(range(12))
  again = make(Counted(20), frames=5, stride=2, training=True, position=7)
  np.testing.assert_array_equal(
    again["clip"], make(Counted(20), frames=5, stride=2, training=True, position=7)["clip"]
  )


def test_speed_changes_the_stride():
  spans = [
    np.ptp(numbers(make(Counted(), training=True, speed=(0.5, 2.0), frames=9, position=p)["clip"]))
    for p in range(60)
  ]
  assert 4 <= min(spans) < 6 and 13 < max(spans) <= 16


def test_flow_is_cut_with_its_frames_and_scaled():
  film = Counted(40, height=16, width=16)
  found = make(film, flow="stored", bound=20.0, fraction=1.0, size=8)
  shown = np.array(numbers(found["clip"]))
  # Half the size, half the pixels a frame; bound / 127 is one level.
  flow = clips.pixels(found["flow"], 20.0)
  np.testing.assert_allclose(flow[..., 0, 0, 0], shown / 16, atol=20 / 254 + 1e-6)
  np.testing.assert_allclose(flow[..., 3, 4, 1], -shown / 16, atol=20 / 254 + 1e-6)


def test_levels_and_back():
  flow = np.array([-30.0, -20.0, -3.0, 0.0, 7.5, 20.0])
  levels = clips.levels(flow, 20.0)
  assert levels.tolist() == [1, 1, 109, 128, 176, 255]
  np.testing.assert_allclose(clips.pixels(levels, 20.0), np.clip(flow, -20, 20), atol=20 / 254)


@pytest.mark.parametrize(
  ("short", "expected"), [("loop", [0, 2, 4, 1, 3]), ("hold", [0, 2, 4, 4, 4])]
)
def test_short_films_are_filled_and_counted(short, expected, caplog):
  shorts = clips.Shorts()
  transform = clips.Clips(8, 5, stride=2, short=short, shorts=shorts)
  for name in ("a", "b", "a"):
    film = Counted(5, name=name)
    found = transform({"film": film, "label": 0}, decode.drawing(0, 0))
    assert numbers(found["clip"]) == [expected]
  assert len(shorts) == 2


def test_short_films_may_be_refused():
  with pytest.raises(sources.Unreadable, match=r"tiny \(it has 5 frames, a clip 9\)"):
    make(Counted(5, name="tiny"), stride=2, short="refuse")
  with pytest.raises(sources.Unreadable, match="it has 0 frames"):
    make(Counted(0))


def test_classes_of_a_film_and_of_a_clip():
  targets = np.zeros(4, np.float32)
  targets[[1, 3]] = 1
  # At 10 frames a second the film is 5 s long.
  more = {"targets": targets, "actions": ((1, 0.0, 1.0), (3, 4.0, 5.0))}
  for position in range(40):
    settings = {"targets": True, "training": True, "position": position, "more": more}
    found = make(Counted(), labels="clip", **settings)
    shown = numbers(found["clip"])
    expected = [0, shown[0] / 10 < 1.0, 0, (shown[-1] + 1) / 10 > 4.0]
    assert found["targets"].tolist() == expected
    np.testing.assert_array_equal(make(Counted(), **settings)["targets"], targets)
  np.testing.assert_array_equal(
    make(Counted(), labels="clip", targets=True, more=more)["targets"], targets
  )
  with pytest.raises(errors.UserError, match="labels='one' does not fit.*several classes"):
    make(Counted(), more=more)
  with pytest.raises(errors.UserError, match="labels='several' does not fit.*one class"):
    make(Counted(), targets=True)


def test_unreadable_films_are_replaced_and_named():
  class Source:
    name, num_classes, class_names, image_size, inputs = "some", 2, ("a", "b"), None, ()

    def __len__(self):
      return 10

    def __getitem__(self, index):
      return {"film": Counted(3 if index == 4 else 30, name=f"#{index}"), "label": np.int32(index)}

    def blank(self):
      return {"film": clips.Blank()}

  transform = clips.Clips(8, 5, training=True, short="refuse")
  stream = data.Stream(Source(), seed=0, transform=transform, shuffle=False)
  read = stream.read(4)
  assert read.failures == ("#4 (it has 3 frames, a clip 5)",) and read.example["label"] == 5
  test = clips.Clips(8, 5, short="refuse", views=2)
  batches = list(data.eval_batches(Source(), 5, transform=test, max_unreadable=0.5))
  assert [b["mask"].tolist() for b in batches] == [[True] * 4 + [False], [True] * 5]
  assert data.eval_shapes(Source(), 5, test)["clip"].shape == (5, 2, 5, 8, 8, 3)


def test_dis_sees_a_shift():
  pytest.importorskip("cv2")
  rng = np.random.default_rng(0)
  wide = np.kron(rng.integers(0, 255, (24, 24)), np.ones((4, 4))).astype(np.uint8)
  frames = np.stack([np.repeat(wide[16:80, 16 - k : 80 - k, None], 3, -1) for k in (0, 2, 4)])
  flow = clips.dis(frames)
  assert flow.shape == (3, 64, 64, 2)
  # The picture moves right by two pixels a frame.
  np.testing.assert_allclose(np.median(flow, (1, 2)), [[2, 0]] * 3, atol=0.1)
