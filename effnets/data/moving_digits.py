"""The embedded data set `moving_digits`: films of digits that bounce off the walls at random.

A film (20 frames of 32 pixels) has digits of `digits`, half as large as the picture, that move
straight on. One that would leave the picture turns back, and which way, and how fast, is drawn
anew: nothing before the bounce tells it. Where digits meet the brighter one is seen.

Options, all whole numbers:
  canvas      pixels of a side; paces grow with it
  frames      of a film
  digits      that move in it, 1 to 4
  stochastic  1; 0: bounces are those of a mirror, and the future is certain
  actions     0; 1: digits turn anywhere too, and a film has `actions`: for every frame the way to
              the next, x and y of every digit, in units of the greatest pace, right, down positive
  examples    instead of 2,048 of `train`, 256 of `validation` and 512 of `test`; the first stay
  held_out    the same, of `validation` and `test` alone

Everything is a function of the options, the split and the index. Splits are those of `digits`, so
no source digit is in two of them. Source: after the stochastic moving MNIST of Denton and Fergus
2018 (arXiv 1802.07687).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from effnets import errors
from effnets.data import clips, digits, draws, sources

SPLITS = {"train": 2048, "validation": 256, "test": 512}
_WHOLE = {
  "actions": (0, 1, 0),
  "canvas": (16, 256, 32),
  "digits": (1, 4, 1),
  "examples": (1, 10_000_000, 0),
  "frames": (2, 1000, 20),
  "held_out": (1, 10_000_000, 0),
  "stochastic": (0, 1, 1),
}
# Pixels a frame on a canvas of 32.
_PACE = (1.5, 3.0)
_TURNS = 0.15  # share of frames in which a steered digit turns


class _Film:
  """A film of `tracks`: whole pixels of the digits' upper left corners, `t n 2`, y and x."""

  rate = 10.0

  def __init__(self, name: str, tracks: np.ndarray, inks: UInt8[np.ndarray, "n s s"], canvas: int):
    self.name, self.frames = name, len(tracks)
    self.tracks = tracks
    self._inks, self._canvas = inks, canvas

  def read(self, numbers: Sequence[int]) -> UInt8[np.ndarray, "t h w 3"]:
    """Returns frames."""
    side = self._inks.shape[1]
    grey = np.zeros((len(numbers), self._canvas, self._canvas), np.uint8)
    for frame, number in zip(grey, numbers, strict=True):
      for ink, (y, x) in zip(self._inks, self.tracks[number], strict=True):
        part = frame[y : y + side, x : x + side]
        np.maximum(part, ink, out=part)
    return np.repeat(grey[..., None], 3, -1)


class _Steered(_Film):
  """A film whose digits' ways are known. ways: from every frame to the next, `t 2n`."""

  def __init__(self, *film: Any, ways: Float[np.ndarray, "t a"]):
    super().__init__(*film)
    self._ways = ways

  def actions(self, numbers: Sequence[int]) -> Float[np.ndarray, "t a"]:
    """Returns the way from those frames to the next, x and y of every digit."""
    return self._ways[np.asarray(numbers)]


class MovingDigits(clips.Films):
  """One split; see the module for the options."""

  num_classes = 1
  class_names = ("film",)

  def __init__(
    self,
    split: str,
    source: digits.Digits,
    *,
    canvas: int,
    frames: int,
    digits: int,
    stochastic: int,
    actions: int,
    examples: int,
  ):
    """Makes films of the digits of `source`."""
    self.name = f"moving_digits/{split}"
    self._inks = _inks(source, canvas // 2)
    self._canvas, self._frames, self._digits = canvas, frames, digits
    self._stochastic, self._actions, self._examples = bool(stochastic), bool(actions), examples

  def __len__(self) -> int:
    return self._examples

  def __getitem__(self, index: int) -> sources.Example:
    if not 0 <= index < len(self):
      raise IndexError(f"{self.name}[{index}]: there are {len(self)} examples.")
    rng = draws.generator(0, self.name, index)
    chosen = [draws.below(rng, len(self._inks)) for _ in range(self._digits)]
    tracks, ways = zip(*(self._track(rng) for _ in chosen), strict=True)
    film = (f"{self.name} #{index}", np.stack(tracks, 1), self._inks[chosen], self._canvas)
    if self._actions:
      return {"film": _Steered(*film, ways=np.concatenate(ways, 1)), "label": np.int32(0)}
    return {"film": _Film(*film), "label": np.int32(0)}

  def blank(self) -> dict[str, Any]:
    """Returns the first film."""
    return {"film": self[0]["film"]}

  def _track(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns the digit's whole pixels in every frame, `t 2` (y, x), and its ways, `t 2` (x, y)."""
    room, scale = self._canvas - self._inks.shape[1], self._canvas / 32
    place, way = rng.random(2) * room, self._way(rng) * scale
    places = [place]
    for _ in range(self._frames):
      if self._actions and rng.random() < _TURNS:
        way = self._way(rng) * scale
      # At most both walls of a corner.
      beyond = (place + way < 0) | (place + way > room)
      if beyond.any():
        way = self._bounced(rng, place, way, beyond, scale)
      place = np.clip(place + way, 0, room)
      places.append(place)
    pixels = np.floor(np.stack(places) + 0.5).astype(np.int64)
    ways = np.diff(np.stack(places), axis=0) / (_PACE[1] * scale)
    return pixels[:-1], ways[:, ::-1].astype(np.float32)

  def _bounced(self, rng, place, way, beyond, scale) -> np.ndarray:
    """Returns the way after the walls that `beyond` says are met, y and x."""
    if not self._stochastic:
      return np.where(beyond, -way, way)
    drawn = self._way(rng) * scale
    # Away from the walls that are met, wherever it came from along them.
    return np.where(beyond, -np.sign(way) * np.abs(drawn), drawn)

  @staticmethod
  def _way(rng: np.random.Generator) -> np.ndarray:
    turn, pace = rng.random(2).tolist()
    pace = _PACE[0] + (_PACE[1] - _PACE[0]) * pace
    return pace * np.array([math.sin(2 * math.pi * turn), math.cos(2 * math.pi * turn)])


def _inks(source: digits.Digits, side: int) -> UInt8[np.ndarray, "n s s"]:
  return digits.enlarge(digits.levels()[source.indices], side)


def open_split(
  argument: str, split: str, *, options: Mapping[str, Any], key: str, split_key: str
) -> MovingDigits:
  """Returns one split; options: see the module.

  Raises: errors.UserError if the split or an option is not one of these.
  """
  sources.check_options(options, _WHOLE, kind="moving_digits", key=key)
  if split not in SPLITS:
    raise errors.unknown(split_key, split, "a split of moving_digits", SPLITS)
  values = sources.whole_options(options, _WHOLE, most=SPLITS[split], key=key)
  held_out = values.pop("held_out")
  if split != "train" and "held_out" in options:
    values["examples"] = held_out
  source = digits.open_split(argument, split, options={}, key=key, split_key=split_key)
  return MovingDigits(split, source, **values)
