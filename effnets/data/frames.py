"""Films to predict from a folder: `frames:PATH`, PATH/SPLIT/…/FILM.

A film is a video file, or a folder of numbered pictures of one size, however deep below the split's
folder. `train` may be called `training`, `validation` may be `val`.

Option `window`: outside `train`, films longer than so many frames become several examples of so
many frames each, one after the other; what is left is not used. 0, the default: a film is an
example.
"""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from effnets import errors
from effnets.data import clips, recent, sources, video, videos


class Window:
  """`frames` frames of a film from `first` on."""

  def __init__(self, film: clips.Film, first: int, frames: int):
    self.name, self.frames, self.rate = f"{film.name}#{first}", frames, film.rate
    self._film, self._first = film, first

  def read(self, numbers: Sequence[int]) -> UInt8[np.ndarray, "t h w 3"]:
    """Returns frames. Raises: sources.Unreadable."""
    return self._film.read(np.asarray(numbers) + self._first)


class Frames(clips.Films):
  """Films by their paths, or windows of `window` frames of them."""

  num_classes = 1
  class_names = ("film",)

  def __init__(self, name: str, paths: Sequence[str], *, window: int = 0):
    """Holds the films' paths. window: 0 for whole films; else every film is opened here, once.

    A film that cannot be opened is one example, unreadable when it is asked for.
    """
    self.name, self.paths = name, list(paths)
    self._window = window
    self._recent = recent.Recent(lambda index: videos.film(self.paths[index]))
    self._examples = [(i, -1) for i in range(len(self.paths))]
    if window:
      self._examples = [
        (i, first) for i in range(len(self.paths)) for first in self._starts(i, window)
      ]

  def _starts(self, index: int, window: int) -> list[int]:
    try:
      count = videos.film(self.paths[index]).frames
    except sources.Unreadable:
      return [-1]
    # One that is too short stays an example, for whoever reads it to refuse it by its name.
    return [-1] if count < window else list(range(0, count - window + 1, window))

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: int) -> sources.Example:
    number, first = self._examples[index]
    film = self._recent[number]
    if first >= 0:
      film = Window(film, first, self._window)
    return {"film": film, "label": np.int32(0)}


def below(folder: pathlib.Path) -> Iterator[str]:
  """Yields the films below a folder: video files, and folders that hold pictures; by name."""
  for parent, folders, files in os.walk(folder):
    folders.sort()
    shown = sorted(f for f in files if not f.startswith("."))
    if any(f.lower().endswith(videos.PICTURES) for f in shown):
      yield parent
    yield from (os.path.join(parent, f) for f in shown if video.is_video(f))


def create(
  kind: str,
  argument: str,
  split: str,
  paths: Sequence[str],
  *,
  window: int,
  key: str,
  expected: str,
) -> Frames:
  """Returns the films of a split.

  kind, argument: the source's name. window: of splits but `train`. expected: where films should be.

  Raises: errors.UserError if there are none, or videos cannot be read for want of the library.
  """
  if not paths:
    raise errors.UserError(
      f"{key}.source='{kind}:{argument}', split={split!r}: no films; expected {expected}."
    )
  if any(not os.path.isdir(path) for path in paths):
    clips.cv2("reading videos")
  window = 0 if split == "train" else window
  return Frames(f"{kind}:{argument}/{split}", paths, window=window)


def root(kind: str, argument: str, *, key: str, expected: str) -> pathlib.Path:
  """Returns the folder of a source. Raises: errors.UserError if there is none."""
  found = pathlib.Path(argument).expanduser()
  if not found.is_dir():
    raise errors.UserError(
      f"{key}.source='{kind}:{argument}': there is no folder {found.absolute()}; expected "
      f"{expected}."
    )
  return found


def window(options: Mapping[str, Any], *, key: str) -> int:
  """Returns the option `window`. Raises: errors.UserError if it is no whole number from 0."""
  value = options.get("window", 0)
  if not isinstance(value, int) or isinstance(value, bool) or value < 0:
    raise errors.UserError(
      f"{key}.options.window={value!r} must be a whole number of frames, or 0 for whole films."
    )
  return value


def open_split(
  argument: str, split: str, *, options: Mapping[str, Any], key: str, split_key: str
) -> Frames:
  """Returns one split of the folder `argument`; option `window`.

  Raises: errors.UserError if path or split is missing, or there are no films.
  """
  sources.check_options(options, ("window",), kind="frames", key=key)
  expected = "PATH/SPLIT/…/FILM"
  parent = root("frames", argument, key=key, expected=expected)
  there = {
    name: parent / candidate
    for name, candidates in videos.SPLITS.items()
    for candidate in candidates
    if (parent / candidate).is_dir()
  }
  if split not in there:
    raise errors.unknown(split_key, split, f"a folder in {parent}", there)
  return create(
    "frames",
    argument,
    split,
    list(below(there[split])),
    window=window(options, key=key),
    key=key,
    expected=expected,
  )
