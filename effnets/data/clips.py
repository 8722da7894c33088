"""From films to clips of fixed size, on the host: frames, crops, optical flow.

A source of films gives examples with `film`, of which frames are read when they are asked for, and
`label`; with `targets` float32 (k,), 0 or 1, if a film can be of several classes; and maybe with
`actions`, what happens when. `Clips` makes of them the arrays of a batch:

  clip     uint8 (t, h, w, 3); in evaluation (v, t, h, w, 3), several views of one film
  flow     uint8 (…, t, h, w, 2), see `levels`, if asked for
  targets  float32 (k,), if asked for
"""

import dataclasses
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from absl import logging
from jaxtyping import Float, Int, UInt8
from PIL import Image

from effnets import errors
from effnets.data import decode, sources

FLOWS = ("none", "stored", "dis")
SHORT = ("loop", "hold", "refuse")
LABELS = ("film", "clip")
_LEVELS = 127


class Film(Protocol):
  """Frames that are read when asked for. name: for messages. frames: how many. rate: a second."""

  name: str
  frames: int
  rate: float

  def read(self, numbers: Sequence[int]) -> UInt8[np.ndarray, "t h w 3"]:
    """Returns frames; numbers ascend, some may be equal. Raises: sources.Unreadable."""

  def flow(self, numbers: Sequence[int]) -> Float[np.ndarray, "t h w 2"]:
    """Returns flow (x, y) from those frames to the next, in pixels. Raises: sources.Unreadable."""


def levels(flow: Float[np.ndarray, "*b 2"], bound: float) -> UInt8[np.ndarray, "*b 2"]:
  """Returns flow in pixels as levels: -bound is 1, none is 128, bound is 255; beyond, cut.

  >>> levels(np.array([-20.0, 0.0, 50.0]), 20.0).tolist()
  [1, 128, 255]
  """
  scaled = np.rint(np.asarray(flow, np.float64) * (_LEVELS / bound))
  return (np.clip(scaled, -_LEVELS, _LEVELS) + _LEVELS + 1).astype(np.uint8)


def pixels(level: UInt8[np.ndarray, "*b 2"], bound: float) -> Float[np.ndarray, "*b 2"]:
  """Returns what `levels` was made of, up to its rounding, float32."""
  return (level.astype(np.float32) - (_LEVELS + 1)) * np.float32(bound / _LEVELS)


class Shorts:
  """Films that were shorter than asked, each counted once; the log says how many, and names one."""

  def __init__(self):
    self._names: set[str] = set()
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return len(self._names)

  def add(self, film: Film, needed: int, how: str) -> None:
    """Counts a film. needed: frames that were asked for. how: what was done instead, in words."""
    with self._lock:
      if film.name in self._names:
        return
      self._names.add(film.name)
      count = len(self._names)
    if count in (1, 10, 100) or count % 1000 == 0:
      logging.warning(
        "%d film(s) shorter than a clip of %d frames so far, %s; the last is %s, of %d.",
        *(count, needed, how, film.name, film.frames),
      )

  def __getstate__(self):
    return {"_names": self._names}

  def __setstate__(self, state):
    self.__dict__.update(state)
    self._lock = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Clips:
  """A transform from films to clips. training: one clip at random, else the same views every time.

  size: side in pixels. frames: of a clip; stride: frames of the film from one to the next.
  speed: range of a random factor of the stride in training.
  views: clips of a film in evaluation, evenly spread over it; crops: 1, the centre, or 3, spread
  over the longer side, of each. fraction: share of the shorter side that such a crop has.
  area, aspect: of random crops, one for all frames, see `decode.random_box`.
  flow: `none`; `stored`, as the film brings it; `dis`, computed by OpenCV from the clip's frames.
  bound: pixels of the cropped, resized picture a frame that become 1, see `levels`.
  targets: whether a film can be of several classes. labels: whether these are those of the `film`,
  or in training of what happens in the `clip` (where the source knows).
  short: what is done with a film that is shorter than a clip. `loop`: abc -> abcab; `hold`: abc ->
  abccc; both are counted. `refuse`: it is unreadable.
  Source: AssembleNet's sheet; the training crops are those of the Model Garden (area 0.49 to 1).
  """

  size: int
  frames: int
  stride: int = 1
  training: bool = False
  speed: tuple[float, float] = (1.0, 1.0)
  views: int = 1
  crops: int = 1
  fraction: float = 0.875
  area: tuple[float, float] = (0.49, 1.0)
  aspect: tuple[float, float] = (0.5, 2.0)
  flow: str = "none"
  bound: float = 20.0
  targets: bool = False
  labels: str = "film"
  short: str = "loop"
  interpolation: str = "bilinear"
  shorts: Shorts = dataclasses.field(default_factory=Shorts, compare=False, repr=False)

  @property
  def fields(self) -> tuple[str, ...]:
    """Names of the arrays that it makes."""
    flow = ("flow",) if self.flow != "none" else ()
    return ("clip", *flow, *(("targets",) if self.targets else ()))

  def __call__(self, example: sources.Example, draw: decode.Draw) -> sources.Example:
    """Returns the example with `fields`.

    Raises: sources.Unreadable; UserError if films are of several classes and should not be, or the
      other way round.
    """
    film: Film = example["film"]
    if ("targets" in example) != self.targets:
      wrong, right = ("one", "several")[:: 1 if "targets" in example else -1]
      raise errors.UserError(
        f"config.task.labels={wrong!r} does not fit films such as {film.name}: each is of {right} "
        f"class{'es' if right == 'several' else ''}; set it to {right!r}."
      )
    rng = draw("clip") if self.training else None
    found = {name: value for name, value in example.items() if name not in ("film", "actions")}
    made, spans = [], self._spans(film.frames, rng)
    for numbers in spans:
      numbers = self._inside(film, numbers)
      frames = film.read(numbers)
      flow = film.flow(numbers) if self.flow == "stored" else None
      if flow is not None and flow.shape[1:3] != frames.shape[1:3]:
        flow = _rescaled(flow, frames.shape[1:3])
      for box in self._boxes(*frames.shape[1:3], rng):
        made.append(self._cut(frames, flow, box))
    clips, flows = zip(*made, strict=True)
    found["clip"] = clips[0] if self.training else np.stack(clips)
    if self.flow != "none":
      found["flow"] = flows[0] if self.training else np.stack(flows)
    if self.targets:
      found["targets"] = self._targets(example, spans[0])
    return found

  def _spans(self, length: int, rng: np.random.Generator | None) -> list[Float[np.ndarray, " t"]]:
    """Returns the places in the film, in frames, of each clip's frames."""
    stride, steps = float(self.stride), np.arange(self.frames)
    if rng is None:
      room = max(0, length - 1 - (self.frames - 1) * self.stride)
      shares = [0.5] if self.views == 1 else np.linspace(0, 1, self.views)
      return [np.floor(room * share + 0.5) + steps * self.stride for share in shares]
    first, factor = rng.random(2)
    stride *= self.speed[0] + factor * (self.speed[1] - self.speed[0])
    room = max(0.0, length - 1 - (self.frames - 1) * stride)
    return [np.floor(first * (np.floor(room) + 1)) + steps * stride]

  def _inside(self, film: Film, places: Float[np.ndarray, " t"]) -> Int[np.ndarray, " t"]:
    """Returns numbers of frames that the film has."""
    numbers = np.floor(places + 1e-6).astype(np.int64)
    needed = int(numbers[-1]) + 1
    if film.frames < 1 or (needed > film.frames and self.short == "refuse"):
      raise sources.Unreadable(f"{film.name} (it has {film.frames} frames, a clip {needed})")
    if needed <= film.frames:
      return numbers
    loop = self.short == "loop"
    self.shorts.add(film, needed, "which begin again" if loop else "whose last frame stands still")
    return numbers % film.frames if loop else np.minimum(numbers, film.frames - 1)

  def _boxes(
    self, height: int, width: int, rng: np.random.Generator | None
  ) -> list[tuple[int, int, int, int]]:
    """Returns (top, left, height, width) of every crop."""
    if rng is not None:
      box = decode.random_box(height, width, rng, area=self.area, aspect=self.aspect, attempts=10)
      return [box or decode.centre_box(height, width, self.fraction)]
    top, left, tall, wide = decode.centre_box(height, width, self.fraction)
    if self.crops == 1:
      return [(top, left, tall, wide)]
    if height >= width:
      return [(place, left, tall, wide) for place in (0, top, height - tall)]
    return [(top, place, tall, wide) for place in (0, left, width - wide)]

  def _cut(
    self,
    frames: UInt8[np.ndarray, "t h w 3"],
    flow: Float[np.ndarray, "t h w 2"] | None,
    box: tuple[int, int, int, int],
  ) -> tuple[UInt8[np.ndarray, "t s s 3"], UInt8[np.ndarray, "t s s 2"] | None]:
    top, left, height, width = box
    inside = (slice(None), slice(top, top + height), slice(left, left + width))
    clip = np.stack([decode.resize(f, self.size, self.interpolation) for f in frames[inside]])
    if self.flow == "none":
      return clip, None
    found = dis(clip) if flow is None else _rescaled(flow[inside], (self.size, self.size))
    return clip, levels(found, self.bound)

  def _targets(
    self, example: sources.Example, places: Float[np.ndarray, " t"]
  ) -> Float[np.ndarray, " k"]:
    if not (self.training and self.labels == "clip" and "actions" in example):
      return np.asarray(example["targets"], np.float32)
    rate = example["film"].rate
    start, end = places[0] / rate, (places[-1] + 1) / rate
    found = np.zeros_like(example["targets"], np.float32)
    for label, begins, ends in example["actions"]:
      if begins < end and ends > start:
        found[label] = 1
    return found


def _rescaled(
  flow: Float[np.ndarray, "t h w 2"], size: tuple[int, int]
) -> Float[np.ndarray, "t h2 w2 2"]:
  """Returns flow of another picture size, in its pixels."""
  height, width = flow.shape[1:3]
  if (height, width) == size:
    return flow

  def one(channel):
    picture = Image.fromarray(np.ascontiguousarray(channel, np.float32))
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))

  scale = (size[1] / width, size[0] / height)
  return np.stack([np.stack([one(frame[..., c]) * scale[c] for c in (0, 1)], -1) for frame in flow])


def cv2(what: str) -> ModuleType:
  """Returns OpenCV. Raises: UserError if the `[video]` extra is not installed."""
  return errors.package("cv2", extra="video", what=what, called="opencv-python-headless")


def dis(frames: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "t h w 2"]:
  """Returns the flow from every frame to the next by OpenCV's DIS, in pixels; the last one twice.

  Source: Kroeger et al. 2016 (arXiv 1603.03590), preset `medium`.
  """
  library = cv2("optical flow by DIS")
  grey = [library.cvtColor(np.ascontiguousarray(f), library.COLOR_RGB2GRAY) for f in frames]
  if len(grey) == 1:
    return np.zeros((1, *grey[0].shape, 2), np.float32)
  found = [_dis()(one, two) for one, two in zip(grey, grey[1:], strict=False)]
  return np.stack([*found, found[-1]])


def _dis():
  # One for each thread: it keeps buffers, and they cost more than the flow of a small picture.
  if not hasattr(_THREAD, "calc"):
    library = cv2("optical flow by DIS")
    engine = library.DISOpticalFlow_create(library.DISOPTICAL_FLOW_PRESET_MEDIUM)
    _THREAD.calc = lambda one, two: engine.calc(one, two, None).copy()
  return _THREAD.calc


_THREAD = threading.local()


@dataclasses.dataclass(frozen=True)
class Blank:
  """A black film, for shapes and for plans."""

  name: str = "blank"
  frames: int = 300
  rate: float = 25.0
  height: int = 256
  width: int = 256

  def read(self, numbers: Sequence[int]) -> UInt8[np.ndarray, "t h w 3"]:
    """Returns black frames."""
    return np.zeros((len(numbers), self.height, self.width, 3), np.uint8)

  def flow(self, numbers: Sequence[int]) -> Float[np.ndarray, "t h w 2"]:
    """Returns no motion."""
    return np.zeros((len(numbers), self.height, self.width, 2), np.float32)

  def actions(self, numbers: Sequence[int]) -> Float[np.ndarray, "t a"]:
    """Returns no action, of the width that robots' have."""
    return np.zeros((len(numbers), 4), np.float32)


class Films:
  """What sources of films share. targets: whether a film can be of several classes."""

  inputs = ()
  image_size = None
  targets = False
  num_classes: int

  def blank(self) -> dict[str, Any]:
    """Returns a black film, of no class if it could be of several."""
    found: dict[str, Any] = {"film": Blank()}
    return found | {"targets": np.zeros(self.num_classes, np.float32)} if self.targets else found
