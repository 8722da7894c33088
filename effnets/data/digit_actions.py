"""The embedded data set `digit_actions`: films of moving digits; the class is how they move.

A film (24 frames of 32 pixels) has a digit of `digits` in a bright colour that does one of eight
things, and one, a little darker, that lies still. No frame by itself shows which it does: places,
sizes, angles and which digit it is are drawn the same way for all classes.

  left right up down          0.6 to 1.4 pixels a frame; it may leave the picture
  clockwise anticlockwise     5 to 12 degrees a frame about its centre
  grow shrink                 3 to 5 per cent a frame

Flow is known exactly: where a digit's pixel (a quarter of its ink or more) is in the next frame.
With the option `actions` of two or more, as many digits move, each in its own way, and a film is of
several classes: `targets`.

Everything is a function of the options, the split and the index. Splits are those of `digits`, so
no source digit is in two of them; there are 2,048 films of `train`, 256 of `validation`, 512 of
`test`, unless the option `examples` gives another number: the first of them stay the same.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from effnets import errors
from effnets.data import clips, digits, draws, sources

SPLITS = {"train": 2048, "validation": 256, "test": 512}
ACTIONS = ("left", "right", "up", "down", "clockwise", "anticlockwise", "grow", "shrink")
_WHOLE = {"canvas": (16, 256, 32), "frames": (2, 1000, 24), "actions": (1, 4, 1)}
_WHOLE |= {"examples": (1, 10_000_000, 0)}
_INK = 64
_SMALL = 2**17  # bytes of a film that is kept once it is drawn; 2,048 of them are
_SIDE = 32  # of the digits' own pictures


@dataclasses.dataclass(frozen=True)
class _Mover:
  """A digit on its way. place: of its centre in frame 0, (x, y) in pixels. drift: pixels a frame.

  size: pixels of its side in frame 0; growth: its logarithm a frame. angle, turn: in radians.
  """

  ink: np.ndarray
  colour: np.ndarray
  place: np.ndarray
  drift: np.ndarray
  size: float
  growth: float
  angle: float
  turn: float

  def at(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the centres in frames, `t 2`, and the matrices from the digit's square of side 1."""
    scale = self.size * np.exp(self.growth * numbers)
    angle = self.angle + self.turn * numbers
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    matrices = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    return self.place + self.drift * numbers[:, None], matrices

  def seen(self, numbers: np.ndarray, canvas: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns its ink on the canvas in 0 to 255, `t h w`, and its flow, `t h w 2`."""
    y, x = np.mgrid[:canvas, :canvas] + 0.5
    points = np.stack([x, y], -1).reshape(-1, 2)
    centres, matrices = self.at(numbers)
    own = (points - centres[:, None]) @ np.linalg.inv(matrices).swapaxes(1, 2)
    after, turned = self.at(numbers + 1)
    flow = own @ turned.swapaxes(1, 2) + after[:, None] - points
    shape = (len(numbers), canvas, canvas)
    return _sampled(self.ink, (own + 0.5) * _SIDE - 0.5).reshape(shape), flow.reshape(*shape, 2)


def _sampled(ink: np.ndarray, points: np.ndarray) -> np.ndarray:
  """Returns ink between its pixels, bilinear; none outside. points: (…, 2), x and y in pixels."""
  padded = np.pad(ink.astype(np.float64), 1).ravel()
  points = np.clip(points + 1, 0, _SIDE + 0.999)
  low = points.astype(np.int64)
  part = points - low
  at, wide = low[..., 1] * (_SIDE + 2) + low[..., 0], _SIDE + 2
  a, b = part[..., 0], part[..., 1]
  top = padded[at] * (1 - a) + padded[at + 1] * a
  return top * (1 - b) + (padded[at + wide] * (1 - a) + padded[at + wide + 1] * a) * b


class _Film:
  """A film that is drawn when frames are asked for; those of one name and size are equal."""

  rate = 12.0

  def __init__(self, name: str, frames: int, canvas: int, movers: tuple[_Mover, ...]):
    self.name, self.frames = name, frames
    self._canvas, self._movers = canvas, movers

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _Film) and self._key == other._key

  def __hash__(self) -> int:
    return hash(self._key)

  @property
  def _key(self) -> tuple[Any, ...]:
    return self.name, self.frames, self._canvas, len(self._movers)

  def read(self, numbers: Sequence[int]) -> UInt8[np.ndarray, "t h w 3"]:
    """Returns frames."""
    small = self.frames * self._canvas**2 * 3 <= _SMALL
    return _frames(self)[np.asarray(numbers)] if small else self.drawn(numbers)[0]

  def flow(self, numbers: Sequence[int]) -> Float[np.ndarray, "t h w 2"]:
    """Returns the true flow from those frames to the next."""
    return self.drawn(numbers)[1]

  def drawn(self, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns frames and the true flow from them to the next."""
    which = np.array(numbers, np.float64)
    shape = (len(which), self._canvas, self._canvas)
    frames, flow = np.zeros((*shape, 3)), np.zeros((*shape, 2))
    for mover in self._movers:
      ink, motion = mover.seen(which, self._canvas)
      cover = ink[..., None] / 255
      frames += (mover.colour - frames) * cover
      np.copyto(flow, motion, where=(ink >= _INK)[..., None])
    return np.rint(frames).astype(np.uint8), flow.astype(np.float32)


@functools.lru_cache(maxsize=2048)
def _frames(film: _Film) -> UInt8[np.ndarray, "t h w 3"]:
  """Returns all frames; drawing them takes longer than a small network's step over them."""
  return film.drawn(range(film.frames))[0]


class DigitActions(clips.Films):
  """One split. canvas: pixels. frames: of a film. actions: digits that move in it."""

  class_names = ACTIONS
  num_classes = len(ACTIONS)

  def __init__(
    self,
    split: str,
    source: digits.Digits,
    *,
    canvas: int,
    frames: int,
    actions: int,
    examples: int,
  ):
    """Makes films of the digits of `source`."""
    self.name, self.targets = f"digit_actions/{split}", actions > 1
    self._source, self._examples = source, examples
    self._canvas, self._frames, self._actions = canvas, frames, actions

  def __len__(self) -> int:
    return self._examples

  def __getitem__(self, index: int) -> sources.Example:
    if not 0 <= index < len(self):
      raise IndexError(f"{self.name}[{index}]: there are {len(self)} examples.")
    rng = draws.generator(0, self.name, index)
    still = self._mover(rng, None)
    chosen = [draws.below(rng, self.num_classes) for _ in range(self._actions)]
    movers = (still, *(self._mover(rng, ACTIONS[action]) for action in chosen))
    film = _Film(f"{self.name} #{index}", self._frames, self._canvas, movers)
    if not self.targets:
      return {"film": film, "label": np.int32(chosen[0])}
    targets = np.zeros(self.num_classes, np.float32)
    targets[chosen] = 1
    return {"film": film, "label": np.int32(-1), "targets": targets}

  def blank(self) -> dict[str, Any]:
    """Returns the first film."""
    return {name: value for name, value in self[0].items() if name != "label"}

  def _mover(self, rng: np.random.Generator, action: str | None) -> _Mover:
    # Equally many numbers whatever it does.
    which, speed, x, y, size, angle, *colour = rng.random(9).tolist()
    ink = self._source[int(which * len(self._source))]["image"][..., 0]
    shade = (160 if action else 100) + 95 * np.array(colour)
    pace = 0.6 + 0.8 * speed
    drift = {"left": (-pace, 0), "right": (pace, 0), "up": (0, -pace), "down": (0, pace)}
    sign = {"clockwise": 1, "grow": 1, "anticlockwise": -1, "shrink": -1}.get(action or "", 0)
    turning, growing = "clockwise" in (action or ""), action in ("grow", "shrink")
    # Half-way through the film it is somewhere inside, of a middling size: whatever it does.
    middle = (self._frames - 1) / 2
    drift = np.array(drift.get(action or "", (0.0, 0.0))) * self._canvas / 32
    growth = sign * growing * (0.03 + 0.02 * speed)
    centre = self._canvas * (0.25 + 0.5 * np.array([x, y]))
    side = self._canvas * (0.4 + 0.25 * size)
    return _Mover(
      ink,
      shade,
      centre - drift * middle,
      drift,
      side * math.exp(-growth * middle),
      growth,
      2 * math.pi * angle,
      sign * turning * math.radians(5 + 7 * speed),
    )


def open_split(
  argument: str, split: str, *, options: Mapping[str, Any], key: str, split_key: str
) -> DigitActions:
  """Returns one split; options `actions`, `canvas`, `examples`, `frames`.

  Raises: errors.UserError if the split or an option is not one of these.
  """
  sources.check_options(options, _WHOLE, kind="digit_actions", key=key)
  if split not in SPLITS:
    raise errors.unknown(split_key, split, "a split of digit_actions", SPLITS)
  values = sources.whole_options(options, _WHOLE, most=SPLITS[split], key=key)
  source = digits.open_split(argument, split, options={}, key=key, split_key=split_key)
  return DigitActions(split, source, **values)
