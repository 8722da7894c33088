"""The frames of a video file as a source of pictures, and pictures as a video file.

Needs `pip install 'effnets[video]'`.
"""

import importlib.util
import os
import pathlib
import threading
from collections.abc import Iterable
from types import ModuleType

import numpy as np
from jaxtyping import UInt8

from effnets import errors
from effnets.data import sources

SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


def is_video(path: str) -> bool:
  """Returns whether a file's name is that of a video."""
  return path.lower().endswith(SUFFIXES)


class Video:
  """Frames in their order. paths: a name for each frame. rate: frames a second."""

  num_classes = 0
  class_names = ()
  image_size = None

  def __init__(self, path: str, *, key: str):
    """Opens the file. Raises: UserError if it cannot be read, or opencv is missing."""
    self._cv2 = _cv2(key)
    self.name = path
    self._file = self._cv2.VideoCapture(path) if pathlib.Path(path).is_file() else None
    if self._file is None or not self._file.isOpened():
      raise errors.UserError(f"{key}={path!r} is no video that can be read.")
    count = int(self._file.get(self._cv2.CAP_PROP_FRAME_COUNT))
    self.rate = float(self._file.get(self._cv2.CAP_PROP_FPS)) or 25.0
    self.paths = [f"{path}#{i}" for i in range(count)]
    # Decoders go forwards: one frame after the other is cheap, any other order is not.
    self._next, self._lock = 0, threading.Lock()

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, index: int) -> sources.Example:
    if not 0 <= index < len(self):
      raise IndexError(f"{self.name}[{index}]: there are {len(self)} frames.")
    with self._lock:
      if index != self._next:
        self._file.set(self._cv2.CAP_PROP_POS_FRAMES, index)
      there, frame = self._file.read()
      self._next = index + 1
    if not there:
      raise sources.Unreadable(f"{self.paths[index]} (cannot be decoded)")
    return {"image": frame[:, :, ::-1].copy(), "label": np.int32(-1)}


def write(
  path: str | os.PathLike, frames: Iterable[UInt8[np.ndarray, "h w 3"]], *, rate: float, key: str
) -> None:
  """Writes frames of one size as an MP4 file. Raises: UserError if opencv is missing."""
  cv2, file = _cv2(key), None
  try:
    for frame in frames:
      if file is None:
        size = (frame.shape[1], frame.shape[0])
        file = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
      file.write(np.ascontiguousarray(frame[:, :, ::-1]))
  finally:
    if file is not None:
      file.release()


def can_write() -> bool:
  """Returns whether there is what `write` needs."""
  return importlib.util.find_spec("cv2") is not None


def _cv2(key: str) -> ModuleType:
  with errors.context(key):
    return errors.package(
      "cv2", extra="video", what="reading and writing videos", called="opencv-python-headless"
    )
