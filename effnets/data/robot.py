"""Trajectories of robots with their actions: `robot:PATH`, PATH/SPLIT/*.tfrecords.

The layout is that of the visual-foresight sets, such as towel-pick or BAIR's pushing: a record is a
trajectory, and its tf.train.Example has for every time t

  t/CAMERA/encoded   bytes: pixels row by row, RGB, or an encoded picture
  t/action           floats

Splits are folders: `train`; `validation`, also called `val`; `test`. Where only one of the last two
is there, it stands for the other too.

Options: `camera`, such as image_view0; empty, the default: the first of image_view0, image_aux1,
image_main that is there. `picture`: height and width of raw pixels, if they are no square.
"""

import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from effnets import errors
from effnets.data import clips, decode, sources, tfrecord, videos

CAMERAS = ("image_view0", "image_aux1", "image_main")
SUFFIXES = (".tfrecord", ".tfrecords")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG")


class Trajectory:
  """A trajectory as a `clips.Film` with actions. features: of its Example."""

  rate = 5.0

  def __init__(
    self,
    name: str,
    features: Mapping[str, tfrecord.Feature],
    camera: str = "",
    picture: tuple[int, int] | None = None,
  ):
    """Holds the features. Raises: sources.Unreadable if there are no frames of the camera."""
    self.name, self._features, self._picture = name, features, picture
    choice = (camera,) if camera else CAMERAS
    found = next((c for c in choice if f"0/{c}/encoded" in features), None)
    if found is None:
      raise sources.Unreadable(f"{name} (no feature 0/{choice[0]}/encoded)")
    self._key = found
    self.frames = 0
    while f"{self.frames}/{found}/encoded" in features:
      self.frames += 1

  def read(self, numbers: Sequence[int]) -> UInt8[np.ndarray, "t h w 3"]:
    """Returns frames. Raises: sources.Unreadable."""
    return videos.stacked([self._frame(int(number)) for number in numbers], self.name)

  def _frame(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
    stored = self._features[f"{number}/{self._key}/encoded"]
    if not isinstance(stored, list) or len(stored) != 1:
      raise sources.Unreadable(f"{self.name} (frame {number} is no picture)")
    data = stored[0]
    if data.startswith(_MAGIC):
      return decode.image(data, f"{self.name}, frame {number}")
    side = math.isqrt(len(data) // 3)
    height, width = self._picture or (side, side)
    if height * width * 3 != len(data):
      raise sources.Unreadable(
        f"{self.name} (frame {number} has {len(data)} bytes, {height}x{width} pixels "
        f"{height * width * 3})"
      )
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)

  def actions(self, numbers: Sequence[int]) -> Float[np.ndarray, "t a"]:
    """Returns the actions at those frames. Raises: sources.Unreadable.

    The last frame leads nowhere: where it has no action, it is given zeros.
    """
    found = [self._features.get(f"{int(n)}/action") for n in numbers]
    if found and found[-1] is None and int(numbers[-1]) == self.frames - 1 and len(found) > 1:
      found[-1] = None if found[-2] is None else np.zeros_like(found[-2])
    if any(not isinstance(action, np.ndarray) for action in found):
      missing = next(int(n) for n, a in zip(numbers, found, strict=True) if a is None)
      raise sources.Unreadable(f"{self.name} (no feature {missing}/action)")
    if len({len(action) for action in found}) > 1:
      raise sources.Unreadable(f"{self.name} (its actions differ in width)")
    return np.stack(found).astype(np.float32)


class Robot(clips.Films):
  """The trajectories of some files, indexed but not read. camera, picture: see the module."""

  num_classes = 1
  class_names = ("film",)

  def __init__(
    self,
    name: str,
    paths: Sequence[pathlib.Path],
    *,
    camera: str = "",
    picture: tuple[int, int] | None = None,
  ):
    """Looks for the records. A damaged file is one example, unreadable when it is asked for."""
    self.name, self._camera, self._picture = name, camera, picture
    self._records: list[tuple[pathlib.Path, int, int]] = []
    for path in paths:
      try:
        self._records += [(path, *place) for place in tfrecord.index(path)]
      except sources.Unreadable:
        self._records.append((path, -1, 0))

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> sources.Example:
    path, offset, length = self._records[index]
    if offset < 0:
      tfrecord.index(path)  # tells what is wrong with it
    name = f"{path}@{offset}"
    features = tfrecord.example(tfrecord.read(path, offset, length), name)
    film = Trajectory(name, features, self._camera, self._picture)
    return {"film": film, "label": np.int32(0)}


def open_split(
  argument: str, split: str, *, options: Mapping[str, Any], key: str, split_key: str
) -> Robot:
  """Returns one split of the folder `argument`; options: see the module.

  Raises: errors.UserError if path, split or option is wrong, or there are no records.
  """
  sources.check_options(options, ("camera", "picture"), kind="robot", key=key)
  root = pathlib.Path(argument).expanduser()
  if not root.is_dir():
    raise errors.UserError(
      f"{key}.source='robot:{argument}': there is no folder {root.absolute()}; expected "
      "PATH/SPLIT/*.tfrecords."
    )
  there = {
    name: root / candidate
    for name, candidates in videos.SPLITS.items()
    for candidate in candidates
    if (root / candidate).is_dir()
  }
  for one, other in (("validation", "test"), ("test", "validation")):
    if one not in there and other in there:
      there[one] = there[other]
  if split not in there:
    raise errors.unknown(split_key, split, f"a folder in {root}", there)
  camera, picture = options.get("camera", ""), options.get("picture")
  if not isinstance(camera, str) or (camera and not re.fullmatch(r"\w+", camera)):
    raise errors.UserError(f"{key}.options.camera={camera!r} should be a name, such as image_aux1.")
  if picture is not None:
    whole = isinstance(picture, tuple | list) and len(picture) == 2
    if not whole or not all(isinstance(side, int) and side > 0 for side in picture):
      raise errors.UserError(
        f"{key}.options.picture={picture!r} should be height and width, such as (48, 64)."
      )
    picture = tuple(picture)
  paths = sorted(p for p in there[split].rglob("*") if p.suffix in SUFFIXES and p.is_file())
  if not paths:
    raise errors.UserError(
      f"{key}.source='robot:{argument}', split={split!r}: no files in {there[split].absolute()}; "
      "expected *.tfrecords."
    )
  return Robot(f"robot:{argument}/{split}", paths, camera=camera, picture=picture)
