"""A folder of films as a source: `videos:PATH`, PATH/SPLIT/CLASS/FILM, such as Moments in Time.

A film is a video file, or a folder of numbered pictures of one size. Classes are the sorted names
of the class folders, over all splits that exist. `train` may be called `training`, `validation` may
be `val`. Files are decoded by OpenCV, of the `[video]` extra; folders of pictures need nothing.

Option `flow`: a folder with FILM.npz in the same places, as `write_flow` makes them
(`python -m effnets.prepare flow:videos:PATH DIR`): `flow` uint8 (t, h, w, 2) from each frame to the
next, 128 for none, 255 for `bound` pixels. A film whose file is missing or does not fit is
unreadable: it is counted and named, and another stands in its place.
"""

import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from effnets import errors
from effnets.data import clips, decode, recent, sources, video

SPLITS = {"train": ("train", "training"), "validation": ("validation", "val"), "test": ("test",)}
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_FLOW = ".npz"


class File:
  """A video file as a `clips.Film`; it is opened when first asked."""

  def __init__(self, path: str):
    self.name = path
    self._library = clips.cv2("reading videos")
    file = self._opened()
    self.frames = int(file.get(self._library.CAP_PROP_FRAME_COUNT))
    self.rate = float(file.get(self._library.CAP_PROP_FPS)) or 25.0
    file.release()
    if self.frames < 1:
      raise sources.Unreadable(f"{path} (no frames)")

  def _opened(self) -> Any:
    if not os.path.isfile(self.name):
      raise sources.Unreadable(f"{self.name} (there is no such file)")
    file = self._library.VideoCapture(self.name)
    if not file.isOpened():
      raise sources.Unreadable(f"{self.name} (no video that can be read)")
    return file

  def read(self, numbers: Sequence[int]) -> UInt8[np.ndarray, "t h w 3"]:
    """Returns frames, RGB; those between are passed over. Raises: sources.Unreadable."""
    wanted = sorted(set(map(int, numbers)))
    file, found = self._opened(), {}
    try:
      if wanted[0]:
        file.set(self._library.CAP_PROP_POS_FRAMES, wanted[0])
      number = wanted[0]
      for target in wanted:
        # A decoder goes forwards anyway; only what is asked for is converted.
        while number < target and file.grab():
          number += 1
        there, frame = file.read()
        if not there or number != target:
          raise sources.Unreadable(f"{self.name} (frame {target} cannot be decoded)")
        found[target] = frame[:, :, ::-1]
        number += 1
    finally:
      file.release()
    return stacked([found[int(number)] for number in numbers], self.name)


class Pictures:
  """A folder of pictures as a `clips.Film`, in the order of their names. rate: a second."""

  def __init__(self, path: str, rate: float = 25.0):
    self.name, self.rate = path, rate
    self._paths = sorted(
      entry.path for entry in os.scandir(path) if entry.name.lower().endswith(PICTURES)
    )
    self.frames = len(self._paths)
    if not self._paths:
      raise sources.Unreadable(f"{path} (no pictures in this folder)")

  def read(self, numbers: Sequence[int]) -> UInt8[np.ndarray, "t h w 3"]:
    """Returns frames. Raises: sources.Unreadable."""
    return stacked([self._picture(self._paths[int(number)]) for number in numbers], self.name)

  @staticmethod
  def _picture(path: str) -> UInt8[np.ndarray, "h w 3"]:
    try:
      return decode.image(pathlib.Path(path).read_bytes(), path)
    except OSError as error:
      raise sources.Unreadable(f"{path} ({error.strerror})") from error


def stacked(frames: list[np.ndarray], name: str) -> UInt8[np.ndarray, "t h w 3"]:
  """Returns the frames of the film `name`. Raises: sources.Unreadable if their sizes differ."""
  sizes = {frame.shape[:2] for frame in frames}
  if len(sizes) > 1:
    shown = " and ".join(f"{w}x{h}" for h, w in sorted(sizes)[:2])
    raise sources.Unreadable(f"{name} (its frames differ in size: {shown} pixels)")
  return np.stack(frames)


def film(path: str) -> File | Pictures:
  """Returns a video file, or a folder of pictures, as a film. Raises: sources.Unreadable."""
  return Pictures(path) if os.path.isdir(path) else File(path)


class WithFlow:
  """A film and the file of its flow."""

  def __init__(self, inner: clips.Film, path: pathlib.Path):
    self.name, self.frames, self.rate = inner.name, inner.frames, inner.rate
    self.read, self._path = inner.read, path
    self._flow: tuple[np.ndarray, float] | None = None

  def flow(self, numbers: Sequence[int]) -> Float[np.ndarray, "t h w 2"]:
    """Returns flow in pixels of the file's size. Raises: sources.Unreadable."""
    if self._flow is None:
      self._flow = _read_flow(self._path, self.name)
    levels, bound = self._flow
    if len(levels) != self.frames:
      raise sources.Unreadable(
        f"{self.name} (its flow, {self._path}, is of {len(levels)} frames, not {self.frames})"
      )
    return clips.pixels(levels[np.asarray(numbers)], bound)


def _read_flow(path: pathlib.Path, name: str) -> tuple[np.ndarray, float]:
  if not path.is_file():
    raise sources.Unreadable(f"{name} (its flow is missing: there is no {path})")
  try:
    with np.load(path) as stored:
      flow, bound = stored["flow"], float(stored["bound"])
  except Exception as error:  # damaged files raise nearly anything
    raise sources.Unreadable(f"{name} (its flow, {path}: {type(error).__name__})") from error
  if flow.dtype != np.uint8 or flow.ndim != 4 or flow.shape[-1] != 2 or bound <= 0:
    raise sources.Unreadable(f"{name} (its flow, {path}, is {flow.dtype} {flow.shape})")
  return flow, bound


class Videos(clips.Films):
  """Films by their paths. root: folder of all. flow: path of a film -> that of its flow, if any."""

  def __init__(
    self,
    name: str,
    paths: Sequence[str],
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    root: pathlib.Path,
    flow: Callable[[str], pathlib.Path] | None = None,
  ):
    """Holds the films' paths, their labels int32 (n,) and the class names."""
    self.name, self.paths, self.labels = name, list(paths), labels
    self.class_names, self.num_classes = tuple(class_names), len(class_names)
    self.root, self.flow = root, flow
    # Headers are read once for the views of a film, not kept for all films.
    self._recent = recent.Recent(self._film)

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, index: int) -> sources.Example:
    return {"film": self._recent[index], "label": self.labels[index]}

  def _film(self, index: int) -> clips.Film:
    path = self.paths[index]
    found = film(path)
    return found if self.flow is None else WithFlow(found, self.flow(path))


def open_split(
  argument: str, split: str, *, options: Mapping[str, Any], key: str, split_key: str
) -> Videos:
  """Returns one split of the folder `argument`; option `flow`: see the module's docstring.

  Raises: errors.UserError if path or split is missing, there are no films, or none has its flow.
  """
  sources.check_options(options, ("flow",), kind="videos", key=key)
  root = pathlib.Path(argument).expanduser()
  if not root.is_dir():
    raise errors.UserError(
      f"{key}.source='videos:{argument}': there is no folder {root.absolute()}; expected "
      "PATH/SPLIT/CLASS/FILM."
    )
  there = {
    name: root / candidate
    for name, candidates in SPLITS.items()
    for candidate in candidates
    if (root / candidate).is_dir()
  }
  if split not in there:
    raise errors.unknown(split_key, split, f"a folder in {root}", there)
  parent = there[split]
  names = {p.name for own in there.values() for p in own.iterdir() if p.is_dir()}
  names = sorted(name for name in names if not name.startswith("."))
  numbers = {name: number for number, name in enumerate(names)}
  paths, labels = [], []
  for name in names:
    found = films_in(parent / name)
    paths += found
    labels += [numbers[name]] * len(found)
  if not paths:
    raise errors.UserError(
      f"{key}.source='videos:{argument}', split={split!r}: no films in {parent.absolute()}; "
      f"expected CLASS/FILM with one of {', '.join(video.SUFFIXES)}, or folders of pictures."
    )
  if any(not os.path.isdir(path) for path in paths):
    clips.cv2("reading videos")
  return Videos(
    f"videos:{argument}/{split}",
    paths,
    np.array(labels, np.int32),
    names,
    root=root,
    flow=flow_files(options.get("flow", ""), root, paths, key=key),
  )


def has_split(path: str, split: str) -> bool:
  """Returns whether the folder has one for the split."""
  return any((pathlib.Path(path).expanduser() / name).is_dir() for name in SPLITS.get(split, ()))


def films_in(path: pathlib.Path) -> list[str]:
  """Returns the films in a folder: video files and folders, in the order of their names."""
  if not path.is_dir():
    return []
  return [
    str(p)
    for p in sorted(path.iterdir())
    if not p.name.startswith(".") and (p.is_dir() or video.is_video(p.name))
  ]


def flow_files(
  given: str, root: pathlib.Path, paths: Sequence[str], *, key: str
) -> Callable[[str], pathlib.Path] | None:
  """Returns where the flow of the film at a path below `root` is; None if `given` is empty.

  Raises: UserError if there is no such folder, or it has none of the files.
  """
  if not given:
    return None
  target = pathlib.Path(given).expanduser()
  find = lambda path: target / (str(pathlib.Path(path).relative_to(root)) + _FLOW)  # noqa: E731
  if not any(find(path).is_file() for path in paths):
    raise errors.UserError(
      f"{key}.options.flow={given!r} has the flow of none of {len(paths)} films, such as "
      f"{find(paths[0])}; `python -m effnets.prepare flow:videos:{root} {given}` makes it."
    )
  return find


def write_flow(
  source: Videos, target: str | os.PathLike, *, bound: float = 20.0, side: int = 256
) -> Iterator[tuple[str, str]]:
  """Writes the flow of every film by OpenCV's DIS; yields (path, reason it was left out, or "").

  Files that are there already stay. target: folder of the result. bound: pixels a frame that are
  the largest level. side: films are first shrunk to this shorter side.
  """
  for index, path in enumerate(source.paths):
    out = pathlib.Path(target) / (str(pathlib.Path(path).relative_to(source.root)) + _FLOW)
    if out.exists():
      yield path, ""
      continue
    try:
      found = source[index]["film"]
      # Films are hundreds of frames: the flow of a pair at a time.
      flow = np.stack(list(_pairs(found, side, bound)))
    except sources.Unreadable as error:
      yield path, str(error)
      continue
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.tmp")
    with partial.open("wb") as file:
      np.savez_compressed(file, flow=flow, bound=np.float32(bound))
    partial.rename(out)
    yield path, ""


def _pairs(found: clips.Film, side: int, bound: float) -> Iterator[UInt8[np.ndarray, "h w 2"]]:
  step, last = 64, None
  for start in range(0, max(1, found.frames - 1), step):
    numbers = range(start, min(start + step + 1, found.frames))
    frames = _shrunk(found.read(numbers), side)
    flow = clips.levels(clips.dis(frames), bound)
    for level in flow[: max(1, len(numbers) - 1)]:
      last = level
      yield level
  if found.frames > 1:
    yield last


def _shrunk(frames: UInt8[np.ndarray, "t h w 3"], side: int) -> UInt8[np.ndarray, "t h2 w2 3"]:
  height, width = frames.shape[1:3]
  if min(height, width) <= side:
    return frames
  scale = side / min(height, width)
  size = (round(width * scale), round(height * scale))
  library = clips.cv2("shrinking films")
  return np.stack([library.resize(f, size, interpolation=library.INTER_AREA) for f in frames])
