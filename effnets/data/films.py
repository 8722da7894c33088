"""Perturbed pictures as films, as ImageNet-P was published: PATH/PERTURBATION/CLASS/FILM.

One more folder in between may group perturbations, PATH/*/PERTURBATION, as in the published files.
Noise of difficulty 2 and 3 has folders of its own, such as gaussian_noise_2. Films are read by the
ffmpeg that imageio-ffmpeg brings, of the `[video]` extra.
"""

import os
from types import ModuleType

import numpy as np
from jaxtyping import UInt8

from effnets import errors
from effnets.augment.corruptions import sequences as sequences_lib
from effnets.data import folder, recent, sources

SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")


class Films:
  """Films frame by frame: example i is frame i % frames of film i // frames.

  frames: of each film; one that has more or less cannot be read. paths: the films, in order.
  """

  image_size = None

  def __init__(
    self, name: str, paths: list[str], labels: np.ndarray, class_names: tuple[str, ...], frames: int
  ):
    """Holds the films' paths, their labels int32 (n,), the class names and how long films are."""
    self.name, self.frames = name, frames
    self.paths, self.labels = paths, labels
    self.num_classes, self.class_names = len(class_names), class_names
    self._recent = recent.Recent(self._film)

  def __len__(self) -> int:
    return len(self.paths) * self.frames

  def __getitem__(self, index: int) -> sources.Example:
    film, frame = divmod(index, self.frames)
    return {"image": self._recent[film][frame], "label": self.labels[film]}

  def _film(self, index: int) -> UInt8[np.ndarray, "t h w 3"]:
    frames = read(self.paths[index])
    if len(frames) != self.frames:
      raise sources.Unreadable(
        f"{self.paths[index]} (it has {len(frames)} frames, not {self.frames})"
      )
    return frames

  def subset(self, count: int) -> "Films":
    """Returns `count` of the films, evenly spread; 0, or as many as there are, all of them."""
    total = len(self.paths)
    if not 0 < count < total:
      return self
    chosen = np.arange(count) * total // count
    paths = [self.paths[index] for index in chosen]
    name = f"{self.name}, {count} of {total}"
    return Films(name, paths, self.labels[chosen], self.class_names, self.frames)


def published(path: str, perturbation: str, *, difficulty: int, key: str) -> Films | None:
  """Returns the films of a perturbation in the folder `path`, or None if it holds none of them.

  difficulty: 1 to 3, of noise; the other films are the same for all.

  Raises: UserError if its folder holds no films, or they cannot be read for want of the library.
  """
  hard = difficulty > 1 and perturbation in sequences_lib.NOISE_SEQUENCES
  inner = folder.below(path, f"{perturbation}_{difficulty}" if hard else perturbation)
  if inner is None:
    return None
  library()
  paths, labels, class_names = folder.labelled(inner, SUFFIXES)
  if not paths:
    raise errors.UserError(
      f"{key}={path!r}: {inner} holds no films; expected CLASS/FILM in it, with one of "
      f"{', '.join(SUFFIXES)}."
    )
  return Films(str(inner), paths, labels, class_names, sequences_lib.frames(perturbation))


def library() -> ModuleType:
  """Returns imageio-ffmpeg. Raises: UserError if it is not installed."""
  # Else it runs Python between fork and exec, where a process of several threads may stand still.
  os.environ.setdefault("IMAGEIO_FFMPEG_NO_PREVENT_SIGINT", "1")
  return errors.package(
    "imageio_ffmpeg", extra="video", what="reading films", called="imageio-ffmpeg"
  )


def read(path: str) -> UInt8[np.ndarray, "t h w 3"]:
  """Returns the frames of a film, RGB.

  Raises: sources.Unreadable, with the path and the reason, if it is none; UserError without the
    library.
  """
  # Each stored frame once, whatever its time: ffmpeg else repeats and drops some for an even rate.
  how = {"output_params": ["-fps_mode", "passthrough"]}
  try:
    frames = library().read_frames(path, **how)
    width, height = next(frames)["size"]
    return np.stack([np.frombuffer(x, np.uint8).reshape(height, width, 3) for x in frames])
  except (OSError, RuntimeError, ValueError, KeyError, IndexError, StopIteration) as error:
    raise sources.Unreadable(f"{path} ({_reason(error)})") from error


def _reason(error: Exception) -> str:
  """Returns the last line of what ffmpeg says, which is the plainest."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  return lines[-1] if lines else "no film"
